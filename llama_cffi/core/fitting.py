"""How much of a model goes to the devices, so that it fits there beside its context.

llama.cpp itself lays the model out with ``no_alloc``, for each distribution that is tried, and tells what it would
take. Nothing is computed here but the next distribution to try.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from llama_cffi.core.allocation import allocation_reason
from llama_cffi.core.backend import Device, devices
from llama_cffi.core.context_options import ContextOptions
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.host_memory import available
from llama_cffi.core.layer_search import LayerSearch, fits_room, in_words, most, spreads, with_layers
from llama_cffi.core.memory_breakdown import MemoryBreakdown, can_measure
from llama_cffi.core.model_base import ModelBase
from llama_cffi.core.model_options import ModelOptions
from llama_cffi.core.rpc import add_servers
from llama_cffi.core.sketch import Sketch, offload_devices
from llama_cffi.errors import ContextError, LlamaCffiError

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_MARGIN_PART, _MOST_MARGIN = 16, 2**30
_LESS = 0.9
"""Part of what was planned for a device that is planned next, when the allocation failed."""
_CELLS = 256
"""llama.cpp rounds the cells of a context to it."""
_BLIND_PART = 3 / 4
"""Part of the layers that is tried next with a library that does not tell what they take."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts that a fit may choose from.

    ``wanted`` has the most wanted one first. When none of them fits beside all layers, layers make room for the last.
    If ``longest`` is given, the chosen one gets as many cells as fit, up to this number.
    """

    wanted: tuple[ContextOptions, ...]
    longest: int | None = None


class Beside(Protocol):
    """What is opened beside a model and its context, and takes memory of the same devices."""

    def bytes_on(self, context: ContextOptions) -> Mapping[str, int]:
        """Return the bytes that it takes on each device beside a context; devices that it does not use are left out."""

    def close(self) -> None:
        """Free what was opened to find that out; it may be asked again."""


class Fitting:
    """Finds ``options`` and a ``context`` for a file with which it fits the devices, and less after a failure.

    ``choose`` gives the contexts for a model. ``beside`` takes memory of the same devices, which is left free for it.
    With ``loaded`` the weights are on the devices already, with these options. ``steps`` tells what was found and why.
    """

    def __init__(
        self,
        path: Paths,
        options: ModelOptions,
        choose: Callable[[ModelBase], Contexts] | None = None,
        *,
        beside: Beside | None = None,
        loaded: bool = False,
    ) -> None:
        self._path = path
        self.given = options
        """The options to begin with."""
        self._choose = choose if choose is not None else _usual
        self._beside = beside
        self._loaded = loaded
        self._failed: dict[str, int] = {}  # bytes that a device was found not to have
        self._use: MemoryBreakdown | None = None
        self._planned = False
        self.options = options
        self.context: ContextOptions | None = None
        self.steps: list[str] = []

    @staticmethod
    def is_needed(options: ModelOptions) -> bool:
        """Return whether there is anything to find: layers, and a GPU for them."""
        if options.rpc:
            add_servers(options.rpc)
        return options.fits_layers and options.split_mode != "tensor" and bool(offload_devices(options, devices()))

    def plan(self) -> ModelOptions:
        """Return the options to load with; the first call finds them. Raises the errors of loading the file."""
        if not self._planned:
            self._planned = True
            self._find()
        return self.options

    def lessen(self, error: LlamaCffiError) -> bool:
        """Find options that take less, after an allocation failed; False if that was not the reason, or nothing is
        left to take off."""
        reason = allocation_reason((*error.log, error.message))
        if reason is None:
            return False
        self.steps.append(f"an allocation failed: {reason}")
        before = self.options, self.context
        if self._use is None:
            return self._less_blindly()
        for used in self._use.devices:
            self._failed[used.name] = int(_LESS * used.total)
        self._find()
        return (self.options, self.context) != before

    # -- searching

    def _find(self) -> None:
        given = _without_unused(self.given)
        if not can_measure():
            self.steps.append("this libllama does not tell what a model takes: all layers go to the GPU if they can")
            return
        try:
            with Sketch(self._path, with_layers(given, "all")) as whole:
                contexts = self._choose(whole)
                room, n_layers = self._room(whole.gpus()), whole.n_offloadable
                experts = bool(whole.n_expert) and not (given.cpu_moe or given.n_cpu_moe)
            use = self._whole(given, contexts, room, n_layers)
            if use is not None:
                left = self._left(room, contexts.wanted[-1])
                self.steps.append(f"all {n_layers} layers would take {in_words(use, left)}")
                self._part(given, contexts, room, n_layers, experts=experts)
            self._tell(n_layers, room)
        except ContextError as error:
            self.context, self._use, self.options = None, None, given
            self.steps.append(f"nothing is known of what it takes: {error.message}")
            return
        finally:
            if self._beside is not None:
                self._beside.close()

    def _whole(
        self, given: ModelOptions, contexts: Contexts, room: dict[str, int], n_layers: int
    ) -> MemoryBreakdown | None:
        """Take all layers with the most wanted context that fits beside them; if none does, return what is taken."""
        whole = with_layers(given, n_layers)
        if given.fits_layers and spreads(given, room) and given.max_device_memory is not None:
            left = self._left(room, contexts.wanted[0])
            whole = replace(whole, tensor_split=tuple(map(float, left.values())))
        use = None
        with Sketch(self._path, whole) as sketch:
            for context in contexts.wanted:
                use = self._still_taken(sketch.measure(context))
                if fits_room(use, self._left(room, context)):
                    self.options, self.context = whole, context
                    self._settle(sketch, use, room, contexts.longest)
                    return None
        return use

    def _part(
        self, given: ModelOptions, contexts: Contexts, room: dict[str, int], n_layers: int, *, experts: bool
    ) -> None:
        """Take as many layers as fit beside the least wanted context."""
        self.options, self.context = given, contexts.wanted[-1]
        if given.fits_layers:
            left = self._left(room, self.context)
            self.options, _ = LayerSearch(self._path, given, self.context, left, n_layers).run(experts=experts)
        with Sketch(self._path, self.options) as sketch:
            use = self._still_taken(sketch.measure(self.context))
            # Beside layers that had to leave, no memory is there for more than was wanted.
            longest = contexts.longest if self.options.n_gpu_layers == n_layers else None
            self._settle(sketch, use, room, longest)

    def _settle(self, sketch: Sketch, use: MemoryBreakdown, room: dict[str, int], longest: int | None) -> None:
        """Take the context, with as many more cells as fit."""
        context = self.context
        if context is not None and longest is not None and longest > context.n_ctx:
            host = next(device for device in devices() if device.type == "cpu")
            limits = {**room, host.name: self._room_of(host, None)}

            def fits(steps: int) -> bool:
                longer = _longer(context, min(longest, context.n_ctx + steps * _CELLS))
                return fits_room(self._still_taken(sketch.measure(longer)), self._left(limits, longer))

            steps = most(-(-(longest - context.n_ctx) // _CELLS), fits)
            n_ctx = min(longest, context.n_ctx + steps * _CELLS)
            self.context = _longer(context, n_ctx)
            use = self._still_taken(sketch.measure(self.context))
            self.steps.append(f"the context has {n_ctx} cells of at most {longest}")
        self._use = use

    def _still_taken(self, use: MemoryBreakdown) -> MemoryBreakdown:
        """What the free memory is still to hold."""
        if not self._loaded:
            return use
        return MemoryBreakdown(tuple(replace(device, weights=0) for device in use.devices))

    def _left(self, room: Mapping[str, int], context: ContextOptions | None) -> dict[str, int]:
        """What of the room is left for the model and a context, beside what else is opened."""
        taken = self._beside.bytes_on(context) if self._beside is not None and context is not None else {}
        left = {name: size - taken.get(name, 0) for name, size in room.items()}
        if any(size < 0 for size in left.values()):
            # It would not fit without the model either, and takes what it gets.
            left = dict(room)
        return {name: min(size, self._failed.get(name, size)) for name, size in left.items()}

    def _room(self, gpus: Sequence[Device]) -> dict[str, int]:
        """Bytes that may be planned on each GPU, in llama.cpp's order, for all that is opened."""
        caps = self.given.max_device_memory
        return {
            gpu.name: self._room_of(gpu, caps.get(gpu.name) if not isinstance(caps, int | None) else caps)
            for gpu in gpus
        }

    def _room_of(self, device: Device, cap: int | None) -> int:
        free = device.memory_free
        if device.type == "cpu" or not free:
            free = available() or next(one.memory_free for one in devices() if one.type == "cpu")
        margin = self.given.device_margin
        room = free - (margin if margin is not None else min(free // _MARGIN_PART, _MOST_MARGIN))
        return max(0, room if cap is None else min(room, cap))

    def _tell(self, n_layers: int, room: dict[str, int]) -> None:
        options = self.options
        count = options.n_gpu_layers if isinstance(options.n_gpu_layers, int) else n_layers
        count = n_layers if count < 0 else min(count, n_layers)
        experts = ", their experts in main memory" if options.cpu_moe else ""
        if options.n_cpu_moe:
            experts = f", the experts of the first {options.n_cpu_moe} in main memory"
        if self._use is not None and room:
            cells = f" with {self.context.n_ctx} cells" if self.context is not None else ""
            left = self._left(room, self.context)
            self.steps.append(f"{count} of {n_layers} layers{experts}{cells} take {in_words(self._use, left)}")
            kept = {name: room[name] - size for name, size in left.items() if name not in self._failed}
            if any(kept.values()):
                sizes = ", ".join(f"{size / 2**20:.1f} MiB on {name}" for name, size in kept.items() if size)
                self.steps.append(f"{sizes} are left for the draft model and the projector")

    def _less_blindly(self) -> bool:
        count = self.options.n_gpu_layers
        if count == 0 or not self.given.fits_layers:
            return False
        if not isinstance(count, int):
            count = _block_count(self._path) + 1
        self.options = with_layers(self.options, int(count * _BLIND_PART))
        self.steps.append(f"{self.options.n_gpu_layers} layers are tried")
        return True


def _usual(model: ModelBase) -> Contexts:
    return Contexts((ContextOptions(),))


def _without_unused(options: ModelOptions) -> ModelOptions:
    """The same options without the devices that may hold nothing."""
    caps = options.max_device_memory
    if not isinstance(caps, Mapping) or all(caps.values()):
        return options
    used = [one.name for one in offload_devices(options, devices()) if caps.get(one.name) != 0]
    return replace(options, devices=used)


def _longer(context: ContextOptions, n_ctx: int) -> ContextOptions:
    """The same context with more cells; one text may then use more, too."""
    share = n_ctx if context.kv_unified else n_ctx // context.n_seq_max
    return replace(context, n_ctx=n_ctx, n_ctx_seq=share if context.n_ctx_seq is not None else None)


def _block_count(path: Paths) -> int:
    file = GGUFFile(path if isinstance(path, (str, os.PathLike)) else path[0])
    found = file.metadata.get(f"{file.architecture}.block_count", 0)
    return found if isinstance(found, int) else 0


__all__ = ["Beside", "Contexts", "Fitting", "Paths"]
