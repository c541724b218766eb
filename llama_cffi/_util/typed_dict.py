"""TypedDict with type parameters, which Python's own has from 3.11 on."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict

__all__ = ["TypedDict"]
