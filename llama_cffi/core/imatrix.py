"""Importance matrices: how much each column of a weight matters, measured by llama.cpp's ``llama-imatrix``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llama_cffi.core.gguf import GGUFFile, TensorInfo
from llama_cffi.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUMS, _COUNTS = ".in_sum2", ".counts"
_KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


@dataclass(frozen=True)
class ImportanceMatrix:
    """Mean squares of the inputs of each weight, float32, one row after the other for each expert."""

    entries: dict[str, NDArray[np.float32]]
    datasets: tuple[str, ...]
    """What it was measured on."""
    n_chunks: int
    """How much of that."""


def read_imatrix(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """Read an importance matrix in GGUF form.

    Raises :class:`ModelNotFoundError` and :class:`ModelFileError` for a file that is none; the form that llama.cpp
    wrote before GGUF is one of these.
    """
    file = GGUFFile(path)
    datasets, n_chunks, _ = (file.metadata.get(key) for key in _KEYS)
    if not isinstance(datasets, list) or not isinstance(n_chunks, int):
        raise ModelFileError(f"{path} is not an importance matrix: it lacks {', '.join(_KEYS)}")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    sums = {name.removesuffix(_SUMS): tensor for name, tensor in tensors.items() if name.endswith(_SUMS)}
    entries = {}
    with open(path, "rb") as stream:

        def read(tensor: TensorInfo) -> NDArray[np.float32]:
            stream.seek(tensor.offset)
            return np.frombuffer(stream.read(tensor.nbytes), dtype="<f4")

        for name, tensor in sums.items():
            counts = tensors.get(name + _COUNTS)
            if counts is None or {tensor.type, counts.type} != {"f32"} or tensor.n_elements % counts.n_elements:
                raise ModelFileError(f"{path}: the sums and counts of {name} do not match")
            number = np.rint(read(counts))[:, None]
            values = read(tensor).reshape(len(number), -1)
            # An expert that was never asked counts as much as any.
            mean = np.divide(values, number, out=np.ones_like(values), where=number > 0)
            entries[name] = np.ascontiguousarray(mean.reshape(-1))
    if not entries:
        raise ModelFileError(f"{path} is not an importance matrix: it has no sums")
    return ImportanceMatrix(entries, tuple(str(one) for one in datasets), n_chunks)


__all__ = ["ImportanceMatrix", "read_imatrix"]
