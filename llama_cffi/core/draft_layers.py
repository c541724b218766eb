"""Models that draft: those with layers that predict further tokens (MTP), and those that only draft for another one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from llama_cffi._native import binding, lib
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.model_base import ModelBase
from llama_cffi.errors import ContextError

HeadKind = Literal["mtp", "eagle3"]
"""Layers of a model that predict further tokens, or an EAGLE-3 model."""

_DRAFTS_ONLY = ("eagle3", "dflash", "gemma4-assistant")
"""Architectures that compute with what another model gives."""


def n_heads(model: ModelBase) -> int:
    """Return how many layers of a model predict further tokens. Wraps ``llama_model_n_layer_nextn``."""
    return int(lib.llama_model_n_layer_nextn(model.ptr)) if binding.has("llama_model_n_layer_nextn") else 0


def check_alone(model: ModelBase) -> None:
    """Raise :class:`ContextError` for a model that only drafts for another one: alone, llama.cpp would follow null
    pointers."""
    if model.architecture in _DRAFTS_ONLY:
        raise ContextError(f"{model.path.name} ({model.architecture}) drafts for another model: give it as draft=")
    if n_heads(model) and not model.options.vocab_only:
        names = {tensor.name for part in model.parts for tensor in GGUFFile(part).tensors}
        if "blk.0.attn_norm.weight" not in names:
            raise ContextError(f"{model.path.name} has only layers that predict further tokens: give it as draft=")


def head_options(target: ContextOptions, *, n_ctx: int, n_ubatch: int, n_seq_max: int) -> ContextOptions:
    """Return the options of the context of draft heads, beside a context with these options and sizes."""
    n_ubatch = max(n_ubatch, n_seq_max)
    # As much room as the target has, whatever shape the target's memory has.
    return replace(
        target,
        n_ctx=n_ctx,
        n_batch=n_ubatch,
        n_ubatch=n_ubatch,
        kv_unified=True,
        swa_full=True,
        embeddings=False,
        pooling=None,
    )


def set_heads(params: Any, kind: HeadKind, target: Any) -> None:
    """Make ``llama_context_params`` those of draft heads, beside a ``llama_context *``."""
    if kind == "mtp":
        params.ctx_type = lib.LLAMA_CONTEXT_TYPE_MTP
    if binding.has("llama_context_params.ctx_other"):
        params.ctx_other = target


__all__ = ["HeadKind", "check_alone", "head_options", "n_heads", "set_heads"]
