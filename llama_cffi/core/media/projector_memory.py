"""What a projector takes of memory, and whether libmtmd can lay it out at all; nothing is loaded for that."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cffi._native import cache, extras, media_sketch
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.encoding_turns import EncodingTurns
from llama_cffi._native.media_sketch import Layout, Target
from llama_cffi._util.files import identity
from llama_cffi.core.allocation import allocation_reason
from llama_cffi.core.backend import Device, devices
from llama_cffi.core.context_options import FlashAttention
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.media.projector_file import check_projector_file, generates_speech, projector_id
from llama_cffi.core.media.projector_params import measuring_params
from llama_cffi.core.memory_breakdown import DeviceMemory, MemoryBreakdown
from llama_cffi.errors import ModelFileError, UnsupportedError

_FIELDS = ("image_min_tokens", "image_max_tokens", "flash_attn_type", "n_threads", "print_timings")


class _Known:
    """What is known of a projector and this library, kept in the user's cache: that libmtmd lays it out, and the bytes
    by device that it takes with some options."""

    def __init__(self, file: GGUFFile, identifier: bytes) -> None:
        self._place = cache.folder() / "projectors" / f"{identifier.hex()}.json"
        self._key: list[Any] = [[str(one), *identity(one)] for one in media_sketch.library_files()]
        if generates_speech(file):
            self._key.append("speaks")
        found = cache.read(self._place) or {}
        self.is_sound: bool = bool(self._key) and found.get("key") == self._key
        self._bytes: dict[str, dict[str, int]] = found.get("bytes", {}) if self.is_sound else {}

    def bytes_on(self, options: str) -> dict[str, int] | None:
        return self._bytes.get(options)

    def keep(self, options: str, found: dict[str, int] | None) -> None:
        if found is not None:
            self._bytes[options] = found
        cache.write(self._place, {"key": self._key, "bytes": self._bytes})


def check_layout(file: GGUFFile, identifier: bytes, params: Any) -> None:
    """Raise :class:`ModelFileError` for a projector that would end the process when libmtmd builds its graphs.

    A child process tries it, once for each file and library: that it did well is kept in the user's cache.
    """
    known = _Known(file, identifier)
    # On the CPU: a child that takes a GPU takes seconds, and the graph is the same.
    if not known.is_sound:
        _lay_out(file, params, None, known)


def projector_memory(
    path: str | os.PathLike[str],
    *,
    use_gpu: bool = True,
    image_min_tokens: int | None = None,
    image_max_tokens: int | None = None,
    flash_attn: FlashAttention = "auto",
) -> Mapping[str, int]:
    """Return how many bytes a projector would take on each device, by the device's name.

    The options are those of :class:`~llama_cffi.core.media.projector.Projector`. No weights are allocated. A child
    process asks libmtmd, once for each file, library, device and options. It is empty where this library does not tell.
    Raises :class:`ModelNotFoundError`, and :class:`ModelFileError` for a file that is not a projector or is damaged.
    Wraps ``mtmd_get_memory_usage``.
    """
    file = check_projector_file(Path(path))
    params = measuring_params(
        EncodingTurns(AbortFlag()),  # the child process gets numbers alone
        use_gpu=use_gpu,
        image_min_tokens=image_min_tokens,
        image_max_tokens=image_max_tokens,
        flash_attn=flash_attn,
    )
    known = _Known(file, projector_id(file, params.image_min_tokens, params.image_max_tokens))
    gpu = _projector_gpu() if use_gpu and extras.has_buffers() else None
    found = _lay_out(file, params, gpu, known)
    if gpu is not None and found.devices is None:
        # The buffers to compute with are allocated for a moment, and cannot be had now. They are as large elsewhere.
        found = _lay_out(file, params, None, known)
        if found.devices:
            found = replace(found, devices={gpu.name: sum(found.devices.values())})
    if found.devices == {}:
        raise ModelFileError(f"{path} cannot be used as a projector{found.reason}")
    return {name: size for name, size in (found.devices or {}).items() if size}


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
    libmtmd plans for; a larger one, of a model that takes images of any size, makes them grow.

    Raises the errors of loading a projector's file, and :class:`UnsupportedError` for a libmtmd that does not tell.
    Wraps ``mtmd_get_memory_usage``.
    """
    found = projector_memory(
        path,
        use_gpu=use_gpu,
        image_min_tokens=image_min_tokens,
        image_max_tokens=image_max_tokens,
        flash_attn=flash_attn,
    )
    if not found:
        raise UnsupportedError(f"this libmtmd does not tell how much memory the projector {Path(path).name} takes")
    weights = sum(tensor.nbytes for tensor in GGUFFile(path).tensors)
    return MemoryBreakdown(tuple(_parts(found, weights)))


def _lay_out(file: GGUFFile, params: Any, gpu: Device | None, known: _Known) -> Layout:
    """Lay a projector out on a GPU or the CPU, unless that is known. Its ``devices`` are None where nothing is found
    out, and where there is not the memory for it.

    Raises :class:`ModelFileError` for one that libmtmd does not survive.
    """
    where = "host" if gpu is None else f"{gpu.name} {gpu.description} {gpu.memory_total}"
    options = f"{where} {params.flash_attn_type}"
    if (kept := known.bytes_on(options)) is not None:
        return Layout("", kept, 0, ())
    if known.is_sound and not extras.has_buffers():
        return Layout("", None, 0, ())
    found = media_sketch.lay_out(file.path, params, _FIELDS, device=_target(gpu), speaks=generates_speech(file))
    if found is None:
        return Layout("", None, 0, ())
    if gpu is not None and allocation_reason(found.lines) is not None:
        # What could not be allocated is not counted, and libmtmd fails an assertion where that was the weights.
        return replace(found, devices=None)
    if found.crash:
        raise ModelFileError(
            f"{file.path} is damaged: libmtmd crashes when it lays out the projector ({found.crash}){found.reason}"
        )
    if found.devices:
        found = replace(found, devices=_with_generator(found.devices, file, gpu, found.speech))
    if found.devices or (found.devices is None and gpu is None):
        known.keep(options, found.devices)
    return found


def _with_generator(found: dict[str, int], file: GGUFFile, gpu: Device | None, computing: int) -> dict[str, int]:
    """The bytes by device, with those of a generator of speech, which libmtmd leaves out."""
    if not generates_speech(file):
        return found
    name = gpu.name if gpu is not None else _host().name
    weights = sum(tensor.nbytes for tensor in file.tensors if tensor.name.startswith("a.gen."))
    return {**found, name: found.get(name, 0) + weights + computing}


def _projector_gpu() -> Device | None:
    """The GPU that libmtmd takes: the first one, an integrated one where there is no other."""
    present = devices()
    return next((one for kind in ("gpu", "igpu") for one in present if one.type == kind), None)


def _host() -> Device:
    return next(device for device in devices() if device.type == "cpu")


def _target(gpu: Device | None) -> Target | None:
    if gpu is None:
        return None
    if gpu.backend != "RPC":
        return Target(gpu.name)
    # A server is the description of each of its devices.
    own = [one.name for one in devices() if (one.backend, one.description) == (gpu.backend, gpu.description)]
    return Target(gpu.name, gpu.description, own.index(gpu.name))


def _parts(found: Mapping[str, int], n_weights: int) -> Sequence[DeviceMemory]:
    """The bytes by device; the weights are on one of them, the first GPU where one is used."""
    parts, host = [], _host()
    for device in devices():
        if not found.get(device.name):
            continue
        weights = min(n_weights, found[device.name]) if device.type != "cpu" or len(found) == 1 else 0
        free = device.memory_free or host.memory_free
        parts.append(DeviceMemory(device.name, weights, 0, found[device.name] - weights, free))
    return parts


__all__ = ["check_layout", "estimate_projector", "projector_memory"]
