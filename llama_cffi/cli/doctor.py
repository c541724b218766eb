"""``llama-cffi doctor``: which library is used, what it runs on, and whether it works."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

import llama_cffi
from llama_cffi.cli import console, hardware, options

_TIMEOUT = 120.0
"""Seconds after which a probe counts as hanging; a cold disk and a busy machine fit into it."""

_REBUILD = "Build it on this machine: python scripts/build_libllama.py --force, then reinstall llama-cffi."
_REINSTALL = "Install again: pip install --force-reinstall llama-cffi, or in a checkout: pip install -e ."


Lib = Annotated[Path | None, options.option("--lib", metavar="PATH", help="Check this libllama, and do nothing else.")]
Include = Annotated[
    Path | None,
    options.option("--include", metavar="DIR", help="Folder of the llama.h that the library was built from."),
]


@console.command
def doctor(
    lib: Lib = None, include: Include = None, as_json: options.Json = False, verbose: options.Verbose = False
) -> None:
    """Check the installation, the devices and a test computation.

    The exit code is 1 when there is a problem; the message says how to solve it. With --lib, it only describes a
    library, or the reason why it cannot be used; that library is opened in a child process only.
    """
    from llama_cffi.cli import library_report

    if lib is not None:
        checked = library_report.report_library(lib, include)
        _finish(
            checked | {"problems": [checked["problem"]] if checked["problem"] else []},
            library_report.rows,
            as_json=as_json,
        )
        return
    if include is not None:
        os.environ["LLAMA_CFFI_INCLUDE"] = str(include)
    report: dict[str, Any] = {"versions": versions(), "candidates": library_report.candidates()}
    problems: list[str] = []
    library, problem = _probe("library", verbose=verbose)
    report |= {"library": None, "media": None, "devices": [], "cpu_features": {}, "decode": None} | library
    report |= {"unused_gpus": [], "unused_cpu_features": []}
    if problem:
        problems.append(f"The library cannot be used. {problem}")
    else:
        report["unused_gpus"] = hardware.unused_gpus(report["devices"])
        report["unused_cpu_features"] = hardware.unused_cpu_features(report["cpu_features"])
        # Without it everything but images and sound works: that is no problem of the installation.
        media, problem = _probe("media", verbose=verbose)
        report["media"] = media if problem is None else {"path": None, "mode": None, "problem": problem}
        report["decode"], problem = _probe("decode", verbose=verbose)
        if problem:
            problems.append(f"The decode test failed. {problem}")
    _finish(report | {"problems": problems, "ok": not problems}, _rows, as_json=as_json)


def _finish(report: dict[str, Any], rows: Callable[[dict[str, Any]], list[tuple[str, str]]], *, as_json: bool) -> None:
    if as_json:
        console.print_json(report)
    else:
        console.rows(rows(report))
        for problem in report["problems"]:
            print(f"\n{console.style('broken:', '1;31')} {_lines(problem)}")
        if report["ok"]:
            print(f"\n{console.style('ok', '1;32')}")
    if report["problems"]:
        raise typer.Exit(console.FAILURE)


def _lines(text: str) -> str:
    return "\n".join(console.printable(line) for line in text.splitlines())


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


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    tried = [(f"{one['source']} library", f"{one['path']}: {one['state']}") for one in report["candidates"]]
    # Once one is taken, the places that hold nothing are of no interest.
    shown = [row for row, one in zip(tried, report["candidates"], strict=True) if not one["state"].startswith("no ")]
    return [
        *report["versions"].items(),
        *(shown if report["library"] else tried),
        *_library_rows(report),
        *_media_rows(report["media"]),
        *_decode_rows(report["decode"]),
    ]


def _library_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    library = report["library"]
    if library is None:
        override = os.environ.get("LLAMA_CFFI_LIB")
        return [("LLAMA_CFFI_LIB", override)] if override else []
    found = [
        ("library", library["path"]),
        ("source", library["source"]),
        ("mode", library["mode"]),
        ("llama.cpp", f"{library['version'] or 'unknown version'}, commit {library['commit'] or 'unknown'}"),
        *_binding_rows(library),
        *_stamp_rows(library["stamp"] or {}),
    ]
    for device in report["devices"]:
        memory = f", {console.size_text(device['memory_total'])}" if device["memory_total"] else ""
        found.append((f"device {device['name']}", f"{device['description']} ({device['type']}{memory})"))
    if report["unused_gpus"]:
        found.append(("unused GPU", f"{', '.join(report['unused_gpus'])}: this library has no backend that drives it"))
    features = [key if value == 1 else f"{key}={value}" for key, value in report["cpu_features"].items() if value]
    found.append(("CPU features", ", ".join(features) or "none"))
    if report["unused_cpu_features"]:
        missing = ", ".join(report["unused_cpu_features"])
        found.append(("unused by it", f"{missing}: this CPU has them, and the library was built without"))
    return found


def _binding_rows(library: dict[str, Any]) -> list[tuple[str, str]]:
    """How the library is bound: the generation of its fingerprint, and the implementation of the helpers."""
    found = []
    if library["generation"]:
        generation = library["generation"]
        found.append(("generation", f"{generation['name']} ({generation['range']}), by its fingerprint"))
    found += [("doubt", reason) for reason in library["doubts"]]
    helpers = {"compiled": "compiled", "python": "Python and numpy; a C compiler at install time makes faster ones"}
    return [*found, ("helpers", helpers[library["helpers"]])]


def _media_rows(media: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Whether images and sound can be used."""
    if media is None:
        return []
    return [("libmtmd", media["problem"] or f"{media['path']} ({media['mode']} mode): images and sound can be used")]


def _decode_rows(decode: dict[str, Any] | None) -> list[tuple[str, str]]:
    if not decode:
        return []
    return [
        ("threads", decode["threads"]),
        (
            "decode test",
            f"{decode['tokens_per_second']:.0f} tokens per second with the demo model, "
            f"loaded in {decode['load_seconds']:.2f} s{_busy()}",
        ),
    ]


def _busy() -> str:
    """A hint where the figure says more about the other processes than about the installation."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    return f"; the machine is busy, with a load of {load:.1f} on {cpus} CPUs" if load > cpus + 1 else ""


def _kernels_text(request: dict[str, Any]) -> str | None:
    """Whether the package's own kernels for a few rows at once are in the library; None when its build did not say."""
    if "kernels" not in request:
        return None
    digest = request["kernels"]
    return f"the package's own ({digest})" if digest else "llama.cpp's alone (built with --no-kernels)"


def _stamp_rows(stamp: dict[str, Any]) -> list[tuple[str, str]]:
    """What the build wrote down, as far as it tells builds apart."""
    request = stamp.get("request", {})
    found = [
        ("backends", ", ".join(request.get("backends", ()))),
        ("compiler", request.get("compiler")),
        ("kernels", _kernels_text(request)),
        ("build flags", " ".join(flag.removeprefix("-D") for flag in request.get("flags", ()))),
        ("header hash", stamp.get("header_hash")),
    ]
    return [(label, text) for label, text in found if text]
