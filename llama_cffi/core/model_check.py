"""Checks of the values in a model file, before llama.cpp reads it.

Some values that llama.cpp takes without a word end the process when they are computed with, on a thread where nothing
can catch it; others take gigabytes. Damage to the file itself is left to llama.cpp.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from llama_cffi.core.embeddings import POOLING_TYPES
from llama_cffi.core.gguf_header import DamagedHeaderError, Header, Scalar, Strings
from llama_cffi.core.tensor_check import POSITIONS, check_tensors, needed_tensors
from llama_cffi.errors import ModelFileError

MAX_TOKEN = 16 << 10
"""Bytes of a token; the longest in use have some hundreds."""
MAX_TREE = 6 << 20
"""Bytes of all tokens of a vocabulary that llama.cpp keeps as a tree, 120 bytes of memory for each."""

_TREES = ("rwkv", "t5", "plamo2")
"""Tokenizers (``tokenizer.ggml.model``) that put every byte of every token into a tree."""


Values = dict[str, "Scalar | list[Scalar]"]
"""Hyperparameters by their keys, without the name of the architecture."""


def check_model_file(
    path: Path, overrides: Mapping[str, Scalar], *, more: Sequence[Path] = (), vocab_only: bool = False
) -> tuple[Values, bool]:
    """Return the hyperparameters that llama.cpp will read, as far as the file is sound, and if positions are learned.

    Raises :class:`ModelFileError` for what would end the process, or take memory without bound. ``overrides`` replace
    values of the file, ``more`` are the other parts of a split model. ``vocab_only`` looks at no tensors: nothing will
    compute with them.
    """
    found: Values = {}
    names: set[str] = set()
    for key, value in overrides.items():
        _check_number(f"kv_overrides[{key!r}]", key, value)
    for part in (path, *more):
        try:
            with open(part, "rb", buffering=0) as file:
                header = Header(file)
                _check_values(part, header, overrides, found)
                if not vocab_only:
                    names |= check_tensors(part, header.tensors())
        except (OSError, DamagedHeaderError, struct.error, OverflowError, MemoryError):
            vocab_only = True  # llama.cpp says what is wrong with it
    if not vocab_only and (missing := needed_tensors(str(found.pop("general.architecture", ""))) - names):
        raise ModelFileError(f"{path}: {min(missing)} is missing, which every model of this architecture has")
    found |= overrides
    values = {key.partition(".")[2]: value for key, value in found.items()}
    pooling = values.get("pooling_type")
    if isinstance(pooling, int) and pooling not in _UNSPECIFIED and not 0 <= pooling < len(POOLING_TYPES):
        raise ModelFileError(f"{path}: pooling_type is {pooling}; known are 0 to {len(POOLING_TYPES) - 1}")
    return values, POSITIONS in names


def check_rope(path: Path, values: Values, kind: int) -> None:
    """Raise :class:`ModelFileError` for rotary embeddings that end the process, of a model that has them.

    ``kind`` is the ``enum llama_rope_type`` that llama.cpp uses for the model.
    """
    heads = [head for head in _whole(values.get("attention.head_count")) if head > 0]
    width = [size // min(heads) for size in _whole(values.get("embedding_length")) if heads]
    keys = [key for end in ("", "_mla", "_swa", "_mla_swa") for key in _whole(values.get(f"attention.key_length{end}"))]
    widest = max(keys or width, default=None)
    for name in ("rope.dimension_count", "rope.dimension_count_swa"):
        # Without a number of their own, all dimensions of a head turn.
        for count in _whole(values.get(name)) or (_whole(values.get("attention.key_length")) or width)[:1]:
            if count < 1 or count % 2 or (widest is not None and count > widest):
                raise ModelFileError(
                    f"{path}: {name} is {count}; it must be positive, even, and at most {widest}, the width of a head"
                )
    sections = _whole(values.get("rope.dimension_sections"))
    bad = sections and (min(sections) < 0 or not any(sections[:3]) or (widest is not None and sum(sections) > widest))
    if bad and kind in _SECTIONED:
        raise ModelFileError(
            f"{path}: rope.dimension_sections are {sections}; they must be positive, and together at most {widest}"
        )


_UNSPECIFIED = (-1, 2**32 - 1)
"""A pooling type that says nothing, also as llama.cpp writes it."""

_SECTIONED = (8, 40)
"""MROPE and IMROPE."""


def _whole(value: object) -> list[int]:
    """The whole numbers of a value; none where it has others."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if type(item) is int] if all(type(item) is int for item in items) else []


def _check_values(path: Path, header: Header, overrides: Mapping[str, Scalar], found: Values) -> None:
    model = overrides.get("tokenizer.ggml.model")
    for key, value in header.values():
        kinds = str if key == "general.architecture" else (bool, int, float, list)
        if isinstance(value, kinds) and (kinds is str or not key.startswith(("general.", "tokenizer."))):
            found.setdefault(key, value)
        if key not in overrides and isinstance(value, (float, list)):
            for number in value if isinstance(value, list) else [value]:
                _check_number(f"{path}: {key}", key, number)
        elif key == "tokenizer.ggml.model" and model is None:
            model = value if isinstance(value, str) else None
        elif key == "tokenizer.ggml.tokens" and isinstance(value, Strings) and model in _TREES:
            _check_tokens(path, str(model), header.lengths(value))


def _check_number(what: str, key: str, value: object) -> None:
    if not isinstance(value, float) or key.startswith(("general.", "tokenizer.")):
        return
    if math.isnan(value) or (key.endswith("epsilon") and not 0 <= value < math.inf):
        raise ModelFileError(f"{what} is {value}, which no computation can use; the file is damaged")


def _check_tokens(path: Path, model: str, lengths: Iterable[int]) -> None:
    total = 0
    for token, length in enumerate(lengths):
        total += length
        if length > MAX_TOKEN or total > MAX_TREE:
            raise ModelFileError(
                f"{path}: the vocabulary is damaged: token {token} has {length} bytes, and all up to it {total}; a "
                f"{model} vocabulary may have {MAX_TOKEN} in one and {MAX_TREE} together"
            )


__all__ = ["MAX_TOKEN", "MAX_TREE", "check_model_file"]
