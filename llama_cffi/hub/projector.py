"""Which file is the projector of a model, among those beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORDS = re.compile(r"[A-Za-z0-9]+")
_TYPES = ("f16", "bf16", "q8_0", "f32")
"""Types of weights, the preferred one first."""
_TYPE = re.compile(
    r"(?<![a-z0-9])(i?q[0-9][a-z0-9_]*|tq[12]_0|b?f16|fp?32|fp16|mxfp4|nvfp4)(?![a-z0-9])", re.IGNORECASE
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")


def choose_projector(model: str, files: Iterable[str]) -> str | None:
    """Return the file that is a model's projector by its name, or None; ``model`` and ``files`` are paths with ``/``.

    A projector has ``mmproj`` in its name. One in the model's folder is preferred, then one whose other words are in
    the model's name, the most of them, then one with weights of 16 bits.
    """
    folder, _, name = model.rpartition("/")
    words = _words(_SPLIT.sub("", name.removesuffix(".gguf")))
    found = [path for path in files if "mmproj" in _name(path) and path.lower().endswith(".gguf")]

    def rank(path: str) -> tuple[bool, bool, int, int, str]:
        own = _words(_name(path).removesuffix(".gguf")) - {"mmproj", "model"}
        kind = _TYPE.search(_name(path))
        by_type = _TYPES.index(kind[1].lower()) if kind and kind[1].lower() in _TYPES else len(_TYPES)
        return path.rpartition("/")[0] != folder, not own <= words, -len(own & words), by_type, path

    best = min(found, key=rank, default=None)
    if best is not None and len(found) > 1 and rank(best)[1]:
        return None  # all of them are named after other models
    return best


def _name(path: str) -> str:
    return path.rpartition("/")[2].lower()


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(_TYPE.sub(" ", name))}


__all__ = ["choose_projector"]
