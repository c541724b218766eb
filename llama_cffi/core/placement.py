"""The devices that hold the parts of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_cffi._native import binding, extras, ffi, lib
from llama_cffi.core.strings import to_text

if TYPE_CHECKING:
    from llama_cffi.core.backend import Device

# For libraries that do not give their tensors: the log of the load tells it in these two sentences of every release.
_BUFFER = re.compile(r"load_tensors:\s+(.+?) model buffer size =\s+([\d.]+) MiB")
_LAYERS = re.compile(r"load_tensors: offloaded (\d+)/(\d+) layers to GPU")

_HOST = "CPU"

_RPC_BUFFER = re.compile(r"RPC(\d+)\[(.+)\]")

_BLOCK = re.compile(r"blk\.(\d+)\.")
_OUTPUT = ("output.", "output_norm.", "cls.")
_EXPERTS = re.compile(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps")


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of a model's weights.

    ``buffers``: bytes by llama.cpp's name of the buffer, such as ``CPU_Mapped`` or ``CUDA0``. ``devices``: the same by
    device name as :func:`~llama_cffi.core.backend.devices` has it; memory that belongs to no device, also what a GPU
    driver pinned in RAM, counts for the CPU. ``n_gpu_layers`` of ``n_layers`` layers (the output counts as one) are on
    GPUs, except for tensors that were placed by hand and experts that did not fit; ``n_layers`` is 0 when the library
    cannot offload and does not report it. ``tensors`` has the device of each tensor by its name; one that is on two
    devices has both. ``steps`` tells in words what was tried until the model fitted, and why; it is empty when nothing
    had to be decided.

    The numbers are those of llama.cpp's tensors. A library that does not give them has them in its log, rounded to
    about 10 KiB and without ``tensors``.
    """

    buffers: Mapping[str, int]
    devices: Mapping[str, int]
    gpu_bytes: int
    n_gpu_layers: int
    n_layers: int
    tensors: Mapping[str, str] = field(default_factory=dict, repr=False)
    steps: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.devices:
            return "no weights"
        parts = [f"{size / 2**20:.1f} MiB on {name}" for name, size in self.devices.items()]
        layers = f"; {self.n_gpu_layers} of {self.n_layers} layers on GPUs" if self.n_layers else ""
        return ", ".join(parts) + layers


def tensor_placement(model: Any, n_layers: int) -> Placement | None:
    """Return where the weights of a loaded model are, None if the library does not give its tensors.

    ``n_layers`` is the number of its layers, the output included.
    """
    tensors = extras.tensors(model)
    if tensors is None:
        return None
    placed = []
    for tensor in tensors:
        kind = lib.ggml_backend_buffer_get_type(tensor.buffer)
        name = to_text(lib.ggml_get_name(tensor))
        placed.append((name, lib.ggml_nbytes(tensor), to_text(lib.ggml_backend_buft_name(kind)), type_device(kind)))
    return summarize(placed, gpu_names(), n_layers if lib.llama_supports_gpu_offload() else 0)


def summarize(placed: Iterable[tuple[str, int, str, str]], gpus: Iterable[str], n_layers: int) -> Placement:
    """Return the placement of tensors that are given by name, bytes, buffer and device."""
    buffers: dict[str, int] = {}
    devices: dict[str, int] = {}
    tensors: dict[str, set[str]] = {}
    for name, size, buffer, device in placed:
        buffers[buffer] = buffers.get(buffer, 0) + size
        devices[device] = devices.get(device, 0) + size
        tensors.setdefault(name, set()).add(device)
    gpus = frozenset(gpus)
    layers: dict[str, bool] = {}
    for name, where in tensors.items():
        layer = _layer(name)
        if layer is not None and not _EXPERTS.search(name):
            # A layer is on GPUs when anything of it is: what of it was placed elsewhere was placed there by name.
            layers[layer] = layers.get(layer, False) or bool(where & gpus)
    if "output" not in layers and (shared := tensors.get("token_embd.weight")) is not None:
        layers["output"] = bool(shared & gpus)
    gpu_bytes = sum(size for name, size in devices.items() if name in gpus)
    names = {name: " and ".join(sorted(where)) for name, where in tensors.items()}
    return Placement(buffers, devices, gpu_bytes, min(sum(layers.values()), n_layers), n_layers, names)


def _layer(name: str) -> str | None:
    """What layer a tensor is of; None for what belongs to none of them, such as the embedding of tokens."""
    if found := _BLOCK.search(name):
        return found[0]
    return "output" if name.startswith(_OUTPUT) else None


def gpu_names() -> list[str]:
    """Return the names of the devices that are GPUs."""
    names = [f"GGML_BACKEND_DEVICE_TYPE_{kind}" for kind in ("GPU", "IGPU")]  # older releases know one kind
    kinds = [getattr(lib, name) for name in names if binding.has(name)]
    found = [lib.ggml_backend_dev_get(i) for i in range(lib.ggml_backend_dev_count())]
    return [to_text(lib.ggml_backend_dev_name(one)) for one in found if lib.ggml_backend_dev_type(one) in kinds]


def type_device(kind: Any) -> str:
    """Return the name of the device whose memory a type of buffers is of, the CPU for one of no device."""
    device = ffi.NULL if lib.ggml_backend_buft_is_host(kind) else lib.ggml_backend_buft_get_device(kind)
    if device == ffi.NULL:
        device = lib.ggml_backend_dev_by_type(lib.GGML_BACKEND_DEVICE_TYPE_CPU)
    return to_text(lib.ggml_backend_dev_name(device)) if device != ffi.NULL else _HOST


def read_placement(lines: Iterable[str], devices: Sequence[Device]) -> Placement:
    """Return the placement that the log lines of a load tell."""
    buffers: dict[str, int] = {}
    layers = (0, 0)
    for line in lines:
        if found := _BUFFER.search(line):
            buffers[found[1]] = buffers.get(found[1], 0) + round(float(found[2]) * 2**20)
        elif found := _LAYERS.search(line):
            layers = int(found[1]), int(found[2])
    by_device: dict[str, int] = {}
    for buffer, size in buffers.items():
        name = owner(buffer, devices)
        by_device[name] = by_device.get(name, 0) + size
    gpus = {device.name for device in devices if device.type in ("gpu", "igpu")}
    gpu_bytes = sum(size for name, size in by_device.items() if name in gpus)
    # A library that can offload, but found nothing to offload to, says "offloaded" all the same.
    return Placement(buffers, by_device, gpu_bytes, layers[0] if gpu_bytes else 0, layers[1])


def owner(buffer: str, devices: Sequence[Device]) -> str:
    """Return the name of the device that a buffer of llama.cpp's belongs to, the CPU for one of no device."""
    if found := _RPC_BUFFER.fullmatch(buffer):
        # The number counts the devices of one server. Those of all servers are numbered through, and each has the
        # server's address as its description.
        own = [device.name for device in devices if device.description == found[2]]
        return own[int(found[1])] if int(found[1]) < len(own) else _HOST
    names = [device.name for device in devices if re.match(rf"{re.escape(device.name)}(?!\d)", buffer)]
    return max(names, key=len, default=_HOST)


__all__ = ["Placement", "gpu_names", "owner", "read_placement", "summarize", "tensor_placement", "type_device"]
