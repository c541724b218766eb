"""Options about where a model is and what memory its context takes, with the names of llama.cpp's own tools."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import llama_cffi
from llama_cffi.cli import arguments
from llama_cffi.cli.cpus import Cpus
from llama_cffi.cli.memory_plan import DEFAULT_N_CTX, usual_context
from llama_cffi.cli.options import OverrideKv, option

if TYPE_CHECKING:
    from llama_cffi.core.model_options import LoadMode as ModelLoadMode

LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"]
LOAD_MODES: dict[str, ModelLoadMode] = {
    "auto": "auto",
    "none": "none",
    "mmap": "mmap",
    "mlock": "mlock",
    "mmap+mlock": "mmap_mlock",
    "dio": "direct_io",
}
"""The words of llama.cpp's tools, and those of `ModelOptions`."""

SplitMode = Literal["none", "layer", "row", "tensor"]

GpuLayers = Annotated[
    str,
    option(
        "-ngl", "--n-gpu-layers", "--gpu-layers", metavar="N", env="N_GPU_LAYERS",
        help="The number of layers on the GPU: a number, auto or all.",
    ),
]  # fmt: skip
Fit = Annotated[
    Literal["on", "off"],
    option(
        "-fit", "--fit", metavar="WHEN", env="FIT",
        help="Whether --n-gpu-layers auto takes only what fits the GPUs: on or off.",
    ),
]  # fmt: skip
FitTarget = Annotated[
    int | None,
    option(
        "-fitt", "--fit-target", metavar="MIB", min=0, env="FIT_TARGET", show_default="a sixteenth of what is free",
        help="Memory of each GPU that --fit leaves free.",
    ),
]  # fmt: skip
MaxDeviceMemory = Annotated[
    str | None,
    option(
        "--max-device-memory", metavar="MIB", show_default="what is free",
        help="The most memory of each GPU that --fit takes: a number, or NAME=MIB separated by commas.",
    ),
]  # fmt: skip
Device = Annotated[
    str | None,
    option(
        "-dev", "--device", metavar="NAMES", env="DEVICE",
        help="Devices to offload to, separated by commas, as doctor lists them; none for no offloading.",
    ),
]  # fmt: skip
Split = Annotated[
    SplitMode | None,
    option(
        "-sm", "--split-mode", metavar="MODE", env="SPLIT_MODE",
        help="How several GPUs share the model: none, layer, row or tensor.",
    ),
]  # fmt: skip
TensorSplit = Annotated[
    str | None,
    option(
        "-ts", "--tensor-split", metavar="SHARES", env="TENSOR_SPLIT",
        help="Share of the model for each GPU, for example 3,1.",
    ),
]  # fmt: skip
MainGpu = Annotated[
    int | None,
    option("-mg", "--main-gpu", metavar="INDEX", env="MAIN_GPU", help="The GPU to use with --split-mode none."),
]
OverrideTensor = Annotated[
    list[str] | None,
    option(
        "-ot", "--override-tensor", metavar="REGEX=DEVICE", env="OVERRIDE_TENSOR",
        help="Put the tensors whose names match on this device; several separated by commas. Repeatable.",
    ),
]  # fmt: skip
CpuMoe = Annotated[
    bool, option("-cmoe", "--cpu-moe", env="CPU_MOE", help="Keep the weights of all experts in main memory.")
]
NCpuMoe = Annotated[
    int | None,
    option(
        "-ncmoe", "--n-cpu-moe", metavar="N", min=0, env="N_CPU_MOE",
        help="Keep the weights of the experts of the first N layers in main memory.",
    ),
]  # fmt: skip
Load = Annotated[
    LoadMode,
    option(
        "-lm", "--load-mode", metavar="MODE", env="LOAD_MODE",
        help="How the file is read: auto, none, mmap, mlock, mmap+mlock or dio.",
    ),
]  # fmt: skip
Lazy = Annotated[
    Literal["off", "auto", "on"] | None,
    option(
        "-lzm", "--lazy-mode", metavar="MODE", env="LAZY_MODE", show_default="auto",
        help="Read rows of certain tensors from the file when they are needed: off, on, or auto for large tensors.",
    ),
]  # fmt: skip
CheckTensors = Annotated[bool, option("--check-tensors", help="Check the weights for invalid numbers.")]
Repack = Annotated[
    bool, option("--repack/--no-repack", " /-nr", env="REPACK", help="Let weights be repacked for this CPU.")
]
Numa = Annotated[
    Literal["distribute", "isolate", "numactl"] | None,
    option(
        "--numa", metavar="TYPE", env="NUMA",
        help="Place threads and weights on NUMA nodes: distribute (over all), isolate (on one) or numactl.",
    ),
]  # fmt: skip
NoHost = Annotated[bool, option("--no-host", env="NO_HOST", help="Bypass the host buffer of a GPU.")]

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
CacheTypeK = Annotated[
    CacheType, option("-ctk", "--cache-type-k", metavar="TYPE", env="CACHE_TYPE_K", help="Type of the K cache.")
]
CacheTypeV = Annotated[
    CacheType, option("-ctv", "--cache-type-v", metavar="TYPE", env="CACHE_TYPE_V", help="Type of the V cache.")
]
FlashAttn = Annotated[
    Literal["on", "off", "auto"],
    option("-fa", "--flash-attn", metavar="WHEN", env="FLASH_ATTN", help="Fused attention: on, off or auto."),
]
KvOffload = Annotated[
    bool,
    option("-kvo/-nkvo", "--kv-offload/--no-kv-offload", env="KV_OFFLOAD", help="Keep the memory on the GPU."),
]
OpOffload = Annotated[
    bool, option("--op-offload/--no-op-offload", help="Compute large operations of the host on the GPU.")
]
RopeScaling = Annotated[
    Literal["none", "linear", "yarn"] | None,
    option(
        "--rope-scaling", metavar="TYPE", env="ROPE_SCALING_TYPE", show_default="the model's",
        help="Scaling of positions: none, linear or yarn.",
    ),
]  # fmt: skip
RopeScale = Annotated[
    float | None,
    option("--rope-scale", metavar="N", env="ROPE_SCALE", help="Factor by which the context grows: 1 / frequency."),
]
RopeFreqBase = Annotated[
    float | None,
    option(
        "--rope-freq-base", metavar="N", env="ROPE_FREQ_BASE", show_default="the model's",
        help="Base frequency of positions.",
    ),
]  # fmt: skip
RopeFreqScale = Annotated[
    float | None,
    option(
        "--rope-freq-scale", metavar="N", env="ROPE_FREQ_SCALE", show_default="the model's",
        help="Scale of the frequency of positions.",
    ),
]  # fmt: skip
YarnOrigCtx = Annotated[
    int | None,
    option(
        "--yarn-orig-ctx", metavar="N", min=0, env="YARN_ORIG_CTX", show_default="the model's",
        help="YaRN: context length that the model was trained with before the scaling.",
    ),
]  # fmt: skip
YarnExtFactor = Annotated[
    float | None,
    option(
        "--yarn-ext-factor", metavar="N", env="YARN_EXT_FACTOR", show_default="the model's",
        help="YaRN: how much is extrapolated; 0 for only interpolation.",
    ),
]  # fmt: skip
YarnAttnFactor = Annotated[
    float | None,
    option(
        "--yarn-attn-factor", metavar="N", env="YARN_ATTN_FACTOR", show_default="the model's",
        help="YaRN: scale of the attention.",
    ),
]  # fmt: skip
YarnBetaFast = Annotated[
    float | None,
    option(
        "--yarn-beta-fast", metavar="N", env="YARN_BETA_FAST", show_default="the model's",
        help="YaRN: low correction dimension.",
    ),
]  # fmt: skip
YarnBetaSlow = Annotated[
    float | None,
    option(
        "--yarn-beta-slow", metavar="N", env="YARN_BETA_SLOW", show_default="the model's",
        help="YaRN: high correction dimension.",
    ),
]  # fmt: skip

_FACTORS = ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
_FLASH: dict[str, Any] = {"on": "enabled", "off": "disabled", "auto": "auto"}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The options of loading a model that a command takes. Those that are given on as they are have the names of
    :class:`ModelOptions`."""

    n_gpu_layers: GpuLayers = "auto"
    fit: Fit = "on"
    fit_target: FitTarget = None
    max_device_memory: MaxDeviceMemory = None
    device: Device = None
    split_mode: Split = None
    tensor_split: TensorSplit = None
    main_gpu: MainGpu = None
    override_tensor: OverrideTensor = None
    cpu_moe: CpuMoe = False
    n_cpu_moe: NCpuMoe = None
    load_mode: Load = "auto"
    lazy_mode: Lazy = None
    check_tensors: CheckTensors = False
    override_kv: OverrideKv = None
    use_extra_bufts: Repack = True
    no_host: NoHost = False
    numa: Numa = None

    def options(self) -> llama_cffi.ModelOptions:
        """Return what ``Llama`` takes; wrong usage raises ``typer.BadParameter``, other wrong values ValueError."""
        layers = arguments.gpu_layers(self.n_gpu_layers)
        read: dict[str, Any] = {
            "n_gpu_layers": "all" if layers == "auto" and self.fit == "off" else layers,
            "device_margin": None if self.fit_target is None else self.fit_target << 20,
            "max_device_memory": arguments.device_memory(self.max_device_memory),
            "devices": arguments.devices(self.device),
            "tensor_split": arguments.tensor_split(self.tensor_split),
            "tensor_overrides": arguments.tensor_overrides(self.override_tensor or ()),
            "load_mode": LOAD_MODES[self.load_mode],
            "kv_overrides": arguments.kv_overrides(self.override_kv or ()),
        }
        return llama_cffi.ModelOptions(**_of_names(self, llama_cffi.ModelOptions) | read)


@dataclass(frozen=True, kw_only=True)
class ContextMemory(Cpus):
    """The options of the context's memory, positions and threads that a command takes. Those that are given on as they
    are have the names of :class:`ContextOptions`."""

    type_k: CacheTypeK = "f16"
    type_v: CacheTypeV = "f16"
    flash_attn: FlashAttn = "auto"
    offload_kqv: KvOffload = True
    op_offload: OpOffload = True
    rope_scaling: RopeScaling = None
    rope_scale: RopeScale = None
    rope_freq_base: RopeFreqBase = None
    rope_freq_scale: RopeFreqScale = None
    yarn_orig_ctx: YarnOrigCtx = None
    yarn_ext_factor: YarnExtFactor = None
    yarn_attn_factor: YarnAttnFactor = None
    yarn_beta_fast: YarnBetaFast = None
    yarn_beta_slow: YarnBetaSlow = None

    def changed(self) -> dict[str, Any]:
        """Return the options of the context that are not the usual ones."""
        if self.rope_scale is not None and self.rope_scale <= 0:
            raise typer.BadParameter(f"{self.rope_scale} is not above 0", param_hint="--rope-scale")
        read: dict[str, Any] = {
            "flash_attn": _FLASH[self.flash_attn],
            "rope_freq_scale": 1 / self.rope_scale if self.rope_scale else self.rope_freq_scale,
            "yarn_orig_ctx": self.yarn_orig_ctx or None,
            **{name: _own(getattr(self, name)) for name in _FACTORS},
            **self.threads(),
        }
        given = _of_names(self, llama_cffi.ContextOptions) | read
        usual = llama_cffi.ContextOptions()
        return {name: value for name, value in given.items() if value != getattr(usual, name)}

    def add_to(self, settings: dict[str, Any], file: str, **more: Any) -> None:
        """Add the options of the context to those of a ``Llama``; ``more`` are further ones of the context."""
        usual = llama_cffi.ContextOptions()
        changed = self.changed() | {name: one for name, one in more.items() if one != getattr(usual, name)}
        if not changed:
            return
        settings["context_options"] = llama_cffi.ContextOptions(**changed)
        if settings.get("n_ctx") is None:
            settings["n_ctx"] = usual_context(file)


PLACEMENT, CONTEXT_MEMORY = Placement(), ContextMemory()
"""What a command takes where no option is given."""


def _own(value: float | None) -> float | None:
    """None for a negative number, which is llama.cpp's word for the model's own."""
    return None if value is not None and value < 0 else value


def _of_names(group: Placement | ContextMemory, options: type) -> dict[str, Any]:
    """The fields of a group that options of the library have under the same name."""
    names = {one.name for one in fields(options)}
    return {one.name: getattr(group, one.name) for one in fields(group) if one.name in names}


__all__ = ["CONTEXT_MEMORY", "DEFAULT_N_CTX", "PLACEMENT", "ContextMemory", "Placement"]
