"""Prebuilt libraries that nobody here made: the npm packages @node-llama-cpp/linux-x64 and its like."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

PACKAGE = "@node-llama-cpp/linux-x64"


def library_folder(version: str, *, fetch: bool, variant: str = "") -> Path:
    """The folder with the libraries of one package version; skips with the reason where there is none.

    It is looked for in ``LLAMA_CFFI_NPM_LIBS`` and in the cache (``LLAMA_CFFI_TEST_CACHE``, or the user's), and with
    ``fetch`` npm puts it there. ``variant`` is what the name of the package ends with, such as "-vulkan".
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the packages are for Linux on x86-64")
    cache, name = _cache(), f"{PACKAGE}{variant}"
    inside = Path(f"{version}{variant}", "package", "bins", name.rpartition("/")[2])
    given = os.environ.get("LLAMA_CFFI_NPM_LIBS")
    for folder in (*([Path(given)] if given else []), cache):
        if (folder / inside).is_dir():
            return folder / inside
    if not fetch:
        pytest.skip(f"{name} {version} is not in {given or cache}; `pytest -m npm` fetches it")
    if shutil.which("npm") is None:
        pytest.skip(f"{name} {version} is not in {given or cache}, and there is no npm to fetch it")
    _fetch(f"{name}@{version}", cache, f"{version}{variant}")
    return cache / inside


def _cache() -> Path:
    if given := os.environ.get("LLAMA_CFFI_TEST_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llama_cffi" / "npm"


def _fetch(package: str, cache: Path, target: str) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        command = ["npm", "pack", package, "--silent", "--pack-destination", name]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"npm cannot fetch {package}: {done.stderr.strip()[-300:]}")
        (packed,) = Path(name).glob("*.tgz")
        unpacked = Path(name) / "unpacked"
        with tarfile.open(packed) as file:
            file.extractall(unpacked, filter="data")
        unpacked.rename(cache / target)


__all__ = ["library_folder"]
