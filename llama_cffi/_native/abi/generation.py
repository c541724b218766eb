"""The known binary interfaces of llama.cpp: the data of this folder's JSON files, as objects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Release:
    """One llama.cpp release whose headers were read; a fact that its source does not tell is ""."""

    name: str
    commit: str
    date: str
    source: str
    version: str

    def __str__(self) -> str:
        # A build number or a version says where a release stands; a commit needs its date.
        return f"{self.name} of {self.date}" if self.name == self.commit and self.date else self.name


@dataclass(frozen=True)
class Field:
    """A struct's field: its C declaration, and its place in bytes. An anonymous union has the name ""."""

    declaration: str
    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Struct:
    """A struct's layout on LP64 systems (x86-64 and arm64, Linux and macOS lay it out alike)."""

    name: str
    size: int
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field | None:
        """Return the field of that name, or None."""
        return next((field for field in self.fields if field.name == name), None)

    @property
    def declaration(self) -> str:
        """The struct in C, complete."""
        return f"struct {self.name} {{ {' '.join(f'{field.declaration};' for field in self.fields)} }};"


@dataclass(frozen=True, eq=False)
class Generation:
    """Consecutive releases with one binary interface, restricted to what the trimmed headers declare.

    `structs`: every complete struct, by name. `functions`: C declarations that differ from the pinned release's.
    `absent`: functions of the pinned release that none of these releases has; `partial`: functions that only some have.
    `legacy`: C declarations of llama.h functions that the pinned release lacks. `types`: C declarations that these need
    and the trimmed headers lack. `constants`: enumerators and macros with another value than in the pinned release;
    `absent_constants`: those that are not there. `images`: for each default-params function what it may write, in hex;
    ".." is no field's byte, "??" one that builds fill differently. `always` and `never`: llama.h functions, known from
    any release, that all, or none, of these releases define. `changes`: what differs from the generation before.
    """

    name: str
    releases: tuple[Release, ...]
    structs: dict[str, Struct]
    types: dict[str, str]
    functions: dict[str, str]
    absent: frozenset[str]
    partial: frozenset[str]
    legacy: dict[str, str]
    constants: dict[str, int]
    absent_constants: frozenset[str]
    images: dict[str, tuple[str, ...]]
    always: frozenset[str]
    never: frozenset[str]
    changes: tuple[str, ...]

    @property
    def first(self) -> Release:
        """The oldest release known to belong here."""
        return self.releases[0]

    @property
    def last(self) -> Release:
        """The newest release known to belong here."""
        return self.releases[-1]

    @property
    def range(self) -> str:
        """The known releases that it spans, for people."""
        return str(self.first) if len(self.releases) == 1 else f"{self.first} to {self.last}"

    @cached_property
    def all_constants(self) -> dict[str, int]:
        """The value of every enumerator and macro that this generation has."""
        both = {**pinned_constants(), **self.constants}
        return {name: value for name, value in both.items() if name not in self.absent_constants}

    def function(self, name: str) -> str | None:
        """Return the C declaration of a function here; None when no release of this generation has it."""
        if name in self.absent:
            return None
        return self.functions.get(name) or self.legacy.get(name) or pinned_functions().get(name)

    def has(self, name: str) -> bool:
        """Return whether a function, a constant or a "struct.field" exists here, for a partial function in some
        release."""
        struct, dot, field = name.partition(".")
        if dot:
            return struct in self.structs and self.structs[struct].field(field) is not None
        return self.function(name) is not None or name in self.all_constants


@cache
def generations() -> tuple[Generation, ...]:
    """Return all known generations, oldest first; the last one holds the pinned release."""
    return tuple(generation(name) for name in _index()["generations"])


@cache
def generation(name: str) -> Generation:
    """Return one generation by its name, without reading the others; KeyError for an unknown name."""
    if name not in _index()["generations"]:
        raise KeyError(name)
    return from_data(_read(name))


def since(name: str) -> Release | None:
    """Return the first known release that has a function, a constant or a "struct.field"; None for an unknown name.

    What the oldest known release has already counts from there.
    """
    releases = {release.name: release for one in generations() for release in one.releases}
    if found := _index()["since"].get(name):
        return releases[found]
    oldest = generations()[0]
    return oldest.first if oldest.has(name) else None


def until(name: str) -> Release | None:
    """Return the last known release that has what since() takes; None when the pinned one has it too, or none does."""
    last = _index()["until"].get(name)
    return next((release for one in generations() for release in one.releases if release.name == last), None)


@cache
def pinned_functions() -> dict[str, str]:
    """C declarations of all declared functions, as the pinned release has them."""
    return dict(_read("pinned")["functions"])


@cache
def pinned_constants() -> dict[str, int]:
    """Values of all declared enumerators and macros in the pinned release."""
    return dict(_read("pinned")["constants"])


@cache
def enums() -> dict[str, tuple[str, ...]]:
    """Return the enumerators of each declared enum in the pinned release."""
    return {name: tuple(values) for name, values in _read("pinned")["enums"].items()}


@cache
def _index() -> dict[str, Any]:
    return _read("index")


def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return data


def from_data(data: dict[str, Any]) -> Generation:
    """Return a generation as a JSON file of this folder, or of a cache, holds it."""
    facts = ("name", "commit", "date", "source", "version")
    return Generation(
        name=data["name"],
        releases=tuple(Release(*(entry.get(fact, "") for fact in facts)) for entry in data["releases"]),
        structs={
            name: Struct(name, struct["size"], tuple(Field(*field) for field in struct["fields"]))
            for name, struct in data["structs"].items()
        },
        types=data["types"],
        functions=data["functions"],
        absent=frozenset(data["absent"]),
        partial=frozenset(data["partial"]),
        legacy=data["legacy"],
        constants=data["constants"],
        absent_constants=frozenset(data["absent_constants"]),
        images={name: tuple(images) for name, images in data["images"].items()},
        always=frozenset(data["always"]),
        never=frozenset(data["never"]),
        changes=tuple(data["changed_from_previous"]),
    )
