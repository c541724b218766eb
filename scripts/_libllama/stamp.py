"""stamp.json: what a built prefix is, so that an equal request has nothing to do.

The stamp is the last file written into a prefix before that gets its name: without one it is not trusted.

For the binding: `header_hash(include_dir)` is the sha256 over the bytes of llama.h, ggml.h, ggml-backend.h,
ggml-cpu.h and gguf.h, in that order. The extension compiles it in, stamp.json carries it as "header_hash",
and a difference means that extension and library are of different releases. "media_header_hash" is the same for the
headers of libmtmd, in a prefix that has it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

STAMP = "stamp.json"
HASHED_HEADERS = ("llama.h", "ggml.h", "ggml-backend.h", "ggml-cpu.h", "gguf.h")
MEDIA_HEADERS = ("mtmd.h", "mtmd-helper.h")


def header_hash(include_dir: Path) -> str:
    """sha256 (hex) of the headers that fix the binary interface; OSError when one is missing."""
    return hashlib.sha256(b"".join((include_dir / name).read_bytes() for name in HASHED_HEADERS)).hexdigest()


def media_header_hash(include_dir: Path) -> str:
    """sha256 (hex) of the headers that fix the binary interface of libmtmd; OSError when one is missing."""
    return hashlib.sha256(b"".join((include_dir / name).read_bytes() for name in MEDIA_HEADERS)).hexdigest()


def read_stamp(prefix: Path) -> dict[str, Any] | None:
    """The stamp of a prefix, or None when there is none that can be read."""
    try:
        stamp = json.loads((prefix / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) else None


def is_current(prefix: Path, request: dict[str, Any]) -> bool:
    """Whether `prefix` was built for exactly this request and still has every library it had."""
    stamp = read_stamp(prefix)
    if stamp is None or stamp.get("request") != request:
        return False
    return all((prefix / "lib" / name).is_file() for name in stamp["libraries"])
