"""The devices that hold the parts of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_cffi.core.backend import Device

# llama.h does not tell where the weights went; the log of the load does, in these two sentences of every release.
_BUFFER = re.compile(r"load_tensors:\s+(.+?) model buffer size =\s+([\d.]+) MiB")
_LAYERS = re.compile(r"load_tensors: offloaded (\d+)/(\d+) layers to GPU")

_HOST = "CPU"


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of a model's weights.

    ``buffers``: bytes (to about 10 KiB) by llama.cpp's name of the buffer, such as ``CPU_Mapped`` or ``CUDA0``.
    ``devices``: the same by device name as :func:`~llama_cffi.core.backend.devices` has it; memory that belongs to no
    device, also what a GPU driver pinned in RAM, counts for the CPU. ``n_gpu_layers`` of ``n_layers`` layers (the
    output counts as one) are on GPUs; ``n_layers`` is 0 when the library cannot offload and does not report it.
    """

    buffers: Mapping[str, int]
    devices: Mapping[str, int]
    gpu_bytes: int
    n_gpu_layers: int
    n_layers: int

    def __str__(self) -> str:
        if not self.devices:
            return "no weights"
        parts = [f"{size / 2**20:.1f} MiB on {name}" for name, size in self.devices.items()]
        layers = f"; {self.n_gpu_layers} of {self.n_layers} layers on GPUs" if self.n_layers else ""
        return ", ".join(parts) + layers


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
    names = [device.name for device in devices if re.match(rf"{re.escape(device.name)}(?!\d)", buffer)]
    return max(names, key=len, default=_HOST)


__all__ = ["Placement", "owner", "read_placement"]
