"""The memory that a model and a context take on each device, as llama.cpp counts it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_cffi._native import binding, extras, log
from llama_cffi.core.backend import Device, devices
from llama_cffi.core.placement import type_device
from llama_cffi.errors import UnsupportedError

_OUTPUT_ROWS = re.compile(r"\S+:\s+\S+\s+output buffer size =\s+([\d.]+) MiB")
"""In the log of a new context. llama.cpp does not count this buffer, which is in main memory, among the others."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes on one device, by their purpose; ``free`` is its free memory at the moment of asking.

    ``kv`` is the memory of the context (for recurrent models, their state), ``compute`` the buffers for computing.
    """

    name: str
    weights: int
    kv: int
    compute: int
    free: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.kv + self.compute

    @property
    def fits(self) -> bool:
        """Whether it would fit the free memory."""
        return self.total <= self.free

    def __str__(self) -> str:
        parts = ((self.weights, "weights"), (self.kv, "KV"), (self.compute, "compute"))
        each = " + ".join(f"{size / 2**20:.1f} {what}" for size, what in parts)
        return f"{self.name}: {self.total / 2**20:.1f} MiB ({each})"


@dataclass(frozen=True, slots=True)
class MemoryBreakdown:
    """The memory of a model and one context, by device; only devices that hold some of it are listed."""

    devices: tuple[DeviceMemory, ...]

    @property
    def weights(self) -> int:
        """Bytes of weights on all devices."""
        return sum(device.weights for device in self.devices)

    @property
    def kv(self) -> int:
        """Bytes of the context's memory on all devices."""
        return sum(device.kv for device in self.devices)

    @property
    def compute(self) -> int:
        """Bytes for computing, on all devices."""
        return sum(device.compute for device in self.devices)

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return sum(device.total for device in self.devices)

    def on(self, name: str) -> DeviceMemory | None:
        """Return the part of one device, None if it holds nothing."""
        return next((device for device in self.devices if device.name == name), None)

    def __str__(self) -> str:
        return "; ".join(map(str, self.devices)) or "no memory"


def added(first: MemoryBreakdown, second: MemoryBreakdown) -> MemoryBreakdown:
    """Return what two things take together."""
    found = {device.name: device for device in first.devices}
    for device in second.devices:
        other = found.get(device.name, replace(device, weights=0, kv=0, compute=0))
        found[device.name] = replace(
            other,
            weights=other.weights + device.weights,
            kv=other.kv + device.kv,
            compute=other.compute + device.compute,
        )
    return MemoryBreakdown(tuple(found.values()))


def can_measure() -> bool:
    """Return whether this library tells what a model and a context would take, without allocating it."""
    return binding.has("llama_model_params.no_alloc") and extras.has_buffers()


def read_breakdown(ctx: Any, output_rows: int = 0) -> MemoryBreakdown:
    """Return what a context and its model take, in the order of the devices.

    ``output_rows`` are bytes of the buffer for logits and embeddings. Raises :class:`UnsupportedError` when the library
    does not tell. Wraps ``llama_get_memory_breakdown``.
    """
    buffers = extras.buffers(ctx)
    if buffers is None:
        raise UnsupportedError("this libllama does not tell how much memory a context takes")
    present = devices()
    host = next(device.name for device in present if device.type == "cpu")
    sums: dict[str, list[int]] = {host: [0, 0, output_rows]}
    for kind, *sizes in buffers:
        on_device = sums.setdefault(type_device(kind), [0, 0, 0])
        for i, size in enumerate(sizes):
            on_device[i] += size
    return MemoryBreakdown(tuple(_on_devices(sums, present)))


def _on_devices(sums: Mapping[str, list[int]], present: Sequence[Device]) -> Iterable[DeviceMemory]:
    host = next(device for device in present if device.type == "cpu")
    for device in present:
        if any(sums.get(device.name, ())):
            # A device that reports no memory uses the host's.
            weights, kv, compute = sums[device.name]
            yield DeviceMemory(device.name, weights, kv, compute, device.memory_free or host.memory_free)


def output_row_bytes(mark: int) -> int:
    """Return the bytes of the buffer for logits and embeddings of a context that was created since a mark."""
    found = (_OUTPUT_ROWS.match(line) for line in log.lines_since(mark, logging.INFO))
    return sum(round(float(match[1]) * 2**20) for match in found if match)


__all__ = ["DeviceMemory", "MemoryBreakdown", "added", "can_measure", "output_row_bytes", "read_breakdown"]
