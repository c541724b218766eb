"""What a model of ``llama-cffi serve`` would take of memory, before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import llama_cffi

DEFAULT_N_CTX = 4096
_TEXTS, _CELLS = 4, 16_384
"""The memory of a context by default: for this many texts, as long as that makes no more cells."""


def usual_context(file: str) -> int:
    """Return the length of a context that a Llama has by default: that of training, if it is not longer than 4,096."""
    return min(DEFAULT_N_CTX, _trained(file))


def planned_bytes(file: str, options: Mapping[str, Any]) -> int:
    """Return the bytes of a model, its projector and its context on all devices together, and those of its drafts.

    ``options`` are those of :class:`Llama`. It is what they take at most: a context is given less where memory is
    short. Raises the errors of :func:`estimate_memory`.
    """
    from llama_cffi.engine.beside import BesideModel
    from llama_cffi.engine.draft_source import drafts_by_heads

    n_ctx = options.get("n_ctx")
    if not n_ctx or n_ctx == "auto":
        n_ctx = usual_context(file) if n_ctx is None else _trained(file)
    context = options.get("context_options") or llama_cffi.ContextOptions()
    n_texts = options["n_seq_max"]
    cells = options.get("n_cells")
    if cells is None:
        least = max(n_ctx, min(n_ctx * min(n_texts, _TEXTS), _CELLS))
        cells = least if context.kv_unified else n_ctx * n_texts
    context = replace(context, n_ctx=cells, n_seq_max=n_texts, n_batch=options["n_batch"], n_ubatch=options["n_ubatch"])
    of_model = options["model_options"]
    if drafts_by_heads(options.get("draft")):
        of_model = replace(of_model, load_mtp=True)
    estimate = llama_cffi.estimate_memory(file, of_model, context)
    beside = BesideModel(file, options, of_model)
    try:
        return estimate.total + sum(beside.bytes_on(context).values())
    finally:
        beside.close()


def _trained(file: str) -> int:
    found = llama_cffi.GGUFFile(file)
    length = found.metadata.get(f"{found.architecture}.context_length")
    return length if isinstance(length, int) and length > 0 else DEFAULT_N_CTX


__all__ = ["planned_bytes", "usual_context"]
