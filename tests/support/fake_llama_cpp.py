"""A tiny source tree that looks like llama.cpp to scripts/build_libllama.py, and a pip that serves it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

_CMAKE = """\
cmake_minimum_required(VERSION 3.14)
project(ggml C)
set(LLAMA_VERSION_MAJOR 9)
set(LLAMA_VERSION_MINOR 8)
set(LLAMA_VERSION_PATCH 7)
option(LLAMA_BUILD_IS_DEV "llama: dev build" ON)
option(BREAK_CONFIGURE "" OFF)
if (BREAK_CONFIGURE)
    message(FATAL_ERROR "asked to break")
endif()
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(ggml-base ggml/src/ggml.c ggml/src/kernels.c)
add_library(llama src/llama.c)
target_link_libraries(llama PUBLIC ggml-base)
set_target_properties(ggml-base llama PROPERTIES VERSION 9.8.7 SOVERSION 9)
if (LLAMA_BUILD_TOOLS)
    add_library(llama-common tools/common.c)
    add_executable(llama-bench tools/bench.c)
    target_link_libraries(llama-bench PRIVATE llama-common llama)
endif()
"""

_FILES = {
    "CMakeLists.txt": _CMAKE,
    "LICENSE": "terms\n",
    ".git": "gitdir: ../elsewhere\n",
    "cmake/none.cmake": "",
    "include/llama.h": "int llama_answer(void);\n",
    "ggml/include/ggml.h": "int ggml_answer(void);\n",
    "ggml/include/ggml-backend.h": "/* backend */\n",
    "ggml/include/ggml-cpu.h": "/* cpu */\n",
    "ggml/include/gguf.h": "/* gguf */\n",
    "ggml/src/ggml.c": "int ggml_answer(void) { return 42; }\n",
    "ggml/src/kernels.c": "#ifdef FAKE_KERNELS\nint ggml_kernels(void) { return 1; }\n#endif\n",
    "src/llama.c": "int ggml_answer(void);\nint llama_answer(void) { return ggml_answer(); }\n",
    "tools/common.c": "int common_answer(void) { return 1; }\n",
    "tools/bench.c": """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
int llama_answer(void);
int common_answer(void);
int main(void) {
    Dl_info info;
    dladdr((void *) llama_answer, &info);
    printf("%d %s", llama_answer() + common_answer(), info.dli_fname);
    return 0;
}
""",
}

# What the kernels rely on in ggml's CPU backend, as text: the fake compiles none of it.
_CPU_FILES = {
    "traits.h": """\
bool ggml_cpu_extra_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op);
bool ggml_cpu_extra_work_size(int n_threads, const struct ggml_tensor * op, size_t * size);
""",
    "traits.cpp": "bool ggml_cpu_extra_compute_forward(\nbool ggml_cpu_extra_work_size(\n",
    "ggml-cpu.c": """\
    if (ggml_cpu_extra_compute_forward(params, tensor)) {
        if (!ggml_cpu_extra_work_size(n_threads, node, &cur)) {
""",
    "ggml-cpu-impl.h": """\
    int ith, nth;
    size_t wsize;
    void * wdata;
    struct ggml_threadpool * threadpool;
    bool use_ref;
void ggml_barrier(struct ggml_threadpool * tp);
void ggml_threadpool_chunk_set(struct ggml_threadpool * tp, int value);
int  ggml_threadpool_chunk_add(struct ggml_threadpool * tp, int value);
""",
    "tiled/tiled.h": "size_t ggml_tiled_wdata_size(int n_tasks, struct ggml_tensor * dst);\n",
}
_FILES |= {f"ggml/src/ggml-cpu/{name}": text for name, text in _CPU_FILES.items()}

# Stands in for kernels/kernels.cmake, which needs the whole of ggml.
_KERNELS_CMAKE = "add_compile_definitions(FAKE_KERNELS)\n"

# Stands in for `python -m pip`: puts $FAKE_SDIST where --dest says, or fails with $FAKE_PIP_ERROR.
_PIP = """\
import os, shutil, sys
with open(os.environ["FAKE_PIP_LOG"], "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if message := os.environ.get("FAKE_PIP_ERROR"):
    sys.exit(message)
shutil.copy(os.environ["FAKE_SDIST"], sys.argv[sys.argv.index("--dest") + 1])
"""


def write_tree(folder: Path) -> Path:
    """Write the source tree; a libllama whose llama_answer() returns 42."""
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def pack(tree: Path, archive: Path, inner: str, extra: dict[str, str] | None = None) -> str:
    """Pack `tree` as folder `inner` of a .tar.gz, and `extra` files by name; returns the sha256."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, inner)
        for name, text in (extra or {}).items():
            member = tarfile.TarInfo(name)
            source = archive.with_name("extra")
            source.write_text(text, encoding="utf-8")
            member.size = source.stat().st_size
            with source.open("rb") as file:
                tar.addfile(member, file)
    return hashlib.sha256(archive.read_bytes()).hexdigest()


@dataclass
class Checkout:
    """A copy of scripts/ in a folder of its own, with a pinned release of the fake and a fake pip."""

    root: Path
    pip_log: Path
    env: dict[str, str]

    @classmethod
    def make(cls, scripts: Path, folder: Path) -> Checkout:
        root = folder / "checkout"
        (root / "scripts").mkdir(parents=True)
        shutil.copy(scripts / "build_libllama.py", root / "scripts")
        shutil.copytree(scripts / "_libllama", root / "scripts" / "_libllama")
        (root / "kernels").mkdir()
        (root / "kernels" / "kernels.cmake").write_text(_KERNELS_CMAKE, encoding="utf-8")
        (folder / "fake" / "pip").mkdir(parents=True)
        (folder / "fake" / "pip" / "__init__.py").touch()
        (folder / "fake" / "pip" / "__main__.py").write_text(_PIP, encoding="utf-8")
        env = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "PYTHON"))}
        env |= {
            "PYTHONPATH": str(folder / "fake"),
            "FAKE_PIP_LOG": str(folder / "pip.log"),
            "FAKE_SDIST": str(folder / "fake-1.tar.gz"),
        }
        checkout = cls(root, folder / "pip.log", env)
        checkout.publish(write_tree(folder / "upstream"))
        return checkout

    def publish(self, tree: Path, extra: dict[str, str] | None = None) -> None:
        """Make `tree` the pinned release."""
        digest = pack(tree, Path(self.env["FAKE_SDIST"]), "fake-1/vendor/llama.cpp", extra)
        sdist = {"name": "fake", "version": "1", "sha256": digest, "folder": "fake-1/vendor/llama.cpp"}
        pin = {"version": "9.8.7-dev", "commit": "abc123", "sdist": sdist}
        (self.root / "scripts" / "llama_cpp.json").write_text(json.dumps(pin), encoding="utf-8")

    @property
    def prefix(self) -> Path:
        return self.root / "build" / "libllama"

    def command(self, *options: str) -> list[str]:
        return [sys.executable, str(self.root / "scripts" / "build_libllama.py"), *options]

    def run(self, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options),
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
