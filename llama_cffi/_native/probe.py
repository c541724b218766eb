"""The probe of a library in a child process: the fingerprint of its binary interface, or an error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llama_cffi._native import abi, companions, elf
from llama_cffi.errors import LibraryError

SECONDS = 8.0
"""How long a library may take; the whole refusal of one that hangs stays below ten seconds."""

_CHILD = Path(__file__).with_name("probe_child.py")


def probe(
    path: Path,
    *,
    seconds: float = SECONDS,
    functions: Collection[str] = tuple(abi.DEFAULTS),
    symbols: Collection[str] | None = None,
    kind: str = "libllama",
) -> abi.Fingerprint:
    """Open a library in a child process and return its fingerprint.

    ``functions`` are those whose pictures are taken, ``symbols`` those that are looked for, and ``kind`` is the name of
    what is expected. LibraryError with the reason for what is not such a library, or cannot be opened here: a file
    of another kind, a dependency that is missing, a crash, an exit or a hang while it is opened, a missing function.
    """
    request = {
        "paths": [str(one) for one in (*_checked(path, functions, kind), path)],
        "functions": list(functions),
        "symbols": sorted(abi.symbols_of_interest() if symbols is None else symbols),
        "patterns": abi.PATTERNS,
        "size": abi.BUFFER_SIZE,
        "seconds": seconds,
    }
    answer = _ask(path, request, seconds)
    if "error" in answer:
        raise LibraryError(f"{path} cannot be opened: {answer['error']}")
    results = {name: [bytes.fromhex(one) for one in both] for name, both in answer["results"].items()}
    if not results:
        raise LibraryError(f"{path} is not a {kind}: it has none of {', '.join(functions)}")
    images = {name: abi.picture(*both) for name, both in results.items()}
    return abi.Fingerprint(answer["version"], images, frozenset(answer["symbols"]))


def _checked(path: Path, functions: Collection[str], kind: str) -> list[Path]:
    """What goes before the library; LibraryError where a look at the bytes is enough to refuse it."""
    try:
        if sys.platform == "linux":
            named = elf.read(path, symbols=True).symbols
            # No symbols at all: the file has no section headers, and only the loader can tell.
            if named and not named & frozenset(functions):
                raise LibraryError(f"{path} is not a {kind}: it has none of {', '.join(functions)}")
        return companions.before(path)
    except elf.ElfError as error:
        raise LibraryError(f"{path} cannot be used: {error}") from error
    except OSError as error:
        raise LibraryError(f"{path} cannot be read: {error.strerror or error}") from error


def _ask(path: Path, request: dict[str, Any], seconds: float) -> dict[str, Any]:
    if not sys.executable:
        raise LibraryError(f"{path} cannot be checked: sys.executable is not set, so no child process can be started")
    code, found, words = ask_child(_CHILD, request, seconds)
    if code is None:
        reason = "it hangs while it is loaded, or its disk is very slow"
        raise LibraryError(f"{path} was not opened within {seconds:.0f} seconds: {reason}")
    if found is None:
        raise LibraryError(f"{path} {_death(code)}{tail(words)}")
    return found


def ask_child(child: Path, request: dict[str, Any], seconds: float) -> tuple[int | None, dict[str, Any] | None, str]:
    """Run a program of this package on its own and return its exit code, its answer and what it wrote to standard
    error; None in place of the code after that many seconds, and in place of an answer where there is none.
    """
    with tempfile.TemporaryDirectory(prefix="llama_cffi-probe-") as folder:
        answer = Path(folder, "answer.json")
        with Path(folder, "stderr").open("w+b") as said:
            code = _run(child, json.dumps({**request, "answer": str(answer)}), said.fileno(), seconds)
            said.seek(0)
            words = said.read(1 << 16).decode("utf-8", "replace").strip()
        if code == 0 and answer.is_file():
            return code, json.loads(answer.read_text(encoding="utf-8")), words
        return code, None, words


def _run(program: Path, request: str, stderr: int, seconds: float) -> int | None:
    """Exit code of the child, None after a timeout; whatever it started goes with it."""
    # -I and -S: nothing of the host's environment or site-packages runs in the child.
    command = [sys.executable, "-I", "-S", str(program)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + seconds
    try:
        child.communicate(request, timeout=seconds)
        return child.returncode
    except subprocess.TimeoutExpired:
        return None
    except BrokenPipeError:
        return child.wait(max(deadline - time.monotonic(), 0.1))
    finally:
        _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        # The group outlives its leader if the library started something.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    elif child.poll() is None:
        child.kill()
    child.wait()


def _death(code: int) -> str:
    if code == -signal.SIGILL:
        return "uses an instruction that this CPU does not have (SIGILL)"
    if code < 0:
        return f"crashes while it is opened and its defaults are read ({ending(code)})"
    return f"ends the process while it is opened (exit code {code})"


def ending(code: int) -> str:
    """Return the name of the signal that ended a child, or the code."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code:#x}"


def tail(words: str) -> str:
    """Return the end of what a child wrote, as the end of a message."""
    lines = words.splitlines()[-5:]
    return "; it said:\n" + "\n".join(f"  {line[:200]}" for line in lines) if lines else ""


__all__ = ["SECONDS", "ask_child", "ending", "probe", "tail"]
