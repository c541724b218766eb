"""Frames between the two processes: a kind, a number, and parts, of which the first is a pickle."""

from __future__ import annotations

import enum
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

_HEADER = struct.Struct("<BQI")
_SIZE = struct.Struct("<Q")
_AT_ONCE = 1 << 18
_USUAL = 1 << 14
"""Bytes that are read at once while nothing larger is known to come: room for more is not taken from the system, and
given back to it, for each token."""


class Kind(enum.IntEnum):
    """What a frame is about. The number of a frame is that of a call or a request, 0 for neither."""

    # to the child
    CALL = 1
    """Evaluate an expression, which may take long."""
    LOOK = 2
    """Evaluate an expression, which takes only a moment."""
    SUBMIT = 3
    """Take a request."""
    COMPILE = 4
    """Take a request whose constraint is compiled first."""
    CANCEL = 5
    """End a request or a call."""
    LEVELS = 6
    """Log at these levels."""
    GO = 7
    """The progress of a call was noted: go on."""
    CLOSE = 8
    # from the child
    VALUE = 16
    """The value of an expression; or a request was taken."""
    ERROR = 17
    """The exception of an expression, or of a request that was refused."""
    NEWS = 18
    """Chunks and ends of texts, of one step."""
    PROGRESS = 19
    """The part of a call that is done; it waits for :attr:`GO` or :attr:`CANCEL`."""
    LOG = 20
    EVENT = 21
    BEAT = 22
    """The child lives."""
    ROOM = 23
    """Fewer requests wait than when one was refused."""


class Frame(NamedTuple):
    kind: int
    number: int
    parts: Sequence[Any]


def encode(kind: Kind, number: int, parts: Sequence[Any]) -> list[Any]:
    """Return the buffers of a frame. Parts are bytes, or anything with the buffer protocol."""
    views = [memoryview(part).cast("B") for part in parts]
    head = _HEADER.pack(kind, number, len(views)) + b"".join(_SIZE.pack(view.nbytes) for view in views)
    if sum(view.nbytes for view in views) < _AT_ONCE:
        return [b"".join([head, *views])]
    return [head, *views]


def plain(kind: Kind, number: int, value: object) -> list[Any]:
    """Return the buffers of a frame with one value, of types that need no names."""
    return encode(kind, number, [pickle.dumps(value, 5)])


class Receiver:
    """Puts frames together from what a socket gives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()
        self._wanted = _HEADER.size
        """Bytes that the next frame has at least."""
        self._large: memoryview | None = None
        """The room of a large frame, into which it is read without another copy."""
        self._filled = 0

    def take(self) -> list[Frame] | None:
        """Read once and return the frames that are complete; None at the end of the stream."""
        if self._large is not None:
            n = self._sock.recv_into(self._large[self._filled :])
            self._filled += n
            if n and self._filled < len(self._large):
                return []
            large, self._large = self._large, None
            return [_frame(large)] if n else None
        received = self._sock.recv(_USUAL if self._wanted < _USUAL else _AT_ONCE)
        if not received:
            return None
        data = self._data
        data += received
        frames = []
        while self._complete():
            frames.append(_frame(data[: self._wanted]))
            del data[: self._wanted]
            self._wanted = _HEADER.size
        if self._wanted - len(data) > _AT_ONCE:
            self._filled, self._large = len(data), memoryview(bytearray(self._wanted))
            self._large[: self._filled] = data
            data.clear()
            self._wanted = _HEADER.size
        return frames

    def _complete(self) -> bool:
        """Whether the next frame is here; its size is known by then."""
        data = self._data
        if len(data) < self._wanted:
            return False
        n_parts = _HEADER.unpack_from(data)[2]
        start = _HEADER.size + n_parts * _SIZE.size
        if len(data) < start:
            self._wanted = start
            return False
        self._wanted = start + sum(size for (size,) in _SIZE.iter_unpack(data[_HEADER.size : start]))
        return len(data) >= self._wanted


def _frame(data: bytearray | memoryview) -> Frame:
    kind, number, n_parts = _HEADER.unpack_from(data)
    start = _HEADER.size + n_parts * _SIZE.size
    view, parts = memoryview(data), []
    for (size,) in _SIZE.iter_unpack(view[_HEADER.size : start]):
        parts.append(view[start : start + size])
        start += size
    return Frame(kind, number, parts)


__all__ = ["Frame", "Kind", "Receiver", "encode", "plain"]
