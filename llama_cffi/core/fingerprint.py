"""What tells one model from another without reading all of its weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llama_cffi.core.model import Model

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


def take_fingerprint(model: Model) -> Fingerprint:
    """The fingerprint of a loaded model; reads 8 KiB of its file."""
    metadata = hashlib.blake2b(digest_size=16)
    for key, value in sorted(model.metadata.items()):
        metadata.update(f"{key}={value}\0".encode("utf-8", "surrogatepass"))
    return Fingerprint(
        architecture=model.architecture,
        n_params=model.n_params,
        size=model.size,
        n_vocab=model.vocab.n_tokens,
        n_layer=model.n_layer,
        n_embd=model.n_embd,
        metadata=metadata.hexdigest(),
        pieces=file_pieces(model.path),
    )


def file_pieces(path: Path) -> str:
    """Hash of 16 pieces of a file, 512 bytes each; "" where it cannot be read."""
    found = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb", buffering=0) as file:
            size = file.seek(0, 2)
            for i in range(1, _N_SAMPLES + 1):
                # The last one is the end of the file: weights are there, metadata at the beginning.
                file.seek(max(0, size * i // _N_SAMPLES - _SAMPLE_BYTES))
                found.update(file.read(_SAMPLE_BYTES))
    except OSError:
        return ""
    return found.hexdigest()


__all__ = ["Fingerprint", "file_pieces", "take_fingerprint"]
