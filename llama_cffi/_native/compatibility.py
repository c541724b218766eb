"""The check of a library before it is used: its ABI generation, or the reason why it cannot be used."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llama_cffi._native import abi, cache, companions, elf
from llama_cffi._util.files import identity
from llama_cffi.errors import LibraryError

INCLUDE_VAR = "LLAMA_CFFI_INCLUDE"
_ABI_FOLDER = Path(abi.__file__).parent


@dataclass(frozen=True)
class CheckedLibrary:
    """A library that can be bound.

    ``doubtful`` and ``reasons`` are those of :class:`abi.Match`: what must not be used of it, and why. ``include`` is
    the folder of headers that the generation was derived from, None for a known one; ``cached`` says whether the probe
    was spared. ``files`` are the library and what is opened before it, as they were before the check.
    """

    path: Path
    fingerprint: abi.Fingerprint
    generation: abi.Generation
    doubtful: frozenset[str]
    reasons: tuple[str, ...]
    include: Path | None
    cached: bool
    files: Mapping[Path, list[int]] = field(default_factory=dict, compare=False)

    def verify(self) -> None:
        """Raise LibraryError unless the files are those that were checked."""
        for path, before in self.files.items():
            try:
                now = identity(path)
            except OSError as error:
                raise LibraryError(f"{path} was removed after it was checked: {error.strerror}") from error
            if now != before:
                raise LibraryError(f"{path} was changed after it was checked: start the program again")

    @property
    def version(self) -> str:
        """What the library calls itself, or the release that its file is named for, or ""."""
        named = re.search(r"\.(b\d{4,}|v\d+\.\d+\.\d+)\.", self.path.name)
        return self.fingerprint.version or (named[1] if named else "")


def check_library(path: Path, *, include: Path | None = None) -> CheckedLibrary:
    """Find the generation of a library: by a probe in a child process, or by what an earlier one found.

    ``include``, or LLAMA_CFFI_INCLUDE, names the headers of a library of no known generation; without both, headers
    near the library are tried. LibraryError with the reason for a library that cannot be used.
    """
    files = _files(path)
    checked = _check(path, include)
    return replace(checked, files=files)


def _check(path: Path, include: Path | None) -> CheckedLibrary:
    given = include or (Path(os.environ[INCLUDE_VAR]) if os.environ.get(INCLUDE_VAR) else None)
    fingerprint, match, cached = _known(path)
    if match is not None and match.certain:
        return CheckedLibrary(path, fingerprint, match.generation, match.doubtful, match.reasons, None, cached)
    headers = given or _headers_near(path)
    why = ""
    if headers is not None:
        try:
            return _derived(path, fingerprint, headers.absolute(), cached)
        except LibraryError as error:
            why = str(error)
            if given is not None:
                raise LibraryError(f"{path} cannot be used with {given}: {why}") from error
    if match is not None:
        reasons = (*match.reasons, f"headers were found, but {why}") if why else match.reasons
        return CheckedLibrary(path, fingerprint, match.generation, match.doubtful, reasons, None, cached)
    raise LibraryError(_refusal(path, fingerprint, why))


def modules_folder() -> Path:
    """Return where ABI mode keeps what it has derived from headers: generations, and their declarations."""
    return cache.folder() / "derived"


def _derived(path: Path, fingerprint: abi.Fingerprint, include: Path, cached: bool) -> CheckedLibrary:
    from llama_cffi._native.abi.derive import derive

    symbols = elf.read(path, symbols=True).symbols if sys.platform == "linux" else frozenset()
    exported = frozenset(name for name in symbols if name.startswith("llama_"))
    generation = derive(include, fingerprint, modules_folder(), exported)
    return CheckedLibrary(path, fingerprint, generation, frozenset(), (), include, cached)


def _headers_near(path: Path) -> Path | None:
    # An installed prefix or multiarch folder, and llama.cpp's own tree with the library in build/bin.
    folder = path.resolve().parent
    places = (folder / "include", folder.parent / "include", folder.parent.parent / "include")
    return next((place for place in places if (place / "llama.h").is_file()), None)


def _refusal(path: Path, fingerprint: abi.Fingerprint, why: str) -> str:
    near = abi.nearest(fingerprint)
    differences = abi.explain_difference(fingerprint, near)
    shown = "".join(f"\n  {line}" for line in differences[:30])
    more = f"\n  and {len(differences) - 30} more" if len(differences) > 30 else ""
    known = abi.generations()
    oldest, newest = known[0].first, known[-1].last
    version = f" (it reports llama.cpp {fingerprint.version})" if fingerprint.version else ""
    headers = f"Headers were found near it, but {why}\n" if why else ""
    age = f"It may be older than {oldest}, the oldest supported release.\n" if near == abi.generations()[0] else ""
    return (
        f"{path} is of no known ABI generation{version}; known are {oldest} to {newest}.\n"
        f"From {near.name} ({near.range}), the nearest one, it differs so:{shown}{more}\n{age}{headers}"
        f"If you have the headers that it was built from, name their folder with include= or {INCLUDE_VAR}"
    )


# -- verdicts that were kept


def _known(path: Path) -> tuple[abi.Fingerprint, abi.Match | None, bool]:
    """Fingerprint and match of a library, and whether both come from the cache."""
    key = _key(path)
    kept = cache.folder() / "probes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.json"
    data = cache.read(kept) if key is not None else None
    if data is not None and data.get("key") == key:
        try:
            return *_from_json(data), True
        except (KeyError, TypeError):
            pass  # written by another release: found out anew, and written over
    from llama_cffi._native.probe import probe

    fingerprint = probe(path)
    match = abi.match(fingerprint)
    if key is not None:
        cache.write(kept, {"key": key, **_to_json(fingerprint, match)})
    return fingerprint, match, False


def _key(path: Path) -> list[Any] | None:
    """What a checked depends on: this file, those beside it, and the generations known to this release."""
    try:
        build_id = elf.read(path).build_id if sys.platform == "linux" else ""
        beside = sorted(one for one in path.parent.iterdir() if "ggml" in one.name)
        known = sorted(one for one in _ABI_FOLDER.iterdir() if one.suffix in (".json", ".py"))
        parts = [str(path), build_id, *([one.name, *identity(one)] for one in (path, *beside, *known))]
    except (OSError, elf.ElfError):
        return None
    return parts


def _files(path: Path) -> dict[Path, list[int]]:
    """What is opened for a library, each as it is now; nothing of a file that the check will refuse."""
    try:
        return {one: identity(one) for one in (*companions.before(path), path)}
    except (OSError, elf.ElfError):
        return {}


def _to_json(fingerprint: abi.Fingerprint, match: abi.Match | None) -> dict[str, Any]:
    return {
        "version": fingerprint.version,
        "images": dict(fingerprint.images),
        "symbols": sorted(fingerprint.symbols),
        "match": None
        if match is None
        else {
            "generation": match.generation.name,
            "certain": match.certain,
            "doubtful": sorted(match.doubtful),
            "reasons": list(match.reasons),
        },
    }


def _from_json(data: dict[str, Any]) -> tuple[abi.Fingerprint, abi.Match | None]:
    fingerprint = abi.Fingerprint(data["version"], data["images"], frozenset(data["symbols"]))
    found = data["match"]
    if found is None:
        return fingerprint, None
    generation = abi.generation(found["generation"])
    return fingerprint, abi.Match(generation, found["certain"], frozenset(found["doubtful"]), tuple(found["reasons"]))


__all__ = ["INCLUDE_VAR", "CheckedLibrary", "check_library", "modules_folder"]
