"""Models that speak, with random weights: a backbone and its generator, for each kind that libmtmd knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from tests.support.media_models import add_key
from tests.support.random_model import Shape, add_sizes, new_gguf, synthetic_vocab

SpeechName = Literal["qwen3tts", "pockettts"]
NAMES: tuple[SpeechName, ...] = ("qwen3tts", "pockettts")
FRAME = {"qwen3tts": 8, "pockettts": 1920}
"""Samples of a frame. Those of Pocket-TTS are fixed by libmtmd."""
WINDOW = {"qwen3tts": 72, "pockettts": 8}
"""Frames that libmtmd decodes together."""
LANGUAGES = ("english", "german")

_Tensor = tuple[str, tuple[int, ...], float]
_N_CODES = 3072
"""Rows of the output of Qwen3-TTS, fixed by libllama: 2048 codes, then what steers."""
_N_SAMPLED = 2048
_STEERING = (
    "codec_pad", "codec_bos", "codec_eos_token", "codec_think", "codec_think_bos", "codec_think_eos",
    *(f"codec_language_{name}" for name in LANGUAGES),
)  # fmt: skip
_TEXTS = ("<|im_start|>", "<|im_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>")
_SHAPE = Shape(n_layer=2, n_embd=32, n_head=2, n_ff=64, n_vocab=400, n_ctx_train=1024)


@dataclass(frozen=True)
class SpeakingModel:
    """The files of a model that speaks."""

    name: SpeechName
    model: Path
    projector: Path


def write_speaking_model(folder: Path, name: SpeechName, *, ends: bool = False, seed: int = 0) -> SpeakingModel:
    """Write a backbone and its generator; with ``ends`` the model ends its speech after a while, otherwise never."""
    write = {"qwen3tts": (_write_qwen, _write_qwen_generator), "pockettts": (_write_pocket, _write_pocket_generator)}
    backbone, generator = write[name]
    model, projector = folder / f"{name}.gguf", folder / f"mmproj-{name}.gguf"
    backbone(model, ends, seed)
    generator(projector, ends, seed + 1)
    return SpeakingModel(name, model, projector)


def _write_qwen(path: Path, ends: bool, seed: int) -> None:
    shape, head = _SHAPE, _SHAPE.n_embd // _SHAPE.n_head
    codes = [f"<|codec_{i}|>" for i in range(_N_CODES)]
    codes[_N_SAMPLED : _N_SAMPLED + len(_STEERING)] = [f"<|{name}|>" for name in _STEERING]
    n_vocab = shape.n_vocab + _N_CODES
    eos = shape.n_vocab + _N_SAMPLED + _STEERING.index("codec_eos_token")
    with new_gguf(path, "qwen3tts") as writer:
        add_sizes(writer, Shape(**{**vars(shape), "n_vocab": n_vocab}))
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(head)
        writer.add_array("qwen3tts.rope.dimension_sections", [2, 3, 3, 0])
        writer.add_float32("qwen3tts.rope.freq_base", 1e6)
        _add_vocab(writer, shape.n_vocab, _TEXTS, codes, eos)
        never = [i for i in range(shape.n_vocab + _N_SAMPLED, n_vocab) if i != eos]
        writer.add_array("tokenizer.ggml.suppress_tokens", never)
        rng = np.random.default_rng(seed)
        _add(writer, "token_embd.weight", (n_vocab, shape.n_embd), 0.5, rng)
        _add(writer, "output_norm.weight", (shape.n_embd,), 0.1, rng)
        output = rng.standard_normal((_N_CODES, shape.n_embd), dtype=np.float32) * np.float32(0.4)
        output[eos - shape.n_vocab] *= np.float32(-5.5 if ends else 0)
        writer.add_tensor("output.weight", output)
        for i in range(shape.n_layer):
            for one in _layer(f"blk.{i}", shape.n_embd, shape.n_ff, names="text"):
                _add(writer, *one, rng)
            for part in ("q", "k"):
                _add(writer, f"blk.{i}.attn_{part}_norm.weight", (head,), 0.1, rng)


def _write_pocket(path: Path, ends: bool, seed: int) -> None:
    shape = _SHAPE
    with new_gguf(path, "pockettts") as writer:
        add_sizes(writer, shape)
        writer.add_layer_norm_eps(1e-5)
        _add_vocab(writer, shape.n_vocab, ("<|pad|>", "<|bos_before_voice|>", "<|audio_bos|>"), [], 2)
        rng = np.random.default_rng(seed)
        _add(writer, "token_embd.weight", (shape.n_vocab, shape.n_embd), 0.5, rng)
        _add(writer, "output_norm.weight", (shape.n_embd,), 0.1, rng)
        _add(writer, "output_norm.bias", (shape.n_embd,), 0.1, rng)
        for i in range(shape.n_layer):
            for one in _layer(f"blk.{i}", shape.n_embd, shape.n_ff, names="text", gate=False):
                _add(writer, *one, rng)
            for norm in ("attn_norm", "ffn_norm"):
                _add(writer, f"blk.{i}.{norm}.bias", (shape.n_embd,), 0.1, rng)


def _layer(prefix: str, n: int, n_ff: int, *, names: str, gate: bool = True, inner: int = 0) -> Iterator[_Tensor]:
    """The weights of a transformer layer, as the text models name them or the projectors; ``inner`` is the width of
    its attention."""
    inner = inner or n
    kinds = {"text": ("attn_output", "attn_norm", "ffn_norm"), "clip": ("attn_out", "ln1", "ln2")}
    output, first, second = kinds[names]
    for part in ("q", "k", "v"):
        yield f"{prefix}.attn_{part}.weight", (inner, n), n**-0.5
    # What is read must matter to what is said.
    yield f"{prefix}.{output}.weight", (n, inner), (5 if names == "text" else 1) * inner**-0.5
    for norm in (first, second):
        yield f"{prefix}.{norm}.weight", (n,), 0.1
    for part in ("gate", "up") if gate else ("up",):
        yield f"{prefix}.ffn_{part}.weight", (n_ff, n), n**-0.5
    yield f"{prefix}.ffn_down.weight", (n, n_ff), n_ff**-0.5


# -- Qwen3-TTS: codes of a few codebooks, and a decoder of windows


def _write_qwen_generator(path: Path, ends: bool, seed: int) -> None:
    n_mel = 8
    keys = {
        "clip.has_audio_encoder": True, "clip.audio.projector_type": "qwen3tts_spkenc",
        "clip.audio.num_mel_bins": n_mel, **_sizes("audio", 8, 8, 3, 1),
        "clip.has_gen_audio_encoder": True, "clip.gen.audio.projector_type": "qwen3tts_gen",
        **_sizes("gen.audio", 16, 24, 1, 2), "clip.gen.audio.attention.head_count_kv": 1,
    }  # fmt: skip
    _write(path, keys, [*_qwen_voice(n_mel), *_qwen_codes(), *_qwen_decoder()], seed)


def _qwen_voice(n_mel: int) -> Iterator[_Tensor]:
    n, inner = 8, 4
    yield from _conv("a.conv1d.0", n, n_mel, 5)
    for i in (1, 2, 3):
        yield from _conv(f"a.blk.{i}.conv_pw1", n, n, 1)
        yield from _conv(f"a.blk.{i}.conv_pw2", n, n, 1)
        yield from _conv(f"a.blk.{i}.se_conv1", inner, n, 1)
        yield from _conv(f"a.blk.{i}.se_conv2", n, inner, 1)
        for part in range(7):
            yield from _conv(f"a.blk.{i}.res2.{part}", 1, 1, 3)
    yield from _conv("a.conv_out", n, 3 * n, 1)
    yield from _conv("a.asp_tdnn", inner, 3 * n, 1)
    yield from _conv("a.asp_attn", n, inner, 1)
    yield "mm.a.fc.weight", (_SHAPE.n_embd, 2 * n, 1), 2.0
    yield "mm.a.fc.bias", (_SHAPE.n_embd,), 0.1


def _qwen_codes() -> Iterator[_Tensor]:
    n, n_text, n_books, n_rows, head = 16, _SHAPE.n_embd, 2, 8, 8
    yield "a.gen.code.proj_in.weight", (n, n_text), n_text**-0.5
    yield "a.gen.code.proj_in.bias", (n,), 0.1
    yield "a.gen.code.embd.weight", (n_books, n_rows, n_text), 0.4
    yield "a.gen.code.head.weight", (n_books, n_rows, n), 1.0
    yield "a.gen.code.out_embd.weight", (_N_CODES, n_text), 0.4
    yield "a.gen.code.output_norm.weight", (n,), 0.1
    yield "a.gen.code.blk.0.attn_q.weight", (2 * head, n), n**-0.5
    for part in ("k", "v"):
        yield f"a.gen.code.blk.0.attn_{part}.weight", (head, n), n**-0.5
    yield "a.gen.code.blk.0.attn_out.weight", (n, 2 * head), n**-0.5
    for part in ("q", "k"):
        yield f"a.gen.code.blk.0.attn_{part}_norm.weight", (head,), 0.1
    for norm in ("ln1", "ln2"):
        yield f"a.gen.code.blk.0.{norm}.weight", (n,), 0.1
    for part in ("gate", "up"):
        yield f"a.gen.code.blk.0.ffn_{part}.weight", (24, n), n**-0.5
    yield "a.gen.code.blk.0.ffn_down.weight", (n, 24), 0.2


def _qwen_decoder() -> Iterator[_Tensor]:
    n, p = 8, "a.gen.wav"
    for book, size in (("first", (_N_SAMPLED, n)), ("rest", (2, 8, n))):
        yield f"{p}.quant.{book}.in_proj.weight", (n, n), 0.3
        yield f"{p}.quant.{book}.out_proj.weight", (n, n), 0.3
        yield f"{p}.quant.{book}.codebook.weight", size, 1.0
    yield from _conv(f"{p}.pre_conv", n, n, 3)
    for part in ("in_proj", "out_proj"):
        yield f"{p}.tfm.{part}.weight", (n, n), 0.3
        yield f"{p}.tfm.{part}.bias", (n,), 0.1
    yield f"{p}.tfm.output_norm.weight", (n,), 0.1
    for i in range(8):  # as many as libmtmd has fixed, with 16 heads
        yield from _layer(f"{p}.tfm.blk.{i}", n, 16, names="clip", inner=64)
        for scale in ("ls1", "ls2"):
            yield f"{p}.tfm.blk.{i}.{scale}.weight", (n,), 0.3
    for i in range(2):
        yield from _conv(f"{p}.up.blk.{i}", n, n, 2, kind="conv.")
        yield from _conv(f"{p}.up.blk.{i}.dwconv", n, 1, 3)
        yield f"{p}.up.blk.{i}.norm.weight", (n,), 0.1
        yield f"{p}.up.blk.{i}.norm.bias", (n,), 0.1
        yield f"{p}.up.blk.{i}.pw1.weight", (2 * n, n), 0.3
        yield f"{p}.up.blk.{i}.pw1.bias", (2 * n,), 0.1
        yield f"{p}.up.blk.{i}.pw2.weight", (n, 2 * n), 0.3
        yield f"{p}.up.blk.{i}.pw2.bias", (n,), 0.1
        yield f"{p}.up.blk.{i}.gamma", (n,), 0.3
    yield from _conv(f"{p}.dac.entry", n, n, 7)
    for i, stride in enumerate((2, 1, 1, 1)):
        yield from _snake(f"{p}.dac.blk.{i}.snake", n)
        yield from _conv(f"{p}.dac.blk.{i}", n, n, 2 * stride, kind="conv.")
        for unit in range(3):
            yield from _snake(f"{p}.dac.blk.{i}.res.{unit}.act1", n)
            yield from _conv(f"{p}.dac.blk.{i}.res.{unit}.conv1", n, n, 7)
            yield from _snake(f"{p}.dac.blk.{i}.res.{unit}.act2", n)
            yield from _conv(f"{p}.dac.blk.{i}.res.{unit}.conv2", n, n, 1)
    yield from _snake(f"{p}.dac.post_snake", n)
    yield from _conv(f"{p}.dac.post_conv", 1, n, 7)


def _snake(prefix: str, n: int) -> Iterator[_Tensor]:
    yield f"{prefix}.alpha", (n,), 1.0
    yield f"{prefix}.beta", (n,), 0.3


# -- Pocket-TTS: features by a flow, and a decoder that goes on where it was


def _write_pocket_generator(path: Path, ends: bool, seed: int) -> None:
    n, n_ff, n_layer, n_head = 16, 24, 1, 2
    keys = {
        "clip.has_audio_encoder": True, "clip.audio.projector_type": "pockettts_spkenc",
        "clip.audio.num_mel_bins": 1, **_sizes("audio", n, n_ff, n_layer, n_head),
        "clip.has_gen_audio_encoder": True, "clip.gen.audio.projector_type": "pockettts_gen",
        **_sizes("gen.audio", n, n_ff, n_layer, n_head), "clip.gen.audio.model_variant": "english",
    }  # fmt: skip
    # Above -4 the score ends a text.
    fixed = {"a.gen.out_eos.bias": -5.0 if ends else -100.0}
    _write(path, keys, [*_pocket_voice(n, n_ff), *_pocket_flow(ends), *_pocket_decoder(n, n_ff)], seed, fixed)


def _pocket_voice(n: int, n_ff: int) -> Iterator[_Tensor]:
    yield from _conv("a.seanet.conv_in", 4, 1, 7)
    for i, stride in enumerate((4, 5, 6)):
        wide = 4 << i
        yield from _conv(f"a.seanet.blk.{i}.res_conv1", wide // 2, wide, 3)
        yield from _conv(f"a.seanet.blk.{i}.res_conv2", wide, wide // 2, 1)
        yield from _conv(f"a.seanet.blk.{i}.scale_conv", 2 * wide, wide, 2 * stride)
    yield from _conv("a.seanet.conv_out", n, 32, 3)
    yield from _mimi("a", n, n_ff)
    yield "a.downsample.conv.weight", (8, n, 32), (32 * n) ** -0.5
    yield "a.speaker_proj.weight", (_SHAPE.n_embd, 8), 0.3


def _mimi(prefix: str, n: int, n_ff: int) -> Iterator[_Tensor]:
    yield from _layer(f"{prefix}.blk.0", n, n_ff, names="clip", gate=False)
    for norm in ("ln1", "ln2"):
        yield f"{prefix}.blk.0.{norm}.bias", (n,), 0.1
    for scale in ("ls1", "ls2"):
        yield f"{prefix}.blk.0.{scale}.weight", (n,), 0.3


def _pocket_flow(ends: bool) -> Iterator[_Tensor]:
    n, n_text, n_latent, n_frequencies, p = 16, _SHAPE.n_embd, 4, 4, "a.gen.flow"
    for name, size in (("input_proj", n_latent), ("cond_embd", n_text)):
        yield f"{p}.{name}.weight", (n, size), size**-0.5
        yield f"{p}.{name}.bias", (n,), 0.1
    for i in range(2):
        yield f"{p}.time.{i}.freqs", (n_frequencies,), 1.0
        yield f"{p}.time.{i}.up.weight", (n, 2 * n_frequencies), 0.3
        yield f"{p}.time.{i}.up.bias", (n,), 0.1
        yield f"{p}.time.{i}.down.weight", (n, n), 0.3
        yield f"{p}.time.{i}.down.bias", (n,), 0.1
        yield f"{p}.time.{i}.norm", (n,), 0.3
        yield f"{p}.blk.{i}.norm.weight", (n,), 0.1
        yield f"{p}.blk.{i}.norm.bias", (n,), 0.1
        for part, size in (("up", n), ("down", n), ("ada", 3 * n)):
            yield f"{p}.blk.{i}.{part}.weight", (size, n), 0.2
            yield f"{p}.blk.{i}.{part}.bias", (size,), 0.1
    yield f"{p}.final.ada.weight", (2 * n, n), 0.2
    yield f"{p}.final.ada.bias", (2 * n,), 0.1
    yield f"{p}.final.proj.weight", (n_latent, n), 0.3
    yield f"{p}.final.proj.bias", (n_latent,), 0.1
    yield "a.gen.out_eos.weight", (1, n_text), 0.2 if ends else 0.0
    yield "a.gen.out_eos.bias", (1,), 0.0
    yield "a.gen.input_linear.weight", (n_text, n_latent), 0.5
    yield "a.gen.emb_mean", (n_latent,), 0.1
    yield "a.gen.emb_std", (n_latent,), 1.0


def _pocket_decoder(n: int, n_ff: int) -> Iterator[_Tensor]:
    p = "a.gen.wav"
    yield f"{p}.quant_out.weight", (n, 4), 0.5
    yield f"{p}.upsample.weight", (n, 1, 32), 0.3
    yield from _mimi(f"{p}.tfm", n, n_ff)
    yield from _conv(f"{p}.seanet.conv_in", 32, n, 7)
    for i, stride in enumerate((6, 5, 4)):
        wide = 32 >> i
        narrow = wide // 2
        # The weights of a transposed convolution have the input before the output.
        yield f"{p}.seanet.blk.{i}.scale_conv.weight", (wide, narrow, 2 * stride), (2 * wide) ** -0.5
        yield f"{p}.seanet.blk.{i}.scale_conv.bias", (narrow,), 0.1
        yield from _conv(f"{p}.seanet.blk.{i}.res_conv1", narrow // 2, narrow, 3)
        yield from _conv(f"{p}.seanet.blk.{i}.res_conv2", narrow, narrow // 2, 1)
    yield from _conv(f"{p}.seanet.conv_out", 1, 4, 3)


# -- files


def _conv(prefix: str, n_out: int, n_in: int, size: int, *, kind: str = "") -> Iterator[_Tensor]:
    yield f"{prefix}.{kind}weight", (n_out, n_in, size), (n_in * size) ** -0.5
    yield f"{prefix}.{kind}bias", (n_out,), 0.1


def _sizes(part: str, n: int, n_ff: int, n_layer: int, n_head: int) -> dict[str, Any]:
    return {
        f"clip.{part}.embedding_length": n, f"clip.{part}.feed_forward_length": n_ff,
        f"clip.{part}.block_count": n_layer, f"clip.{part}.attention.head_count": n_head,
        f"clip.{part}.projection_dim": _SHAPE.n_embd, f"clip.{part}.attention.layer_norm_epsilon": 1e-5,
    }  # fmt: skip


def _write(
    path: Path, keys: dict[str, Any], tensors: list[_Tensor], seed: int, fixed: dict[str, float] | None = None
) -> None:
    rng = np.random.default_rng(seed)
    with new_gguf(path, "clip") as writer:
        for key, value in keys.items():
            add_key(writer, key, value)
        for name, size, scale in tensors:
            _add(writer, name, size, scale, rng, (fixed or {}).get(name))


def _add(
    writer: Any, name: str, size: tuple[int, ...], scale: float, rng: np.random.Generator, value: float | None = None
) -> None:
    array = rng.standard_normal(size, dtype=np.float32) * np.float32(scale)
    if value is not None:
        array[:] = value
    elif name.endswith("weight") and ("norm" in name or ".ln" in name):
        array += np.float32(1)
    # ggml convolves with weights of 16 bits; those of a transposed convolution may have either.
    is_convolution = len(size) == 3 and not name.startswith("a.gen.code.") and "codebook" not in name
    writer.add_tensor(name, array.astype(np.float16) if is_convolution else array)


def _add_vocab(writer: Any, n_text: int, control: tuple[str, ...], codes: list[str], eos: int) -> None:
    entries = synthetic_vocab(n_text - len(control))
    entries += [(name.encode(), 0.0, gguf.TokenType.CONTROL) for name in (*control, *codes)]
    texts, scores, types = zip(*entries, strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(texts))
    writer.add_token_scores(list(scores))
    writer.add_token_types(list(types))
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_add_bos_token(False)
    writer.add_vocab_size(len(entries))
