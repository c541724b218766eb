"""What a projector takes of memory, and whether libmtmd can lay it out at all; nothing is loaded for that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_cffi._native import cache, media_sketch
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.encoding_turns import EncodingTurns
from llama_cffi._util.files import identity
from llama_cffi.core.backend import devices
from llama_cffi.core.context_options import FlashAttention
from llama_cffi.core.media.projector_file import check_projector_file
from llama_cffi.core.media.projector_params import measuring_params
from llama_cffi.core.memory_breakdown import DeviceMemory, MemoryBreakdown
from llama_cffi.errors import ModelFileError, UnsupportedError

_SIZES = ("image_min_tokens", "image_max_tokens", "flash_attn_type")
_USED = (*_SIZES, "n_threads", "use_gpu", "warmup", "print_timings")


def check_layout(path: Path, identifier: bytes, params: Any) -> None:
    """Raise :class:`ModelFileError` for a projector that would end the process when libmtmd builds its graph.

    A child process tries it, once for each file and library: that it did well is kept in the user's cache.
    """
    files = media_sketch.library_files()
    if not files:
        return
    kept = cache.folder() / "projectors" / f"{identifier.hex()}.json"
    key = [[str(one), *identity(one)] for one in files]
    known = cache.read(kept)
    if known is not None and known.get("key") == key:
        return
    # On the CPU: a child that takes a GPU takes seconds, and the graph is the same.
    found = media_sketch.lay_out(path, _copy(params, use_gpu=False, warmup=True, print_timings=False), _USED)
    if found is None or found.devices == {}:  # loading it says why it cannot be used
        return
    _check_crash(path, found)
    cache.write(kept, {"key": key})


def estimate_projector(
    path: str | os.PathLike[str],
    *,
    use_gpu: bool = True,
    image_min_tokens: int | None = None,
    image_max_tokens: int | None = None,
    flash_attn: FlashAttention = "auto",
) -> MemoryBreakdown:
    """Return how many bytes a projector would take on each device, without loading its weights.

    The arguments are those of :class:`Projector`. The buffers for computing are those for the largest image that
    libmtmd plans for; a larger one, of a model that takes images of any size, makes them grow. A child process asks
    libmtmd.

    Raises the errors of loading a projector's file, and :class:`UnsupportedError` for a libmtmd that does not tell.
    Wraps ``mtmd_get_memory_usage``.
    """
    path = Path(path)
    file = check_projector_file(path)
    params = measuring_params(
        EncodingTurns(AbortFlag()),  # the child process gets numbers alone
        use_gpu=use_gpu,
        image_min_tokens=image_min_tokens,
        image_max_tokens=image_max_tokens,
        flash_attn=flash_attn,
    )
    found = media_sketch.lay_out(path, params, _USED)
    if found is not None:
        _check_crash(path, found)
    if found is None or found.devices is None:
        raise UnsupportedError(f"this libmtmd does not tell how much memory the projector {path.name} takes")
    if not found.devices:
        raise ModelFileError(f"{path} cannot be used as a projector{found.reason}")
    return MemoryBreakdown(tuple(_parts(found.devices, sum(tensor.nbytes for tensor in file.tensors))))


def _check_crash(path: Path, found: media_sketch.Layout) -> None:
    if found.crash:
        raise ModelFileError(
            f"{path} is damaged: libmtmd crashes when it lays out the projector ({found.crash}){found.reason}"
        )


def _parts(found: dict[str, int], n_weights: int) -> Sequence[DeviceMemory]:
    """The bytes by device; the weights are on one of them, the first GPU where one is used."""
    parts = []
    host = next(device for device in devices() if device.type == "cpu")
    for device in devices():
        if not found.get(device.name):
            continue
        weights = min(n_weights, found[device.name]) if device.type != "cpu" or len(found) == 1 else 0
        free = device.memory_free or host.memory_free
        parts.append(DeviceMemory(device.name, weights, 0, found[device.name] - weights, free))
    return parts


def _copy(params: Any, **changes: bool) -> Any:
    """The same options with some changed."""
    from llama_cffi._native import media_ffi

    copied = media_ffi.new("struct mtmd_context_params *", params)[0]
    for name, value in changes.items():
        setattr(copied, name, value)
    return copied


__all__ = ["check_layout", "estimate_projector"]
