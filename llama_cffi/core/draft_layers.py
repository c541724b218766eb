"""Models that draft: those with layers that predict further tokens (MTP), and those that only draft for another one."""

from __future__ import annotations

from llama_cffi._native import binding, lib
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.model_base import ModelBase
from llama_cffi.errors import ContextError

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


__all__ = ["check_alone", "n_heads"]
