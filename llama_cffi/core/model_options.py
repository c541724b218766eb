"""The options of loading a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from llama_cffi._native import binding, ffi, lib
from llama_cffi._util.arguments import (
    check_flag,
    check_names,
    check_sequence,
    check_text,
    check_texts_by_name,
    count,
)
from llama_cffi._util.ranges import FLT_MAX
from llama_cffi._util.scalars import INT_MAX, as_float, as_int, check_int, is_int
from llama_cffi._util.shown import shown
from llama_cffi.core.numa import NumaStrategy, use_numa
from llama_cffi.core.options import choice, constant, set_field
from llama_cffi.core.rpc import add_servers, check_endpoint
from llama_cffi.core.tensor_overrides import override_list, set_tensor_overrides
from llama_cffi.errors import UnsupportedError

LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap_mlock", "direct_io"]
SplitMode = Literal["none", "layer", "row", "tensor"]
LazyMode = Literal["off", "auto", "on"]
GpuLayers = int | Literal["auto", "all"]

_LOAD_MODES: dict[str, tuple[str, frozenset[str]]] = {
    "auto": ("LLAMA_LOAD_MODE_AUTO", frozenset()),
    "none": ("LLAMA_LOAD_MODE_NONE", frozenset()),
    "mmap": ("LLAMA_LOAD_MODE_MMAP", frozenset({"use_mmap"})),
    "mlock": ("LLAMA_LOAD_MODE_MLOCK", frozenset({"use_mlock"})),
    "mmap_mlock": ("LLAMA_LOAD_MODE_MMAP_MLOCK", frozenset({"use_mmap", "use_mlock"})),
    "direct_io": ("LLAMA_LOAD_MODE_DIRECT_IO", frozenset({"use_direct_io"})),
}
"""Each mode as llama.cpp's enumerator, and as the switches that releases before the enumerators have on."""
_SPLIT_MODES: dict[str, str] = {
    "none": "LLAMA_SPLIT_MODE_NONE",
    "layer": "LLAMA_SPLIT_MODE_LAYER",
    "row": "LLAMA_SPLIT_MODE_ROW",
    "tensor": "LLAMA_SPLIT_MODE_TENSOR",
}
_LAZY_MODES: dict[str, str] = {
    "off": "LLAMA_LAZY_MODE_OFF",
    "auto": "LLAMA_LAZY_MODE_AUTO",
    "on": "LLAMA_LAZY_MODE_ON",
}
_KEY_BYTES = 127
"""Longest key or string value of an override: llama.h gives both 128 bytes, the last one a NUL."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options of loading a model (``llama_model_params``); ``None`` keeps llama.cpp's default."""

    n_gpu_layers: GpuLayers | None = None
    """The number of layers on GPUs. ``"auto"``, as None, puts there what fits beside the context, and less when an
    allocation fails; ``"all"``, as a negative number, puts all there or fails."""
    max_device_memory: int | Mapping[str, int] | None = None
    """The most bytes that ``n_gpu_layers="auto"`` plans for each GPU, or for each one by its name; by default what is
    free. One that is named with 0 is not used."""
    device_margin: int | None = None
    """Bytes of each GPU that ``n_gpu_layers="auto"`` leaves free; by default a sixteenth of what is free, at most
    1 GiB."""
    require_gpu: bool = False
    """Raise :class:`UnsupportedError` when no weights are on a GPU, instead of computing on the CPU."""
    split_mode: SplitMode | None = None
    """How several GPUs share the model."""
    main_gpu: int | None = None
    """The GPU that holds everything when ``split_mode="none"``."""
    tensor_split: Sequence[float] = ()
    """Share of the model for each device."""
    devices: Sequence[str] | None = None
    """Names of the devices to use, as ``core.backend.devices()`` lists them; None uses all."""
    rpc: Sequence[str] = ()
    """RPC servers, as ``"host:port"``, whose devices count as GPUs of this machine. llama.cpp ends the process when a
    server dies; ``Llama(rpc=...)`` computes in a process of its own."""
    tensor_overrides: Mapping[str, str] = field(default_factory=dict)
    """Devices of tensors: a regular expression that is searched in the names of tensors, and the name of a device, such
    as ``{r"ffn_.*_exps": "CPU"}``. The first expression that matches decides."""
    cpu_moe: bool = False
    """Keep the weights of all experts in main memory, and the rest of their layers where it belongs."""
    n_cpu_moe: int | None = None
    """The number of layers, from the first on, whose experts stay in main memory."""
    load_mode: LoadMode = "auto"
    """How the file is read: memory-mapped, locked in RAM, or plain reads."""
    lazy_mode: LazyMode | None = None
    """Whether the rows of certain tensors, such as embeddings for each layer, are read from the file when they are
    needed (with memory-mapped files); None is llama.cpp's default: only for tensors of more than 4 GiB."""
    numa: NumaStrategy | None = None
    """How threads and weights are placed on a machine with several NUMA nodes: ``"distribute"`` over all nodes,
    ``"isolate"`` on the node that the process is on, ``"numactl"`` as numactl(8) has placed the process. A process has
    one strategy, from its first model with one on."""
    kv_overrides: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """Metadata values to replace while loading."""
    vocab_only: bool = False
    """Load the vocabulary and the metadata, but no weights."""
    check_tensors: bool = False
    """Check the weights for invalid numbers while loading."""
    use_extra_bufts: bool = True
    """Allow weights to be repacked for this CPU."""
    no_host: bool = False
    """Bypass the host buffer of a GPU backend."""
    load_mtp: bool = False
    """Load the layers that predict further tokens (MTP), for drafts; without them that memory is saved."""

    def __post_init__(self) -> None:
        for name in (
            "require_gpu", "vocab_only", "check_tensors", "use_extra_bufts", "no_host", "cpu_moe", "load_mtp"
        ):  # fmt: skip
            object.__setattr__(self, name, check_flag(name, getattr(self, name)))
        object.__setattr__(self, "tensor_split", check_sequence("tensor_split", self.tensor_split, "numbers"))
        if self.devices is not None:
            for name in check_sequence("devices", self.devices, "names"):
                check_text("devices", name)
        servers = check_sequence("rpc", self.rpc, 'servers as "host:port"')
        object.__setattr__(self, "rpc", tuple(check_endpoint("rpc", one) for one in servers))
        check_names("kv_overrides", self.kv_overrides)
        check_texts_by_name("tensor_overrides", self.tensor_overrides)
        check_gpu_layers("n_gpu_layers", self.n_gpu_layers)
        if self.device_margin is not None:
            object.__setattr__(self, "device_margin", count("device_margin", self.device_margin))
        if self.max_device_memory is not None:
            object.__setattr__(
                self, "max_device_memory", check_device_memory("max_device_memory", self.max_device_memory)
            )
        if self.n_cpu_moe is not None:
            object.__setattr__(self, "n_cpu_moe", count("n_cpu_moe", self.n_cpu_moe))
            if self.cpu_moe:
                raise ValueError(
                    "cpu_moe keeps the experts of all layers in main memory: give it or n_cpu_moe, not both"
                )

    @property
    def fits_layers(self) -> bool:
        """Whether the number of layers on GPUs is to be found."""
        return self.n_gpu_layers in (None, "auto") and not self.vocab_only


def check_gpu_layers(name: str, value: object) -> GpuLayers | None:
    """Return a number of layers on GPUs; ``ValueError`` for anything but a whole number, "auto", "all" and None."""
    if value is None or (isinstance(value, str) and value in ("auto", "all")):
        return cast(GpuLayers | None, value)
    if not is_int(value, -INT_MAX):
        raise ValueError(f'{name} must be a whole number of layers, "auto" or "all", got {shown(value)}')
    return int(cast(int, value))


def check_device_memory(name: str, value: Any) -> int | dict[str, int]:
    """Return bytes for each device, or by the name of a device; TypeError and ``ValueError`` for anything else."""
    if isinstance(value, Mapping):
        return {key: count(f"{name}[{shown(key)}]", size) for key, size in check_names(name, value).items()}
    return count(name, value)


def native_params(options: ModelOptions) -> tuple[Any, list[Any]]:
    """Return the ``llama_model_params`` of options, and what its pointers point at, to be kept as long.

    Raises ``ValueError`` for a value out of range, and :class:`UnsupportedError` for one that the library lacks.
    """
    params = lib.llama_model_default_params()
    keep: list[Any] = []
    add_servers(options.rpc)
    use_numa(options.numa)
    if options.n_gpu_layers is not None:
        # Negative numbers are llama.cpp's word for all.
        params.n_gpu_layers = options.n_gpu_layers if isinstance(options.n_gpu_layers, int) else -1
    if options.split_mode is not None:
        params.split_mode = constant("split_mode", options.split_mode, _SPLIT_MODES)
    _set_load_mode(params, options.load_mode)
    if "mmap" in options.load_mode and not lib.llama_supports_mmap():
        raise UnsupportedError("this libllama cannot memory-map model files")
    if "mlock" in options.load_mode and not lib.llama_supports_mlock():
        raise UnsupportedError("this libllama cannot lock model files in memory")
    if options.main_gpu is not None:
        params.main_gpu = check_int("main_gpu", options.main_gpu)
    if options.tensor_split:
        limit = lib.llama_max_devices()
        split = [as_float(share) for share in options.tensor_split]
        if len(split) > limit or any(share is None or not 0 <= share <= FLT_MAX for share in split):
            raise ValueError(f"tensor_split takes at most {limit} shares, none negative, got {shown(split)}")
        # llama.cpp reads llama_max_devices() values whatever the caller meant.
        shares = ffi.new("float[]", limit)
        shares[0 : len(split)] = split
        keep.append(shares)
        params.tensor_split = shares
    if options.devices is not None:
        devices = ffi.new("ggml_backend_dev_t[]", len(options.devices) + 1)
        for i, name in enumerate(options.devices):
            devices[i] = lib.ggml_backend_dev_by_name(name.encode())
            if devices[i] == ffi.NULL:
                raise ValueError(f"devices: there is no device named {shown(name)}")
        keep.append(devices)
        params.devices = devices
    if options.kv_overrides:
        overrides = ffi.new("struct llama_model_kv_override[]", len(options.kv_overrides) + 1)
        for slot, (key, value) in zip(overrides, options.kv_overrides.items(), strict=False):
            fill_override(slot, key, value)
        keep.append(overrides)
        params.kv_overrides = overrides
    if overrides := override_list(options.tensor_overrides, cpu_moe=options.cpu_moe, n_cpu_moe=options.n_cpu_moe or 0):
        set_tensor_overrides(params, overrides, keep)
    if options.lazy_mode is not None:
        lazy = constant("lazy_mode", options.lazy_mode, _LAZY_MODES)
        set_field(params, "lazy_mode", lazy, option=f"lazy_mode={options.lazy_mode!r}", lacking=None)
    params.vocab_only = options.vocab_only
    params.check_tensors = options.check_tensors
    params.use_extra_bufts = options.use_extra_bufts
    set_field(params, "no_host", options.no_host, option="no_host", lacking=False)
    set_field(params, "load_mtp", options.load_mtp, option="load_mtp", lacking=False)
    return params, keep


def _set_load_mode(params: Any, mode: LoadMode) -> None:
    enumerator, switches = choice("load_mode", mode, _LOAD_MODES)
    if mode == "auto":
        return  # what every release does by default, whatever it calls that
    if binding.has("llama_model_params.load_mode"):
        params.load_mode = getattr(lib, enumerator)
        return
    for name in ("use_mmap", "use_mlock", "use_direct_io"):
        set_field(params, name, name in switches, option=f"load_mode={mode!r}", lacking=False)


def fill_override(slot: Any, key: str, value: bool | int | float | str) -> None:
    """Write one metadata value into a ``struct llama_model_kv_override``."""
    name = key.encode()
    if not 0 < len(name) <= _KEY_BYTES or b"\0" in name:
        raise ValueError(f"kv_overrides: the key {shown(key)} must have 1 to {_KEY_BYTES} bytes")
    slot.key = name
    if isinstance(value, bool):
        slot.tag, slot.val_bool = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
    elif (integer := as_int(value)) is not None:
        if not -(2**63) <= integer < 2**63:
            raise ValueError(f"kv_overrides[{shown(key)}]: {value} does not fit 64 bits")
        slot.tag, slot.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, integer
    elif (number := as_float(value)) is not None:
        slot.tag, slot.val_f64 = lib.LLAMA_KV_OVERRIDE_TYPE_FLOAT, number
    elif isinstance(value, str):
        data = value.encode()
        if len(data) > _KEY_BYTES or b"\0" in data:
            raise ValueError(f"kv_overrides[{shown(key)}]: at most {_KEY_BYTES} bytes, no NUL")
        slot.tag, slot.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, data
    else:
        raise TypeError(f"kv_overrides[{shown(key)}] must be bool, int, float or str, not {type(value).__name__}")


__all__ = [
    "GpuLayers",
    "LazyMode",
    "LoadMode",
    "ModelOptions",
    "SplitMode",
    "check_device_memory",
    "check_gpu_layers",
    "fill_override",
    "native_params",
]
