"""Identifies a model without reading all of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llama_cffi.core.source import Source

_N_SAMPLES, _SAMPLE_BYTES = 16, 512


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Architecture, sizes, and hashes of the metadata and of some pieces of the file.

    Equal for copies of a file. Two checkpoints of one training differ in the pieces, two vocabularies in the metadata.
    """

    architecture: str
    n_params: int
    size: int
    """Bytes of all tensors."""
    n_vocab: int
    n_layer: int
    n_embd: int
    metadata: str
    """Hash of all scalar metadata."""
    pieces: str
    """Hash of 16 pieces of the (first) file, 512 bytes each; "" where it cannot be read any more."""


def metadata_hash(metadata: Mapping[str, str]) -> str:
    """Return a hash of metadata, whatever its order."""
    found = hashlib.blake2b(digest_size=16)
    for key, value in sorted(metadata.items()):
        found.update(f"{key}={value}\0".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def file_pieces(path: Path | Source) -> str:
    """Return a hash of 16 pieces of a file, 512 bytes each; "" where it cannot be read."""
    found = hashlib.blake2b(digest_size=16)
    try:
        with path.open() if isinstance(path, Source) else open(path, "rb", buffering=0) as file:
            size = file.seek(0, 2)
            for i in range(1, _N_SAMPLES + 1):
                # The last one is the end of the file: weights are there, metadata at the beginning.
                file.seek(max(0, size * i // _N_SAMPLES - _SAMPLE_BYTES))
                found.update(file.read(_SAMPLE_BYTES))
    except OSError:
        return ""
    return found.hexdigest()


__all__ = ["Fingerprint", "file_pieces", "metadata_hash"]
