"""Counts and times of an answer, in the forms of both APIs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_cffi.reply.completion import Completion, FinishReason, Timings


def usage(groups: Sequence[Sequence[Completion]]) -> dict[str, Any]:
    """Return OpenAI's ``usage`` of completions; those of one group have one prompt, which counts once."""
    prompt = sum(group[0].usage.prompt_tokens for group in groups if group)
    cached = sum(group[0].usage.cached_tokens for group in groups if group)
    every = [one for group in groups for one in group]
    made = sum(one.usage.completion_tokens for one in every)
    drafts = [one.speculation for one in every if one.speculation is not None]
    accepted = sum(one.accepted_tokens for one in drafts)
    details = {
        "reasoning_tokens": sum(one.usage.reasoning_tokens for one in every),
        "accepted_prediction_tokens": accepted,
        "rejected_prediction_tokens": sum(one.drafted_tokens for one in drafts) - accepted,
    }
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": details,
    }


def timings(completion: Completion) -> dict[str, Any]:
    """Return llama-server's ``timings`` of a completion."""
    drafts = completion.speculation
    found = times_so_far(completion.timings, completion.usage.cached_tokens)
    if drafts is not None:
        found |= {"draft_n": drafts.drafted_tokens, "draft_n_accepted": drafts.accepted_tokens}
    return found


def times_so_far(times: Timings, cached_tokens: int) -> dict[str, Any]:
    """Return llama-server's ``timings`` of a text that may still be growing."""
    found: dict[str, Any] = {"cache_n": cached_tokens}
    for name, n, seconds in (
        ("prompt", times.prefill_tokens, times.prefill_seconds),
        ("predicted", times.decode_tokens, times.decode_seconds),
    ):
        found[f"{name}_n"] = n
        found[f"{name}_ms"] = seconds * 1000
        found[f"{name}_per_token_ms"] = seconds * 1000 / n if n else 0.0
        found[f"{name}_per_second"] = n / seconds if seconds > 0 else 0.0
    return found


def finish_reason(completion: Completion) -> str:
    """Return OpenAI's word for the end of a text."""
    reason = completion.finish_reason
    if reason in (FinishReason.STOP, FinishReason.TOOL_CALLS) and not completion.incomplete:
        return str(reason)
    return "length"


def stop_detail(completion: Completion) -> dict[str, Any]:
    """Return what else is to say of the end of a text."""
    if completion.finish_reason is FinishReason.DEADLINE:
        return {"stop_detail": "deadline"}
    return {"stop_detail": "context_full"} if completion.context_full else {}


__all__ = ["finish_reason", "stop_detail", "times_so_far", "timings", "usage"]
