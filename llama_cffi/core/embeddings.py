"""The names of pooling and attention types, and their enumerators in llama.h."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast, get_args

from llama_cffi.core.options import choice

PoolingType = Literal["none", "mean", "cls", "last", "rank"]
Attention = Literal["causal", "non-causal"]

POOLING_TYPES: tuple[PoolingType, ...] = get_args(PoolingType)
"""In the order of llama.h's enumerator, from 0 on."""

POOLING_NAMES: Mapping[str, str] = {name: f"LLAMA_POOLING_TYPE_{name.upper()}" for name in POOLING_TYPES}
ATTENTION_NAMES: Mapping[str, str] = {
    "causal": "LLAMA_ATTENTION_TYPE_CAUSAL",
    "non-causal": "LLAMA_ATTENTION_TYPE_NON_CAUSAL",
}


def pooling_of(value: str) -> PoolingType | None:
    """Return the pooling that a model's metadata names by its number; None for a number unknown to llama.cpp."""
    return POOLING_TYPES[int(value)] if value.isdecimal() and int(value) < len(POOLING_TYPES) else None


def check_pooling(value: str) -> PoolingType:
    """Return the same word; ``ValueError`` names the words that are allowed."""
    choice("pooling", value, POOLING_NAMES)
    return cast("PoolingType", value)


__all__ = [
    "ATTENTION_NAMES",
    "POOLING_NAMES",
    "POOLING_TYPES",
    "Attention",
    "PoolingType",
    "check_pooling",
    "pooling_of",
]
