"""What a model file must not say, looked at before llama.cpp reads it.

Some values that llama.cpp takes without a word end the process when they are computed with, on a thread where nothing
can catch it; others take gigabytes. Only the keys before the vocabulary are read, and damage is left to llama.cpp.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from llama_cffi.errors import ModelFileError

MAX_TOKEN = 16 << 10
"""Bytes of a token; the longest in use have some hundreds."""
MAX_TREE = 16 << 20
"""Bytes of all tokens of a vocabulary that llama.cpp keeps as a tree, 120 bytes of memory for each."""

_TREES = ("rwkv", "t5", "plamo2")
"""Tokenizers (``tokenizer.ggml.model``) that put every byte of every token into a tree."""

_FLOAT32, _STRING, _ARRAY, _FLOAT64 = 6, 8, 9, 12
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, _FLOAT32: 4, 7: 1, 10: 8, 11: 8, _FLOAT64: 8}
_MAX_KEY = 64 << 10
_PIECE = 1 << 20

Value = float | str | bool | int


def check_model_file(path: Path, overrides: Mapping[str, Value]) -> None:
    """Raise :class:`ModelFileError` for a value that would end the process, or take memory without bound.

    ``overrides`` replace values of the file.
    """
    for key, value in overrides.items():
        _check_number(f"kv_overrides[{key!r}]", key, value)
    try:
        with open(path, "rb") as file:
            _check(path, file, overrides)
    except ModelFileError:
        raise
    except (OSError, ValueError, OverflowError, struct.error, EOFError):
        return  # llama.cpp says what is wrong with it


def _check(path: Path, file: BinaryIO, overrides: Mapping[str, Value]) -> None:
    magic, version, _, n_keys = struct.unpack("<4sIqq", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        return
    model = overrides.get("tokenizer.ggml.model")
    for _ in range(n_keys):
        key = _read_string(file).decode("utf-8", "replace")
        (kind,) = struct.unpack("<I", file.read(4))
        if kind in (_FLOAT32, _FLOAT64):
            (value,) = struct.unpack("<f" if kind == _FLOAT32 else "<d", file.read(_SIZES[kind]))
            if key not in overrides:
                _check_number(f"{path}: {key}", key, value)
        elif kind == _STRING:
            if key == "tokenizer.ggml.model":
                text = _read_string(file).decode("utf-8", "replace")
                model = text if model is None else model
            else:
                _skip(file, _length(file))
        elif kind == _ARRAY:
            item, count = struct.unpack("<Iq", file.read(12))
            if key == "tokenizer.ggml.tokens" and item == _STRING:
                if model in _TREES:
                    _check_tokens(path, str(model), file, count)
                return
            if item == _STRING:
                for _ in range(count):
                    _skip(file, _length(file))
            else:
                _skip(file, _SIZES[item] * count)
        elif kind in _SIZES:
            _skip(file, _SIZES[kind])
        else:
            return


def _check_number(what: str, key: str, value: Value) -> None:
    if not isinstance(value, float) or key.startswith(("general.", "tokenizer.")):
        return
    if math.isnan(value) or (key.endswith("epsilon") and not 0 <= value < math.inf):
        raise ModelFileError(f"{what} is {value}, which no computation can use; the file is damaged")


def _check_tokens(path: Path, model: str, file: BinaryIO, count: int) -> None:
    total = 0
    for token, length in enumerate(_lengths(file, count)):
        total += length
        if length > MAX_TOKEN or total > MAX_TREE:
            raise ModelFileError(
                f"{path}: the vocabulary is damaged: token {token} has {length} bytes, and all up to it {total}; a "
                f"{model} vocabulary may have {MAX_TOKEN} in one and {MAX_TREE} together"
            )


def _lengths(file: BinaryIO, count: int) -> Iterator[int]:
    for _ in range(count):
        length = _length(file)
        yield length
        _skip(file, length)


def _length(file: BinaryIO) -> int:
    (length,) = struct.unpack("<Q", file.read(8))
    return int(length)


def _read_string(file: BinaryIO) -> bytes:
    length = _length(file)
    if length > _MAX_KEY:
        raise EOFError
    return file.read(length)


def _skip(file: BinaryIO, size: int) -> None:
    if size < 0:
        raise EOFError
    if size <= _PIECE:
        if len(file.read(size)) < size:
            raise EOFError
    else:
        file.seek(size, 1)


__all__ = ["MAX_TOKEN", "MAX_TREE", "check_model_file"]
