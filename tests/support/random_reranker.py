"""A decoder that ranks, with random weights: Qwen3 with a head of two classes instead of a next token."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from tests.support.random_model import Shape, add_sizes, add_tensor, add_tokenizer, new_gguf, tokenizer_fields

# Control tokens of Phi-3, whose vocabulary is small.
TEMPLATE = (
    "<s><|system|>\nDoes the text answer the question? Say yes or no.<|end|>\n"
    "<|user|>\nQuestion: {query}\nText: {document}<|end|>\n<|assistant|>\n"
)
TINY_RERANKER = Shape(n_layer=2, n_embd=64, n_head=4, n_head_kv=2, n_ff=128, n_ctx_train=512)
# Large enough that the two classes differ clearly from text to text.
_HEAD_SCALE = 0.5


def write_random_reranker(
    path: str | os.PathLike[str],
    vocab: str | os.PathLike[str],
    shape: Shape = TINY_RERANKER,
    *,
    template: str | None = TEMPLATE,
    seed: int = 0,
) -> Path:
    """Write a Qwen3 in F32 that scores "yes" and "no", with the tokenizer of the GGUF file ``vocab``; returns its path.

    ``template`` is its rerank template; None leaves the key out. The vocabulary's size replaces ``shape.n_vocab``.
    """
    target = Path(path)
    tokenizer = tokenizer_fields(Path(vocab))
    n_vocab = len(tokenizer["tokenizer.ggml.tokens"].contents())
    rng = np.random.default_rng(seed)
    with new_gguf(target, "qwen3") as writer:
        add_sizes(writer, shape)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_pooling_type(gguf.PoolingType.RANK)
        writer.add_classifier_output_labels(["yes", "no"])
        add_tokenizer(writer, tokenizer)
        if template is not None:
            writer.add_string("tokenizer.chat_template.rerank", template)
        for name, size, scale in _tensors(shape, n_vocab):
            array = rng.standard_normal(size, dtype=np.float32) * np.float32(scale)
            add_tensor(writer, name, array + np.float32(1) if name.endswith("norm.weight") else array, "f32")
    return target


def _tensors(shape: Shape, n_vocab: int) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, shape and scale of every tensor; a norm's is the deviation from 1."""
    n, n_ff = shape.n_embd, shape.n_ff
    n_head = n // shape.n_head
    n_kv = n_head * (shape.n_head_kv or shape.n_head)
    wide, long, around_one = n**-0.5, n_ff**-0.5, 0.1
    yield "token_embd.weight", (n_vocab, n), 1.0
    yield "output_norm.weight", (n,), around_one
    yield "cls.output.weight", (2, n), _HEAD_SCALE
    for i in range(shape.n_layer):
        layer = f"blk.{i}"
        yield f"{layer}.attn_norm.weight", (n,), around_one
        yield f"{layer}.attn_q.weight", (n, n), wide
        yield f"{layer}.attn_k.weight", (n_kv, n), wide
        yield f"{layer}.attn_v.weight", (n_kv, n), wide
        yield f"{layer}.attn_q_norm.weight", (n_head,), around_one
        yield f"{layer}.attn_k_norm.weight", (n_head,), around_one
        yield f"{layer}.attn_output.weight", (n, n), wide
        yield f"{layer}.ffn_norm.weight", (n,), around_one
        yield f"{layer}.ffn_gate.weight", (n_ff, n), wide
        yield f"{layer}.ffn_up.weight", (n_ff, n), wide
        yield f"{layer}.ffn_down.weight", (n, n_ff), long
