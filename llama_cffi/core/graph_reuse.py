"""Whether a context computes with adapters that have changed since its last decode.

llama.cpp computes a graph again that it has built before, where the batch has the same shape. Releases to b7698 do so
although the adapters have changed, and those to b8390 although the control vector has.

Over RPC, the client then tells the server to compute its last graph again. The server has forgotten it if any buffer
was freed meanwhile, by whichever context, model or adapter of the client, and closes the connection; and two threads
that compute at once may each have it compute the graph of the other.
"""

from __future__ import annotations

import mmap
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from llama_cffi._native import binding, lib, library_info
from llama_cffi._util.fork import fork_safe
from llama_cffi.core.rpc import may_compute_remotely
from llama_cffi.errors import UnsupportedError

SWITCH = "LLAMA_GRAPH_REUSE_DISABLE"
"""The environment variable that llama.cpp reads when a context is made."""

# Reentrant: a signal handler may make a context in the middle.
_switching = fork_safe(threading.RLock())


@cache
def sees_adapters() -> bool:
    """Return whether the library builds a new graph when adapters change; it has the newer function for them then."""
    return bool(binding.has("llama_set_adapters_lora"))


def notices_changes() -> bool:
    """Return whether the context that is made next will compute with what has changed.

    Where the library itself does not see changes, graphs are not used again: :data:`SWITCH` is set, for this process
    and those that it starts, unless the user has set it.
    """
    if sees_adapters():
        return True
    return _has_switch() and re.match(r"\s*[+-]?0*[1-9]", os.environ.setdefault(SWITCH, "1")) is not None


@contextmanager
def reuse_where_safe(devices: Sequence[str] | None) -> Iterator[None]:
    """Let a context that is made in the block, for a model with these devices, build a graph for every batch where it
    may compute over RPC, whatever the user has set."""
    if not may_compute_remotely(devices):
        yield
        return
    with _switching:
        before = os.environ.get(SWITCH)
        os.environ[SWITCH] = "1"
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(SWITCH, None)
            else:
                os.environ[SWITCH] = before


def after_control_vector(ptr: Any, causal: bool) -> None:
    """Let the next decode of a ``llama_context`` build a new graph, in releases from b7836 to b8390."""
    lib.llama_set_causal_attn(ptr, not causal)
    lib.llama_set_causal_attn(ptr, causal)


def unseen_change() -> UnsupportedError:
    """Return the error for a change that the library would not see."""
    return UnsupportedError(
        "this libllama keeps the adapters and the control vector of a context's first decode: create "
        f"another Context to change them{f', or do not set {SWITCH}=0' if _has_switch() else ''}",
        since="b7836",
    )


@cache
def _has_switch() -> bool:
    path = library_info().path
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(SWITCH.encode()) >= 0


__all__ = ["SWITCH", "after_control_vector", "notices_changes", "reuse_where_safe", "sees_adapters", "unseen_change"]
