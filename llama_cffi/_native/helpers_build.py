"""cffi build script of ``llama_cffi._native._helpers``: guarded calls, log ring, abort flag, token selection.

Needs a C++17 compiler and nothing of llama.cpp. The file is run by setuptools on its own, from the root of
the source tree, and therefore imports nothing of ``llama_cffi``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cffi import FFI

_HERE = Path(__file__).resolve().parent
# setuptools wants sources relative to the directory of setup.py.
_HELPERS = "llama_cffi/_native/helpers"
_SOURCES = (
    *("guard", "deep", "log", "abort", "door", "gguf", "extras"),
    *("select", "rows", "kernels", "turn", "encoding", "step"),
)
_HEADERS = ("helpers.h", "helpers.hpp", "kernels.hpp", "kernels.inc", "random.hpp", "ranking.hpp")

_CDEF = """
#define LCH_FAILED ...
extern "Python" int lch_python_signals(void);
extern "Python" void lch_python_stacks(void);
"""


def _flags() -> tuple[list[str], list[str]]:
    """Compiler and linker arguments."""
    if sys.platform == "win32" and os.environ.get("CC") is None:
        return ["/std:c++17", "/O2", "/EHsc"], []
    compile_args = [
        "-std=c++17",
        "-O3",
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-Wall",
        "-Wextra",
        "-Wno-psabi",
        "-Wno-missing-field-initializers",
        "-Wno-unused-function",
    ]
    return compile_args, [] if sys.platform == "win32" else ["-pthread"]


def _builder() -> FFI:
    builder = FFI()
    builder.cdef((_HERE / "helpers" / "helpers.h").read_text(encoding="utf-8") + _CDEF)
    compile_args, link_args = _flags()
    builder.set_source(
        "llama_cffi._native._helpers",
        '#include "helpers.hpp"\n',
        source_extension=".cpp",
        sources=[f"{_HELPERS}/{name}.cpp" for name in _SOURCES],
        depends=[f"{_HELPERS}/{name}" for name in _HEADERS],
        include_dirs=[_HELPERS],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        libraries=["dl"] if sys.platform.startswith("linux") else [],
        py_limited_api=True,
    )
    return builder


ffibuilder = _builder()
