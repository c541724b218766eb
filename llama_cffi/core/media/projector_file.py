"""An mmproj file: whether it is one, and what identifies it."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from llama_cffi.core.fingerprint import file_pieces, metadata_hash
from llama_cffi.core.gguf import GGUFFile, MetadataValue, TensorInfo
from llama_cffi.errors import ModelFileError

_POSITIVE = (
    "clip.vision.image_size",
    "clip.vision.patch_size",
    "clip.vision.embedding_length",
    "clip.vision.attention.head_count",
    "clip.audio.embedding_length",
    "clip.audio.attention.head_count",
    "clip.audio.num_mel_bins",
    "clip.gen.audio.embedding_length",
    "clip.gen.audio.attention.head_count",
    "clip.gen.audio.attention.head_count_kv",
)
"""libmtmd divides by some of them."""
_MAX_SIZE = 1 << 20


def check_projector_file(path: Path) -> GGUFFile:
    """Return what an mmproj file says; raises :class:`ModelNotFoundError`, and :class:`ModelFileError` for a file that
    is not one, is cut, or has sizes that cannot be computed with."""
    file = GGUFFile(path)
    architecture = file.metadata.get("general.architecture")
    if architecture != "clip":
        raise ModelFileError(f"{path} is not a projector: its architecture is {architecture!r}, not 'clip'")
    for key in _POSITIVE:
        value = file.metadata.get(key)
        if value is not None and not (isinstance(value, int) and 0 < value <= _MAX_SIZE):
            raise ModelFileError(f"{path}: {key} must be 1 to {_MAX_SIZE}, got {value!r:.60}")
    for part, multiple in (("vision", 4), ("audio", 2), ("gen.audio", 2)):
        width, heads = (_number(file.metadata, f"clip.{part}.{name}") for name in _WIDTHS)
        if width and heads and width % heads:
            raise ModelFileError(f"{path}: {heads} heads do not divide a width of {width} ({part})")
        if width and heads and width // heads % multiple:
            # Positions rotate halves of a head, and those of images each half for each direction.
            raise ModelFileError(
                f"{path}: the width of a head must be a multiple of {multiple}, got {width // heads} ({part})"
            )
    for key, value in file.metadata.items():
        if key.startswith("clip.") and key.endswith("epsilon") and not (isinstance(value, float) and 0 <= value < 1):
            raise ModelFileError(f"{path}: {key} must be 0 to 1, got {value!r:.60}")
    for tensor in file.tensors:
        _check_type(path, tensor)
    _check_codes(path, {tensor.name: tensor.shape for tensor in file.tensors})
    return file


def _check_codes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a generator of codes that draws numbers for which its table has no row: ggml fails an assertion for one in
    the middle of a graph."""
    drawn, table = (shapes.get(f"a.gen.code.{name}.weight", ()) for name in ("head", "embd"))
    if drawn[1:] != table[1:]:
        raise ModelFileError(
            f"{path}: 'a.gen.code.head.weight' gives codes of the shape {drawn[1:]}, and 'a.gen.code.embd.weight' has "
            f"rows for {table[1:]}"
        )


_NUMBERS = ("i8", "i16", "i32", "i64", "f64")


def _check_type(path: Path, tensor: TensorInfo) -> None:
    """Refuse what ggml fails an assertion for in the middle of a graph, where nothing can be caught: it multiplies no
    integers, and adds and scales with numbers of 32 bits alone."""
    # Other weights of one dimension may be those of a convolution over one channel, which are f16.
    is_vector = tensor.name.endswith(".bias") or (
        len(tensor.shape) < 2 and any(part in tensor.name for part in ("bias", "norm", ".ln"))
    )
    if tensor.type in _NUMBERS or (is_vector and tensor.type != "f32"):
        allowed = "f32" if is_vector else "floating or quantized"
        raise ModelFileError(
            f"{path}: the tensor {tensor.name!r:.100} must be of the type {allowed}, not {tensor.type}"
        )


_WIDTHS = ("embedding_length", "attention.head_count")


def _number(metadata: Mapping[str, MetadataValue], key: str) -> int:
    value = metadata.get(key)
    return value if isinstance(value, int) else 0


def generates_speech(file: GGUFFile) -> bool:
    """Return whether a projector has a generator of speech."""
    return file.metadata.get("clip.has_gen_audio_encoder") is True


def projector_id(file: GGUFFile, min_tokens: int, max_tokens: int) -> bytes:
    """Return 16 bytes that identify a projector: a hash of metadata, tensors, pieces of the weights, and limits."""
    found = blake2b(f"projector {min_tokens} {max_tokens}\0".encode(), digest_size=16)
    found.update(metadata_hash({key: str(value) for key, value in file.metadata.items()}).encode())
    for tensor in file.tensors:
        found.update(f"{tensor.name} {tensor.shape} {tensor.type}\0".encode("utf-8", "surrogatepass"))
    found.update(file_pieces(file.path).encode())
    return found.digest()


__all__ = ["check_projector_file", "generates_speech", "projector_id"]
