"""The beginning of a remote file, read in ranges as far as it is needed."""

from __future__ import annotations

from llama_cffi.errors import HubConnectionError
from llama_cffi.hub.web import Answer, WebFile, request

MAX_BYTES = 256 << 20
"""Bytes that are read of a remote file at most; the headers of models have a few MiB."""


class RangeFile:
    """A remote file that is read from its beginning, as a binary file object with ``read``.

    Each read asks for a range. A server that sends the whole file instead is read on until :meth:`close`, and not
    further. Raises :class:`HubNotFoundError` and :class:`HubConnectionError`, also beyond ``limit`` bytes and when the
    file changes between two ranges.
    """

    def __init__(self, file: WebFile, *, limit: int = MAX_BYTES) -> None:
        self._file, self._limit = file, limit
        self._at = 0
        self._stream: Answer | None = None
        self._version: str | None = None
        self.size: int | None = None
        """The size of the whole file, once something was read; None where the server does not say."""

    def read(self, size: int) -> bytes:
        """Return the next bytes: fewer only at the end of the file."""
        if self._at + size > self._limit:
            raise HubConnectionError(
                f"{self._file.label}: its header does not end within {self._limit:,} bytes, so it is not read further"
            )
        parts, end = [], self._at + size
        # A server may send a shorter part than was asked for.
        while (left := (end if self.size is None else min(end, self.size)) - self._at) > 0:
            data = self._from_stream(left) if self._stream is not None else self._range(left)
            if not data:
                break
            parts.append(data)
            self._at += len(data)
        return b"".join(parts)

    def _range(self, size: int) -> bytes:
        headers = {"Range": f"bytes={self._at}-{self._at + size - 1}"}
        answer = request(self._file, headers)
        if answer.status == 200:
            if self._at:
                # It sent ranges before: another server answers, or there is another file now.
                answer.close()
                raise HubConnectionError(f"the server of {self._file.label} sends the whole file in place of a part")
            self.size, self._stream = answer.length, answer
            return self._from_stream(size)
        with answer:
            if answer.status == 416:
                self._check_end()
                return b""
            if answer.status != 206:
                raise HubConnectionError(f"the server of {self._file.label} answers HTTP {answer.status}")
            start, end, whole = answer.part()
            if start != self._at or end > self._at + size or (whole is not None and end > whole):
                raise HubConnectionError(f"the server of {self._file.label} sends another part than was asked for")
            version = answer.etag or answer.modified
            if self._at and (version, whole) != (self._version, self.size):
                raise HubConnectionError(f"{self._file.label} was changed while it was read: try again")
            self._version, self.size = version, whole
            return _exactly(answer, end - start, self._file)

    def _check_end(self) -> None:
        if not self._at:
            self.size = 0
        elif self.size is not None and self._at < self.size:
            raise HubConnectionError(f"{self._file.label} was changed while it was read: try again")

    def _from_stream(self, size: int) -> bytes:
        assert self._stream is not None
        return _exactly(self._stream, size, self._file, short=self.size is None)

    def close(self) -> None:
        """End the connection that is still open, if there is one. Idempotent."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> RangeFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _exactly(answer: Answer, size: int, file: WebFile, *, short: bool = False) -> bytes:
    parts, missing = [], size
    while missing and (data := answer.read(missing)):
        parts.append(data)
        missing -= len(data)
    if missing and not short:
        raise HubConnectionError(f"the connection broke while {file.label} was read")
    return b"".join(parts)


__all__ = ["MAX_BYTES", "RangeFile"]
