"""GGUF models with random weights: any shape, the same bytes for the same seed. For tests and benchmarks.

The weights are scaled so that the logits look like a trained model's (standard deviation about 2.5) and the text
wanders instead of repeating one token. Control tokens are practically never chosen, so a text ends when its length
is reached and not before.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gguf
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WeightType = Literal["f32", "f16", "q8_0"]

UNK, BOS, EOS = 0, 1, 2
N_CONTROL = 3
N_BYTES = 256
MIN_VOCAB = N_CONTROL + N_BYTES + 1

_FILE_TYPES: dict[str, Any] = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_LOGIT_DEVIATION = 2.5
# Small enough that a control token's logit stays near 0, large enough that as an input it survives the norm's epsilon.
_FAINT_LAYERS = 0.1
"""What layers add beside an embedding that is to be recognized behind them."""
_CONTROL_SCALE = 0.01


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a llama-architecture model; the output matrix is the token embedding."""

    n_layer: int = 2
    n_embd: int = 64
    n_head: int = 4
    n_head_kv: int | None = None
    """None is the same as ``n_head``."""
    n_ff: int = 128
    n_vocab: int = 512
    n_ctx_train: int = 2048
    n_expert: int = 0
    """Experts of every layer, of which two are used; 0 for layers without."""

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for _, shape, _ in _tensors(self))


TINY = Shape()
SHAPE_15M = Shape(n_layer=6, n_embd=288, n_head=6, n_ff=768, n_vocab=32_000)
SHAPE_160M = Shape(n_layer=12, n_embd=768, n_head=12, n_head_kv=4, n_ff=1536, n_vocab=128_256)
SHAPE_DEEP = Shape(n_layer=24, n_embd=768, n_head=12, n_head_kv=4, n_ff=2048, n_vocab=16_000)


def write_random_model(
    path: str | os.PathLike[str],
    shape: Shape = TINY,
    *,
    weights: WeightType = "q8_0",
    seed: int = 0,
    vocab: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, str | int | float | bool | list[int]] | None = None,
    attention: float = 1.0,
    faint: tuple[int, float] | None = None,
    successors: bool = False,
) -> Path:
    """Write a model and return its path.

    ``vocab`` is a GGUF file whose tokenizer is taken over, and whose size replaces ``shape.n_vocab``; without one
    the vocabulary is :func:`synthetic_vocab`. ``metadata`` adds keys.

    With ``successors`` each token has one that always follows it, by far the likeliest whatever comes before: what
    follows it in the prompt is what follows it again. ``attention`` multiplies what attention adds in every layer.
    ``faint=(k, factor)`` multiplies all that the layers from ``k``
    on add. The model of the first ``k`` layers with the same seed has all else in common with it, and the smaller the
    factor is, the more often both choose the same token.

    The file appears whole or not at all. Raises ValueError for a shape that has no such model.
    """
    target = Path(path)
    tokenizer = tokenizer_fields(Path(vocab)) if vocab is not None else None
    if tokenizer is not None:
        shape = Shape(**{**vars(shape), "n_vocab": len(tokenizer["tokenizer.ggml.tokens"].contents())})
    _check(shape, weights)

    with new_gguf(target, "llama") as writer:
        writer.add_name(f"random {shape.n_layer}x{shape.n_embd}")
        writer.add_file_type(_FILE_TYPES[weights])
        _add_shape(writer, shape)
        if tokenizer is None:
            add_synthetic_vocab(writer, shape.n_vocab)
        else:
            add_tokenizer(writer, tokenizer)
        for key, value in (metadata or {}).items():
            _add_value(writer, key, value)
        control = range(N_CONTROL) if tokenizer is None else _control_tokens(tokenizer)
        rng = np.random.default_rng(seed)
        if successors:
            attention, faint = 0.0, (0, _FAINT_LAYERS)
        for name, array in _random_tensors(shape, rng, control):
            add_tensor(writer, name, array * np.float32(_factor(name, attention, faint)), weights)
            if successors and name == "token_embd.weight":
                # The head of a token is the embedding of the one before it.
                text = np.setdiff1d(np.arange(shape.n_vocab), list(control))
                head = array.copy()
                head[rng.permutation(text)] = array[text]
                add_tensor(writer, "output.weight", head, weights)
    return target


@contextmanager
def new_gguf(target: Path, architecture: str) -> Iterator[Any]:
    """A ``GGUFWriter`` for keys and tensors; the file appears when the block ends, whole or not at all."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    writer = gguf.GGUFWriter(temporary, architecture)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def synthetic_vocab(n_vocab: int) -> list[tuple[bytes, float, int]]:
    """An SPM vocabulary of (text, score, type): control tokens, the 256 bytes, letters, then syllable words.

    Every word can be reached by merging two shorter pieces, so tokenizing finds the long ones too.
    """
    types = gguf.TokenType
    entries: list[tuple[bytes, float, int]] = [
        (b"<unk>", 0.0, types.UNKNOWN),
        (b"<s>", 0.0, types.CONTROL),
        (b"</s>", 0.0, types.CONTROL),
    ]
    entries += [(f"<0x{byte:02X}>".encode(), 0.0, types.BYTE) for byte in range(N_BYTES)]
    pieces = itertools.islice(_pieces(), n_vocab - len(entries))
    entries += [(piece.encode(), -float(rank), types.NORMAL) for rank, piece in enumerate(pieces)]
    if len(entries) < n_vocab:
        raise ValueError(f"the synthetic vocabulary ends at {len(entries)} tokens")
    return entries


def _pieces() -> Iterator[str]:
    """Pieces in order of rank: a space, printable ASCII, then words of one to four syllables."""
    space = "\u2581"
    yield space
    yield from (chr(code) for code in range(33, 127))
    syllables = [c + v for c, v in itertools.product("tnsrldmkpbghfvwyjczx", "aeiou")]
    for length in (1, 2, 4):
        # Four syllables merge from two and two; three would have no pair that always wins.
        for word in map("".join, itertools.product(syllables, repeat=length)):
            yield word
            yield space + word


def _check(shape: Shape, weights: WeightType) -> None:
    n_head_kv = shape.n_head_kv or shape.n_head
    if weights not in _FILE_TYPES:
        raise ValueError(f"weights must be one of {', '.join(_FILE_TYPES)}, got {weights!r}")
    if shape.n_embd % (2 * shape.n_head) or shape.n_head % n_head_kv:
        raise ValueError(f"{shape.n_head} heads ({n_head_kv} for K and V) do not divide {shape.n_embd}")
    if weights == "q8_0" and (shape.n_embd % 32 or shape.n_ff % 32):
        raise ValueError(f"Q8_0 works in blocks of 32: n_embd={shape.n_embd}, n_ff={shape.n_ff}")
    if shape.n_vocab < MIN_VOCAB:
        raise ValueError(f"n_vocab must be at least {MIN_VOCAB}, got {shape.n_vocab}")


def add_sizes(writer: Any, shape: Shape) -> None:
    """The keys of a shape that every decoder has."""
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv or shape.n_head)


def _add_shape(writer: Any, shape: Shape) -> None:
    add_sizes(writer, shape)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    if shape.n_expert:
        writer.add_expert_count(shape.n_expert)
        writer.add_expert_used_count(2)


def add_synthetic_vocab(writer: Any, n_vocab: int) -> None:
    """Write :func:`synthetic_vocab` as the model's tokenizer."""
    texts, scores, types = zip(*synthetic_vocab(n_vocab), strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(texts))
    writer.add_token_scores(list(scores))
    writer.add_token_types(list(types))
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)


def tokenizer_fields(path: Path) -> dict[str, Any]:
    """The tokenizer of a GGUF file: its fields by key."""
    fields = gguf.GGUFReader(path).fields
    return {name: field for name, field in fields.items() if name.startswith("tokenizer.")}


def add_tokenizer(writer: Any, tokenizer: dict[str, Any]) -> None:
    """Write the fields that :func:`tokenizer_fields` read."""
    for name, field in tokenizer.items():
        sub_type = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type)


def _control_tokens(tokenizer: dict[str, Any]) -> list[int]:
    types = tokenizer.get("tokenizer.ggml.token_type")
    normal = (gguf.TokenType.NORMAL, gguf.TokenType.BYTE)
    return [i for i, kind in enumerate(types.contents()) if kind not in normal] if types is not None else []


def _add_value(writer: Any, key: str, value: str | int | float | bool | list[int]) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_int32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, shape and standard deviation of every tensor; 0 for a norm, whose weights are 1."""
    n_embd, n_ff = shape.n_embd, shape.n_ff
    n_kv = n_embd // shape.n_head * (shape.n_head_kv or shape.n_head)
    wide, long = n_embd**-0.5, n_ff**-0.5
    yield "token_embd.weight", (shape.n_vocab, n_embd), _LOGIT_DEVIATION * wide
    yield "output_norm.weight", (n_embd,), 0.0
    for i in range(shape.n_layer):
        yield f"blk.{i}.attn_norm.weight", (n_embd,), 0.0
        yield f"blk.{i}.attn_q.weight", (n_embd, n_embd), wide
        yield f"blk.{i}.attn_k.weight", (n_kv, n_embd), wide
        yield f"blk.{i}.attn_v.weight", (n_kv, n_embd), wide
        yield f"blk.{i}.attn_output.weight", (n_embd, n_embd), wide
        yield f"blk.{i}.ffn_norm.weight", (n_embd,), 0.0
        if shape.n_expert:
            yield f"blk.{i}.ffn_gate_inp.weight", (shape.n_expert, n_embd), wide
            yield f"blk.{i}.ffn_gate_exps.weight", (shape.n_expert, n_ff, n_embd), wide
            yield f"blk.{i}.ffn_up_exps.weight", (shape.n_expert, n_ff, n_embd), wide
            yield f"blk.{i}.ffn_down_exps.weight", (shape.n_expert, n_embd, n_ff), long
            continue
        yield f"blk.{i}.ffn_gate.weight", (n_ff, n_embd), wide
        yield f"blk.{i}.ffn_up.weight", (n_ff, n_embd), wide
        yield f"blk.{i}.ffn_down.weight", (n_embd, n_ff), long


def _random_tensors(
    shape: Shape, rng: np.random.Generator, control: range | list[int]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for name, size, deviation in _tensors(shape):
        if deviation == 0.0:
            yield name, np.ones(size, dtype=np.float32)
            continue
        array = rng.standard_normal(size, dtype=np.float32) * np.float32(deviation)
        if name == "token_embd.weight":
            array[list(control)] *= np.float32(_CONTROL_SCALE)
        yield name, array


def _factor(name: str, attention: float, faint: tuple[int, float] | None) -> float:
    """By how much a tensor is multiplied: one that is not the last of its part of a layer by 1."""
    if not name.endswith(("attn_output.weight", "ffn_down.weight")):
        return 1.0
    factor = attention if "attn_output" in name else 1.0
    return factor * faint[1] if faint is not None and int(name.split(".")[1]) >= faint[0] else factor


def add_tensor(writer: Any, name: str, array: NDArray[np.float32], weights: WeightType) -> None:
    """Add a tensor: matrices in the type of the weights, vectors as they are."""
    if array.ndim == 1:
        writer.add_tensor(name, array)
    elif weights == "q8_0":
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, array.astype(np.float16 if weights == "f16" else np.float32))
