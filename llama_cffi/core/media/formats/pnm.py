"""PGM and PPM in their binary forms: a few numbers in text, and plain pixels."""

from __future__ import annotations

import re

from llama_cffi.core.media.formats.checks import check_size, cut, damaged

_GAP = rb"(?:\s|#[^\n\r]*[\n\r])+"
_HEADER = re.compile(rb"P[56]" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})\s")


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height; raises :class:`MediaError` for a cut or damaged file."""
    found = _HEADER.match(data[:4096])
    if found is None:
        damaged("PNM", "its header has no width, height and maximum")
    width, height, most = (int(number) for number in found.groups())
    check_size(width, height)
    if not 1 <= most <= 65535:
        damaged("PNM", f"a maximum of {most}")
    channels = 3 if data[1:2] == b"6" else 1
    if found.end() + width * height * channels * (2 if most > 255 else 1) > len(data):
        cut("PNM")
    return width, height


__all__ = ["read_size"]
