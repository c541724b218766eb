"""llama.cpp's log lines: from a ring into :mod:`logging`, and into exceptions.

llama.cpp logs from any thread, so its callback only writes into a ring of 1,024 lines; the compiled helpers' one does
so while no Python may run. :func:`pump` forwards what is new to the logger ``llama_cffi.native``, which is silent until
the user configures logging. Debug lines are kept only while that logger wants them.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

from llama_cffi._native import helpers
from llama_cffi._native.helpers import ffi, lib
from llama_cffi._util.fork import fork_safe

logger = logging.getLogger("llama_cffi.native")
logger.addHandler(logging.NullHandler())

# ggml_log_level: none, debug, info, warn, error.
_LEVELS = (logging.INFO, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_GGML_DEBUG, _GGML_INFO = 1, 2

_log_end = lib.lch_log_end


def install(llama_ffi: Any, llama_lib: Any) -> None:
    """Catch the log of a loaded library. Wraps ``llama_log_set``."""
    catch(llama_ffi, llama_lib.llama_log_set)


def catch(library_ffi: Any, log_set: Any) -> None:
    """Catch what goes to the log callback that a library's function sets."""
    callback = library_ffi.cast("ggml_log_callback", helpers.address("lch_log"))
    log_set(callback, library_ffi.NULL)
    if helpers.KIND == "python":
        # llama.cpp's threads may log to the end, when no Python may run any more.
        quiet = library_ffi.cast("ggml_log_callback", helpers.address("lch_log_nothing"))
        weakref.finalize(_pump, log_set, quiet, library_ffi.NULL)


class _Pump:
    """Where forwarding stands."""

    def __init__(self) -> None:
        self.seq = ffi.new("uint64_t *")
        self.debug = False
        # A handler may itself call something that pumps: then the outer pump carries on.
        self.lock = fork_safe(threading.Lock())


_pump = _Pump()


def pump() -> None:
    """Forward the lines logged since the last call to ``logging``; next to free when there are none."""
    wants_debug = logger.isEnabledFor(logging.DEBUG)
    if wants_debug != _pump.debug:
        _pump.debug = wants_debug
        lib.lch_log_keep(_GGML_DEBUG if wants_debug else _GGML_INFO)
    if _log_end() == _pump.seq[0] or not _pump.lock.acquire(blocking=False):
        return
    try:
        line = helpers.new("lch_line")
        expected = _pump.seq[0]
        while lib.lch_log_read(_pump.seq, 0, line):
            if line.seq != expected:
                logger.warning("%d lines of llama.cpp's log were lost", line.seq - expected)
            expected = line.seq + 1
            level = _level(line)
            if logger.isEnabledFor(level):
                logger.log(level, "%s", _text(line))
    finally:
        _pump.lock.release()


def mark() -> int:
    """Return the place in the log that the next line will have."""
    return int(_log_end())


def call_mark() -> int:
    """Return the place where the log stood when the last guarded call of this thread began."""
    return int(lib.lch_log_call())


def lines_since(place: int, min_level: int = logging.WARNING) -> tuple[str, ...]:
    """Return the lines that the current thread logged from :func:`mark` on, at ``min_level`` of ``logging`` or above.

    Lines that have left the ring since are missing.
    """
    seq = ffi.new("uint64_t *", place)
    line = helpers.new("lch_line")
    found = []
    while lib.lch_log_read(seq, 1, line):
        if _level(line) >= min_level:
            found.append(_text(line))
    return tuple(found)


def _level(line: Any) -> int:
    return _LEVELS[line.level] if 0 <= line.level < len(_LEVELS) else logging.INFO


def _text(line: Any) -> str:
    return str(ffi.string(line.text).decode("utf-8", "replace"))


__all__ = ["call_mark", "catch", "install", "lines_since", "logger", "mark", "pump"]
