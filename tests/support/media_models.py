"""Models that see and hear, with random weights: a text model and its projector, as libmtmd defines their kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.support.random_model import Shape, add_sizes, add_tensor, new_gguf, synthetic_vocab

N_VOCAB = 512
GEMMA3_SHAPE = Shape(n_layer=2, n_embd=128, n_head=4, n_head_kv=2, n_ff=128, n_vocab=N_VOCAB, n_ctx_train=4096)
QWEN2VL_SHAPE = Shape(n_layer=2, n_embd=64, n_head=4, n_head_kv=2, n_ff=128, n_vocab=N_VOCAB, n_ctx_train=8192)
HEARING_SHAPE = Shape(n_layer=2, n_embd=64, n_head=4, n_ff=128, n_vocab=N_VOCAB, n_ctx_train=4096)
CONTROL_TOKENS = {
    "gemma3": ("<start_of_image>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>"),
    "qwen2vl": ("<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"),
    "llama": ("<|start|>", "<|end|>"),
}
"""The last tokens of the vocabulary."""
_Tensors = Iterator[tuple[str, tuple[int, ...], float]]


def write_text_model(
    path: Path, architecture: str, shape: Shape, *, seed: int = 0, template: str | None = None
) -> Path:
    """Write a text model of one of the architectures of :data:`CONTROL_TOKENS`, with a chat template if one is given;
    returns its path."""
    keys: dict[str, Any] = {"gemma3": _GEMMA3_KEYS, "qwen2vl": _QWEN2VL_KEYS, "llama": {}}[architecture]
    head = shape.n_embd // shape.n_head
    with new_gguf(path, architecture) as writer:
        add_sizes(writer, shape)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(head)
        for name, value in keys.items():
            add_key(writer, f"{architecture}.{name}", value)
        _add_vocab(writer, shape.n_vocab, CONTROL_TOKENS[architecture])
        if template is not None:
            writer.add_chat_template(template)
        _add_tensors(writer, _text_tensors(architecture, shape), seed)
    return path


_GEMMA3_KEYS: dict[str, Any] = {"attention.sliding_window": 64, "rope.freq_base": 1e6}
_QWEN2VL_KEYS: dict[str, Any] = {"rope.dimension_sections": [2, 3, 3, 0], "rope.freq_base": 1e6}


def _text_tensors(architecture: str, shape: Shape) -> _Tensors:
    n, n_ff = shape.n_embd, shape.n_ff
    head = n // shape.n_head
    n_kv = head * (shape.n_head_kv or shape.n_head)
    wide, long = n**-0.5, n_ff**-0.5
    yield "token_embd.weight", (shape.n_vocab, n), 2.5 * wide
    yield "output_norm.weight", (n,), 0.1
    for i in range(shape.n_layer):
        layer = f"blk.{i}"
        yield f"{layer}.attn_norm.weight", (n,), 0.1
        yield f"{layer}.attn_q.weight", (n, n), wide
        yield f"{layer}.attn_k.weight", (n_kv, n), wide
        yield f"{layer}.attn_v.weight", (n_kv, n), wide
        yield f"{layer}.attn_output.weight", (n, n), wide
        yield f"{layer}.ffn_norm.weight", (n,), 0.1
        yield f"{layer}.ffn_gate.weight", (n_ff, n), wide
        yield f"{layer}.ffn_up.weight", (n_ff, n), wide
        yield f"{layer}.ffn_down.weight", (n, n_ff), long
        if architecture == "gemma3":
            yield f"{layer}.attn_q_norm.weight", (head,), 0.1
            yield f"{layer}.attn_k_norm.weight", (head,), 0.1
            yield f"{layer}.post_attention_norm.weight", (n,), 0.1
            yield f"{layer}.post_ffw_norm.weight", (n,), 0.1
        if architecture == "qwen2vl":
            for name, size in (("q", n), ("k", n_kv), ("v", n_kv)):
                yield f"{layer}.attn_{name}.bias", (size,), 0.1


@dataclass(frozen=True)
class VisionShape:
    """The sizes of a vision encoder: two by two patches of pixels are a token."""

    n_embd: int = 64
    n_ff: int = 96
    n_layer: int = 2
    n_head: int = 2
    patch: int = 4


def write_vision_projector(
    path: Path, *, n_text: int = QWEN2VL_SHAPE.n_embd, shape: VisionShape = VisionShape(), seed: int = 1
) -> Path:
    """Write a Qwen2-VL projector, whose model has positions of four dimensions: 8 by 8 pixels for a token."""
    n, n_ff, n_layer, n_head, patch = shape.n_embd, shape.n_ff, shape.n_layer, shape.n_head, shape.patch
    keys = {
        "clip.has_vision_encoder": True, "clip.projector_type": "qwen2vl_merger", "clip.use_silu": False,
        "clip.use_gelu": False, "clip.vision.image_size": 64, "clip.vision.patch_size": patch,
        **_sizes("vision", n, n_ff, n_layer, n_head, n_text), **_PIXELS,
    }  # fmt: skip

    def tensors() -> _Tensors:
        yield "v.patch_embd.weight", (n, 3, patch, patch), 0.1
        yield "v.patch_embd.weight.1", (n, 3, patch, patch), 0.1
        yield from _encoder("v", n, n_ff, n_layer, key_bias=True)
        yield "mm.0.weight", (4 * n, 4 * n), (4 * n) ** -0.5
        yield "mm.0.bias", (4 * n,), 0.1
        yield "mm.2.weight", (n_text, 4 * n), (4 * n) ** -0.5
        yield "mm.2.bias", (n_text,), 0.1

    return _write_projector(path, keys, tensors(), seed)


def write_gemma3_projector(path: Path, *, n_text: int, image_size: int = 48, seed: int = 3) -> Path:
    """Write a Gemma 3 projector: each picture is a square of ``image_size``, 8 by 8 pixels for a token, and its tokens
    attend to each other in both directions."""
    n, n_ff, n_layer, n_head, patch = 32, 48, 1, 2, 4
    keys = {
        "clip.has_vision_encoder": True, "clip.projector_type": "gemma3", "clip.use_gelu": True,
        "clip.vision.image_size": image_size, "clip.vision.patch_size": patch,
        "clip.vision.projector.scale_factor": 2, **_sizes("vision", n, n_ff, n_layer, n_head, n_text), **_PIXELS,
    }  # fmt: skip

    def tensors() -> _Tensors:
        yield "v.patch_embd.weight", (n, 3, patch, patch), 0.1
        yield "v.patch_embd.bias", (n,), 0.1
        yield "v.position_embd.weight", ((image_size // patch) ** 2, n), 0.3
        yield from _encoder("v", n, n_ff, n_layer, key_bias=True)
        yield "mm.input_projection.weight", (n, n_text), n**-0.5
        yield "mm.soft_emb_norm.weight", (n,), 0.1

    return _write_projector(path, keys, tensors(), seed)


def write_hunyuanvl_projector(path: Path, *, n_text: int, seed: int = 4) -> Path:
    """Write a HunyuanVL projector, for which the images of a prompt are numbered: 8 by 8 pixels for a token."""
    n, n_ff, n_layer, n_head, patch, wide = 32, 48, 1, 2, 4, 40
    keys = {
        "clip.has_vision_encoder": True, "clip.projector_type": "hunyuanvl", "clip.vision.image_size": 64,
        "clip.vision.patch_size": patch, "clip.vision.spatial_merge_size": 2, "clip.vision.image_min_pixels": 256,
        "clip.vision.image_max_pixels": 4096, **_sizes("vision", n, n_ff, n_layer, n_head, n_text), **_PIXELS,
    }  # fmt: skip

    def tensors() -> _Tensors:
        yield "v.patch_embd.weight", (n, 3, patch, patch), 0.1
        yield "v.position_embd.weight", (64, n), 0.3
        yield from _encoder("v", n, n_ff, n_layer, key_bias=True)
        yield "mm.pre_norm.weight", (n,), 0.1
        yield "mm.0.weight", (wide, n, 2, 2), (4 * n) ** -0.5
        yield "mm.0.bias", (wide,), 0.1
        yield "mm.2.weight", (wide, wide, 1, 1), wide**-0.5
        yield "mm.2.bias", (wide,), 0.1
        yield "v.image_newline", (wide,), 1.0
        yield "mm.model.fc.weight", (n_text, wide), wide**-0.5
        yield "mm.model.fc.bias", (n_text,), 0.1
        yield "mm.image_begin", (n_text,), 1.0
        yield "mm.image_end", (n_text,), 1.0
        yield "mm.post_norm.weight", (n_text,), 0.1

    return _write_projector(path, keys, tensors(), seed)


def write_deepseek4v_projector(path: Path, *, n_text: int, seed: int = 5) -> Path:
    """Write a DeepSeek-V4 projector, whose images begin where libmtmd aligns them: 8 by 8 pixels for a token."""
    n, n_ff, n_layer, n_head, patch, hidden = 32, 48, 1, 2, 4, 40
    keys = {
        "clip.has_vision_encoder": True, "clip.projector_type": "deepseek4v", "clip.use_silu": True,
        "clip.vision.image_size": 64, "clip.vision.patch_size": patch, "clip.vision.projector.scale_factor": 2,
        "clip.vision.image_min_pixels": 256, **_sizes("vision", n, n_ff, n_layer, n_head, n_text), **_PIXELS,
    }  # fmt: skip

    def tensors() -> _Tensors:
        yield "v.patch_embd.weight", (n, 3, patch, patch), 0.1
        yield from _encoder("v", n, n_ff, n_layer, key_bias=True)
        for i in range(n_layer):
            yield f"v.blk.{i}.ffn_gate.weight", (n_ff, n), n**-0.5
        yield "mm.1.weight", (hidden, 4 * n), (4 * n) ** -0.5
        yield "mm.1.bias", (hidden,), 0.1
        yield "mm.2.weight", (n_text, hidden), hidden**-0.5
        yield "mm.2.bias", (n_text,), 0.1
        yield "v.image_newline", (n_text,), 1.0
        for name in ("start", "end", "pad"):
            yield f"v.token_embd.img_{name}", (n_text,), 1.0

    return _write_projector(path, keys, tensors(), seed)


_PIXELS = {"clip.vision.image_mean": [0.48, 0.46, 0.41], "clip.vision.image_std": [0.27, 0.26, 0.28]}


def write_audio_projector(path: Path, *, n_text: int = HEARING_SHAPE.n_embd, seed: int = 2) -> Path:
    """Write an Ultravox projector: a Whisper encoder, 75 tokens for each 30 seconds begun."""
    n, n_ff, n_layer, n_head, n_mel, stack, hidden = 32, 48, 1, 2, 20, 20, 64
    keys = {
        "clip.has_audio_encoder": True, "clip.projector_type": "ultravox", "clip.audio.num_mel_bins": n_mel,
        "clip.audio.projector.stack_factor": stack, **_sizes("audio", n, n_ff, n_layer, n_head, n_text),
    }  # fmt: skip

    def tensors() -> _Tensors:
        yield "a.conv1d.1.weight", (n, n_mel, 3), (3 * n_mel) ** -0.5
        yield "a.conv1d.1.bias", (n, 1), 0.1
        yield "a.conv1d.2.weight", (n, n, 3), (3 * n) ** -0.5
        yield "a.conv1d.2.bias", (n, 1), 0.1
        yield "a.position_embd.weight", (1500, n), 0.3
        yield from _encoder("a", n, n_ff, n_layer, key_bias=False)
        yield "mm.a.norm_pre.weight", (stack * n,), 0.1
        yield "mm.a.mlp.1.weight", (2 * hidden, stack * n), (stack * n) ** -0.5
        yield "mm.a.norm_mid.weight", (hidden,), 0.1
        yield "mm.a.mlp.2.weight", (n_text, hidden), hidden**-0.5

    return _write_projector(path, keys, tensors(), seed)


def _sizes(part: str, n: int, n_ff: int, n_layer: int, n_head: int, n_text: int) -> dict[str, Any]:
    return {
        f"clip.{part}.embedding_length": n, f"clip.{part}.feed_forward_length": n_ff,
        f"clip.{part}.block_count": n_layer, f"clip.{part}.attention.head_count": n_head,
        f"clip.{part}.projection_dim": n_text, f"clip.{part}.attention.layer_norm_epsilon": 1e-5,
    }  # fmt: skip


def _encoder(prefix: str, n: int, n_ff: int, n_layer: int, *, key_bias: bool) -> _Tensors:
    wide = n**-0.5
    for i in range(n_layer):
        layer = f"{prefix}.blk.{i}"
        for name in ("q", "k", "v", "out"):
            yield f"{layer}.attn_{name}.weight", (n, n), wide
            if name != "k" or key_bias:
                yield f"{layer}.attn_{name}.bias", (n,), 0.1
        for norm in ("ln1", "ln2"):
            yield f"{layer}.{norm}.weight", (n,), 0.1
            yield f"{layer}.{norm}.bias", (n,), 0.1
        yield f"{layer}.ffn_up.weight", (n_ff, n), wide
        yield f"{layer}.ffn_up.bias", (n_ff,), 0.1
        yield f"{layer}.ffn_down.weight", (n, n_ff), n_ff**-0.5
        yield f"{layer}.ffn_down.bias", (n,), 0.1
    yield f"{prefix}.post_ln.weight", (n,), 0.1
    yield f"{prefix}.post_ln.bias", (n,), 0.1


def _write_projector(path: Path, keys: Mapping[str, Any], tensors: _Tensors, seed: int) -> Path:
    with new_gguf(path, "clip") as writer:
        for key, value in keys.items():
            add_key(writer, key, value)
        _add_tensors(writer, tensors, seed)
    return path


def _add_tensors(writer: Any, tensors: _Tensors, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name, size, scale in tensors:
        array = rng.standard_normal(size, dtype=np.float32) * np.float32(scale)
        if "norm" in name or ".ln" in name or "post_ln" in name:
            array += np.float32(name.endswith("weight"))
        if name.startswith(("a.conv1d", "v.patch")) and name.endswith(("weight", "weight.1")):
            writer.add_tensor(name, array.astype(np.float16))
        elif array.ndim == 2:
            writer.add_tensor(name, array)
        else:
            add_tensor(writer, name, array, "f32")


def _add_vocab(writer: Any, n_vocab: int, control: tuple[str, ...]) -> None:
    entries = synthetic_vocab(n_vocab - len(control))
    entries += [(name.encode(), 0.0, gguf.TokenType.CONTROL) for name in control]
    texts, scores, types = zip(*entries, strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(texts))
    writer.add_token_scores(list(scores))
    writer.add_token_types(list(types))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_vocab_size(n_vocab)


def add_key(writer: Any, key: str, value: Any) -> None:
    """Add a key with the type of its value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)
