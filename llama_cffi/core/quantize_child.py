"""The program that quantizes for quantize.py: one call that nothing but the end of its process can stop.

The request is one JSON object on standard input. Standard error is llama.cpp's own log, in its own words.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Do what the request says; the exit code is what ``llama_model_quantize`` returns."""
    request = json.load(sys.stdin)
    sys.path[:] = request["sys_path"]
    from llama_cffi._native.library import use_library

    use_library(**request["library"])
    from llama_cffi._native import ffi, lib
    from llama_cffi.core.quantize import QuantizeOptions, native_params

    _end_with_parent(request["parent"])
    lib.llama_log_set(ffi.NULL, ffi.NULL)
    params, keep = native_params(request["type"], QuantizeOptions(**request["options"]))
    code = int(
        lib.llama_model_quantize(*(text.encode("utf-8", "surrogateescape") for text in request["files"]), params)
    )
    del keep
    return code


def _end_with_parent(parent: int) -> None:
    """The process that wants the file may be gone before it is written; nothing else would end this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
