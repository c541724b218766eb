"""Known ABI generations of llama.cpp, as data, and the fingerprint that identifies the generation of a library.

The JSON files are written by scripts/add_abi.py from llama.cpp's headers; nothing here is edited by hand.
"""

from __future__ import annotations

from llama_cffi._native.abi.declarations import declarations
from llama_cffi._native.abi.fingerprint import (
    BUFFER_SIZE,
    DEFAULTS,
    PATTERNS,
    Fingerprint,
    Match,
    by_fingerprint,
    differing,
    explain_difference,
    match,
    nearest,
    picture,
    symbols_of_interest,
)
from llama_cffi._native.abi.generation import (
    Field,
    Generation,
    Release,
    Struct,
    enums,
    generation,
    generations,
    pinned_constants,
    pinned_functions,
    since,
    until,
)

__all__ = [
    "BUFFER_SIZE",
    "DEFAULTS",
    "PATTERNS",
    "Field",
    "Fingerprint",
    "Generation",
    "Match",
    "Release",
    "Struct",
    "by_fingerprint",
    "declarations",
    "differing",
    "enums",
    "explain_difference",
    "generation",
    "generations",
    "match",
    "nearest",
    "picture",
    "pinned_constants",
    "pinned_functions",
    "since",
    "symbols_of_interest",
    "until",
]
