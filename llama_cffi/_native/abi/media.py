"""The binary interface of libmtmd: what a library must show to be used with the trimmed headers.

One interface is known, that of the pinned release. Its header says of itself that it breaks often, and a library shows
less of itself than a libllama does: one that is otherwise in anything that can be seen is not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llama_cffi._native.abi.fingerprint import Fingerprint, wrong_bytes
from llama_cffi._native.abi.modules import load_media_ffi, media_headers

DEFAULTS = {
    "mtmd_context_params_default": "mtmd_context_params",
    "mtmd_helper_init_opt_default": "mtmd_helper_init_opt",
}
"""The functions that a probe calls, and the struct that each returns through a hidden pointer."""

_ANY = None
_VALUES: dict[str, Any] = {
    "use_gpu": True,
    "print_timings": True,
    "n_threads": 4,
    "media_marker": _ANY,
    "flash_attn_type": -1,
    "warmup": True,
    "image_min_tokens": -1,
    "image_max_tokens": -1,
    "batch_max_tokens": 1024,
    "fps_target": 4.0,
    "timestamp_interval_ms": 5000,
}
"""The defaults that are not zero; those of fields with equal names are equal."""


def functions() -> frozenset[str]:
    """Return the functions that the trimmed headers declare."""
    text = re.sub(r"//[^\n]*", "", media_headers())
    return frozenset(re.findall(r"\bmtmd_\w+(?=\()", text))


def differences(fingerprint: Fingerprint) -> list[str]:
    """Return what a library shows otherwise than the pinned release's, field by field; [] when nothing does."""
    lines = [f"{name} is missing" for name in sorted(functions() - fingerprint.symbols)]
    ffi = load_media_ffi()
    for function, struct in DEFAULTS.items():
        seen = fingerprint.images.get(function)
        if seen is None:
            continue  # named above
        cells = [".."] * ffi.sizeof(f"struct {struct}")
        fields = list(_fields(ffi, ffi.typeof(f"struct {struct}"), 0))
        for _, place, shown in fields:
            cells[place : place + len(shown)] = shown
        wrong = wrong_bytes(seen, "".join(cells))
        if wrong and len(seen) // 2 > len(cells):
            lines.append(f"struct {struct} has at least {len(seen) // 2} bytes, not {len(cells)}")
        known = {byte for _, place, shown in fields for byte in range(place, place + len(shown))}
        between = sorted(byte for byte in wrong if byte < len(cells) and byte not in known)
        lines += [f"{struct}, byte {byte}: a field where none is expected" for byte in between]
        for name, place, shown in fields:
            if any(place <= byte < place + len(shown) for byte in wrong):
                found = " ".join(seen[2 * at : 2 * at + 2] or ".." for at in range(place, place + len(shown)))
                lines.append(f"{struct}.{name} (byte {place}): {' '.join(shown)} expected, {found} found")
    return lines


def _fields(ffi: Any, struct: Any, start: int) -> Iterator[tuple[str, int, list[str]]]:
    """Name, place and expected bytes, in hex, of every field, also of structs inside."""
    for name, field in struct.fields:
        place = start + field.offset
        if field.type.kind == "struct":
            yield from _fields(ffi, field.type, place)
            continue
        value = _VALUES.get(name, 0)
        size = ffi.sizeof(field.type)
        if value is _ANY:
            yield name, place, ["??"] * size
            continue
        # A number has its bytes as C has them; of pointers only NULL is expected.
        kind = {"pointer": "intptr_t", "function": "intptr_t", "enum": "int"}.get(field.type.kind, field.type.cname)
        cell = ffi.new(f"{kind} *", value)
        yield name, place, [f"{byte:02x}" for byte in bytes(ffi.buffer(cell))]


__all__ = ["DEFAULTS", "differences", "functions"]
