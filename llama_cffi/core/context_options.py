"""The options of creating a context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llama_cffi._native import binding, lib
from llama_cffi._util.arguments import check_flag
from llama_cffi._util.ranges import FLT_MAX
from llama_cffi._util.scalars import INT_MAX, as_float, as_int, check_int, is_int
from llama_cffi._util.shown import shown
from llama_cffi.core.embeddings import ATTENTION_NAMES, POOLING_NAMES, Attention, PoolingType
from llama_cffi.core.options import choice, constant, set_field
from llama_cffi.core.thread_options import (
    DEFAULT_POLL,
    CpuMask,
    Priority,
    ThreadOptions,
    check_mask,
    check_poll,
    check_priority,
)
from llama_cffi.errors import UnsupportedError

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
FlashAttention = Literal["auto", "disabled", "enabled"]

_CACHE_TYPES: dict[str, str] = {
    "f32": "GGML_TYPE_F32",
    "f16": "GGML_TYPE_F16",
    "bf16": "GGML_TYPE_BF16",
    "q8_0": "GGML_TYPE_Q8_0",
    "q4_0": "GGML_TYPE_Q4_0",
    "q4_1": "GGML_TYPE_Q4_1",
    "iq4_nl": "GGML_TYPE_IQ4_NL",
    "q5_0": "GGML_TYPE_Q5_0",
    "q5_1": "GGML_TYPE_Q5_1",
}
FLASH_ATTENTION: dict[str, str] = {
    "auto": "LLAMA_FLASH_ATTN_TYPE_AUTO",
    "disabled": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
    "enabled": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
}
_ROPE_SCALING: dict[str, str] = {
    "none": "LLAMA_ROPE_SCALING_TYPE_NONE",
    "linear": "LLAMA_ROPE_SCALING_TYPE_LINEAR",
    "yarn": "LLAMA_ROPE_SCALING_TYPE_YARN",
    "longrope": "LLAMA_ROPE_SCALING_TYPE_LONGROPE",
}


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """The options of creating a context (``llama_context_params``); ``None`` keeps the model's or llama.cpp's value."""

    n_ctx: int = 4096
    """The number of memory cells (one per token) of all sequences; 0 for the context length of the model's training."""
    n_ctx_seq: int | None = None
    """Most tokens of one sequence, for what looks at :attr:`Context.n_ctx_seq` (generation, saved states, scoring;
    decode does not); None, and more than there is, is what the memory has for one: all cells with ``kv_unified``."""
    n_batch: int = 2048
    """The most tokens of one decode; at most ``n_ubatch`` for a model with a sliding window."""
    n_ubatch: int = 512
    """The most tokens computed at once; an abort takes effect between layers of such a micro-batch."""
    n_seq_max: int = 1
    """Number of sequences: ids 0 to n_seq_max - 1."""
    n_rs_seq: int = 0
    """States of recurrent layers that are kept for each sequence beside the last one, so that as many tokens of the
    last decode can be removed again. Takes effect with some recurrent and hybrid models, see :attr:`Context.n_rs_seq`,
    and costs the memory of these states."""
    n_threads: int | None = None
    """Threads for single tokens; None for :func:`~llama_cffi.core.threads.default_thread_count`."""
    n_threads_batch: int | None = None
    """Threads for prompts; None for the same number as ``n_threads``."""
    cpu_mask: CpuMask | None = None
    """The CPUs that threads run on: numbers, ranges such as ``"0-3,8"``, or a hexadecimal mask such as ``"0xff"``; None
    for all CPUs of the process. See ``docs/threads.md``, as for the next ones."""
    cpu_strict: bool = False
    """Whether each thread has one CPU of the mask for itself."""
    priority: Priority = "normal"
    """Scheduling of threads. Those above normal run in real time, before everything else on the machine."""
    poll: int = DEFAULT_POLL
    """How long threads wait busily for the next computation before they sleep, 0 (not at all) to 100."""
    cpu_mask_batch: CpuMask | None = None
    """The same for the threads for prompts, here and below; None as for single tokens."""
    cpu_strict_batch: bool | None = None
    priority_batch: Priority | None = None
    poll_batch: int | None = None
    type_k: CacheType = "f16"
    """Data type of the K cache."""
    type_v: CacheType = "f16"
    """Data type of the V cache; a quantized one needs flash attention."""
    flash_attn: FlashAttention = "auto"
    """Whether attention is computed in one fused kernel."""
    kv_unified: bool = True
    """Whether all sequences share one memory, so that they can share prefixes; otherwise each has an equal part."""
    swa_full: bool = True
    """Keep all positions of sliding-window layers, so that prefixes can be cut and shared."""
    offload_kqv: bool = True
    """Keep the memory on the GPU with the layers."""
    op_offload: bool = True
    """Compute large host operations on the GPU."""
    rope_scaling: Literal["none", "linear", "yarn", "longrope"] | None = None
    """RoPE scaling; None is the model's."""
    rope_freq_base: float | None = None
    """RoPE base frequency; None is the model's."""
    rope_freq_scale: float | None = None
    """RoPE frequency scale; None is the model's."""
    yarn_orig_ctx: int | None = None
    """YaRN: context length that the model was trained with before the scaling; None is the model's."""
    yarn_ext_factor: float | None = None
    """YaRN: how much is extrapolated rather than interpolated, 0 for only interpolation; None is the model's."""
    yarn_attn_factor: float | None = None
    """YaRN: scale of the attention; None is the model's."""
    yarn_beta_fast: float | None = None
    """YaRN: low correction dimension; None is the model's."""
    yarn_beta_slow: float | None = None
    """YaRN: high correction dimension; None is the model's."""
    embeddings: bool = False
    """Compute embeddings as well as logits; every token of a batch is then an output row."""
    pooling: PoolingType | None = None
    """How the embeddings of a sequence become one: "none" for one each token, "mean", "cls" (the first token's),
    "last", or "rank" (the scores of the classifier head). None is the model's."""
    attention: Attention | None = None
    """Whether a token attends only to the tokens before it; None for the model's value."""
    no_perf: bool = True
    """Do not measure timings inside llama.cpp."""
    backend_sampling: bool = False
    """Find the largest logits on the device that computes them, and copy only these, for texts without anything that
    needs all of them: greedy ones, and those with ``top_k`` below 64. The same tokens are chosen. It pays where copying
    a row takes long, as over a network; see ADR 0035."""

    def __post_init__(self) -> None:
        for name in (
            "kv_unified", "swa_full", "offload_kqv", "op_offload", "embeddings", "no_perf", "cpu_strict",
            "backend_sampling",
        ):  # fmt: skip
            object.__setattr__(self, name, check_flag(name, getattr(self, name)))
        if self.cpu_strict_batch is not None:
            object.__setattr__(self, "cpu_strict_batch", check_flag("cpu_strict_batch", self.cpu_strict_batch))

    @property
    def threads(self) -> ThreadOptions:
        """How the threads for single tokens run. Raises ``ValueError`` for a bad option."""
        return ThreadOptions(
            cpus=check_mask("cpu_mask", self.cpu_mask) if self.cpu_mask is not None else (),
            strict=self.cpu_strict,
            priority=check_priority("priority", self.priority),
            poll=check_poll("poll", self.poll),
        )

    @property
    def threads_batch(self) -> ThreadOptions:
        """How the threads for prompts run. Raises ``ValueError`` for a bad option."""
        single = self.threads
        mask, strict, priority, poll = self.cpu_mask_batch, self.cpu_strict_batch, self.priority_batch, self.poll_batch
        return ThreadOptions(
            cpus=check_mask("cpu_mask_batch", mask) if mask is not None else single.cpus,
            strict=strict if strict is not None else single.strict,
            priority=check_priority("priority_batch", priority) if priority is not None else single.priority,
            poll=check_poll("poll_batch", poll) if poll is not None else single.poll,
        )


def native_params(options: ContextOptions) -> Any:
    """Return the ``llama_context_params`` of options; the caller sets the threads and the callbacks in it.

    Raises ``ValueError`` for a value out of range, and :class:`UnsupportedError` for one that the library lacks.
    """
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = sizes = _sizes(options)
    _, n_batch, n_ubatch, n_seq_max = sizes
    params.type_k = constant("type_k", options.type_k, _CACHE_TYPES)
    params.type_v = constant("type_v", options.type_v, _CACHE_TYPES)
    _set_flash_attn(params, options.flash_attn)
    if options.rope_scaling is not None:
        params.rope_scaling_type = constant("rope_scaling", options.rope_scaling, _ROPE_SCALING)
    for name in ("rope_freq_base", "rope_freq_scale"):
        frequency = getattr(options, name)
        if frequency is not None:
            number = as_float(frequency)
            if number is None or not 0 < number <= FLT_MAX:
                raise ValueError(f"{name} must be positive, got {shown(frequency)}")
            setattr(params, name, number)
    for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        factor = getattr(options, name)
        if factor is not None:
            number = as_float(factor)
            if number is None or not 0 <= number <= FLT_MAX:
                raise ValueError(f"{name} must be 0 or more, got {shown(factor)}; None is the model's value")
            setattr(params, name, number)
    if options.yarn_orig_ctx is not None:
        params.yarn_orig_ctx = check_int("yarn_orig_ctx", options.yarn_orig_ctx, 1, INT_MAX)
    _set_rollback(params, options)
    params.kv_unified, params.swa_full = options.kv_unified, options.swa_full
    params.offload_kqv, params.op_offload = options.offload_kqv, options.op_offload
    if options.embeddings and n_seq_max > min(n_ubatch, n_batch):
        raise ValueError(f"with embeddings n_seq_max={n_seq_max} must be at most n_ubatch and n_batch")
    params.embeddings = options.embeddings
    # The defaults of these two are the model's choice.
    if options.pooling is not None:
        params.pooling_type = constant("pooling", options.pooling, POOLING_NAMES)
    if options.attention is not None:
        params.attention_type = constant("attention", options.attention, ATTENTION_NAMES)
    params.no_perf = options.no_perf
    if options.backend_sampling:
        # Otherwise room is planned for as many as a batch holds.
        set_field(params, "n_outputs_max_per_seq", 1, option="backend_sampling", lacking=0)
    return params


def _sizes(options: ContextOptions) -> tuple[int, int, int, int]:
    sizes = []
    for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max"):
        value = getattr(options, name)
        size, least = as_int(value), 0 if name == "n_ctx" else 1
        if size is None or not least <= size <= INT_MAX:
            raise ValueError(f"{name} must be an int from {least} to {INT_MAX:,}, got {shown(value)}")
        sizes.append(size)
    if options.n_ctx_seq is not None and not is_int(options.n_ctx_seq, 1):
        raise ValueError(f"n_ctx_seq must be None or a positive int, got {shown(options.n_ctx_seq)}")
    n_ctx, n_batch, n_ubatch, n_seq_max = sizes
    limit = lib.llama_max_parallel_sequences()
    if n_seq_max > limit:
        raise ValueError(f"n_seq_max must be at most {limit}, got {n_seq_max}")
    if n_batch < n_seq_max:
        raise ValueError(
            f"n_batch must be at least n_seq_max={n_seq_max}, because each sequence needs a place in a batch, "
            f"got {n_batch}"
        )
    if 0 < n_ctx < n_seq_max:
        raise ValueError(
            f"the context needs at least one cell for each of n_seq_max={n_seq_max} sequences, got {n_ctx}: "
            "give a larger n_ctx or a smaller n_seq_max"
        )
    return n_ctx, n_batch, n_ubatch, n_seq_max


def keeps_states() -> bool:
    """Return whether the library can keep earlier states of recurrent layers (``n_rs_seq``)."""
    return binding.has("llama_context_params.n_rs_seq")


def _set_rollback(params: Any, options: ContextOptions) -> None:
    n_rs_seq = check_int("n_rs_seq", options.n_rs_seq, 0, INT_MAX)
    if not n_rs_seq:
        return
    if n_rs_seq + 1 >= params.n_ubatch:
        # llama.cpp computes the last tokens of a decode in one piece, whose states are kept.
        raise ValueError(f"n_rs_seq must be at most n_ubatch - 2 = {params.n_ubatch - 2}, got {n_rs_seq}")
    if not keeps_states():
        raise UnsupportedError("n_rs_seq: this libllama keeps no earlier states of recurrent layers")
    params.n_rs_seq = n_rs_seq


def _set_flash_attn(params: Any, value: FlashAttention) -> None:
    if binding.has("llama_context_params.flash_attn_type"):
        params.flash_attn_type = constant("flash_attn", value, FLASH_ATTENTION)
    elif choice("flash_attn", value, FLASH_ATTENTION) != FLASH_ATTENTION["auto"]:
        # The oldest releases know on and off, and choose nothing themselves.
        params.flash_attn = value == "enabled"


__all__ = ["FLASH_ATTENTION", "CacheType", "ContextOptions", "FlashAttention", "keeps_states", "native_params"]
