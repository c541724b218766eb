"""cffi build script of ``llama_cffi._native._mtmd``: the API-mode binding of mtmd.h.

It is apart from ``_llama`` so that libmtmd is mapped by a program that uses media, and by no other. Compiled against
the same prefix; a prefix without libmtmd is one to which this extension is not made. Like ``binding_build.py`` the file
is run by setuptools on its own.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from pathlib import Path

from cffi import FFI

_BINDING = runpy.run_path(str(Path(__file__).resolve().with_name("binding_build.py")))

CDEF_DIR: Path = _BINDING["CDEF_DIR"] / "media"
CDEF_FILES = ("mtmd.h", "mtmd-helper.h")
"""In the order in which C needs them; also the names of the headers that they are trimmed from."""

_PREAMBLE = r"""
#ifndef LLAMA_CFFI_MEDIA_HASH
#error "no libmtmd to compile against: run `python scripts/build_libllama.py`, or set LLAMA_CFFI_PREFIX"
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mtmd.h>
#include <mtmd-helper.h>

static const char * llama_cffi_media_path(void) {
    Dl_info info;
    return dladdr((void *) (intptr_t) mtmd_init_from_file, &info) ? info.dli_fname : NULL;
}
"""

_OWN = """
static const char * const LLAMA_CFFI_MEDIA_HASH;
const char * llama_cffi_media_path(void);
"""


def has_media(where: Path) -> bool:
    """Return whether a prefix has the headers that the extension is compiled against."""
    return all((where / "include" / name).is_file() for name in CDEF_FILES)


def header_hash(include: Path) -> str:
    """Return the sha256 over the headers of libmtmd."""
    return hashlib.sha256(b"".join((include / name).read_bytes() for name in CDEF_FILES)).hexdigest()


def cdef_source() -> str:
    """Return the trimmed headers of libmtmd as one text."""
    return "\n".join((CDEF_DIR / name).read_text(encoding="utf-8") for name in CDEF_FILES)


def _make() -> FFI:
    where: Path = _BINDING["prefix"]()
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    run_paths = (f"{origin}/lib", f"{origin}/../../build/libllama/lib")
    builder = FFI()
    builder.cdef(cdef_source() + _OWN)
    builder.set_source(
        "llama_cffi._native._mtmd",
        _PREAMBLE,
        include_dirs=[str(where / "include")],
        library_dirs=[str(where / "lib")],
        libraries=["mtmd", "llama", *(["dl"] if sys.platform == "linux" else [])],
        define_macros=(
            [("LLAMA_CFFI_MEDIA_HASH", json.dumps(header_hash(where / "include")))] if has_media(where) else []
        ),
        # C++ exceptions of libmtmd pass through the wrappers on their way to the guard in _helpers.
        extra_compile_args=["-fexceptions", "-Wno-deprecated-declarations"],
        extra_link_args=[f"-Wl,-rpath,{path}" for path in run_paths],
    )
    return builder


ffibuilder = _make()
