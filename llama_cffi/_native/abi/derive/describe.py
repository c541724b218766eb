"""One release's binary interface, restricted to what the trimmed headers declare."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_cffi._native.abi.derive import layout
from llama_cffi._native.abi.derive.headers import Declarations, cdef_macros, read_cdefs, read_headers
from llama_cffi._native.abi.fingerprint import DEFAULTS

CDEF_DIR = Path(__file__).resolve().parents[2] / "cdef"

# Found with ggml_backend_reg_get_proc_address and cast to a type of threadpool.h: their signatures count too.
PROC_FUNCTIONS = (
    "ggml_threadpool_new",
    "ggml_threadpool_free",
    "ggml_threadpool_get_n_threads",
    "ggml_threadpool_pause",
    "ggml_threadpool_resume",
    "ggml_numa_init",
    "ggml_is_numa",
)


@dataclass(frozen=True)
class Description:
    """The interface of one release.

    `structs`: {name: {"size": bytes, "fields": [[declaration, name, offset, size], ...]}}; `functions`: declarations;
    `shapes`: the same without parameter names, to compare; `constants`: enumerators and macros; `types`: declarations
    needed beside those of the trimmed headers; `legacy`: llama.h functions that the pinned release lacks;
    `symbols`: llama.h functions that the library defines; `images`: see layout.picture().
    """

    structs: dict[str, Any]
    functions: dict[str, str]
    shapes: dict[str, str]
    constants: dict[str, int]
    types: dict[str, str]
    legacy: dict[str, str]
    symbols: list[str]
    images: dict[str, str]
    enums: dict[str, list[str]]


@dataclass(frozen=True)
class Wanted:
    """What the trimmed headers name."""

    declared: Declarations
    macros: list[str]

    @classmethod
    def read(cls) -> Wanted:
        texts = [path.read_text(encoding="utf-8") for path in sorted(CDEF_DIR.glob("*.h"), key=_cdef_order)]
        return cls(read_cdefs(texts), cdef_macros(texts))


def _cdef_order(path: Path) -> tuple[int, str]:
    order = re.findall(r'^    "(\w+\.h)",$', (CDEF_DIR.parent / "binding_build.py").read_text(encoding="utf-8"), re.M)
    return (order.index(path.name) if path.name in order else len(order), path.name)


def describe(source: Path, wanted: Wanted, pinned: Declarations) -> Description:
    """Read the interface of the release in `source`, a source tree."""
    found = read_headers(source)
    new = {name for name in found.llama_functions if name not in pinned.functions}
    described = describe_headers(source, found, wanted, layout.defined_functions(source, new))
    return replace(
        described,
        symbols=sorted(layout.defined_functions(source, found.llama_functions)),
        images=default_images(source, described.structs),
    )


def describe_headers(source: Path, found: Declarations, wanted: Wanted, legacy: set[str]) -> Description:
    """Return what the headers alone tell: no symbols and no images."""
    declared = wanted.declared
    structs = [name for name in declared.structs if name in found.structs]
    constants = {value for enum in declared.enums.values() for value in enum}
    have = {value for enum in found.enums.values() for value in enum}
    macros = layout.defined_macros(source, wanted.macros)
    measured = layout.measure(source, found, structs, sorted(constants & have) + macros)
    names = [name for name in (*declared.functions, *PROC_FUNCTIONS) if name in found.functions]
    described = {name: _struct(found, measured, name) for name in structs}
    texts = [field[0] for struct in described.values() for field in struct["fields"]]
    texts += [found.functions[name] for name in [*names, *sorted(legacy)]]
    return Description(
        described,
        {name: found.functions[name] for name in names},
        {name: found.shapes[name] for name in names},
        measured.values,
        _missing_types(texts, found, declared),
        {name: found.functions[name] for name in sorted(legacy)},
        [],
        {},
        {name: found.enums[name] for name in declared.enums if name in found.enums},
    )


def default_images(source: Path, structs: dict[str, Any]) -> dict[str, str]:
    """Return what the default-params functions of a source tree write into structs of these layouts."""
    return {
        function: layout.picture(data, [field[2:] for field in structs[DEFAULTS[function]]["fields"]])
        for function, data in layout.default_bytes(source).items()
    }


def _struct(found: Declarations, measured: layout.Measured, name: str) -> dict[str, Any]:
    places = measured.places[name]
    fields = []
    for number, (text, field) in enumerate(found.structs[name].fields):
        offset, size = places[field or f"#{number}"]
        if (length := measured.lengths.get((name, field))) is not None:
            text = re.sub(r"\[.*\]", f"[{length}]", text)
        fields.append([text, field, offset, size])
    return {"size": places[""][1], "fields": fields}


def _missing_types(texts: list[str], found: Declarations, declared: Declarations) -> dict[str, str]:
    """Typedefs and enums that these texts use and the trimmed headers do not declare."""
    needed: dict[str, str] = {}
    queue = list(texts)
    while queue:
        text = queue.pop()
        for word in set(re.findall(r"\b[a-z]\w*\b", text)):
            if word in found.typedefs and word not in declared.typedefs and word not in needed:
                needed[word] = f"{found.typedefs[word]};"
                queue.append(found.typedefs[word])
        for enum in re.findall(r"\benum (\w+)", text):
            if enum not in declared.enums and enum in found.enums:
                # Its size and sign are all that a declaration needs.
                needed[f"enum {enum}"] = f"enum {enum} {{ {found.enums[enum][0]} }};"
        for struct in re.findall(r"\bstruct (\w+)", text):
            known = struct in declared.structs or f"struct {struct}" in needed
            if not known and struct in found.structs and f"struct {struct} *" not in text:
                fields = "".join(f"{field}; " for field, _ in found.structs[struct].fields)
                needed[f"struct {struct}"] = f"struct {struct} {{ {fields}}};"
    return dict(sorted(needed.items()))
