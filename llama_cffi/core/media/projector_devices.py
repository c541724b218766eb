"""The memory that a projector would take of the devices of this process, as libmtmd counts it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from llama_cffi._native import extras, lib, log
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.encoding_turns import EncodingTurns
from llama_cffi.core.allocation import allocation_reason
from llama_cffi.core.context_options import FlashAttention
from llama_cffi.core.media.projector_file import check_projector_file, projector_id
from llama_cffi.core.media.projector_memory import check_layout
from llama_cffi.core.media.projector_params import measuring_params
from llama_cffi.core.placement import gpu_names
from llama_cffi.core.strings import to_text


def projector_memory(
    path: str | os.PathLike[str],
    *,
    use_gpu: bool = True,
    image_min_tokens: int | None = None,
    image_max_tokens: int | None = None,
    flash_attn: FlashAttention = "auto",
) -> Mapping[str, int]:
    """Return how many bytes a projector would take on each device, by the device's name.

    The options are those of :class:`~llama_cffi.core.media.projector.Projector`. It is empty where this library does
    not tell. No weights are allocated. Raises :class:`ModelNotFoundError`, and :class:`ModelFileError` for a file that
    is not a projector. Wraps ``mtmd_get_memory_usage``.
    """
    path = Path(path)
    file = check_projector_file(path)
    options = partial(
        measuring_params,
        EncodingTurns(AbortFlag()),
        image_min_tokens=image_min_tokens,
        image_max_tokens=image_max_tokens,
        flash_attn=flash_attn,
    )

    def measure(*, use_gpu: bool) -> dict[str, int]:
        found = extras.projector_bytes(os.fsencode(path), options(use_gpu=use_gpu)) or []
        return {to_text(lib.ggml_backend_dev_name(device)): size for device, size in found if size}

    params = options(use_gpu=False)
    check_layout(path, projector_id(file, params.image_min_tokens, params.image_max_tokens), params)
    mark = log.mark()
    found = measure(use_gpu=use_gpu)
    gpu = next((name for name in found if name in gpu_names()), None)
    if gpu is not None and allocation_reason(log.lines_since(mark)) is not None:
        # libmtmd allocates the buffers to compute with for a moment, and leaves out what it cannot have.
        found = {gpu: sum(measure(use_gpu=False).values())}
    return found


__all__ = ["projector_memory"]
