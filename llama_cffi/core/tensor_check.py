"""Checks for tensors that would end the process: of types that no operation supports, and missing ones.

llama.cpp compares the shapes of tensors with what it expects, and not their types. On a CPU an operation finds a type
that it does not know when it computes, on threads whose failed assertions end the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from llama_cffi.core.gguf_header import TensorEntry
from llama_cffi.errors import ModelFileError

F32 = 0
POSITIONS = "position_embd.weight"
"""A vector for each position up to the context length of the training; there are no others."""
_NAMES = {1: "F16", 9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16"}
_NO_WEIGHTS = frozenset({9, 15, 24, 25, 26, 27, 28})
"""Types that no matrix product takes: integers, float64, and what only products make for themselves."""

_TABLES = frozenset({"d2t", "ffn_gate_tid2eid", "masked_embd_ordering"})
"""Numbers of tokens and experts."""

_ELEMENTWISE = re.compile(
    r"""
    .*norm.* | rope_freqs | rope_factors_(?:long|short) | token_types | attn_sinks | exp_probs_b(?:_vl)? | act | gamma
    | z_l_init | (?:output_hc|hc_attn|hc_ffn)_(?:base|scale)
    | (?:attn|ffn|output)_res_score | (?:altup_correct|layer_output)_scale | (?:attn|ffn)_conv_base
    | ssm_(?:a|d|conv1d(?:_[qkv])?) | ple_conv1d | conv
    | (?:time|channel)_mix_(?:lerp_\w+|ln|k_k|k_a|r_k|w0|a0|v0|decay|first)
    """,
    re.VERBOSE,
)
"""The last part of the names of tensors that are added, multiplied and the like: the operations take float32 alone."""

_ENDS = ("weight", "bias", "scale", "scales", "input_scale")


def needed_tensors(architecture: str) -> set[str]:
    """Return the tensors that llama.cpp takes to be optional for an architecture, and computes with whether or not."""
    sides = {"t5": ("enc", "dec"), "t5encoder": ("enc",)}.get(architecture, ())
    return {f"{side}.blk.0.attn_rel_b.weight" for side in sides}


def check_tensors(path: Path, tensors: Iterable[TensorEntry]) -> set[str]:
    """Return the names; raise :class:`ModelFileError` for a tensor whose type would end the process."""
    names = set()
    for tensor in tensors:
        names.add(tensor.name)
        if tensor.type == F32:
            continue
        *_, what = parts = tensor.name.split(".")
        if len(parts) > 1 and what in _ENDS:
            what = parts[-2]
        if parts[-1] in _ENDS[1:] or _ELEMENTWISE.fullmatch(what):
            raise ModelFileError(
                f"{path}: {tensor.name} has the type {_type_name(tensor.type)}; the operation that uses it takes F32"
            )
        if tensor.type in _NO_WEIGHTS and what not in _TABLES:
            raise ModelFileError(
                f"{path}: {tensor.name} has the type {_type_name(tensor.type)}, which no matrix product takes"
            )
    return names


def _type_name(number: int) -> str:
    return _NAMES.get(number, f"number {number}")


__all__ = ["POSITIONS", "check_tensors", "needed_tensors"]
