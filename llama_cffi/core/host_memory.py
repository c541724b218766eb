"""How much main memory programs can have."""

from __future__ import annotations

import re
from pathlib import Path


def available() -> int:
    """Return bytes of main memory that programs can have, where the system says so; ggml takes all memory for free."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


__all__ = ["available"]
