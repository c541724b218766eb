"""Who is inside a native object: one thread at a time, and entering never waits; see ``helpers/door.cpp``."""

from __future__ import annotations

import os
import threading

LCH_DOOR_ENTERED, LCH_DOOR_NESTED = 0, 1
LCH_DOOR_BUSY, LCH_DOOR_COMPUTING, LCH_DOOR_FORKED = -8, -9, -10

_get_ident = threading.get_ident


class lch_door:
    """``owner`` holds the thread inside. Entering and leaving are one call each, which no signal handler interrupts."""

    __slots__ = ("computing", "forks", "n_computed", "owner", "shut")

    def __init__(self) -> None:
        self.owner: dict[None, int] = {}
        self.n_computed = self.computing = self.shut = 0
        self.forks = _process.forks


class _Process:
    forks = 0

    def forked(self) -> None:
        self.forks += 1


_process = _Process()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forked)


def lch_door_init(door: lch_door) -> None:
    door.forks = _process.forks


def is_inside(door: lch_door) -> bool:
    """Return whether this thread is inside."""
    return door.owner.get(None) == _get_ident()


def lch_door_enter(door: lch_door) -> int:
    if is_inside(door):
        return LCH_DOOR_COMPUTING if door.computing else LCH_DOOR_NESTED
    if door.forks != _process.forks:
        return LCH_DOOR_FORKED
    me = _get_ident()
    return LCH_DOOR_ENTERED if door.owner.setdefault(None, me) == me else LCH_DOOR_BUSY


def lch_door_leave(door: lch_door) -> None:
    door.owner.pop(None, None)
