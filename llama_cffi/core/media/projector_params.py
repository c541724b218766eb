"""The options of loading a projector."""

from __future__ import annotations

from typing import Any

from llama_cffi._native import media_ffi, media_lib
from llama_cffi._native.encoding_turns import EncodingTurns
from llama_cffi._util.arguments import check_flag
from llama_cffi._util.scalars import check_int
from llama_cffi.core.context_options import FLASH_ATTENTION, FlashAttention
from llama_cffi.core.options import choice
from llama_cffi.core.threads import thread_count

_MAX_TOKENS = 1 << 20


def native_params(
    turns: EncodingTurns,
    *,
    n_threads: int | None,
    use_gpu: bool,
    image_min_tokens: int | None,
    image_max_tokens: int | None,
    batch_max_tokens: int | None,
    flash_attn: FlashAttention,
    warmup: bool,
) -> Any:
    """Return the ``mtmd_context_params`` of options; ``turns`` pauses encodings, and must outlive the projector.

    Raises ``ValueError`` for a value out of range, TypeError for one of a wrong type.
    """
    params = media_lib.mtmd_context_params_default()
    params.print_timings = False
    params.n_threads = thread_count("n_threads", n_threads)
    params.use_gpu, params.warmup = check_flag("use_gpu", use_gpu), check_flag("warmup", warmup)
    params.flash_attn_type = getattr(media_lib, choice("flash_attn", flash_attn, FLASH_ATTENTION))
    limits = {"image_min_tokens": image_min_tokens, "image_max_tokens": image_max_tokens}
    for name, value in (*limits.items(), ("batch_max_tokens", batch_max_tokens)):
        if value is not None:
            setattr(params, name, check_int(name, value, 1, _MAX_TOKENS))
    if None not in limits.values() and params.image_min_tokens > params.image_max_tokens:
        raise ValueError(
            f"image_min_tokens must be at most image_max_tokens, got {image_min_tokens} and {image_max_tokens}"
        )
    params.cb_eval = media_ffi.cast("ggml_backend_sched_eval_callback", turns.callback)
    params.cb_eval_user_data = media_ffi.cast("void *", turns.data)
    return params


def measuring_params(
    turns: EncodingTurns,
    *,
    use_gpu: bool,
    image_min_tokens: int | None,
    image_max_tokens: int | None,
    flash_attn: FlashAttention,
) -> Any:
    """Return the :func:`native_params` to lay a projector out, which encodes nothing; ``turns`` must outlive them."""
    return native_params(
        turns,
        n_threads=1,
        use_gpu=use_gpu,
        image_min_tokens=image_min_tokens,
        image_max_tokens=image_max_tokens,
        batch_max_tokens=None,
        flash_attn=flash_attn,
        warmup=True,
    )


__all__ = ["measuring_params", "native_params"]
