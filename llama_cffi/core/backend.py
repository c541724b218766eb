"""The devices that this machine and this libllama can compute on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from llama_cffi._native import binding, ffi, lib
from llama_cffi.core.rpc import device_memory, is_remote
from llama_cffi.core.strings import to_text

DeviceType = Literal["cpu", "gpu", "igpu", "accel", "meta"]


@dataclass(frozen=True, slots=True)
class Device:
    """One device that ggml can compute on.

    ``name`` is what ``ModelOptions.devices`` takes; ``memory_free`` and ``memory_total`` are bytes, at the
    moment of asking; ``backend`` is the name of the registry that the device belongs to.
    """

    name: str
    description: str
    type: DeviceType
    memory_free: int
    memory_total: int
    backend: str


@dataclass(frozen=True, slots=True)
class Supports:
    """What the loaded libllama can do here."""

    mmap: bool
    mlock: bool
    gpu_offload: bool
    rpc: bool
    max_devices: int
    max_parallel_sequences: int


def devices() -> tuple[Device, ...]:
    """Return the devices in ggml's order; :class:`RpcError` where the server of one does not answer.

    Wraps ``ggml_backend_dev_get``.
    """
    return tuple(_device(lib.ggml_backend_dev_get(i)) for i in range(lib.ggml_backend_dev_count()))


def cpu_features() -> dict[str, bool | int]:
    """Return what the loaded CPU backend uses: flags as True, vector lengths (bytes) as numbers.

    A name that is missing is not used. Empty if the backend tells nothing.
    Wraps the backend's ``ggml_backend_get_features``.
    """
    device = lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU)
    if device == ffi.NULL:
        return {}
    registry = lib.ggml_backend_dev_backend_reg(device)
    address = lib.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_get_features")
    if address == ffi.NULL:
        return {}
    feature = ffi.cast("ggml_backend_get_features_t", address)(registry)
    found: dict[str, bool | int] = {}
    while feature.name != ffi.NULL:
        value = int(ffi.string(feature.value))
        found[to_text(feature.name)] = bool(value) if value in (0, 1) else value
        feature += 1
    return found


def system_info() -> str:
    """Return llama.cpp's own one-line summary of backends and their features; ``llama_print_system_info``."""
    return to_text(lib.llama_print_system_info()).strip(" |")


def supports() -> Supports:
    """Return what the loaded libllama can do here; wraps ``llama_supports_*`` and ``llama_max_*``."""
    return Supports(
        mmap=lib.llama_supports_mmap(),
        mlock=lib.llama_supports_mlock(),
        gpu_offload=lib.llama_supports_gpu_offload(),
        rpc=lib.llama_supports_rpc(),
        max_devices=lib.llama_max_devices(),
        max_parallel_sequences=lib.llama_max_parallel_sequences(),
    )


def _device(device: Any) -> Device:
    # Older releases know fewer kinds, and number them otherwise.
    names = {kind: f"GGML_BACKEND_DEVICE_TYPE_{kind.upper()}" for kind in get_args(DeviceType)}
    kinds: dict[int, DeviceType] = {getattr(lib, name): kind for kind, name in names.items() if binding.has(name)}
    free, total = device_memory(device) if is_remote(device) else _memory(device)
    return Device(
        name=to_text(lib.ggml_backend_dev_name(device)),
        description=to_text(lib.ggml_backend_dev_description(device)),
        type=kinds[lib.ggml_backend_dev_type(device)],
        memory_free=free,
        memory_total=total,
        backend=to_text(lib.ggml_backend_reg_name(lib.ggml_backend_dev_backend_reg(device))),
    )


def _memory(device: Any) -> tuple[int, int]:
    free, total = ffi.new("size_t *"), ffi.new("size_t *")
    lib.ggml_backend_dev_memory(device, free, total)
    return free[0], total[0]


__all__ = ["Device", "DeviceType", "Supports", "cpu_features", "devices", "supports", "system_info"]
