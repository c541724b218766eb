"""Run cmake and ninja on a llama.cpp tree: flags, progress, and errors that name the way out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .report import BuildError, Progress, disk_full
from .source import ROOT, Source
from .toolchain import Toolchain

_NINJA_STEP = re.compile(r"\[(\d+)/(\d+)\] (.*)")
_MEDIA_OPTION = "LLAMA_BUILD_MTMD"
"""The cmake option of sources whose libmtmd can be built without the tools."""
_ORIGIN = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"


def on_off(value: bool) -> str:
    return "ON" if value else "OFF"


def cmake_flags(source: Source, backends: Sequence[str], portable: bool, extra: Sequence[str]) -> list[str]:
    """What the library is configured with; `extra` comes last and wins."""
    flags = {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "ON",
        "GGML_OPENMP": "OFF",  # on a busy machine its barriers cost most of the decode speed
        "GGML_RPC": "ON",
        "GGML_NATIVE": on_off(not portable),
        "GGML_BACKEND_DL": on_off(portable),
        "GGML_CPU_ALL_VARIANTS": on_off(portable),
        "GGML_CUDA": on_off("cuda" in backends),
        "GGML_VULKAN": on_off("vulkan" in backends),
        "GGML_METAL": on_off("metal" in backends),
        "LLAMA_BUILD_TESTS": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_APP": "OFF",
        "LLAMA_OPENSSL": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF",  # it would download at build time
        "LLAMA_BUILD_COMMIT": source.commit,
        "LLAMA_BUILD_NUMBER": "0",
    }
    lists = source.path / "CMakeLists.txt"
    if lists.is_file() and _MEDIA_OPTION in lists.read_text(encoding="utf-8", errors="replace"):
        flags[_MEDIA_OPTION] = "ON"
    return [f"-D{name}={value}" for name, value in flags.items()] + list(extra)


def targets(flags: Sequence[str]) -> list[str]:
    """The targets of a library that is configured with these flags: libllama, and libmtmd unless it was turned off."""
    media = [flag.partition("=")[2] for flag in flags if flag.startswith(f"-D{_MEDIA_OPTION}=")]
    return ["llama", "mtmd"] if media and media[-1].upper() in ("ON", "1", "YES", "TRUE") else ["llama"]


def tree_flags(tools: bool) -> list[str]:
    """Flags that change what is in the build tree but not the library: so they are not part of its stamp."""
    run_path = f"{_ORIGIN};{_ORIGIN}/../lib" if tools else _ORIGIN
    return [
        "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        f"-DCMAKE_INSTALL_RPATH={run_path}",
        *(f"-DLLAMA_BUILD_{part}={on_off(tools)}" for part in ("COMMON", "TOOLS", "SERVER")),
    ]


@dataclass(frozen=True)
class BuildTree:
    """A cmake build folder for one source; `cpu` names what its objects were compiled for."""

    path: Path
    source: Path
    toolchain: Toolchain
    cpu: str

    def configure(self, flags: Sequence[str]) -> None:
        """Run cmake; BuildError with the lines that matter when it fails."""
        self.path.mkdir(parents=True, exist_ok=True)
        command = [self.toolchain.cmake, "-S", str(self.source), "-B", str(self.path), "-G", "Ninja"]
        command += [f"-DCMAKE_MAKE_PROGRAM={self.toolchain.ninja}", *flags]
        log = self.path / "configure.log"
        if self._run(command, log, None) != 0:
            raise _failure("cmake could not configure llama.cpp", log, self.path)
        # A library that a newer source no longer makes must not be installed beside what replaced it.
        log = self.path / "clean.log"
        if self._run([self.toolchain.ninja, "-C", str(self.path), "-t", "cleandead"], log, None) != 0:
            reason = f"{self.toolchain.ninja} is older than 1.10"
            raise BuildError(reason, f"{sys.executable} -m pip install --upgrade ninja", log.read_text())

    def build(self, targets: Sequence[str], jobs: int | None) -> None:
        """Build `targets`; what ninja has finished stays finished when this fails or is interrupted."""
        progress = Progress()

        def show(line: str) -> None:
            if match := _NINJA_STEP.match(line):
                what = match[3].replace("CMakeFiles/", "").replace(".dir/", "/")
                progress.step(int(match[1]), int(match[2]), what)

        # Not through `cmake --build`: a signal to us must reach ninja, which stops its compilers.
        parallel = [] if jobs is None else ["-j", str(jobs)]
        log = self.path / "build.log"
        try:
            status = self._run([self.toolchain.ninja, "-C", str(self.path), *parallel, *targets], log, show)
        finally:
            progress.close()
        if status != 0:
            raise _failure("llama.cpp did not compile", log, self.path)

    def _environment(self) -> dict[str, str]:
        return {
            # ccache: another checkout of the same source hits, another CPU's objects do not.
            "CCACHE_BASEDIR": str(ROOT),
            "CCACHE_NOHASHDIR": "1",
            "CCACHE_NAMESPACE": f"llama-cffi-{self.cpu}",
            **os.environ,
            # llama.cpp asks git for its commit, and above the source tree git would find our repository.
            "GIT_CEILING_DIRECTORIES": str(self.source.parent),
            "NINJA_STATUS": "[%f/%t] ",
        }

    def _run(self, command: Sequence[str], log: Path, show: Callable[[str], None] | None) -> int:
        """Run with the output in `log`; `show` sees every line. The child ends with us on an interrupt."""
        with (
            log.open("w", encoding="utf-8") as file,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self._environment(),
            ) as child,
        ):
            try:
                for line in child.stdout or ():
                    file.write(line)
                    if show is not None:
                        show(line)
                return child.wait()
            except BaseException:
                child.terminate()
                raise


def _failure(what: str, log: Path, tree: Path) -> BuildError:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    text = "\n".join(lines)
    if "No space left on device" in text:
        return disk_full(tree)
    if "Killed signal" in text or "out of memory" in text.lower():
        return BuildError(f"{what}: the compiler ran out of memory", "run the same command with --jobs 1")
    starts = [number for number, line in enumerate(lines) if re.search(r"\berror\b|Error at|FAILED:", line)]
    shown = lines[starts[0] :][:15] if starts else lines[-15:]
    again = f"read {log}; leave out the option that is at fault, or start afresh: rm -r {tree}"
    return BuildError(what, again, "\n".join(shown))
