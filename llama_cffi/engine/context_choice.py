"""The context of a ``Llama``: what the caller gave, and what follows from the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llama_cffi._util.scalars import is_int
from llama_cffi._util.shown import shown
from llama_cffi.core.cell_size import recurrent_bytes, shared_cells
from llama_cffi.core.context_options import ContextOptions, keeps_states
from llama_cffi.core.fitting import Contexts
from llama_cffi.core.model_base import ModelBase
from llama_cffi.engine.prompt_lookup import PromptLookup

DEFAULT_N_CTX = 4096
"""Context length unless one is given; less when the model was trained for less."""

DEFAULT_N_SEQ_MAX = 8

DEFAULT_N_TEXTS = 4
"""Texts of full length for which there is memory unless the number of cells is given."""

_MOST_STATES = 2**29
"""Most bytes of states that are kept for drafts: with more, a copy of a state before each draft is cheaper."""
_USUAL_STATES = 8
"""States that are kept for drafts from the text itself, which may be much longer: before these, a state is copied."""

_CONTEXT_FIELDS = ("n_batch", "n_ubatch", "n_seq_max", "n_threads", "n_threads_batch")


def choose_context(model: ModelBase, given: Mapping[str, Any]) -> ContextOptions:
    """Return the most wanted context; ``given`` are the options of a Llama. Raises ``ValueError`` for bad ones."""
    base = given.get("context_options")
    options = _base(model, given)
    n_cells = given.get("n_cells")
    if n_cells is not None and not is_int(n_cells, 1):
        raise ValueError(f"n_cells must be a positive int, got {shown(n_cells)}")
    if base is not None and "n_ctx" not in given:
        return options if n_cells is None else replace(options, n_ctx=n_cells)
    n_ctx = _text_limit(model, given.get("n_ctx"))
    n_texts = _n_parts(options)
    if n_cells is None:
        n_cells = n_ctx * n_texts
        if options.kv_unified:
            n_seq_max = options.n_seq_max if is_int(options.n_seq_max, 1) else 1  # what is wrong the context says
            n_texts = 1 if model.has_encoder else min(n_seq_max, DEFAULT_N_TEXTS)
            n_cells = shared_cells(model, options, n_ctx, n_texts)
    elif n_cells < n_ctx * n_texts:
        least = f"n_ctx={n_ctx}" if n_texts == 1 else f"n_ctx={n_ctx} for each of {n_texts} texts"
        raise ValueError(f"n_cells must be at least {least}, got {shown(n_cells)}")
    if model.has_encoder and base is None and "n_ubatch" not in given and is_int(options.n_batch, 1):
        # The encoder reads a prompt at once.
        options = replace(options, n_ubatch=min(options.n_batch, max(options.n_ubatch, n_ctx)))
    return replace(options, n_ctx=n_cells, n_ctx_seq=n_ctx)


def choose_contexts(model: ModelBase, given: Mapping[str, Any]) -> Contexts:
    """Return the contexts for which a model may be fitted, the most wanted first. Raises as :func:`choose_context`."""
    if given.get("n_ctx") == "auto":
        if "n_cells" in given:
            raise ValueError('n_ctx="auto" finds the number of cells: leave n_cells out, or give n_ctx a number')
        options = _base(model, given)
        shortest, longest = _text_limit(model, None), _text_limit(model, 0)
        n_texts = _n_parts(options)
        return Contexts((replace(options, n_ctx=shortest * n_texts, n_ctx_seq=shortest),), longest * n_texts)
    options = choose_context(model, given)
    fewer = fewer_cells(options, given)
    return Contexts((options,) if fewer is None else (options, fewer))


def fewer_cells(options: ContextOptions, given: Mapping[str, Any]) -> ContextOptions | None:
    """Return the context with room for one text at a time, where the number of cells was chosen here; else None."""
    one = options.n_ctx_seq
    if "n_cells" in given or not options.kv_unified or one is None or one >= options.n_ctx:
        return None
    return replace(options, n_ctx=one)


def _base(model: ModelBase, given: Mapping[str, Any]) -> ContextOptions:
    fields = {name: given[name] for name in _CONTEXT_FIELDS if name in given}
    options = replace(given.get("context_options") or ContextOptions(), **{"n_seq_max": DEFAULT_N_SEQ_MAX, **fields})
    draft = given.get("draft")
    if draft is not None and not options.n_rs_seq and keeps_states() and (model.is_recurrent or model.is_hybrid):
        n_draft = getattr(draft, "n_draft", _USUAL_STATES)
        if isinstance(draft, PromptLookup):
            n_draft = min(n_draft, _USUAL_STATES)
        return replace(options, n_rs_seq=_kept_states(model, options, n_draft))
    return options


def _kept_states(model: ModelBase, options: ContextOptions, n_draft: int) -> int:
    """Return how many states are kept to take back the wrong tokens of drafts; 0 where a copy of one is better."""
    size = recurrent_bytes(model)
    if size is None or not is_int(n_draft, 1) or not is_int(options.n_seq_max, 1) or not is_int(options.n_ubatch, 3):
        return 0
    n = min(n_draft, options.n_ubatch - 2)
    return n if n * options.n_seq_max * size <= _MOST_STATES else 0


def _n_parts(options: ContextOptions) -> int:
    """Into how many equal parts the cells are divided."""
    return 1 if options.kv_unified or not is_int(options.n_seq_max, 1) else options.n_seq_max


def _text_limit(model: ModelBase, n_ctx: int | None) -> int:
    if n_ctx is not None and not is_int(n_ctx, 0):
        raise ValueError(f'n_ctx must be an int of at least 0, or "auto", got {shown(n_ctx)}')
    trained = model.n_ctx_train if model.n_ctx_train > 0 else DEFAULT_N_CTX
    return n_ctx or (trained if n_ctx == 0 else min(DEFAULT_N_CTX, trained))


__all__ = ["DEFAULT_N_CTX", "choose_context", "choose_contexts", "fewer_cells"]
