"""The programs a build needs: compilers, cmake, ninja; and what they make of this machine."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from .report import BuildError

BACKENDS = ("cpu", "cuda", "vulkan", "metal")
_NEEDS = {"cuda": "nvcc", "vulkan": "glslc"}


@dataclass(frozen=True)
class Toolchain:
    """cmake and ninja as absolute paths, and what identifies the compilers (part of the stamp)."""

    cmake: str
    ninja: str
    compiler: str


def find_toolchain() -> Toolchain:
    """Find everything, or raise one BuildError with the command that installs what is missing."""
    compiler = _compilers()
    cmake = _python_tool("cmake", "CMAKE_BIN_DIR")
    ninja = _python_tool("ninja", "BIN_DIR")
    return Toolchain(cmake, ninja, compiler)


def _python_tool(name: str, attribute: str) -> str:
    """`name` from PATH, else from the Python package of that name."""
    if found := shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts")):
        return found
    try:
        folder = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError):
        folder = None
    if folder and (found := shutil.which(name, path=str(folder))):
        return found
    raise BuildError(f"{name} is not installed", f"{sys.executable} -m pip install cmake ninja")


def _compilers() -> str:
    """Identify the C and C++ compilers cmake will take; BuildError when there is none."""
    if sys.platform == "win32":  # cmake finds Visual Studio by itself, outside PATH
        return f"msvc {platform.machine()}"
    ids = []
    languages = (("CC", "C", ("cc", "gcc", "clang")), ("CXX", "C++", ("c++", "g++", "clang++")))
    for variable, language, names in languages:
        chosen = os.environ.get(variable, "").split()
        command = next((found for name in (chosen[:1] or names) if (found := shutil.which(name))), None)
        if command is None:
            wanted = f"{variable}={chosen[0]}" if chosen else ", ".join(names)
            raise BuildError(f"no {language} compiler found (looked for {wanted})", _install_compiler())
        done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{command} --version fails", _install_compiler(), done.stderr.strip())
        ids.append(f"{Path(command).name}: {done.stdout.splitlines()[0].strip()}")
    return "; ".join(ids)


def _install_compiler() -> str:
    if sys.platform == "darwin":
        return "xcode-select --install"
    for manager, command in (
        ("apt-get", "apt-get install -y build-essential"),
        ("dnf", "dnf install -y gcc gcc-c++"),
        ("pacman", "pacman -S --needed base-devel"),
        ("apk", "apk add build-base linux-headers"),
    ):
        if shutil.which(manager):
            return command
    return "install a C and a C++17 compiler (Debian: apt-get install build-essential) or set CC and CXX"


def native_features() -> str:
    """A digest of what -march=native means here: a library built for another CPU is not current."""
    compiler = shutil.which((os.environ.get("CC", "").split() or ["cc"])[0]) or shutil.which("gcc")
    if sys.platform == "win32" or compiler is None:
        return platform.processor()
    flag = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
    done = subprocess.run(
        [compiler, flag, "-dM", "-E", "-x", "c", os.devnull], capture_output=True, text=True, check=False
    )
    macros = sorted(line for line in done.stdout.splitlines() if line.startswith("#define"))
    return hashlib.sha256("\n".join(macros).encode()).hexdigest()[:16]


def choose_backends(asked: str) -> tuple[str, ...]:
    """The backends for `--backend`: cpu is always in; "auto" adds those whose compiler is here."""
    if asked == "auto":
        found = [name for name, program in _NEEDS.items() if shutil.which(program)]
        return ("cpu", *found, *(["metal"] if sys.platform == "darwin" else []))
    if asked == "metal" and sys.platform != "darwin":
        raise BuildError("the metal backend exists on macOS only", "choose another --backend")
    if asked in _NEEDS and shutil.which(_NEEDS[asked]) is None:
        where = {
            "cuda": "install the CUDA toolkit and put its bin folder (nvcc) on PATH",
            "vulkan": "install the Vulkan SDK (Debian: apt-get install libvulkan-dev glslc)",
        }
        raise BuildError(f"--backend {asked} needs {_NEEDS[asked]}, which is not on PATH", where[asked])
    return ("cpu",) if asked == "cpu" else ("cpu", asked)
