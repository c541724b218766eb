"""Whether the server lives and can answer. None of these waits for the model."""

from __future__ import annotations

from llama_cffi.server.exchange import Call
from llama_cffi.server.response import Answer, json_answer


async def health(call: Call) -> Answer:
    """Say that the model answers; 503 while it is loading, and when it has failed."""
    if call.service.state != "draining":
        _ = call.service.llm
    return json_answer({"status": "ok"})


async def live(call: Call) -> Answer:
    """Say that the process lives."""
    return json_answer({"status": "ok"})


async def ready(call: Call) -> Answer:
    """Say that a request would be taken; 503 while the model is loading, when it has failed, and during the end."""
    _ = call.service.llm
    return json_answer({"status": "ok"})


__all__ = ["health", "live", "ready"]
