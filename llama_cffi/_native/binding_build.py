"""cffi build script of ``llama_cffi._native._llama``: the API-mode binding of llama.h.

Compiled against the headers and libraries of one installed libllama (``LLAMA_CFFI_PREFIX``, by default
``build/libllama`` of the checkout, made by ``scripts/build_libllama.py``). The file is run by setuptools on
its own and therefore imports nothing of ``llama_cffi``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from cffi import FFI

_ROOT = Path(__file__).resolve().parents[2]

CDEF_DIR = Path(__file__).resolve().parent / "cdef"

# In the order in which C needs them: a type is declared before it is used.
CDEF_FILES = (
    "ggml.h",
    "backend.h",
    "threadpool.h",
    "gguf.h",
    "types.h",
    "model.h",
    "vocab.h",
    "sampler_types.h",
    "context.h",
    "batch.h",
    "memory.h",
    "sampler.h",
    "adapter.h",
    "state.h",
    "log.h",
    "perf.h",
    "quantize.h",
    "build.h",
    "callbacks.h",
)

# The headers whose bytes, one after the other, identify the binary interface.
HASHED_HEADERS = ("llama.h", "ggml.h", "ggml-backend.h", "ggml-cpu.h", "gguf.h")

_PREAMBLE = r"""
#ifndef LLAMA_CFFI_HEADER_HASH
#error "no libllama to compile against: run `python scripts/build_libllama.py`, or set LLAMA_CFFI_PREFIX"
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <llama.h>
#include <ggml-cpu.h>

typedef struct ggml_threadpool * (*llama_cffi_threadpool_new_t)(struct ggml_threadpool_params *);
typedef void (*llama_cffi_threadpool_free_t)(struct ggml_threadpool *);
typedef int (*llama_cffi_threadpool_get_n_threads_t)(struct ggml_threadpool *);
typedef void (*llama_cffi_threadpool_pause_t)(struct ggml_threadpool *);
typedef void (*llama_cffi_threadpool_resume_t)(struct ggml_threadpool *);
typedef void (*llama_cffi_numa_init_t)(enum ggml_numa_strategy);
typedef bool (*llama_cffi_is_numa_t)(void);

/* Asked here and not from Python: ffi.addressof() gives the address of a wrapper in this file. */
static const char * llama_cffi_library_path(void) {
    Dl_info info;
    return dladdr((void *) (intptr_t) llama_model_load_from_file, &info) ? info.dli_fname : NULL;
}
"""


def prefix() -> Path:
    """Return the libllama installation to compile against."""
    value = os.environ.get("LLAMA_CFFI_PREFIX")
    return Path(value).resolve() if value else _ROOT / "build" / "libllama"


def header_hash(include: Path) -> str:
    """Return the sha256 over the concatenated headers that define the binary interface."""
    digest = hashlib.sha256()
    for name in HASHED_HEADERS:
        digest.update((include / name).read_bytes())
    return digest.hexdigest()


def build_macros(where: Path) -> list[tuple[str, str | None]]:
    """Return the macros that say what the extension is compiled against; OSError without a stamp."""
    stamp = json.loads((where / "stamp.json").read_text(encoding="utf-8"))
    values = {
        "VERSION": stamp["version"],
        "COMMIT": stamp["commit"],
        "HEADER_HASH": header_hash(where / "include"),
    }
    return [(f"LLAMA_CFFI_{name}", json.dumps(value)) for name, value in values.items()]


def cdef_source() -> str:
    """Return all trimmed headers as one text."""
    return "\n".join((CDEF_DIR / name).read_text(encoding="utf-8") for name in CDEF_FILES)


def _make() -> FFI:
    where = prefix()
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    run_paths = (f"{origin}/lib", f"{origin}/../../build/libllama/lib")
    builder = FFI()
    builder.cdef(cdef_source())
    builder.set_source(
        "llama_cffi._native._llama",
        _PREAMBLE,
        include_dirs=[str(where / "include")],
        library_dirs=[str(where / "lib")],
        libraries=["llama", "ggml", "ggml-base", *(["dl"] if sys.platform == "linux" else [])],
        # Reading cdefs must work before libllama is built; compiling without these macros is an #error.
        define_macros=build_macros(where) if (where / "stamp.json").is_file() else [],
        # C++ exceptions of llama.cpp pass through the wrappers on their way to the guard in _helpers.
        extra_compile_args=["-fexceptions", "-Wno-deprecated-declarations"],
        extra_link_args=[f"-Wl,-rpath,{path}" for path in run_paths],
    )
    return builder


ffibuilder = _make()
