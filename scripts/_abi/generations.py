"""Releases with the same binary interface are one generation; what is written down of each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_cffi._native.abi.derive.describe import Description

from .sources import Source, version_of

FORMAT = 1
# Counters and file-format versions grow with every addition; they are values, not an interface.
COUNTERS = re.compile(r"\w+_COUNT|\w+_VERSION")


@dataclass(frozen=True)
class Release:
    """One described release."""

    source: Source
    version: str
    described: Description

    @classmethod
    def of(cls, source: Source, described: Description) -> Release:
        return cls(source, version_of(source.path), described)

    def entry(self) -> dict[str, str]:
        """What the data says of it; empty facts are left out."""
        source = self.source
        facts = {
            "name": source.name,
            "commit": source.commit,
            "date": source.date,
            "source": source.origin,
            "version": self.version,
        }
        return {key: value for key, value in facts.items() if value}


@dataclass
class Group:
    """Consecutive releases whose interfaces agree wherever they have the same names."""

    releases: list[Release] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.releases[0].source.name

    def differences(self, described: Description) -> list[str]:
        """Why `described` cannot join this group; empty when it can."""
        found: list[str] = []
        for release in self.releases:
            mine = release.described
            for name in mine.structs.keys() & described.structs.keys():
                if layout_of(mine.structs[name]) != layout_of(described.structs[name]):
                    found.append(f"struct {name}")
            for name in mine.shapes.keys() & described.shapes.keys():
                if mine.shapes[name] != described.shapes[name]:
                    found.append(f"function {name}")
            for name in mine.constants.keys() & described.constants.keys():
                if mine.constants[name] != described.constants[name] and not COUNTERS.fullmatch(name):
                    found.append(f"constant {name}")
        return sorted(set(found))

    def merged(self, attribute: str) -> dict[str, Any]:
        """The union over the releases; the newest release wins, which only matters for parameter names."""
        union: dict[str, Any] = {}
        for release in self.releases:
            union.update(getattr(release.described, attribute))
        return union


def layout_of(struct: dict[str, Any]) -> list[Any]:
    """A struct without what does not change its bytes."""
    return [struct["size"], [[text.replace("const ", ""), *rest] for text, *rest in struct["fields"]]]


def group(releases: list[Release]) -> list[Group]:
    """Cut an ordered list of releases into generations."""
    groups: list[Group] = []
    for release in releases:
        if not groups or groups[-1].differences(release.described):
            groups.append(Group())
        groups[-1].releases.append(release)
    return groups


def write(releases: list[Release], folder: Path) -> list[Group]:
    """Write pinned.json, one file per generation and index.json; the last release is the pinned one."""
    groups = group(releases)
    pinned = releases[-1].described
    for old in folder.glob("*.json"):
        old.unlink()
    _dump(folder / "pinned.json", {"functions": pinned.functions, "constants": pinned.constants, "enums": pinned.enums})
    symbols = [frozenset(release.described.symbols) for release in releases]
    everywhere, anywhere = frozenset.intersection(*symbols), frozenset.union(*symbols)
    for number, one in enumerate(groups):
        data = _generation(one, pinned, everywhere, anywhere)
        data["changed_from_previous"] = changes(groups[number - 1], one) if number else []
        _dump(folder / f"{one.name}.json", data)
    names = [one.name for one in groups]
    _dump(folder / "index.json", {"format": FORMAT, "generations": names, **lifetimes(releases)})
    return groups


def changes(old: Group, new: Group) -> list[str]:
    """What makes `new` another generation than the one before it, in words."""
    found: list[str] = []
    for name, struct in new.merged("structs").items():
        before = old.merged("structs").get(name)
        if before is None or layout_of(before) == layout_of(struct):
            continue
        had = {field: text for text, field, *_ in before["fields"]}
        have = {field: text for text, field, *_ in struct["fields"]}
        parts = [f"+{field}" for field in have if field not in had] + [
            f"-{field}" for field in had if field not in have
        ]
        parts += [f"{had[field]} -> {have[field]}" for field in have if field in had and have[field] != had[field]]
        found.append(f"struct {name} ({before['size']} -> {struct['size']} bytes): {', '.join(parts) or 'order'}")
    shapes, mine = old.merged("shapes"), new.merged("shapes")
    texts = old.merged("functions")
    for name in sorted(shapes.keys() & mine.keys()):
        if shapes[name] != mine[name]:
            found.append(f"function {texts[name]} -> {new.merged('functions')[name]}")
    values, now = old.merged("constants"), new.merged("constants")
    for name in sorted(values.keys() & now.keys()):
        if values[name] != now[name] and not COUNTERS.fullmatch(name):
            found.append(f"constant {name}: {values[name]} -> {now[name]}")
    return found


def _generation(
    one: Group, pinned: Description, everywhere: frozenset[str], anywhere: frozenset[str]
) -> dict[str, Any]:
    functions, shapes, constants = one.merged("functions"), one.merged("shapes"), one.merged("constants")
    last = one.releases[-1].described
    have = [release.described.functions.keys() | release.described.legacy.keys() for release in one.releases]
    symbols = [frozenset(release.described.symbols) for release in one.releases]
    return {
        "name": one.name,
        "releases": [release.entry() for release in one.releases],
        "structs": one.merged("structs"),
        "types": one.merged("types"),
        "functions": {name: functions[name] for name in sorted(shapes) if shapes[name] != pinned.shapes.get(name)},
        "absent": sorted(pinned.functions.keys() - functions.keys()),
        "partial": sorted(
            name for name in functions | one.merged("legacy") if any(name not in names for names in have)
        ),
        "legacy": one.merged("legacy"),
        "constants": {
            name: value
            for name, value in sorted({**constants, **last.constants}.items())
            if value != pinned.constants.get(name)
        },
        "absent_constants": sorted(pinned.constants.keys() - constants.keys()),
        "images": {
            name: list(dict.fromkeys(release.described.images[name] for release in one.releases))
            for name in last.images
        },
        "always": sorted(frozenset.intersection(*symbols) - everywhere),
        "never": sorted(anywhere - frozenset.union(*symbols)),
    }


def names_of(described: Description) -> list[str]:
    """Everything that can come and go: functions, constants, "struct.field"."""
    fields = [f"{name}.{one[1]}" for name, struct in described.structs.items() for one in struct["fields"] if one[1]]
    return [*described.functions, *described.legacy, *described.constants, *fields]


def lifetimes(releases: list[Release]) -> dict[str, dict[str, str]]:
    """{"since": the first known release of what the oldest lacks, "until": the last one of what the newest lacks}."""
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    for release in releases:
        for name in names_of(release.described):
            first.setdefault(name, release.source.name)
            last[name] = release.source.name
    oldest, newest = releases[0].source.name, releases[-1].source.name
    return {
        "since": {name: since for name, since in sorted(first.items()) if since != oldest},
        "until": {name: until for name, until in sorted(last.items()) if until != newest},
    }


def _dump(path: Path, data: dict[str, Any]) -> None:
    path.write_text(_lines(data, "") + "\n", encoding="utf-8")


def _lines(value: Any, margin: str) -> str:
    """JSON with one line per entry of a dict or of a list of lists: a field, a function, a constant."""
    inner = margin + " "
    if isinstance(value, dict) and value:
        parts = [f"{inner}{json.dumps(key)}: {_lines(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{margin}}}"
    if isinstance(value, list) and (margin == " " or any(isinstance(item, (list, dict)) for item in value)) and value:
        parts = [f"{inner}{json.dumps(item)}" for item in value]
        return "[\n" + ",\n".join(parts) + f"\n{margin}]"
    return json.dumps(value)
