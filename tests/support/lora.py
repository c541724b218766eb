"""LoRA adapters for models of tests/support, and the same models with an adapter merged into the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pair = tuple["NDArray[np.float32]", "NDArray[np.float32]"]
"""A of shape (rank, n_in) and B of shape (n_out, rank), as ggml has them; of the embeddings (n_vocab, rank) and
(n_embd, rank)."""

ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")


def random_pairs(
    model: Path, kinds: Sequence[str] = (*ATTENTION, *FEED_FORWARD), *, rank: int = 4, seed: int = 0
) -> dict[str, Pair]:
    """For each weight of these kinds a pair whose product is about half as large as the weight."""
    rng = np.random.default_rng(seed)
    pairs = {}
    for tensor in gguf.GGUFReader(model).tensors:
        if any(f".{kind}.weight" in tensor.name for kind in kinds):
            n_in, n_out = (int(size) for size in tensor.shape)
            a = rng.standard_normal((rank, n_in), dtype=np.float32) * np.float32(0.5 * n_in**-0.5)
            b = rng.standard_normal((n_out, rank), dtype=np.float32) * np.float32(rank**-0.5)
            pairs[tensor.name] = (a, b)
    return pairs


def write_lora(
    path: Path,
    pairs: Mapping[str, Pair],
    *,
    alpha: float = 8.0,
    architecture: str = "llama",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adapter; ``metadata`` replaces or adds strings, floats and lists of token ids."""
    writer = gguf.GGUFWriter(path, architecture)
    about: dict[str, Any] = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    for key, value in (about | dict(metadata or {})).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            array = gguf.GGUFValueType.ARRAY
            writer.add_key_value(key, value, array, sub_type=gguf.GGUFValueType.UINT32)
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_merged(
    path: Path,
    model: Path,
    adapters: Sequence[tuple[Mapping[str, Pair], float]] = (),
    *,
    alpha: float = 8.0,
    directions: Mapping[int, NDArray[np.float32]] | None = None,
) -> Path:
    """Write a model of float32 weights with adapters at these scales added to them.

    ``directions`` become biases of the feed-forward networks: what a layer puts out is its input, the attention's and
    the network's output together, so that this is what a control vector adds.
    """
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        weight = np.array(tensor.data, dtype=np.float64)
        for pairs, scale in adapters:
            if tensor.name in pairs:
                a, b = (one.astype(np.float64) for one in pairs[tensor.name])
                product = a @ b.T if tensor.name == "token_embd.weight" else b @ a
                weight += scale * alpha / b.shape[1] * product
        writer.add_tensor(tensor.name, weight.astype(np.float32))
    for layer, direction in (directions or {}).items():
        writer.add_tensor(f"blk.{layer}.ffn_down.bias", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
