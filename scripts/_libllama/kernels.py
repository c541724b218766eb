"""The kernels of this repository (kernels/): how they get into the build, and what of llama.cpp they rely on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from .report import BuildError
from .source import ROOT

FOLDER = ROOT / "kernels"
_CPU = "ggml/src/ggml-cpu"
# What kernels/dispatch.cpp relies on, and a compiler would not miss or would report far from the reason.
_NEEDED = {
    f"{_CPU}/traits.h": (
        "bool ggml_cpu_extra_compute_forward(struct ggml_compute_params * params, struct ggml_tensor * op);",
        "bool ggml_cpu_extra_work_size(int n_threads, const struct ggml_tensor * op, size_t * size);",
    ),
    f"{_CPU}/traits.cpp": ("bool ggml_cpu_extra_compute_forward(", "bool ggml_cpu_extra_work_size("),
    f"{_CPU}/ggml-cpu.c": (
        "if (ggml_cpu_extra_compute_forward(params, tensor)) {",
        "if (!ggml_cpu_extra_work_size(n_threads, node, &cur)) {",
    ),
    f"{_CPU}/tiled/tiled.h": ("size_t ggml_tiled_wdata_size(int n_tasks, struct ggml_tensor * dst);",),
    f"{_CPU}/ggml-cpu-impl.h": (
        "int ith, nth;",
        "size_t wsize;",
        "void * wdata;",
        "struct ggml_threadpool * threadpool;",
        "bool use_ref;",
        "void ggml_barrier(struct ggml_threadpool * tp);",
        "void ggml_threadpool_chunk_set(struct ggml_threadpool * tp, int value);",
        "int ggml_threadpool_chunk_add(struct ggml_threadpool * tp, int value);",
    ),
}


def digest() -> str:
    """A name for what the kernels are: the start of a sha256 over names and contents of their files."""
    hashed = hashlib.sha256()
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in (".cpp", ".h", ".cmake"):
            hashed.update(f"{path.name}\n".encode() + path.read_bytes())
    return hashed.hexdigest()[:16]


def check(source: Path) -> None:
    """Raise BuildError when a llama.cpp tree does not have what the kernels build on."""
    missing = []
    for name, texts in _NEEDED.items():
        try:
            code = _squeezed((source / name).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            missing.append(f"there is no {name}")
            continue
        missing += [f"{name} has no `{text}`" for text in texts if _squeezed(text) not in code]
    if missing:
        reason = "this llama.cpp is not the one that the kernels of this repository are made for"
        raise BuildError(reason, "build without them (--no-kernels), or adapt kernels/dispatch.cpp", "\n".join(missing))


def cmake_flag(wanted: bool) -> str:
    """The flag that adds the kernels to ggml's project, or removes them from a build tree that had them."""
    return f"-DCMAKE_PROJECT_ggml_INCLUDE={(FOLDER / 'kernels.cmake').as_posix() if wanted else ''}"


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)
