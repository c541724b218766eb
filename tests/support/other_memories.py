"""Tiny random models whose memory is not a plain key/value cache: recurrent (Mamba), and sliding windows (Cohere 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.support.random_model import BOS, EOS, UNK, synthetic_vocab

N_VOCAB, N_EMBD, N_LAYER = 512, 64, 2
WINDOW = 16
"""Tokens that a sliding layer of the windowed model sees."""


def write_recurrent_model(path: Path) -> Path:
    """A Mamba of 2 layers, 64 wide."""
    d_inner, d_state, dt_rank, d_conv = 2 * N_EMBD, 8, 4, 4
    writer, rng = _writer(path, "mamba", N_LAYER)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(d_conv)
    writer.add_ssm_inner_size(d_inner)
    writer.add_ssm_state_size(d_state)
    writer.add_ssm_time_step_rank(dt_rank)
    writer.add_head_count(0)
    for i in range(N_LAYER):
        block = f"blk.{i}."
        writer.add_tensor(f"{block}attn_norm.weight", np.ones(N_EMBD, np.float32))
        for name, rows, columns in (
            ("ssm_in.weight", 2 * d_inner, N_EMBD),
            ("ssm_conv1d.weight", d_inner, d_conv),
            ("ssm_x.weight", dt_rank + 2 * d_state, d_inner),
            ("ssm_dt.weight", d_inner, dt_rank),
            ("ssm_out.weight", N_EMBD, d_inner),
        ):
            writer.add_tensor(block + name, _normal(rng, rows, columns))
        for name in ("ssm_conv1d.bias", "ssm_dt.bias", "ssm_d"):
            writer.add_tensor(block + name, rng.uniform(0, 1, d_inner).astype(np.float32))
        # A negative exponent of decay, as training would keep it.
        writer.add_tensor(f"{block}ssm_a", -rng.uniform(0.5, 2, (d_inner, d_state)).astype(np.float32))
    return _finish(writer, path)


def write_windowed_model(path: Path) -> Path:
    """A Cohere 2 of 4 layers, 64 wide: three see 16 tokens, one sees all."""
    n_layer, n_head, n_ff = 4, 4, 128
    writer, rng = _writer(path, "cohere2", n_layer)
    writer.add_layer_norm_eps(1e-5)
    writer.add_logit_scale(1.0)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head)
    writer.add_feed_forward_length(n_ff)
    writer.add_sliding_window(WINDOW)
    writer.add_rope_dimension_count(N_EMBD // n_head)
    for i in range(n_layer):
        block = f"blk.{i}."
        writer.add_tensor(f"{block}attn_norm.weight", np.ones(N_EMBD, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}{name}.weight", _normal(rng, N_EMBD, N_EMBD))
        writer.add_tensor(f"{block}ffn_gate.weight", _normal(rng, n_ff, N_EMBD))
        writer.add_tensor(f"{block}ffn_up.weight", _normal(rng, n_ff, N_EMBD))
        writer.add_tensor(f"{block}ffn_down.weight", _normal(rng, N_EMBD, n_ff))
    return _finish(writer, path)


def _writer(path: Path, architecture: str, n_layer: int) -> tuple[Any, np.random.Generator]:
    writer = gguf.GGUFWriter(path, architecture)
    rng = np.random.default_rng(0)
    writer.add_name(f"random {architecture}")
    writer.add_context_length(2048)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(n_layer)
    writer.add_vocab_size(N_VOCAB)
    texts, scores, types = zip(*synthetic_vocab(N_VOCAB), strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(texts))
    writer.add_token_scores(list(scores))
    writer.add_token_types(list(types))
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    embedding = 2.5 * _normal(rng, N_VOCAB, N_EMBD)
    embedding[:3] *= 0.01  # control tokens are never the likeliest
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(N_EMBD, np.float32))
    return writer, rng


def _normal(rng: np.random.Generator, rows: int, columns: int) -> Any:
    return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5)


def _finish(writer: Any, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


__all__ = ["WINDOW", "write_recurrent_model", "write_windowed_model"]
