"""What one request may have in memory."""

from __future__ import annotations

from typing import Any

from llama_cffi.server.problem import wrong

MAX_ENTRIES = 1_000_000
"""Log-probabilities of one answer, alternatives included; each takes some 100 bytes."""


def bound_entries(options: dict[str, Any], n_texts: int, n_ctx: int) -> None:
    """Refuse more log-probabilities than :data:`MAX_ENTRIES`; a text without a limit gets one that keeps to it."""
    alternatives = options.get("logprobs")
    if alternatives is None:
        return
    each = (alternatives + 1) * n_texts
    most = MAX_ENTRIES // each
    asked = options.get("max_tokens")
    if asked is None:
        if most < n_ctx:
            options["max_tokens"] = most
    elif min(asked, n_ctx) > most:
        raise wrong("logprobs", f"{each} for each of {min(asked, n_ctx)} tokens are more than {MAX_ENTRIES}")


__all__ = ["MAX_ENTRIES", "bound_entries"]
