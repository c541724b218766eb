"""The fingerprint of a library's binary interface, and the known generation that it matches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llama_cffi._native.abi.generation import Generation, generations

# The functions that a probe calls, and the struct that each returns through a hidden pointer.
DEFAULTS = {
    "llama_model_default_params": "llama_model_params",
    "llama_context_default_params": "llama_context_params",
    "llama_model_quantize_default_params": "llama_model_quantize_params",
}
# A probe fills a buffer of this size once with each of these bytes before a call.
BUFFER_SIZE = 2048
PATTERNS = (0xA5, 0x5A)


def picture(first: bytes, second: bytes) -> str:
    """Hex of what a function wrote into two buffers filled with PATTERNS, up to the last byte written.

    ".." is a byte that it left alone, or filled with something else each time, as padding may be. ValueError when the
    buffers differ in length.
    """
    cells = [f"{one:02x}" if one == other else ".." for one, other in zip(first, second, strict=True)]
    while cells and cells[-1] == "..":
        cells.pop()
    return "".join(cells)


@dataclass(frozen=True)
class Fingerprint:
    """What a probe read: llama_version() or None, a picture() per function of DEFAULTS, the llama_* symbols found.

    `symbols` may be restricted to symbols_of_interest(). A function that the library lacks has no picture.
    """

    version: str | None
    images: Mapping[str, str]
    symbols: frozenset[str]


@dataclass(frozen=True)
class Match:
    """A generation that a library may belong to.

    `certain`: everything that was read fits releases of this generation. `doubtful` names the functions, constants and
    structs ("struct x") that may be otherwise nevertheless and must not be used: when a certain match fits another
    generation as well, what differs between the two; when `reasons` says that the library lies between two generations,
    what changed around them, except structs whose picture shows that they did not change.
    """

    generation: Generation
    certain: bool
    doubtful: frozenset[str]
    reasons: tuple[str, ...]


def symbols_of_interest() -> frozenset[str]:
    """Return the symbols that tell generations apart: what a probe that cannot list symbols has to ask for."""
    return frozenset().union(*(one.always | one.never for one in generations()))


def by_fingerprint(fingerprint: Fingerprint) -> Generation | None:
    """Return the generation of which the fingerprint shows a release, or None; match() says what may be otherwise
    still."""
    found = match(fingerprint)
    return found.generation if found is not None and found.certain else None


def match(fingerprint: Fingerprint) -> Match | None:
    """Return the generation whose struct pictures fit, with what is in doubt; None when no generation's do."""
    known = generations()
    fitting = [one for one in known if _pictures_fit(fingerprint, one)]
    if not fitting:
        return None
    conflicts = {one.name: _symbol_conflicts(fingerprint, one) for one in fitting}
    least = min(len(found) for found in conflicts.values())
    best = [one for one in fitting if len(conflicts[one.name]) == least]
    chosen = best[-1]
    reasons = list(conflicts[chosen.name])
    newest = max(_numbers(release.version) for one in known for release in one.releases)
    if fingerprint.version is not None and _numbers(fingerprint.version) > newest:
        reasons.append(f"version {fingerprint.version} is newer than any known release")
    others = best[:-1]
    if reasons:
        place = known.index(chosen)
        others += [known[near] for near in (place - 1, place + 1) if 0 <= near < len(known)]
    doubtful = {name for other in others for name in differing(chosen, other) - _shown_otherwise(fingerprint, other)}
    return Match(chosen, not reasons, frozenset(doubtful), tuple(reasons))


def nearest(fingerprint: Fingerprint) -> Generation:
    """Return the known generation with the fewest differences: what a refusal compares the library with."""
    if (found := match(fingerprint)) is not None:
        return found.generation
    return min(reversed(generations()), key=lambda one: _distance(fingerprint, one))


def differing(one: Generation, other: Generation) -> frozenset[str]:
    """Return names of functions, constants and structs ("struct x") that both have and that differ between them."""
    found = {
        f"struct {name}"
        for name in one.structs.keys() & other.structs.keys()
        if one.structs[name] != other.structs[name]
    }
    functions = one.functions.keys() | other.functions.keys()
    found |= {name for name in functions if _differ(one.function(name), other.function(name))}
    constants = one.constants.keys() | other.constants.keys()
    values = {name: (one.all_constants.get(name), other.all_constants.get(name)) for name in constants}
    return frozenset(found | {name for name, pair in values.items() if None not in pair and pair[0] != pair[1]})


def explain_difference(fingerprint: Fingerprint, generation: Generation) -> list[str]:
    """Return what a library shows otherwise than a generation's releases do, field by field; [] when nothing does."""
    lines: list[str] = []
    for function, struct in DEFAULTS.items():
        seen = fingerprint.images.get(function)
        if seen is None:
            lines.append(f"{function} is missing")
            continue
        expected = min(generation.images[function], key=lambda image: len(wrong_bytes(seen, image)))
        wrong = wrong_bytes(seen, expected)
        if not wrong:
            continue
        layout = generation.structs[struct]
        if len(seen) // 2 > layout.size:
            lines.append(f"struct {struct} has at least {len(seen) // 2} bytes, not {layout.size}")
        for field in layout.fields:
            places = range(field.offset, field.offset + field.size)
            if any(place in wrong for place in places):
                where = f"{struct}.{field.name} ({field.declaration}, byte {field.offset})"
                lines.append(f"{where}: {_show(expected, places)} expected, {_show(seen, places)} found")
        between = sorted(
            place for place in wrong if place < layout.size and expected[2 * place : 2 * place + 2] == ".."
        )
        lines += [f"{struct}, byte {place}: a field where none is expected" for place in between]
    lines += _symbol_conflicts(fingerprint, generation)
    return lines


def _pictures_fit(fingerprint: Fingerprint, generation: Generation) -> bool:
    return all(_picture_fits(fingerprint, generation, function) for function in DEFAULTS)


def _picture_fits(fingerprint: Fingerprint, generation: Generation, function: str) -> bool:
    seen = fingerprint.images.get(function)
    return seen is not None and any(not wrong_bytes(seen, image) for image in generation.images[function])


def _shown_otherwise(fingerprint: Fingerprint, generation: Generation) -> frozenset[str]:
    """The structs that the library cannot have from a generation: their pictures differ from its."""
    return frozenset(
        f"struct {struct}"
        for function, struct in DEFAULTS.items()
        if not _picture_fits(fingerprint, generation, function)
    )


def wrong_bytes(seen: str, expected: str) -> set[int]:
    """Places at which a picture cannot come from a struct with the expected one.

    A compiler may or may not fill the bytes between fields, but always with zeros; a field's bytes are always written.
    """
    wrong = set()
    for place in range(max(len(seen), len(expected)) // 2):
        have = seen[2 * place : 2 * place + 2] or ".."
        want = expected[2 * place : 2 * place + 2]
        if want == "??":
            fits = have != ".."
        elif want == "..":
            fits = have in ("..", "00")
        elif want == "":
            fits = have == ".."
        else:
            fits = have == want
        if not fits:
            wrong.add(place)
    return wrong


def _symbol_conflicts(fingerprint: Fingerprint, generation: Generation) -> list[str]:
    missing = sorted(generation.always - fingerprint.symbols)
    extra = sorted(generation.never & fingerprint.symbols)
    return [f"{name} is missing" for name in missing] + [
        f"{name} is there, in no release of {generation.name}" for name in extra
    ]


def _distance(fingerprint: Fingerprint, generation: Generation) -> int:
    pictures = 0
    for function, images in generation.images.items():
        seen = fingerprint.images.get(function, "")
        pictures += min(len(wrong_bytes(seen, image)) for image in images)
    return pictures + len(_symbol_conflicts(fingerprint, generation))


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _show(image: str, places: range) -> str:
    cells = [image[2 * place : 2 * place + 2] or ".." for place in places]
    return "unwritten" if set(cells) == {".."} else " ".join(cells)
