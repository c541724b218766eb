"""Functions that tests run in other processes: a spawned process finds them by the name of this module."""

from __future__ import annotations

from typing import NoReturn


def raise_error(error: BaseException) -> NoReturn:
    """Raise what came with the call."""
    raise error
