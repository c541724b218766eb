"""Which files of a repository are the model that a name means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llama_cffi.errors import HubChoiceError, HubNotFoundError
from llama_cffi.hub.name import HubName

PREFERRED = "Q4_K_M"
"""The quantization that is chosen if a name has none and the repository has this one."""

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<end>\.gguf)", re.IGNORECASE)
_TYPE = re.compile(r"(?<![a-z0-9])(?:i?q[1-8]|tq[12]|b?f16|fp?32|fp16|mxfp4|nvfp4)(?![0-9])", re.IGNORECASE)
"""The type of a model's weights in the name of its file."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of a repository: its ``files`` in order, and those ``missing`` parts that it should have too."""

    files: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """The first file, which represents all."""
        return self.files[0]

    def is_of(self, quantization: str) -> bool:
        """Return whether the quantization is a separate word in the path: ``Q4_K`` is not in ``Q4_K_M``."""
        word = rf"(?<![A-Za-z0-9]){re.escape(quantization)}(?![A-Za-z0-9_])"
        return re.search(word, self.first, re.IGNORECASE) is not None

    def fits(self, name: HubName) -> bool:
        """Return whether the name, apart from its repository, can mean this model."""
        if name.file is not None:
            return name.file in self.files
        if _is_no_model(self.first.rsplit("/", 1)[-1].lower()):
            return False
        return name.quantization is None or self.is_of(name.quantization)


def _is_no_model(name: str) -> bool:
    """Whether a GGUF file is named as one that belongs to a model: a projector, or an importance matrix.

    Models that were quantized with a matrix have its name in theirs, and a type behind it.
    """
    return "mmproj" in name or name.startswith("imatrix") or ("imatrix" in name and _TYPE.search(name) is None)


def candidates(files: Iterable[str]) -> list[Candidate]:
    """Return the GGUF files among the paths, the parts of split models together, in the order of their names."""
    whole: list[Candidate] = []
    parts: dict[tuple[str, int, str], set[str]] = {}
    for path in sorted(files):
        found = _SPLIT.fullmatch(path)
        if found is not None:
            parts.setdefault((found["stem"], int(found["count"]), found["end"]), set()).add(path)
        elif path.lower().endswith(".gguf"):
            whole.append(Candidate((path,)))
    for (stem, count, end), present in parts.items():
        wanted = {f"{stem}-{index:05}-of-{count:05}{end}" for index in range(1, count + 1)}
        whole.append(Candidate(tuple(sorted(present)), tuple(sorted(wanted - present))))
    return sorted(whole, key=lambda candidate: candidate.first)


def choose(name: HubName, files: Iterable[str], place: str) -> Candidate:
    """Return the one model that ``name`` means among the files of its repository; ``place`` says where for the errors.

    Raises HubNotFoundError for none and for one that lacks a part, HubChoiceError for several.
    """
    present = candidates(files)
    fitting = [candidate for candidate in present if candidate.fits(name)]
    if name.file is None and name.quantization is None:
        fitting = [candidate for candidate in fitting if candidate.is_of(PREFERRED)] or fitting
    if not fitting:
        what = f"is no {name.file}" if name.file else f"is no {name.quantization} model" if name.quantization else ""
        listed = _lines(name, present)
        raise HubNotFoundError(
            f"in {name.repo} {place} there {what or 'is no model'}; there {'are:' + listed if listed else 'is no GGUF'}"
        )
    if len(fitting) > 1:
        matches = [f"{name.repo}/{candidate.first}" for candidate in fitting]
        raise HubChoiceError(f"{name} {place} matches several models:{_lines(name, fitting)}", matches=matches)
    if fitting[0].missing:
        raise HubNotFoundError(f"{name} {place} is a model in parts that lacks {', '.join(fitting[0].missing)}")
    return fitting[0]


def _lines(name: HubName, listed: Iterable[Candidate]) -> str:
    return "".join(f"\n  {name.repo}/{candidate.first}" for candidate in listed)


__all__ = ["PREFERRED", "Candidate", "candidates", "choose"]
