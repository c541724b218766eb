"""The most layers that fit the devices: llama.cpp measures each distribution that is tried."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.memory_breakdown import MemoryBreakdown
from llama_cffi.core.model_options import ModelOptions
from llama_cffi.core.sketch import Sketch

_MIB = 2**20


class LayerSearch:
    """Distributes the layers of one file among devices with little room.

    ``room`` has the bytes that may be planned on each device, in llama.cpp's order. As in llama.cpp's own tools, the
    last layers go to the last device first, and experts leave the devices before layers do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        given: ModelOptions,
        context: ContextOptions,
        room: Mapping[str, int],
        n_layers: int,
    ) -> None:
        self._path, self._given, self._context = path, given, context
        self._room, self._n_layers = room, n_layers
        self._spreads = spreads(given, room)

    def run(self, *, experts: bool) -> tuple[ModelOptions, MemoryBreakdown]:
        """Return the options with the most on the devices, and what they take; ``experts`` may leave them first."""
        options = self._with_few_experts() if experts else None
        if options is None:
            options = self._fill(replace(self._given, cpu_moe=True) if experts else self._given)
        use = self.measure(options)
        if options.n_gpu_layers == 0 and not fits_room(use, self._room):
            # Not even what is needed to compute without layers: the devices stay out of it.
            options = replace(options, devices=(), tensor_split=(), n_gpu_layers=0)
            use = self.measure(options)
        return options, use

    def measure(self, options: ModelOptions) -> MemoryBreakdown:
        """Return what the model and the context take with some options."""
        with Sketch(self._path, options) as sketch:
            return sketch.measure(self._context)

    def _with_few_experts(self) -> ModelOptions | None:
        """The options with all layers on the devices, and of the experts as many as fit; None if not even none do."""
        tried: dict[int, ModelOptions] = {}

        def fits(kept: int) -> bool:
            options = replace(self._given, n_cpu_moe=self._n_layers - kept)
            tried[kept] = self._fill(options)
            return tried[kept].n_gpu_layers == self._n_layers

        kept = most(self._n_layers, fits)
        if kept == 0 and not fits(0):
            return None
        return tried[kept]

    def _fill(self, options: ModelOptions) -> ModelOptions:
        if not self._spreads:

            def fits(count: int) -> bool:
                return fits_room(self.measure(with_layers(options, count)), self._room)

            return with_layers(options, most(self._n_layers, fits))
        counts = [0] * len(self._room)
        for i in reversed(range(len(counts))):

            def fits_on(count: int, i: int = i) -> bool:
                shares = [*counts[:i], count, *counts[i + 1 :]]
                return fits_room(self.measure(_shared(options, shares)), self._room)

            counts[i] = most(self._n_layers - sum(counts), fits_on)
        return _shared(options, counts)


def _shared(options: ModelOptions, counts: Sequence[int]) -> ModelOptions:
    shares = tuple(map(float, counts)) if any(counts) else ()
    return replace(options, n_gpu_layers=sum(counts), tensor_split=shares)


def spreads(given: ModelOptions, room: Mapping[str, int]) -> bool:
    """Return whether the layers of each device are to be chosen.

    With other modes, or with shares that were given, llama.cpp divides what goes to the devices.
    """
    return len(room) > 1 and given.split_mode in (None, "layer") and not any(given.tensor_split)


def with_layers(options: ModelOptions, count: int | Literal["all"]) -> ModelOptions:
    """Return the same options with a number of layers on the devices."""
    return replace(options, n_gpu_layers=count) if options.fits_layers else options


def fits_room(use: MemoryBreakdown, room: Mapping[str, int]) -> bool:
    """Return whether each device has room for its part; devices that are not named have."""
    return all(part.total <= room.get(part.name, part.total) for part in use.devices)


def in_words(use: MemoryBreakdown, room: Mapping[str, int]) -> str:
    """Return what is taken of each room."""
    parts = ((use.on(name), name, size) for name, size in room.items())
    return ", ".join(
        f"{(part.total if part else 0) / _MIB:.1f} of {size / _MIB:.1f} MiB on {name}" for part, name, size in parts
    )


def most(high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to ``high`` that fits, 0 if none does: what fits is below what does not."""
    if high <= 0 or fits(high):
        return max(high, 0)
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


__all__ = ["LayerSearch", "fits_room", "in_words", "most", "spreads", "with_layers"]
