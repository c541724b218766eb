"""A generation out of headers of the user's: for a library that none of the known generations fits.

The compiler measures the layouts, and what the library showed to the probe has to agree with them, so that headers of
another build are refused. Nothing is compiled against the headers but small programs that print sizes and offsets.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_cffi._native import cache as cache_files
from llama_cffi._native.abi.fingerprint import DEFAULTS, Fingerprint, explain_difference
from llama_cffi._native.abi.generation import (
    Field,
    Generation,
    Struct,
    from_data,
    generations,
    pinned_constants,
    pinned_functions,
)
from llama_cffi.errors import LibraryError

_CHANGED_DEFAULTS = 1
"""How many known fields of a struct may have a default that no known release has; more, and the layout is doubted."""


def derive(include: Path, fingerprint: Fingerprint, cache: Path, exported: frozenset[str] = frozenset()) -> Generation:
    """Return the generation that the headers of a folder describe, if the library with this fingerprint was built from
    them.

    The folder holds llama.h and the ggml headers that it includes, or these lie in ``../ggml/include`` as in a source
    tree; where the tree's sources are there, their defaults are compared too. ``exported`` are all llama_* functions of
    the library, if these are known: a build has those that its llama.h declares, no more and no fewer. What the
    compiler said is kept in ``cache``. LibraryError without headers or compiler, or with what the library shows
    otherwise than the headers.
    """
    if not (include / "llama.h").is_file():
        raise LibraryError(f"{include} contains no llama.h")
    data = _described(include, cache)
    plain = from_data(data)
    images = _images(include.parent, data["structs"]) or _expected(plain, fingerprint)
    declared = frozenset(data["declared"])
    wrong = explain_difference(fingerprint, replace(plain, images=images))
    wrong += [f"{name} is declared, and the library lacks it" for name in sorted(declared - exported) if exported]
    wrong += [f"{name} is in the library, and not declared" for name in sorted(exported - declared)]
    if wrong:
        lines = "".join(f"\n  {line}" for line in wrong[:20])
        raise LibraryError(f"the library does not belong to the headers in {include}:{lines}")
    return replace(plain, images=dict.fromkeys(DEFAULTS, ()) | {k: (v,) for k, v in fingerprint.images.items()})


def _described(include: Path, cache: Path) -> dict[str, Any]:
    from llama_cffi._native.abi.derive.describe import CDEF_DIR, Wanted, describe_headers
    from llama_cffi._native.abi.derive.headers import include_folders, read_headers

    digest = hashlib.sha256()
    for folder in (*include_folders(include), CDEF_DIR, Path(__file__).parent):
        for path in sorted((*folder.glob("llama*.h"), *folder.glob("gg*.h"), *folder.glob("*.py"))):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    name = f"headers-{digest.hexdigest()[:12]}"
    kept = cache / f"{name}.json"
    if (data := cache_files.read(kept)) is not None:
        return data
    found = read_headers(include)
    legacy = {name for one in generations() for name in one.legacy} & found.functions.keys()
    described = describe_headers(include, found, Wanted.read(), legacy)
    data = {
        "name": name,
        "releases": [{"name": name, "source": str(include)}],
        "structs": described.structs,
        "types": described.types,
        "functions": described.functions,
        "absent": sorted(pinned_functions().keys() - described.functions.keys()),
        "partial": [],
        "legacy": described.legacy,
        "constants": described.constants,
        "absent_constants": sorted(pinned_constants().keys() - described.constants.keys()),
        "images": {},
        "always": [],
        "never": [],
        "changed_from_previous": [],
        "declared": sorted(found.llama_functions),
    }
    cache_files.write(kept, data)
    return data


def _images(tree: Path, structs: dict[str, Any]) -> dict[str, tuple[str, ...]] | None:
    """What the defaults are by the sources of the tree that the headers lie in; None where there are none."""
    from llama_cffi._native.abi.derive.describe import default_images

    if not any((tree / "src").glob("llama*.cpp")):
        return None
    return {name: (image,) for name, image in default_images(tree, structs).items()}


def _expected(generation: Generation, fingerprint: Fingerprint) -> dict[str, tuple[str, ...]]:
    """What a library of these layouts writes, as far as headers tell: defaults are known by the names of fields."""
    return {
        function: (_image(generation.structs[struct], fingerprint.images.get(function, "")),)
        for function, struct in DEFAULTS.items()
        if struct in generation.structs
    }


def _image(struct: Struct, seen: str) -> str:
    cells = [".."] * struct.size
    changed = 0
    for field in struct.fields:
        places = slice(2 * field.offset, 2 * (field.offset + field.size))
        shown, defaults = seen[places], _defaults(struct.name, field)
        if shown in defaults:
            value = shown
        elif not defaults or (changed < _CHANGED_DEFAULTS and _plausible(field, shown)):
            changed += bool(defaults)
            value = "??" * field.size
        else:
            value = defaults[-1]
        cells[field.offset : field.offset + field.size] = [value[at : at + 2] for at in range(0, len(value), 2)]
    return "".join(cells)


def _defaults(struct: str, field: Field) -> list[str]:
    """The values, in hex, that known releases give a field by default; for an unknown bool what it may be at all."""
    found: dict[str, None] = {}
    for one in generations():
        same = one.structs[struct].field(field.name) if struct in one.structs and field.name else None
        if same is None or same.size != field.size:
            continue
        function = next(name for name, result in DEFAULTS.items() if result == struct)
        found |= dict.fromkeys(image[2 * same.offset : 2 * (same.offset + same.size)] for image in one.images[function])
    if not found and field.declaration.startswith("bool "):
        return ["01", "00"]
    return [] if any("?" in value for value in found) else list(found)


def _plausible(field: Field, shown: str) -> bool:
    return not field.declaration.startswith("bool ") or shown in ("00", "01")


__all__ = ["derive"]
