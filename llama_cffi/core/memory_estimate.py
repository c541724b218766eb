"""An estimate of the memory of a model, without allocating it.

llama.cpp itself loads the model and creates the context with ``no_alloc``: it chooses its buffers for any architecture
and reports their sizes, and allocates none of them. The weights are summed from the file.
"""

from __future__ import annotations

import logging
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from llama_cffi._native import log
from llama_cffi.core.backend import Device, devices
from llama_cffi.core.context import Context
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.gguf import GGUFFile, TensorInfo
from llama_cffi.core.model import Model
from llama_cffi.core.model_options import ModelOptions
from llama_cffi.core.options import set_field
from llama_cffi.core.placement import owner
from llama_cffi.errors import ModelFileError, UnsupportedError

_MEMORY = re.compile(r"(?:llama_kv_cache|llama_memory_recurrent)\S*: size =\s+([\d.]+) MiB \(")
_COMPUTE = re.compile(r"\S+:\s+(\S+)\s+(?:compute|output) buffer size =\s+([\d.]+) MiB")
"""In the log of a context of every release."""

_BLOCK = re.compile(r"blk\.(\d+)\.")
_OUTPUT = ("output.", "output_norm.")
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class DeviceEstimate:
    """Bytes on one device, by their purpose; ``free`` is its free memory."""

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
        """Whether it fits the free memory."""
        return self.total <= self.free


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The memory of a model and one context, by device.

    ``weights`` are exact; ``kv`` (for recurrent models, their state) and ``compute`` are llama.cpp's own figures, which
    it rounds to about 10 KiB. If a model is divided between devices, each layer counts as an equal part of ``kv``,
    which is inexact for models whose layers differ. ``n_gpu_layers`` of ``n_layers`` (the output counts as one) is the
    largest number that fits the free memory; it is 0 also if not even the rest fits.
    """

    devices: tuple[DeviceEstimate, ...]
    n_gpu_layers: int
    n_layers: int

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
    def fits(self) -> bool:
        """Whether every device has enough free memory for its part."""
        return all(device.fits for device in self.devices)


def estimate_memory(
    path: str | os.PathLike[str], options: ModelOptions | None = None, context: ContextOptions | None = None
) -> MemoryEstimate:
    """Return how many bytes a model and one context would take on each device, without allocating them.

    ``estimate.fits`` compares them with the free memory, ``estimate.n_gpu_layers`` is the largest number that fits. The
    default context is :class:`ContextOptions` ().

    Raises the errors of loading, and :class:`UnsupportedError` for a libllama that does not support it, and for
    ``split_mode`` other than ``"layer"``. Wraps ``llama_model_load_from_file`` and ``llama_init_from_model`` with
    ``no_alloc``.
    """
    options = options if options is not None else ModelOptions()
    context = context if context is not None else ContextOptions()
    if options.split_mode not in (None, "layer"):
        raise UnsupportedError(f"an estimate supports a split by layers only, not split_mode={options.split_mode!r}")
    sizes = layer_sizes(_tensors(Path(path)))
    quiet = replace(options, load_mode="none", require_gpu=False, check_tensors=False)
    with _Sketch(path, quiet) as model:
        mark = log.mark()
        Context(model, replace(context, n_threads=1, n_threads_batch=1)).close()
        lines = log.lines_since(mark, logging.INFO)
    present = devices()
    gpus = _gpus(options, present)
    given = options.tensor_split if any(options.tensor_split) else ()  # zeros are llama.cpp's word for no choice
    shares = given or [gpu.memory_free or _host(present).memory_free for gpu in gpus]
    memory, compute = read_context(lines, present)
    wanted = options.n_gpu_layers if options.n_gpu_layers is not None and options.n_gpu_layers >= 0 else sizes.n_layers

    def lay_out(n_gpu_layers: int) -> tuple[DeviceEstimate, ...]:
        places = assign(sizes.n_layers, n_gpu_layers, [gpu.name for gpu in gpus], shares, _host(present).name)
        kv_places = places if context.offload_kqv else [_host(present).name] * len(places)
        # A device that llama.cpp was not asked about needs about what the others do.
        needed = dict.fromkeys(places, max(compute.values(), default=0)) | compute
        return divide(sizes, memory, needed, places, kv_places, present)

    fitting = range(sizes.n_layers if gpus else 0, 0, -1)
    best = next((n for n in fitting if all(device.fits for device in lay_out(n))), 0)
    return MemoryEstimate(lay_out(wanted), best, sizes.n_layers)


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Bytes of weights: what stays on the host, each block, the output, and the output's copy of the embedding.

    The copy is made where the output is on a GPU and the file has no matrix of its own for it.
    """

    host: int
    blocks: tuple[int, ...]
    output: int
    tied: int

    @property
    def n_layers(self) -> int:
        """The blocks, and one for the output."""
        return len(self.blocks) + 1


def layer_sizes(tensors: Iterable[TensorInfo]) -> LayerSizes:
    """Sum the tensors of a model by layer."""
    blocks: dict[int, int] = {}
    host = output = embedding = 0
    has_output = False
    for tensor in tensors:
        if found := _BLOCK.match(tensor.name):
            blocks[int(found[1])] = blocks.get(int(found[1]), 0) + tensor.nbytes
        elif tensor.name.startswith(_OUTPUT):
            output += tensor.nbytes
            has_output = has_output or tensor.name == "output.weight"
        else:
            host += tensor.nbytes
            embedding += tensor.nbytes if tensor.name == "token_embd.weight" else 0
    count = max(blocks, default=-1) + 1
    return LayerSizes(host, tuple(blocks.get(i, 0) for i in range(count)), output, 0 if has_output else embedding)


def read_context(lines: Iterable[str], present: Sequence[Device]) -> tuple[int, dict[str, int]]:
    """Return bytes of memory, and bytes for computing by device, that the log of a new context tells.

    Raises :class:`UnsupportedError` for a log that tells nothing of it.
    """
    memory = 0
    compute: dict[str, int] = {}
    for line in lines:
        if found := _MEMORY.match(line):
            memory += round(float(found[1]) * 2**20)
        elif found := _COMPUTE.match(line):
            name = owner(found[1], present)
            compute[name] = compute.get(name, 0) + round(float(found[2]) * 2**20)
    if not compute:
        # Every context computes: this is another wording, and zeros would look like an estimate.
        raise UnsupportedError("this libllama does not log how much memory a context takes")
    return memory, compute


def assign(n_layers: int, n_gpu_layers: int, gpus: Sequence[str], shares: Sequence[float], host: str) -> list[str]:
    """Return the device of each layer, the output last, as llama.cpp divides them: the last ones to the GPUs, by
    shares."""
    count = min(n_gpu_layers, n_layers) if gpus else 0
    ends = list(accumulate(shares[: len(gpus)])) or [1.0]
    bounds = [end / (ends[-1] or 1.0) for end in ends]
    last = len(gpus) - 1
    on_gpus = [gpus[min(bisect_right(bounds, i / count), last)] for i in range(count)]
    return [host] * (n_layers - count) + on_gpus


def divide(
    sizes: LayerSizes,
    memory: int,
    compute: Mapping[str, int],
    places: Sequence[str],
    kv_places: Sequence[str],
    present: Sequence[Device],
) -> tuple[DeviceEstimate, ...]:
    """Return what each device holds when the layers are at ``places`` and their memory at ``kv_places``."""
    host = _host(present).name
    weights = {host: sizes.host}
    for place, size in zip(places, (*sizes.blocks, sizes.output), strict=True):
        weights[place] = weights.get(place, 0) + size
    if places[-1] != host:
        weights[places[-1]] += sizes.tied
    blocks = kv_places[: len(sizes.blocks)]
    kv = {name: memory * blocks.count(name) // len(blocks) for name in set(blocks)} if blocks else {host: memory}
    used = weights.keys() | kv.keys() | compute.keys()
    return tuple(
        DeviceEstimate(
            device.name,
            weights.get(device.name, 0),
            kv.get(device.name, 0),
            compute.get(device.name, 0),
            device.memory_free or _host(present).memory_free,  # a device that reports none uses the host's
        )
        for device in present
        if device.name in used
    )


class _Sketch(Model):
    """A model without the memory for its weights: good for asking what a context would take, and for nothing else."""

    def _adjust(self, params: Any) -> None:
        set_field(params, "no_alloc", True, option="estimate_memory", lacking=False)


def _tensors(path: Path) -> list[TensorInfo]:
    first = GGUFFile(path)
    count = first.metadata.get("split.count", 1)
    found = _PART.fullmatch(path.name)
    if not isinstance(count, int) or count < 2:
        return first.tensors
    if found is None or int(found[2]) != count:
        raise ModelFileError(
            f"{path} is of a model in {count} parts, but its name does not have the form NAME-00001-of-00002.gguf"
        )
    parts = [path.with_name(f"{found[1]}-{number:05}-of-{found[2]}.gguf") for number in range(1, count + 1)]
    return [tensor for part in parts for tensor in GGUFFile(part).tensors]


def _gpus(options: ModelOptions, present: Sequence[Device]) -> list[Device]:
    if options.devices is not None:
        return [device for device in present if device.name in options.devices and device.type != "cpu"]
    # An integrated GPU is used only where there is no other.
    return [one for one in present if one.type == "gpu"] or [one for one in present if one.type == "igpu"]


def _host(present: Sequence[Device]) -> Device:
    return next(device for device in present if device.type == "cpu")


__all__ = [
    "DeviceEstimate",
    "LayerSizes",
    "MemoryEstimate",
    "assign",
    "divide",
    "estimate_memory",
    "layer_sizes",
    "read_context",
]
