"""An estimate of the memory of a model, without allocating it.

llama.cpp itself loads the model and creates the context with ``no_alloc``: it chooses its buffers for any architecture
and tells their sizes, and allocates none of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama_cffi.core.backend import devices
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.layer_search import LayerSearch, fits_room
from llama_cffi.core.memory_breakdown import DeviceMemory, MemoryBreakdown, added
from llama_cffi.core.model_options import ModelOptions
from llama_cffi.core.model_paths import ModelGiven
from llama_cffi.core.opening import opened_header
from llama_cffi.core.sketch import Sketch
from llama_cffi.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class MemoryEstimate(MemoryBreakdown):
    """The memory of a model and one context, by device, as llama.cpp counts it.

    ``n_gpu_layers`` of ``n_layers`` (the output counts as one) is the largest number that fits the free memory; it is 0
    also if not even the rest fits. ``projector`` is the part of a projector in the bytes of the devices, if there is
    one.
    """

    n_gpu_layers: int
    n_layers: int
    projector: MemoryBreakdown | None = None

    @property
    def fits(self) -> bool:
        """Whether every device has enough free memory for its part."""
        return all(device.fits for device in self.devices)


def estimate_memory(
    path: ModelGiven | Sequence[str | os.PathLike[str]],
    options: ModelOptions | None = None,
    context: ContextOptions | None = None,
    *,
    mmproj: str | os.PathLike[str] | None = None,
) -> MemoryEstimate:
    """Return how many bytes a model and one context would take on each device, without allocating them.

    ``path`` is what :class:`Model` takes; of a file at an address, only the header is read. ``estimate.fits`` compares
    the bytes with the free memory, ``estimate.n_gpu_layers`` is the largest number that fits. The default context is
    :class:`ContextOptions` (). ``n_gpu_layers="auto"`` counts as ``"all"`` here. ``mmproj`` is the file of a projector,
    which is counted, too.

    Raises the errors of loading, and :class:`UnsupportedError` for a libllama that does not support it, and for
    ``split_mode`` other than ``"layer"``. Wraps ``llama_model_load_from_file`` and ``llama_init_from_model`` with
    ``no_alloc``, and ``llama_get_memory_breakdown``.
    """
    with opened_header(path) as found:
        return _estimate(found, options, context, mmproj)


def _estimate(
    path: Any, options: ModelOptions | None, context: ContextOptions | None, mmproj: str | os.PathLike[str] | None
) -> MemoryEstimate:
    options = options if options is not None else ModelOptions()
    context = context if context is not None else ContextOptions()
    if options.split_mode not in (None, "layer"):
        raise UnsupportedError(f"an estimate supports a split by layers only, not split_mode={options.split_mode!r}")
    present = {device.name: device for device in devices()}
    host = next(device for device in present.values() if device.type == "cpu")
    with Sketch(path, options) as sketch:
        use, n_layers = sketch.measure(context), sketch.n_offloadable
        gpus = [gpu.name for gpu in sketch.gpus()]
    projector = None
    if mmproj is not None:
        from llama_cffi.core.media.projector_memory import estimate_projector

        projector = estimate_projector(mmproj, use_gpu=options.n_gpu_layers != 0)
    whole = use if projector is None else added(use, projector)
    # The free memory of this moment, also of devices that are no more than mentioned.
    parts = tuple(replace(part, free=present[part.name].memory_free or host.memory_free) for part in whole.devices)
    room = {name: present[name].memory_free or host.memory_free for name in gpus}
    for part in projector.devices if projector is not None else ():
        if part.name in room:
            room[part.name] -= part.total
    if not room:
        return MemoryEstimate(parts, 0, n_layers, projector)
    fitted = replace(options, n_gpu_layers="auto")
    search = LayerSearch(path, fitted, context, room, n_layers)
    if fits_room(search.measure(replace(fitted, n_gpu_layers="all")), room):
        return MemoryEstimate(parts, n_layers, n_layers, projector)
    found, _ = search.run(experts=False)
    n_gpu_layers = found.n_gpu_layers if isinstance(found.n_gpu_layers, int) else n_layers
    return MemoryEstimate(parts, n_gpu_layers, n_layers, projector)


__all__ = ["DeviceMemory", "MemoryEstimate", "estimate_memory"]
