"""Tiny random models of architectures with unlike memories, which tokenize and generate text.

llama.cpp itself says which tensors the hyperparameters ask for; the weights are scaled so that texts wander.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.random_model import N_CONTROL, add_synthetic_vocab, new_gguf

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_VOCAB, N_EMBD, N_HEAD, N_LAYER = 512, 64, 2, 4
WINDOW = 24
"""Tokens that a sliding layer sees."""

_HEAD = N_EMBD // N_HEAD
_MAMBA: Mapping[str, Any] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 2 * N_EMBD,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 4,
}
_MAMBA2: Mapping[str, Any] = {**_MAMBA, "ssm.time_step_rank": 8, "ssm.group_count": 2}
_MIXED: Mapping[str, Any] = {"attention.head_count": N_HEAD, "attention.head_count_kv": [0, N_HEAD, 0, N_HEAD]}

_KEYS: Mapping[str, Mapping[str, Any]] = {
    "mamba": {**_MAMBA, "attention.head_count": 0},
    "mamba2": {**_MAMBA2, "attention.head_count": 0},
    "rwkv6": {
        "wkv.head_size": _HEAD,
        "time_mix_extra_dim": 8,
        "time_decay_extra_dim": 8,
        "token_shift_count": 2,
        "attention.head_count": 0,
    },
    "rwkv7": {
        "wkv.head_size": _HEAD,
        "attention.decay_lora_rank": 8,
        "attention.iclr_lora_rank": 8,
        "attention.value_residual_mix_lora_rank": 8,
        "attention.gate_lora_rank": 8,
        "token_shift_count": 2,
        "attention.head_count": 0,
    },
    "jamba": {**_MAMBA, **_MIXED},
    "granitehybrid": {**_MAMBA2, **_MIXED, "logit_scale": 1.0},
    "lfm2": {**_MIXED, "shortconv.l_cache": 3},
    "qwen35": {
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD,
        "attention.key_length": _HEAD,
        "attention.value_length": _HEAD,
        "full_attention_interval": 2,
        "rope.dimension_sections": [4, 4, 4, 0],
        "rope.dimension_count": 24,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 2 * 32,
        "ssm.state_size": 32,
        "ssm.time_step_rank": 2,
        "ssm.group_count": 1,
    },
    "gemma3": {
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD,
        "attention.key_length": _HEAD,
        "attention.value_length": _HEAD,
        "attention.sliding_window": WINDOW,
        "attention.sliding_window_pattern": 2,
    },
    "llama": {"attention.head_count": N_HEAD, "attention.head_count_kv": N_HEAD},
    "qwen2vl": {
        "attention.head_count": N_HEAD,
        "attention.head_count_kv": N_HEAD,
        "rope.dimension_sections": [4, 4, 4, 4],
    },
}
ARCHITECTURES = tuple(name for name in _KEYS if name not in ("llama", "qwen2vl"))
"""Those whose memory is not attention over everything alone."""


def write_memory_model(path: str | os.PathLike[str], architecture: str, *, seed: int = 0) -> Path:
    """Write a model with random weights: one of :data:`ARCHITECTURES`, llama or qwen2vl (M-RoPE). Return its path."""
    target = Path(path)
    keys = target.with_suffix(".keys")
    with new_gguf(keys, architecture) as writer:
        _add_keys(writer, architecture)
    tensors = _wanted_tensors(keys)
    keys.unlink()
    rng = np.random.default_rng(seed)
    with new_gguf(target, architecture) as writer:
        _add_keys(writer, architecture)
        for name, shape in sorted(tensors.items()):  # llama.cpp names them in no order
            writer.add_tensor(name, _weights(rng, name, shape))
    return target


def _add_keys(writer: Any, architecture: str) -> None:
    writer.add_name(f"random {architecture}")
    common = {
        "vocab_size": N_VOCAB,
        "context_length": 2048,
        "embedding_length": N_EMBD,
        "block_count": N_LAYER,
        "feed_forward_length": 2 * N_EMBD,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    for name, value in {**common, **_KEYS[architecture]}.items():
        key = f"{architecture}.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    add_synthetic_vocab(writer, N_VOCAB)


def _wanted_tensors(keys: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes, in numpy's order of axes, of the tensors that llama.cpp asks for."""
    from llama_cffi._native import ffi, guard, lib
    from llama_cffi.core.model_options import ModelOptions, native_params

    found: dict[str, tuple[int, ...]] = {}

    @ffi.callback("void(struct ggml_tensor *, void *)")  # type: ignore[untyped-decorator]
    def note(tensor: Any, _: Any) -> None:
        sizes = [int(tensor.ne[i]) for i in range(4)]
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        found[ffi.string(lib.ggml_get_name(tensor)).decode()] = tuple(reversed(sizes))

    metadata = guard.call_ptr("gguf_init_from_file", os.fsencode(keys), True, None)
    params, keep = native_params(ModelOptions())
    model = lib.llama_model_init_from_user(metadata, note, ffi.NULL, params)
    del keep
    lib.gguf_free(metadata)
    if not model:
        raise ValueError(f"llama.cpp makes no model of {keys}")
    lib.llama_model_free(model)
    return found


def _weights(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    found = rng.standard_normal(shape, dtype=np.float32)
    if name.startswith(("token_embd.", "output.")):
        found *= np.float32(2.5 * N_EMBD**-0.5)
        found[:N_CONTROL] *= np.float32(0.01)  # control tokens are never the likeliest
        return found
    if name.endswith("ssm_a"):
        # A negative exponent of decay, as training would keep it.
        return -rng.uniform(0.5, 2.0, shape).astype(np.float32)
    if "norm" in name or name.endswith(("_ln.weight", "ln0.weight")):
        return np.zeros(shape, np.float32) if name.endswith(".bias") else np.ones(shape, np.float32)
    if name.endswith((".bias", "ssm_d")) or len(shape) == 1:
        return rng.uniform(0.0, 1.0, shape).astype(np.float32)
    return np.asarray(found * np.float32(shape[-1] ** -0.5))


__all__ = ["ARCHITECTURES", "N_VOCAB", "WINDOW", "write_memory_model"]
