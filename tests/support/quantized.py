"""A model quantized by llama.cpp itself."""

from __future__ import annotations

from pathlib import Path

from llama_cffi._native import ffi, lib


def write_q8_0(source: Path, target: Path) -> Path:
    """Write a model as Q8_0 and return the new path."""
    params = ffi.new("llama_model_quantize_params *", lib.llama_model_quantize_default_params())
    params.ftype = lib.LLAMA_FTYPE_MOSTLY_Q8_0
    params.nthread = 1
    code = lib.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if code != 0:
        raise RuntimeError(f"llama_model_quantize gave {code}")
    return target
