"""llama.cpp's log lines in a ring; see ``helpers/log.cpp``."""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any

from llama_cffi._native.atomic import raise_later
from llama_cffi._native.pure.process import ffi, nothing

_LINES = 1024
_ROOM = 491  # bytes of a line
_DEBUG, _INFO, _CONT = 1, 2, 5


class lch_line:
    """One line; ``text`` is a C string."""

    seq: int
    thread: int
    level: int
    text: Any


class _Ring:
    def __init__(self) -> None:
        # Reentrant: a signal handler may log while this thread is here.
        self.lock = threading.RLock()
        self.lines: list[tuple[int, int, int, bytes]] = [(0, 0, 0, b"")] * _LINES
        self.end = 0
        self.keep = _INFO


class _Thread(threading.local):
    """A thread's number, and the line that it has begun and not yet ended."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.call = 0
        self.level = _INFO
        self.kept = True
        self.text = b""


_numbers = itertools.count(1)
_ring = _Ring()
_here = _Thread()

if hasattr(os, "register_at_fork"):
    # A fork in the middle of a log line would leave the child with a locked ring.
    os.register_at_fork(
        before=_ring.lock.acquire, after_in_parent=_ring.lock.release, after_in_child=_ring.lock.release
    )


def _store(text: bytes) -> None:
    with _ring.lock:
        _ring.lines[_ring.end % _LINES] = (_ring.end, _here.number, _here.level, text)
        _ring.end += 1


def _flush() -> None:
    if _here.text:
        text, _here.text = _here.text, b""
        _store(text)


def _append(text: bytes) -> None:
    text = _here.text + text
    while len(text) >= _ROOM:
        _store(text[:_ROOM])
        text = text[_ROOM:]
    _here.text = text


def _log(level: int, text: Any, user: Any) -> None:
    if level != _CONT:
        _flush()
        _here.level, _here.kept = level, level >= _ring.keep
    if not _here.kept:
        return
    *whole, rest = ffi.string(text).split(b"\n")
    for line in whole:
        _append(line)
        _flush()
    _append(rest)


def _interrupted(kind: Any, error: BaseException, trace: Any) -> None:
    # A signal handler raised while llama.cpp was logging. Its exception comes out of the Python code behind the call.
    raise_later(error)


lch_log: Any = ffi.callback("void(*)(int, const char *, void *)", _log, onerror=_interrupted)
lch_log_nothing: Any = nothing


def lch_log_keep(min_level: int) -> None:
    _ring.keep = max(min_level, _DEBUG)


def lch_log_end() -> int:
    _flush()
    return _ring.end


def lch_log_call() -> int:
    return _here.call


def lch_log_read(seq: Any, own_thread: int, out: lch_line) -> int:
    """Fill in the first line at or after ``seq[0]``, and move that behind it; 0 at the end."""
    _flush()
    with _ring.lock:
        for at in range(max(seq[0], _ring.end - _LINES), _ring.end):
            number, thread, level, text = _ring.lines[at % _LINES]
            if not own_thread or thread == _here.number:
                out.seq, out.thread, out.level, out.text = number, thread, level, ffi.new("char[]", text)
                seq[0] = at + 1
                return 1
        seq[0] = max(seq[0], _ring.end)
    return 0


def thread_number() -> int:
    """This thread's number in the log."""
    return _here.number


def log_as(number: int) -> None:
    """Log under the number of a thread that this one works for."""
    _here.number = number


def call_begins() -> None:
    """Remember where the log stood, so that a failing call can say what llama.cpp logged during it."""
    _here.call = _ring.end


def tail(n: int) -> list[bytes]:
    """Return the last lines of all threads, without the lock, which a dying thread could hold."""
    return [_ring.lines[at % _LINES][3] for at in range(max(_ring.end - n, 0), _ring.end)]
