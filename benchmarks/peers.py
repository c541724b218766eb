"""Who is measured: this package, llama-bench and llama-cpp-python, each in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

ROOT = Path(__file__).resolve().parents[1]
PREFIX = ROOT / "build" / "libllama"

Test = Literal["greedy", "sampled", "prompt"]


class BenchmarkError(Exception):
    """A peer could not be measured; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every peer gets alike."""

    threads: int
    n_tokens: int = 128
    n_prompt: int = 512
    n_ctx: int = 1024
    n_batch: int = 2048
    n_ubatch: int = 512
    reps: int = 3
    seed: int = 0


class Peer(Protocol):
    """Something that can run a test."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def run(self, test: Test, model: Path, settings: Settings) -> list[float]:
        """Tokens per second of each repetition, measured in one fresh process."""


class PythonPeer:
    """A worker script under some interpreter."""

    def __init__(
        self, name: str, script: str, python: str = sys.executable, given: dict[str, Any] | None = None, **env: str
    ) -> None:
        self.name = name
        self._script = Path(__file__).with_name(script)
        self._python = python
        self._given = given or {}
        self._env = {**os.environ, **env}

    def command(self, test: str, model: Path | str, settings: dict[str, Any]) -> list[str]:
        """The command line of a worker."""
        return [self._python, str(self._script), str(model), test, json.dumps(settings | self._given)]

    def call(self, test: str, model: Path | str, settings: dict[str, Any]) -> Any:
        """What the worker prints."""
        return json.loads(run_command(self.command(test, model, settings), self._env))

    def start(self, test: str, model: Path, settings: dict[str, Any]) -> subprocess.Popen[str]:
        """A worker that goes on running."""
        command = self.command(test, model, settings)
        return subprocess.Popen(command, env=self._env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, test: Test, model: Path, settings: Settings) -> list[float]:
        n = settings.n_prompt if test == "prompt" else settings.n_tokens
        return [n / seconds for seconds in self.call(test, model, asdict(settings))]


class LlamaBench:
    """llama.cpp's own benchmark, built from the same source. It computes; it does not choose tokens."""

    name = "llama-bench"

    def __init__(self, program: Path) -> None:
        self._program = program

    def run(self, test: Test, model: Path, settings: Settings) -> list[float]:
        n_prompt, n_tokens = (settings.n_prompt, 0) if test == "prompt" else (0, settings.n_tokens)
        options: dict[str, object] = {
            "-m": model,
            "-p": n_prompt,
            "-n": n_tokens,
            "-t": settings.threads,
            "-b": settings.n_batch,
            "-ub": settings.n_ubatch,
            "-ctk": "f16",
            "-ctv": "f16",
            "-fa": "auto",
            "-r": settings.reps,
            "-o": "json",
        }
        command = [str(self._program), *(str(part) for pair in options.items() for part in pair)]
        results = json.loads(run_command(command))
        if len(results) != 1:
            raise BenchmarkError(f"llama-bench gave {len(results)} results instead of 1")
        return [float(value) for value in results[0]["samples_ts"]]


def run_command(command: list[str], env: dict[str, str] | None = None) -> str:
    """Standard output of a command; :class:`BenchmarkError` with the end of its standard error."""
    done = subprocess.run(command, env=env, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise BenchmarkError(f"{command[0]} ended with {done.returncode}:\n{tail}")
    return done.stdout


def package() -> PythonPeer:
    """This package, as the interpreter that runs the benchmark sees it."""
    return PythonPeer("llama_cffi", "worker_llama_cffi.py")


def package_with_thread() -> PythonPeer:
    """This package, with an engine that computes on a thread of its own, as under asyncio and in the server."""
    return PythonPeer("llama_cffi, own thread", "worker_llama_cffi.py", given={"driver": "thread"})


def package_info() -> dict[str, Any]:
    """Version, llama.cpp's commit and the default number of threads of this package."""
    info: dict[str, Any] = json.loads(run_command([sys.executable, "-c", _INFO]))
    return info


_INFO = """
import json, llama_cffi
from llama_cffi._native import library_info
from llama_cffi.core.threads import default_thread_count
info = library_info()
print(json.dumps({"version": llama_cffi.__version__, "commit": info.commit, "threads": default_thread_count()}))
"""


def llama_bench(prefix: Path = PREFIX) -> LlamaBench:
    """llama-bench in a build prefix; :class:`BenchmarkError` with the command that builds it."""
    program = prefix / "bin" / "llama-bench"
    if not program.is_file():
        raise BenchmarkError(
            f"there is no {program.relative_to(ROOT) if program.is_relative_to(ROOT) else program}; build it with\n"
            "    python scripts/build_libllama.py --tool llama-bench"
        )
    return LlamaBench(program)


def llama_cpp_python(python: str, prefix: Path = PREFIX) -> tuple[PythonPeer, str] | str:
    """llama-cpp-python on the same library and its version; or the reason why there is none."""
    peer = PythonPeer("llama-cpp-python", "worker_llama_cpp_python.py", python, LLAMA_CPP_LIB_PATH=str(prefix / "lib"))
    try:
        return peer, str(peer.call("probe", "", {})["version"])
    except (BenchmarkError, OSError) as error:
        return str(error).splitlines()[-1]
