"""Tiny random models with draft heads: layers that predict further tokens (MTP), and EAGLE-3 models.

A head has weights of its own by default, and then it is rarely right. Of two other kinds it is known what they draft:

- ``right``: a model whose layers add nothing but for the first, which is without attention; the head has the weights of
  that one and sees only the token. It computes what the model computes for that token, so every draft is right.
- ``state``: a head that passes on the hidden state it is given. The state before a token is that from which the token
  was chosen, so a greedy draft is the last token again and again, if the state is the one that belongs to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tests.support.random_model import N_CONTROL, add_synthetic_vocab, new_gguf

if TYPE_CHECKING:
    from numpy.typing import NDArray

Head = Literal["random", "right", "state"]
N_VOCAB, N_EMBD, N_HEAD, N_FF = 512, 64, 4, 96
N_ROT = N_EMBD // N_HEAD
_RMS = 0.3
"""Root of the mean square of every token's embedding: a norm with this weight leaves an embedding as it is."""


@dataclass(frozen=True, kw_only=True)
class Headed:
    """What to write; ``n_heads`` layers come after ``n_layer`` that generate."""

    architecture: Literal["glm4moe", "step35", "qwen35"] = "glm4moe"
    n_layer: int = 2
    n_heads: int = 1
    head: Head = "random"
    seed: int = 0


def write_headed_model(path: Path, model: Headed, *, trunk: bool = True, heads: bool = True) -> Path:
    """Write a model and return its path; without ``trunk`` or ``heads`` the other part alone."""
    kind, rng = model.architecture, np.random.default_rng(model.seed)
    n_all = model.n_layer + model.n_heads
    with new_gguf(path, kind) as writer:
        _add_sizes(writer, n_all)
        writer.add_uint32(f"{kind}.nextn_predict_layers", model.n_heads)
        _ADD_KEYS[kind](writer, n_all)
        add_synthetic_vocab(writer, N_VOCAB)
        tensors = {"token_embd.weight": _embedding(rng), "output_norm.weight": _ones()}
        tensors["output.weight"] = _output(rng)
        blocks = [_BLOCKS[kind](rng, i, model) for i in range(model.n_layer)]
        if model.head == "right":
            # A head has nothing of the first token, to which the model would attend.
            blocks[0]["attn_output.weight"] *= 0.0
            blocks[1:] = [{name: array * _passes(name) for name, array in block.items()} for block in blocks[1:]]
        for i in range(n_all):
            is_head = i >= model.n_layer
            if is_head:
                block = dict(blocks[0]) if model.head == "right" else _BLOCKS[kind](rng, i, model)
                block |= _joint(rng, model.head)
                if model.head == "state":
                    block = {name: array * _passes(name) for name, array in block.items()}
            else:
                block = blocks[i]
            if heads if is_head else trunk:
                tensors |= {f"blk.{i}.{name}": array for name, array in block.items()}
        for name, array in tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    return path


def write_eagle3_model(
    path: Path,
    target: Path,
    layers: tuple[int, int, int],
    *,
    head: Literal["random", "state"] = "random",
    seed: int = 7,
) -> Path:
    """Write an EAGLE-3 model for a target of the same width, with the embedding and the output of the target."""
    import gguf

    rng = np.random.default_rng(seed)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}
    embedding = np.array(found["token_embd.weight"].data, dtype=np.float32)
    output = found.get("output.weight", found["token_embd.weight"])
    n_vocab, n_embd = embedding.shape
    with new_gguf(path, "eagle3") as writer:
        _add_sizes(writer, 1)
        writer.add_array("eagle3.target_layers", list(layers))
        writer.add_uint32("eagle3.target_hidden_size", n_embd)
        add_synthetic_vocab(writer, n_vocab)
        fusion = _normal(rng, n_embd, 3 * n_embd)
        if head == "state":
            # The last of the three layers as it is.
            fusion = np.concatenate([np.zeros((n_embd, 2 * n_embd)), np.eye(n_embd)], axis=1)
        tensors: dict[str, NDArray[Any]] = {
            "token_embd.weight": embedding,
            "output_norm.weight": _ones(n_embd),
            "output.weight": np.array(output.data, dtype=np.float32),
            "fc.weight": fusion,
            "blk.0.attn_norm.weight": _ones(n_embd),
            "blk.0.attn_norm_2.weight": _ones(n_embd),
            "blk.0.ffn_norm.weight": _ones(n_embd),
            "blk.0.attn_q.weight": _normal(rng, n_embd, 2 * n_embd),
            "blk.0.attn_k.weight": _normal(rng, n_embd, 2 * n_embd),
            "blk.0.attn_v.weight": _normal(rng, n_embd, 2 * n_embd),
            "blk.0.attn_output.weight": _normal(rng, n_embd, n_embd),
            "blk.0.ffn_gate.weight": _normal(rng, N_FF, n_embd),
            "blk.0.ffn_up.weight": _normal(rng, N_FF, n_embd),
            "blk.0.ffn_down.weight": _normal(rng, n_embd, N_FF),
        }
        for name, array in tensors.items():
            factor = _passes(name.removeprefix("blk.0.")) if head == "state" else 1.0
            writer.add_tensor(name, np.ascontiguousarray(array * factor, dtype=np.float32))
    return path


def _add_sizes(writer: Any, n_layer: int) -> None:
    writer.add_context_length(2048)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(N_ROT)
    writer.add_vocab_size(N_VOCAB)


def _glm_keys(writer: Any, n_all: int) -> None:
    writer.add_expert_feed_forward_length(N_FF)
    writer.add_expert_count(2)
    writer.add_expert_used_count(1)
    writer.add_expert_shared_count(1)


def _step_keys(writer: Any, n_all: int) -> None:
    writer.add_expert_feed_forward_length(N_FF)
    writer.add_sliding_window(32)
    writer.add_array("step35.attention.sliding_window_pattern", [i % 2 == 0 for i in range(n_all)])


def _qwen_keys(writer: Any, n_all: int) -> None:
    writer.add_key_length(N_ROT)
    writer.add_value_length(N_ROT)
    writer.add_array("qwen35.rope.dimension_sections", [4, 2, 2, 0])
    writer.add_uint32("qwen35.full_attention_interval", 2)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(N_EMBD)
    writer.add_ssm_state_size(16)
    writer.add_ssm_time_step_rank(N_HEAD)
    writer.add_ssm_group_count(2)


_ADD_KEYS = {"glm4moe": _glm_keys, "step35": _step_keys, "qwen35": _qwen_keys}


def _glm_block(rng: np.random.Generator, i: int, model: Headed) -> dict[str, NDArray[Any]]:
    n_expert = 2
    return {
        **_attention(rng),
        "attn_norm.weight": _ones(),
        "post_attention_norm.weight": _ones(),
        "ffn_gate_inp.weight": _normal(rng, n_expert, N_EMBD),
        "exp_probs_b.bias": np.zeros(n_expert),
        "ffn_gate_exps.weight": _normal(rng, n_expert, N_FF, N_EMBD),
        "ffn_up_exps.weight": _normal(rng, n_expert, N_FF, N_EMBD),
        "ffn_down_exps.weight": _normal(rng, n_expert, N_EMBD, N_FF),
        "ffn_gate_shexp.weight": _normal(rng, N_FF, N_EMBD),
        "ffn_up_shexp.weight": _normal(rng, N_FF, N_EMBD),
        "ffn_down_shexp.weight": _normal(rng, N_EMBD, N_FF),
    }


def _step_block(rng: np.random.Generator, i: int, model: Headed) -> dict[str, NDArray[Any]]:
    return {**_attention(rng), **_dense(rng), "attn_norm.weight": _ones(), "ffn_norm.weight": _ones()}


def _qwen_block(rng: np.random.Generator, i: int, model: Headed) -> dict[str, NDArray[Any]]:
    norms = {"attn_norm.weight": _ones(), "post_attention_norm.weight": _ones()}
    if i >= model.n_layer or i % 2 == 1:
        return {
            **norms,
            **_attention(rng),
            **_dense(rng),
            "attn_q.weight": _normal(rng, 2 * N_EMBD, N_EMBD),  # queries and gates
            "attn_q_norm.weight": _ones(N_ROT),
            "attn_k_norm.weight": _ones(N_ROT),
        }
    state, n_groups = 16, 2
    width = 2 * state * n_groups + state * N_HEAD
    return {
        **norms,
        **_dense(rng),
        "attn_qkv.weight": _normal(rng, width, N_EMBD),
        "attn_gate.weight": _normal(rng, state * N_HEAD, N_EMBD),
        "ssm_conv1d.weight": _normal(rng, width, 4),
        "ssm_dt.bias": rng.uniform(0, 1, N_HEAD),
        "ssm_a": -rng.uniform(0.5, 2, N_HEAD),
        "ssm_beta.weight": _normal(rng, N_HEAD, N_EMBD),
        "ssm_alpha.weight": _normal(rng, N_HEAD, N_EMBD),
        "ssm_norm.weight": _ones(state),
        "ssm_out.weight": _normal(rng, N_EMBD, state * N_HEAD),
    }


_BLOCKS = {"glm4moe": _glm_block, "step35": _step_block, "qwen35": _qwen_block}


def _attention(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {f"attn_{name}.weight": _normal(rng, N_EMBD, N_EMBD) for name in ("q", "k", "v", "output")}


def _dense(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {
        "ffn_gate.weight": _normal(rng, N_FF, N_EMBD),
        "ffn_up.weight": _normal(rng, N_FF, N_EMBD),
        "ffn_down.weight": _normal(rng, N_EMBD, N_FF),
    }


def _joint(rng: np.random.Generator, head: Head) -> dict[str, NDArray[Any]]:
    """What joins the embedding of a token and the state before it."""
    joint = _normal(rng, N_EMBD, 2 * N_EMBD)
    if head != "random":
        joint = np.zeros((N_EMBD, 2 * N_EMBD))
        joint[:, slice(0, N_EMBD) if head == "right" else slice(N_EMBD, None)] = np.eye(N_EMBD)
    return {
        "nextn.eh_proj.weight": joint,
        "nextn.enorm.weight": _ones() * (_RMS if head == "right" else 1.0),
        "nextn.hnorm.weight": _ones(),
    }


def _passes(name: str) -> float:
    """0 for what a layer adds to what it is given."""
    return 0.0 if name.startswith(("attn_output", "ffn_down")) else 1.0


def _embedding(rng: np.random.Generator) -> NDArray[Any]:
    rows: NDArray[Any] = rng.standard_normal((N_VOCAB, N_EMBD))
    rows *= _RMS / np.sqrt((rows**2).mean(axis=1, keepdims=True))
    return rows


def _output(rng: np.random.Generator) -> NDArray[Any]:
    rows = _normal(rng, N_VOCAB, N_EMBD) * 2.5
    rows[:N_CONTROL] *= 0.01
    return rows


def _normal(rng: np.random.Generator, *size: int) -> NDArray[Any]:
    array: NDArray[Any] = rng.standard_normal(size)
    array *= size[-1] ** -0.5
    return array


def _ones(n: int = N_EMBD) -> NDArray[Any]:
    return np.ones(n)


__all__ = ["Headed", "write_eagle3_model", "write_headed_model"]
