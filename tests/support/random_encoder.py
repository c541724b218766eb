"""Encoders with random weights: a BERT over a real WordPiece vocabulary, and a T5 with encoder and decoder.

:func:`bert_forward` and :func:`t5_encode` state what they compute in numpy, from the papers and the files alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from tests.support.random_model import (
    WeightType,
    add_synthetic_vocab,
    add_tensor,
    add_tokenizer,
    new_gguf,
    tokenizer_fields,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

LABELS = ("joy", "anger", "fear")
"""What the classifiers of tests call their classes."""

POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}

Tensors = dict[str, "NDArray[np.float32]"]
_N_BUCKETS, _MAX_DISTANCE = 8, 128


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Sizes of an encoder."""

    n_layer: int = 2
    n_embd: int = 64
    n_head: int = 4
    n_ff: int = 128
    n_ctx_train: int = 128


TINY_ENCODER = EncoderShape()
SHAPE_MINI = EncoderShape(n_layer=12, n_embd=384, n_head=12, n_ff=1536, n_ctx_train=512)
"""The shape of the small sentence encoders (MiniLM-L12, bge-small)."""


def write_random_bert(
    path: str | os.PathLike[str],
    vocab: str | os.PathLike[str],
    shape: EncoderShape = TINY_ENCODER,
    *,
    pooling: str | None = "mean",
    n_classes: int = 0,
    labels: Sequence[str] = (),
    weights: WeightType = "f32",
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a BERT whose tokenizer is that of the GGUF file ``vocab``, and return its path.

    ``pooling=None`` leaves the key out; ``n_classes`` adds a classifier head, ``labels`` their names.
    """
    target = Path(path)
    tokenizer = tokenizer_fields(Path(vocab))
    n_vocab = len(tokenizer["tokenizer.ggml.tokens"].contents())
    rng = np.random.default_rng(seed)
    with new_gguf(target, "bert") as writer:
        _add_shape(writer, shape)
        writer.add_layer_norm_eps(1e-12)
        writer.add_causal_attention(False)
        if pooling is not None:
            writer.add_pooling_type(gguf.PoolingType(POOLING[pooling]))
        if labels:
            writer.add_classifier_output_labels(list(labels))
        for key, value in (metadata or {}).items():
            writer.add_string(key, value)
        add_tokenizer(writer, tokenizer)
        for name, size, scale in _bert_tensors(shape, n_vocab, n_classes):
            # llama.cpp adds rows of these two as they are in the file.
            kind: WeightType = "f32" if name in ("token_types.weight", "position_embd.weight") else weights
            add_tensor(writer, name, _random(rng, size, scale), kind)
    return target


def write_random_t5(path: str | os.PathLike[str], shape: EncoderShape = TINY_ENCODER, *, seed: int = 0) -> Path:
    """Write a T5 in F32 with a synthetic vocabulary of 512 tokens, and return its path."""
    target = Path(path)
    rng = np.random.default_rng(seed)
    n_vocab = 512
    with new_gguf(target, "t5") as writer:
        _add_shape(writer, shape)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_relative_attn_buckets_count(_N_BUCKETS)
        writer.add_decoder_start_token_id(0)
        add_synthetic_vocab(writer, n_vocab)
        for name, size, scale in _t5_tensors(shape, n_vocab):
            add_tensor(writer, name, _random(rng, size, scale), "f32")
    return target


def read_tensors(path: Path) -> Tensors:
    """The F32 tensors of a model by name, in numpy's order of axes."""
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


def bert_forward(tensors: Tensors, shape: EncoderShape, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Hidden state of every token after the last layer of a BERT, of shape ``(n_tokens, n_embd)``."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def linear(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def norm(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    x = weights["token_embd.weight"][list(tokens)] + weights["token_types.weight"][0]
    x = norm("token_embd_norm", x + weights["position_embd.weight"][: len(tokens)])
    for i in range(shape.n_layer):
        layer = f"blk.{i}"
        q, k, v = (_heads(linear(f"{layer}.attn_{one}", x), shape.n_head) for one in "qkv")
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        x = norm(f"{layer}.attn_output_norm", x + linear(f"{layer}.attn_output", _joined(_softmax(scores) @ v)))
        up = linear(f"{layer}.ffn_up", x)
        # llama.cpp's GELU is the tanh form, from a table of half precision: that is all its distance from this.
        up = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        x = norm(f"{layer}.layer_output_norm", x + linear(f"{layer}.ffn_down", up))
    return x


def bert_scores(tensors: Tensors, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the classifier head makes of the first token: one score for each class."""
    pooled = np.tanh(hidden[0] @ tensors["cls.weight"].T + tensors["cls.bias"])
    return np.asarray(pooled @ tensors["cls.output.weight"].T + tensors["cls.output.bias"])


def t5_encode(tensors: Tensors, shape: EncoderShape, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Hidden state of every token after the encoder of a T5, of shape ``(n_tokens, n_embd)``."""
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def norm(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"])

    def linear(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x @ weights[f"{name}.weight"].T)

    n = len(tokens)
    # Key minus query, as the paper counts.
    bias = weights["enc.blk.0.attn_rel_b.weight"][_buckets(np.arange(n)[None, :] - np.arange(n)[:, None])]
    x = weights["token_embd.weight"][list(tokens)]
    for i in range(shape.n_layer):
        layer = f"enc.blk.{i}"
        normed = norm(f"{layer}.attn_norm", x)
        q, k, v = (_heads(linear(f"{layer}.attn_{one}", normed), shape.n_head) for one in "qkv")
        scores = q @ k.transpose(0, 2, 1) + bias.transpose(2, 0, 1)
        x = x + linear(f"{layer}.attn_o", _joined(_softmax(scores) @ v))
        up = np.maximum(linear(f"{layer}.ffn_up", norm(f"{layer}.ffn_norm", x)), 0)
        x = x + linear(f"{layer}.ffn_down", up)
    return norm("enc.output_norm", x)


def _buckets(distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """T5's buckets of relative positions: half for each direction, and of those half exact, half logarithmic."""
    half = _N_BUCKETS // 2
    exact = half // 2
    away = np.abs(distance)
    far = exact + np.log(np.maximum(away, 1) / exact) / math.log(_MAX_DISTANCE / exact) * (half - exact)
    return np.where(distance > 0, half, 0) + np.where(away < exact, away, np.minimum(far.astype(np.int64), half - 1))


def _heads(x: NDArray[np.float64], n_head: int) -> NDArray[np.float64]:
    return np.asarray(x.reshape(len(x), n_head, -1).transpose(1, 0, 2))


def _joined(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x.transpose(1, 0, 2).reshape(x.shape[1], -1))


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def _add_shape(writer: Any, shape: EncoderShape) -> None:
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)


def _random(rng: np.random.Generator, size: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    """Normal numbers of a deviation; of a negative one around 1, for what multiplies after a norm."""
    array: NDArray[np.float32] = rng.standard_normal(size, dtype=np.float32) * np.float32(abs(scale))
    if scale < 0:
        array += np.float32(1)
    return array


def _bert_tensors(shape: EncoderShape, n_vocab: int, n_classes: int) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, shape and scale of every tensor of a BERT."""
    n, n_ff = shape.n_embd, shape.n_ff
    around_one, bias = -0.1, 0.1

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...], float]]:
        yield f"{name}.weight", (n,), around_one
        yield f"{name}.bias", (n,), bias

    def linear(name: str, n_in: int, n_out: int) -> Iterator[tuple[str, tuple[int, ...], float]]:
        yield f"{name}.weight", (n_out, n_in), n_in**-0.5
        yield f"{name}.bias", (n_out,), bias

    yield "token_embd.weight", (n_vocab, n), 1.0
    yield "token_types.weight", (2, n), 0.3
    yield "position_embd.weight", (shape.n_ctx_train, n), 0.3
    yield from norm("token_embd_norm")
    for i in range(shape.n_layer):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield from linear(f"blk.{i}.{name}", n, n)
        yield from norm(f"blk.{i}.attn_output_norm")
        yield from linear(f"blk.{i}.ffn_up", n, n_ff)
        yield from linear(f"blk.{i}.ffn_down", n_ff, n)
        yield from norm(f"blk.{i}.layer_output_norm")
    if n_classes:
        yield from linear("cls", n, n)
        yield from linear("cls.output", n, n_classes)


def _t5_tensors(shape: EncoderShape, n_vocab: int) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, shape and scale of every tensor of a T5."""
    n, n_ff, around_one = shape.n_embd, shape.n_ff, -0.1
    yield "token_embd.weight", (n_vocab, n), 1.0
    for part in ("enc", "dec"):
        yield f"{part}.output_norm.weight", (n,), around_one
        yield f"{part}.blk.0.attn_rel_b.weight", (_N_BUCKETS, shape.n_head), 1.0
        for i in range(shape.n_layer):
            layer = f"{part}.blk.{i}"
            for attention in ("attn",) if part == "enc" else ("attn", "cross_attn"):
                yield f"{layer}.{attention}_norm.weight", (n,), around_one
                for one in "qkvo":
                    # T5 divides no scores: its q is small instead.
                    yield f"{layer}.{attention}_{one}.weight", (n, n), n**-0.5 / (4 if one == "q" else 1)
            yield f"{layer}.ffn_norm.weight", (n,), around_one
            yield f"{layer}.ffn_up.weight", (n_ff, n), n**-0.5
            yield f"{layer}.ffn_down.weight", (n, n_ff), n_ff**-0.5
