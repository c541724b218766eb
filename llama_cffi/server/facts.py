"""What is known of the request that is being answered, for the line that it leaves in the log."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi.reply.completion import Completion

FACTS: ContextVar[dict[str, Any] | None] = ContextVar("llama_cffi_request_facts", default=None)


def note_end(completion: Completion) -> None:
    """Add the numbers of a text that has ended, and nothing of what it says."""
    facts = FACTS.get()
    if facts is None:
        return
    found: dict[str, Any] = facts.setdefault("texts", {"texts": 0, "prompt": 0, "cached": 0, "generated": 0})
    usage, times = completion.usage, completion.timings
    found["texts"] += 1
    found["prompt"] += usage.prompt_tokens
    found["cached"] += usage.cached_tokens
    found["generated"] += usage.completion_tokens
    found["finish"] = str(completion.finish_reason)
    found["prefill_ms"] = round(times.prefill_seconds * 1000, 1)
    found["decode_ms"] = round(times.decode_seconds * 1000, 1)


__all__ = ["FACTS", "note_end"]
