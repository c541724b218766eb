"""A Llama forward pass in numpy over llama2.c's file format: nothing of llama.cpp, nothing of GGUF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_EPSILON = 1e-5
_ROPE_BASE = 10_000.0


class Llama2c:
    """Weights of a ``.bin`` file: seven int32 (sizes), then float32 tensors in a fixed order."""

    def __init__(self, path: Path) -> None:
        header = np.fromfile(path, dtype=np.int32, count=7)
        self.dim, self.hidden, self.n_layers, self.n_heads, self.n_kv_heads, vocab, self.seq_len = map(int, header)
        self.n_vocab = abs(vocab)
        self.head = self.dim // self.n_heads
        kv_dim = self.head * self.n_kv_heads
        self._data = np.fromfile(path, dtype=np.float32, offset=header.nbytes).astype(np.float64)
        self._at = 0
        layers, dim = self.n_layers, self.dim
        self.embedding = self._take(self.n_vocab, dim)
        self.attention_norm = self._take(layers, dim)
        self.wq = self._take(layers, dim, dim)
        self.wk = self._take(layers, kv_dim, dim)
        self.wv = self._take(layers, kv_dim, dim)
        self.wo = self._take(layers, dim, dim)
        self.ffn_norm = self._take(layers, dim)
        self.w_gate = self._take(layers, self.hidden, dim)
        self.w_down = self._take(layers, dim, self.hidden)
        self.w_up = self._take(layers, self.hidden, dim)
        self.final_norm = self._take(dim)
        self._take(2, self.seq_len, self.head // 2)  # rotations, which forward() computes itself
        # A positive vocabulary size says that input and output embedding are one.
        self.output = self.embedding if vocab > 0 else self._take(self.n_vocab, dim)
        if self._at != len(self._data):
            raise ValueError(f"{path} holds {len(self._data)} numbers, its header says {self._at}")

    def _take(self, *shape: int) -> Array:
        size = int(np.prod(shape))
        part = self._data[self._at : self._at + size].reshape(shape)
        self._at += size
        return part

    def log_probs(self, tokens: list[int]) -> Array:
        """Log-probabilities of the next token after each of ``tokens``: shape ``(len(tokens), n_vocab)``."""
        n = len(tokens)
        x = self.embedding[tokens]
        angle = np.outer(np.arange(n), _ROPE_BASE ** (-np.arange(0, self.head, 2) / self.head))
        rotation = np.exp(1j * angle)[:, None, :]
        future = np.triu(np.full((n, n), -np.inf), k=1)
        shared = self.n_heads // self.n_kv_heads
        for layer in range(self.n_layers):
            h = _rms_norm(x, self.attention_norm[layer])
            q = _rotate((h @ self.wq[layer].T).reshape(n, self.n_heads, self.head), rotation)
            k = _rotate((h @ self.wk[layer].T).reshape(n, self.n_kv_heads, self.head), rotation)
            v = (h @ self.wv[layer].T).reshape(n, self.n_kv_heads, self.head)
            k, v = k.repeat(shared, axis=1), v.repeat(shared, axis=1)
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.head) + future
            attended = np.einsum("hqk,khd->qhd", np.exp(_log_softmax(scores)), v)
            x = x + attended.reshape(n, self.dim) @ self.wo[layer].T
            h = _rms_norm(x, self.ffn_norm[layer])
            gate = h @ self.w_gate[layer].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ self.w_up[layer].T)) @ self.w_down[layer].T
        return _log_softmax(_rms_norm(x, self.final_norm) @ self.output.T)


def _rms_norm(x: Array, weight: Array) -> Array:
    result: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + _EPSILON) * weight
    return result


def _rotate(x: Array, rotation: NDArray[np.complex128]) -> Array:
    """RoPE over neighboring pairs: each pair is a complex number."""
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * rotation
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def _log_softmax(x: Array) -> Array:
    x = x - x.max(axis=-1, keepdims=True)
    result: Array = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return result
