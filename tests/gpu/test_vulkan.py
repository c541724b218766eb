"""The tests of this folder on a software device for Vulkan, in a process of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.npm import library_folder

pytestmark = pytest.mark.gpu

VERSION = "3.22.1"
LIBRARY = "libllama.vulkan.v0.5.0.so"
TESTS = ("test_placement.py", "test_texts.py", "test_out_of_memory.py", "test_beside.py")


def test_the_same_on_vulkan(request: pytest.FixtureRequest, checkout: Path) -> None:
    if request.config.getoption("--gpu") == "vulkan":
        pytest.skip("this is that process")
    try:
        ctypes.CDLL("libvulkan.so.1")
    except OSError:
        pytest.skip("there is no libvulkan.so.1: apt install mesa-vulkan-drivers libvulkan1")
    library = library_folder(VERSION, fetch=True, variant="-vulkan") / LIBRARY
    tests = [str(checkout / "tests" / "gpu" / name) for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--gpu=vulkan", "-p", "no:cacheprovider", *tests],
        cwd=checkout,
        env={**os.environ, "LLAMA_CFFI_LIB": str(library), "GGML_VK_VISIBLE_DEVICES": "0", "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(done.stdout)
