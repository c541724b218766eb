"""Objects in a forked child process that threads of its parent were using.

The threads are not in the child. A lock that one of them held would stay locked there for ever.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from llama_cffi.errors import ContextError

T = TypeVar("T")

_renewals: dict[weakref.ref[Any], Callable[[Any], object]] = {}
"""No WeakKeyDictionary: what a signal handler raises in its callbacks is printed and lost."""

_SPARE = 64
_n_kept = _SPARE
"""Entries at which those of dead objects are removed."""


def after_fork(thing: T, renew: Callable[[T], object]) -> T:
    """Return ``thing``, for which ``renew(thing)`` will be called in every forked child process where it lives."""
    global _n_kept
    _renewals[weakref.ref(thing)] = renew
    if len(_renewals) >= _n_kept:
        for reference in list(_renewals):
            if reference() is None:
                _renewals.pop(reference, None)
        _n_kept = 2 * len(_renewals) + _SPARE
    return thing


def fork_safe(lock: T) -> T:
    """Return a ``Lock`` or ``RLock`` of :mod:`threading`, which will be open in a forked child process."""
    return after_fork(lock, _reinitialize)


class ForkedLock:
    """A lock, in a child process, of an object that belongs to the parent: entering raises :class:`ContextError`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> NoReturn:
        raise made_elsewhere(self._what)

    def __exit__(self, *exception: object) -> None:
        pass


def made_elsewhere(what: str) -> ContextError:
    """Return the error of an object that is used in a forked child process and cannot be."""
    return ContextError(
        f"this {what} was created in another process, and its threads did not survive the fork; "
        "create one in this process"
    )


def _reinitialize(lock: Any) -> None:
    # What threading itself does with the locks of its own.
    lock._at_fork_reinit()


def _renew_all() -> None:
    for reference, renew in list(_renewals.items()):
        thing = reference()
        if thing is not None:
            renew(thing)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_all)


__all__ = ["ForkedLock", "after_fork", "fork_safe", "made_elsewhere"]
