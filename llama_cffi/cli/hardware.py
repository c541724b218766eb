"""What this computer has, to compare with what a libllama uses: found without the library."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# ggml's name of a CPU feature: what Linux calls it.
_FEATURES = {
    "AVX": "avx",
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}

# The kernel's device files of each kind of GPU; the last kind is any card, and only tells something without the others.
_NODES = (("NVIDIA GPU", "nvidia[0-9]*"), ("AMD GPU", "kfd"), ("GPU", "dri/renderD*"))


def gpus() -> list[str]:
    """GPUs that the system shows, in words."""
    found: list[str] = []
    for name, pattern in _NODES:
        if (nodes := sorted(map(str, Path("/dev").glob(pattern)))) and not found:
            names = _nvidia_names() if name.startswith("NVIDIA") else []
            found.append(f"{', '.join(names) or name} ({', '.join(nodes)})")
    if sys.platform == "darwin" and platform.machine() == "arm64":
        found.append("Apple GPU")
    return found


def _nvidia_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def unused_gpus(devices: list[dict[str, Any]]) -> list[str]:
    """What a library leaves idle: the GPUs of this computer, if it has none among its devices."""
    return [] if any(device["type"] in ("gpu", "igpu") for device in devices) else gpus()


def unused_cpu_features(used: Mapping[str, Any]) -> list[str]:
    """CPU features that llama.cpp knows to use, this CPU has, and the library was not built for."""
    flags = _cpu_flags()
    return [name for name, flag in _FEATURES.items() if flag in flags and not used.get(name)]


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    line = next((one for one in lines if one.startswith(("flags", "Features"))), "")
    return set(line.partition(":")[2].split())


__all__ = ["gpus", "unused_cpu_features", "unused_gpus"]
