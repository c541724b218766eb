"""GET and POST /lora-adapters: the scales of requests that name none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llama_cffi.server.adapters import read_lora
from llama_cffi.server.exchange import Call, takes
from llama_cffi.server.llama_server.changes import check_changes
from llama_cffi.server.response import Answer, json_answer

if TYPE_CHECKING:
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.llama import Llama


async def list_adapters(call: Call) -> Answer:
    """Return the adapters with their scales."""
    llama = call.service.llm.llama
    scales = llama.adapters
    return json_answer(
        [{"id": i, "scale": scales.get(one, 0.0), **_about(one, llama)} for i, one in enumerate(call.service.adapters)]
    )


def _about(adapter: LoraAdapter, llama: Llama) -> dict[str, Any]:
    metadata, tokens = adapter.metadata, adapter.invocation_tokens
    found: dict[str, Any] = {
        "path": adapter.path.name,
        "task_name": str(metadata.get("adapter.lora.task_name", "")),
        "prompt_prefix": str(metadata.get("adapter.lora.prompt_prefix", "")),
    }
    if tokens:
        found |= {"alora_invocation_string": llama.detokenize(tokens), "alora_invocation_tokens": list(tokens)}
    return found


@takes(list_as="lora")
async def set_adapters(call: Call) -> Answer:
    """Set the scales of later requests that name none; adapters that are not listed get 0."""
    check_changes(call)
    llama = call.service.llm.llama
    scales = read_lora("lora", call.body.get("lora", []), call.service.facts)
    await asyncio.to_thread(llama.set_adapters, scales or {})
    return json_answer({"success": True})


__all__ = ["list_adapters", "set_adapters"]
