"""Compile the binding: libllama first (scripts/build_libllama.py), then the cffi extensions against it.

pyproject.toml holds everything that is not a build step. Environment variables of a build:

LLAMA_CFFI_BUILD       full (the default); helpers: only the extension that is not tied to a libllama;
                       none: compile nothing. The last two need a library at run time
LLAMA_CFFI_PREFIX      a finished prefix of scripts/build_libllama.py to use instead of building one
LLAMA_CFFI_BUILD_ARGS  options for scripts/build_libllama.py, e.g. "--backend cuda"
LLAMA_CFFI_PORTABLE=1  a wheel for every CPU of this architecture, for publishing
"""

from __future__ import annotations

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "llama_cffi" / "_native"
BUILD_TREE = ROOT / "build" / "libllama"
BUILD_FILES = {
    "llama_cffi._native._llama": NATIVE / "binding_build.py",
    "llama_cffi._native._mtmd": NATIVE / "media_build.py",
    "llama_cffi._native._helpers": NATIVE / "helpers_build.py",
}
BUILDS = {"full": list(BUILD_FILES), "helpers": ["llama_cffi._native._helpers"], "none": []}


def chosen_build() -> str:
    """LLAMA_CFFI_BUILD, checked."""
    build = os.environ.get("LLAMA_CFFI_BUILD") or "full"
    if build not in BUILDS:
        sys.exit(f"error: LLAMA_CFFI_BUILD={build} is none of {', '.join(BUILDS)}")
    return build


BUILD = chosen_build()


def libllama_prefix(*, editable: bool) -> Path:
    """The prefix to compile against, built now unless LLAMA_CFFI_PREFIX names a finished one."""
    if given := os.environ.get("LLAMA_CFFI_PREFIX"):
        prefix = Path(given).resolve()
        if not (prefix / "stamp.json").is_file():
            sys.exit(
                f"error: LLAMA_CFFI_PREFIX={given} holds no finished build (no stamp.json)\n"
                f"  to mend it: {sys.executable} scripts/build_libllama.py --prefix {prefix}"
            )
        if editable and prefix != BUILD_TREE:
            sys.exit(
                "error: an editable install runs with build/libllama, not with LLAMA_CFFI_PREFIX\n"
                "  to mend it: unset LLAMA_CFFI_PREFIX, or install without -e"
            )
        return prefix
    portable = os.environ.get("LLAMA_CFFI_PORTABLE", "0") not in ("", "0") and not editable
    prefix = BUILD_TREE.with_name("libllama-portable") if portable else BUILD_TREE
    command = [sys.executable, str(ROOT / "scripts" / "build_libllama.py"), "--prefix", str(prefix)]
    command += ["--portable"] if portable else []
    if subprocess.run(command + build_arguments(prefix), stdin=subprocess.DEVNULL, check=False).returncode:
        sys.exit("error: libllama was not built; the message above says what mends it")
    return prefix


def build_arguments(prefix: Path) -> list[str]:
    """LLAMA_CFFI_BUILD_ARGS, else the options of the build that is there: an install keeps a CUDA build."""
    if given := os.environ.get("LLAMA_CFFI_BUILD_ARGS"):
        return shlex.split(given)
    try:
        kept: list[str] = json.loads((prefix / "stamp.json").read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, KeyError):
        return []
    return kept


def generate(extension: Extension, folder: Path, prefix: Path | None, *, bundled: bool) -> None:
    """Write the extension's C source and take over the settings of its cffi build file."""
    build_file = BUILD_FILES[extension.name]
    ffibuilder = runpy.run_path(str(build_file))["ffibuilder"]
    made = ffibuilder.distutils_extension(str(folder), verbose=False)
    for name in ("sources", "include_dirs", "library_dirs", "libraries", "language"):
        setattr(extension, name, getattr(made, name))
    extension.define_macros = [*made.define_macros, ("Py_LIMITED_API", "0x030a0000")]
    extension.extra_compile_args = made.extra_compile_args
    # A wheel carries its libraries; the run path of a development build means nothing there.
    extension.extra_link_args = [
        argument for argument in made.extra_link_args if not (bundled and "build/libllama" in argument)
    ]
    headers = [str(path) for pattern in ("cdef/*.h", "cdef/media/*.h", "helpers/*") for path in NATIVE.glob(pattern)]
    stamp = [str(prefix / "stamp.json")] if prefix else []
    extension.depends = [*made.depends, *headers, str(build_file), *stamp, __file__]


def bundle(prefix: Path, target: Path) -> None:
    """Copy the libraries into the package, each once: a wheel cannot hold links."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    stamp = json.loads((prefix / "stamp.json").read_text(encoding="utf-8"))
    for name in stamp["libraries"]:
        shutil.copy2(prefix / "lib" / name, target / name)
    shutil.copy2(prefix / "LICENSE", target / "LICENSE.llama.cpp")
    stamp["options"] = []
    (target / "stamp.json").write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def write_abi_modules(folder: Path) -> None:
    """Write what ABI mode reads at run time instead of a compiled binding."""
    sys.path.insert(0, str(ROOT))
    try:
        from llama_cffi._native.abi.modules import write_modules
    finally:
        sys.path.pop(0)
    written = write_modules(folder)
    for path in folder.glob("_[!_]*.py"):
        if path not in written:
            path.unlink()  # of a generation that is no more


class BuildExtensions(build_ext):
    """build_ext that builds libllama first and carries it along unless it builds in place."""

    def run(self) -> None:
        in_place = bool(self.inplace or self.editable_mode)
        if self.inplace:
            # Linked to run in this checkout. A wheel would take what it finds in its own folder for its own.
            self.build_lib = f"{self.build_lib}-in-place"
        prefix = None
        if BUILD == "full":
            prefix = libllama_prefix(editable=in_place)
            os.environ["LLAMA_CFFI_PREFIX"] = str(prefix)
            if "media_header_hash" not in json.loads((prefix / "stamp.json").read_text(encoding="utf-8")):
                # This prefix was built without libmtmd.
                self.extensions = [one for one in self.extensions if one.name != "llama_cffi._native._mtmd"]
        for extension in self.extensions:
            generate(extension, Path(self.build_temp), prefix, bundled=not in_place)
        super().run()
        if prefix and not in_place:
            bundle(prefix, Path(self.build_lib) / "llama_cffi" / "_native" / "lib")

    def build_extensions(self) -> None:
        # An interpreter may add its own folder to every run path and debug paths to every object: not in a wheel.
        for name in ("linker_so", "linker_so_cxx", "compiler_so", "compiler_so_cxx"):
            command = getattr(self.compiler, name, None) or []
            setattr(self.compiler, name, [part for part in command if not part.startswith(("-Wl,-rpath", "-g"))])
        super().build_extensions()


class BuildModules(build_py):
    """build_py that adds the modules of ABI mode, and first drops what an earlier build left for the wheel."""

    def run(self) -> None:
        package = Path(self.build_lib) / "llama_cffi"
        if self.editable_mode:
            package = ROOT / "llama_cffi"
        else:
            kept = [f"{name.rpartition('.')[2]}.abi3" for name in BUILDS[BUILD]]
            for path in package.rglob("*"):
                if path.is_file() and not path.name.startswith(tuple(kept)):
                    path.unlink()
        super().run()
        write_abi_modules(package / "_native" / "abi")


setup(
    cmdclass={"build_ext": BuildExtensions, "build_py": BuildModules},
    ext_modules=[Extension(name, sources=[], py_limited_api=True) for name in BUILDS[BUILD]],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if BUILDS[BUILD] else {},
)
