"""How many bytes a cell of a context's memory takes, and how many cells are reasonable by default."""

from __future__ import annotations

from llama_cffi.core.backend import devices
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.host_memory import available
from llama_cffi.core.model_base import ModelBase

_BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 8.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_0": 4.5,
    "iq4_nl": 4.5,
}
"""Bits of a number by the type of the K or V cache, scales included."""
_PART = 1 / 4
"""Part of the free memory that cells beyond those of one text may take."""
_MOST = 16_384
"""Cells beyond those of one text are no more than this makes: a long context is often meant for one text."""


def cell_bytes(model: ModelBase, options: ContextOptions) -> int:
    """Return how many bytes a cell takes, as if all layers had attention with the same number of heads.

    That is exact for most models and too much for those that keep less in some layers. :func:`estimate_memory` asks
    llama.cpp, which takes as long as loading the vocabulary.
    """
    key, value = (_head_size(model, name) for name in ("key_length", "value_length"))
    bits = key * _BITS.get(options.type_k, 32.0) + value * _BITS.get(options.type_v, 32.0)
    return int(model.n_layer * model.n_head_kv * bits) // 8


def shared_cells(model: ModelBase, options: ContextOptions, n_ctx: int, n_texts: int) -> int:
    """Return how many cells texts of up to ``n_ctx`` tokens share by default, at least those of one text.

    ``n_ctx`` for each of ``n_texts``, as far as that makes no more than 16,384 and takes no more than a quarter of the
    free memory beyond the first ``n_ctx``.
    """
    if model.options.vocab_only or model.is_recurrent or not model.has_decoder:
        return n_ctx  # a text takes one cell, or none
    size = cell_bytes(model, options) * n_ctx
    if not size:
        return n_ctx
    more = min(n_texts - 1, int(_PART * _free(model, options) // size))
    return max(n_ctx, min(n_ctx * (1 + more), _MOST))


def recurrent_bytes(model: ModelBase) -> int | None:
    """Return about how many bytes the recurrent state of a sequence takes, as if all layers were recurrent.

    None for a model whose file does not give the sizes under the usual names.
    """
    names = ("ssm.state_size", "ssm.inner_size", "ssm.conv_kernel", "ssm.group_count", "shortconv.l_cache")
    found = (model.metadata.get(f"{model.architecture}.{name}", "") for name in names)
    state, inner, kernel, groups, shift = (int(one) if one.isdecimal() else 0 for one in found)
    if shift:
        size = model.n_embd * (shift - 1)
    elif state and inner:
        size = state * inner + (kernel - 1) * (inner + 2 * groups * state)
    else:
        return None
    return 4 * model.n_layer * size


def _head_size(model: ModelBase, name: str) -> int:
    found = model.metadata.get(f"{model.architecture}.attention.{name}", "")
    return int(found) if found.isdecimal() else model.n_embd // max(1, model.n_head)


def _free(model: ModelBase, options: ContextOptions) -> int:
    """Bytes that are free where the cells go."""
    present = devices()
    gpus = [one for one in present if one.type in ("gpu", "igpu") and one.name in model.placement.devices]
    if gpus and options.offload_kqv and all(gpu.memory_free for gpu in gpus):
        return sum(gpu.memory_free for gpu in gpus)
    host = next((one.memory_free for one in present if one.type == "cpu"), 0)
    return min(host, available()) if available() else host


__all__ = ["cell_bytes", "recurrent_bytes", "shared_cells"]
