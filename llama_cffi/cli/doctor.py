"""``llama-cffi doctor``: which library is used, what it runs on, and whether it works."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from importlib import metadata
from typing import Any

import typer

import llama_cffi
from llama_cffi.cli import console, options

_TIMEOUT = 120.0
"""Seconds after which a probe counts as hanging; a cold disk and a busy machine fit into it."""

_REBUILD = "Build it on this machine: python scripts/build_libllama.py --force, then reinstall llama-cffi."
_REINSTALL = "Install again: pip install --force-reinstall llama-cffi, or in a checkout: pip install -e ."


@console.command
def doctor(as_json: options.Json = False, verbose: options.Verbose = False) -> None:
    """Check the installation: library, devices, CPU features, and a second of decoding.

    Ends with exit code 1 when something is broken, and says how to mend it.
    """
    report: dict[str, Any] = {"versions": versions()}
    problems: list[str] = []
    library, problem = _probe("library", verbose=verbose)
    report |= {"library": None, "devices": [], "cpu_features": {}, "decode": None} | library
    if problem:
        problems.append(f"The library cannot be used. {problem}")
    else:
        report["decode"], problem = _probe("decode", verbose=verbose)
        if problem:
            problems.append(f"The decode test failed. {problem}")
    report |= {"problems": problems, "ok": not problems}

    if as_json:
        console.print_json(report)
    else:
        _show(report)
    if problems:
        raise typer.Exit(console.FAILURE)


def versions() -> dict[str, str]:
    """Versions of everything that takes part, without importing it."""
    found = {
        "llama-cffi": llama_cffi.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {platform.machine()})",
    }
    for name in ("cffi", "numpy", "typer"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _probe(name: str, *, verbose: bool) -> tuple[dict[str, Any], str | None]:
    """Run a probe in a child process; returns its findings, and the problem if there was one."""
    command = [sys.executable, "-m", "llama_cffi.cli.probe", name]
    try:
        child = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return {}, f"It did not end within {_TIMEOUT:.0f} seconds."
    if verbose:
        sys.stderr.write(child.stderr)
    if child.returncode:
        return {}, _death(child.returncode, child.stderr)
    found: dict[str, Any] = json.loads(child.stdout)
    if "error" not in found:
        return found, None
    missing = found["error"].startswith("ModuleNotFoundError")
    return {}, f"{found['error']}. {_REINSTALL}" if missing else found["error"]


def _death(code: int, stderr: str) -> str:
    """Why a child process ended, and what helps."""
    last = "\n".join(stderr.strip().splitlines()[-10:])
    if code == -signal.SIGILL:
        return f"libllama uses an instruction that this CPU does not have. {_REBUILD}"
    if code < 0:
        return f"The child process was ended by {signal.Signals(-code).name}. {_REBUILD}\n{last}".rstrip()
    return f"The child process ended with code {code}:\n{last}"


def _show(report: dict[str, Any]) -> None:
    console.rows([*report["versions"].items(), *_library_rows(report), *_decode_rows(report["decode"])])
    for problem in report["problems"]:
        print(f"\n{console.style('broken:', '1;31')} {console.printable(problem)}")
    if report["ok"]:
        print(f"\n{console.style('ok', '1;32')}")


def _library_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    library = report["library"]
    if library is None:
        override = os.environ.get("LLAMA_CFFI_LIB")
        return [("LLAMA_CFFI_LIB", override)] if override else []
    found = [
        ("library", library["path"]),
        ("source", library["source"]),
        ("mode", library["mode"]),
        ("llama.cpp", f"{library['version']}, commit {library['commit'] or 'unknown'}"),
        *_stamp_rows(library["stamp"] or {}),
    ]
    for device in report["devices"]:
        memory = f", {console.size_text(device['memory_total'])}" if device["memory_total"] else ""
        found.append((f"device {device['name']}", f"{device['description']} ({device['type']}{memory})"))
    features = [key if value == 1 else f"{key}={value}" for key, value in report["cpu_features"].items() if value]
    found.append(("CPU features", ", ".join(features) or "none"))
    return found


def _decode_rows(decode: dict[str, Any] | None) -> list[tuple[str, str]]:
    if not decode:
        return []
    return [
        (
            "decode test",
            f"{decode['tokens_per_second']:.0f} tokens per second with the demo model, "
            f"loaded in {decode['load_seconds']:.2f} s{_busy()}",
        )
    ]


def _busy() -> str:
    """A hint where the figure says more about the other processes than about the installation."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    return f"; the machine is busy, with a load of {load:.1f} on {cpus} CPUs" if load > cpus + 1 else ""


def _stamp_rows(stamp: dict[str, Any]) -> list[tuple[str, str]]:
    """What the build wrote down, as far as it tells builds apart."""
    request = stamp.get("request", {})
    found = [
        ("backends", ", ".join(request.get("backends", ()))),
        ("compiler", request.get("compiler")),
        ("build flags", " ".join(flag.removeprefix("-D") for flag in request.get("flags", ()))),
        ("header hash", stamp.get("header_hash")),
    ]
    return [(label, text) for label, text in found if text]
