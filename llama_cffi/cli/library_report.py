"""``llama-cffi doctor --lib``: what another libllama is, without using it; and the places where one was looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_cffi._native import abi, search_paths
from llama_cffi._native.compatibility import check_library
from llama_cffi.errors import LibraryError


def report_library(path: Path, include: Path | None) -> dict[str, Any]:
    """What was found out about a library as JSON data: ``ok``, and what it is or the ``problem`` with it."""
    report: dict[str, Any] = {"library": str(path), "ok": False, "problem": None}
    try:
        found, _ = search_paths.choose(path)
        checked = check_library(found, include=include)
    except LibraryError as error:
        return report | {"problem": str(error)}
    generation = checked.generation
    return report | {
        "library": str(found),
        "ok": True,
        "version": checked.version,
        "generation": {
            "name": generation.name,
            "range": f"headers in {checked.include}" if checked.include else generation.range,
        },
        "doubts": list(checked.reasons),
        "doubtful": sorted(checked.doubtful),
        "missing": len(generation.absent),
        "cached": checked.cached,
        "fingerprint": {
            "version": checked.fingerprint.version,
            "bytes": {abi.DEFAULTS[name]: len(image) // 2 for name, image in checked.fingerprint.images.items()},
            "symbols": len(checked.fingerprint.symbols),
        },
    }


def rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report for people."""
    if not report["ok"]:
        return [("library", report["library"])]
    generation = report["generation"]
    sizes = ", ".join(f"{name} {size}" for name, size in report["fingerprint"]["bytes"].items())
    found = [
        ("library", report["library"]),
        ("llama.cpp", report["version"] or "does not tell its version"),
        ("generation", f"{generation['name']} ({generation['range']})"),
        ("fingerprint", f"bytes written: {sizes}{'; from the cache' if report['cached'] else ''}"),
        ("missing", f"{report['missing']} functions of the pinned release" if report["missing"] else "nothing"),
    ]
    found += [("doubt", reason) for reason in report["doubts"]]
    if report["doubtful"]:
        found.append(("not usable", ", ".join(report["doubtful"])))
    return found


def candidates() -> list[dict[str, Any]]:
    """Every place where a libllama was looked for, with what became of it."""
    listed: list[dict[str, Any]] = []
    decided = False
    for one in search_paths.candidates():
        if decided:
            state = "not used: an earlier place has priority" if one.path or one.final else one.reason
        else:
            state = "taken" if one.path else one.reason
            decided = one.path is not None or one.final
        listed.append({"source": one.source, "path": str(one.path or one.place), "state": state})
    return listed


__all__ = ["candidates", "report_library", "rows"]
