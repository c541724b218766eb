"""What one request may have in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_cffi.server.problem import wrong

MAX_ENTRIES = 1_000_000
"""Log-probabilities of one answer, alternatives included; each takes some 100 bytes."""


def bound_entries(body: Mapping[str, Any], options: dict[str, Any], n_ctx: int) -> None:
    """Refuse more log-probabilities than :data:`MAX_ENTRIES`; a text without a limit gets one that keeps to it."""
    alternatives = options.get("logprobs")
    if alternatives is None:
        return
    each = (alternatives + 1) * _n_texts(body)
    most = MAX_ENTRIES // each
    asked = options.get("max_tokens")
    if asked is None:
        if most < n_ctx:
            options["max_tokens"] = most
    elif min(asked, n_ctx) > most:
        raise wrong("logprobs", f"{each} for each of {min(asked, n_ctx)} tokens are more than {MAX_ENTRIES}")


def _n_texts(body: Mapping[str, Any]) -> int:
    counts = [one for name in ("n", "n_cmpl", "best_of") if isinstance(one := body.get(name), (int, float))]
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    return max(1, int(max(counts, default=1))) * (len(prompt) if several else 1)  # type: ignore[arg-type]


__all__ = ["MAX_ENTRIES", "bound_entries"]
