"""What a caller gives for a model, opened: as files, or as what stands for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from llama_cffi.core.archive import ArchiveMember
from llama_cffi.core.gguf_header import read_front
from llama_cffi.core.memory_file import Shared
from llama_cffi.core.source import MAGIC, Place, Source, header_file, naming, open_source
from llama_cffi.errors import HubConnectionError, ModelFileError

if TYPE_CHECKING:
    from llama_cffi.hub.ranges import RangeFile
    from llama_cffi.hub.web import WebFile

_ADDRESSES = ("http://", "https://")


def local(model: Any) -> Any:
    """Return what a caller gives for a model as what is on this machine.

    That is the path of the file that is downloaded for an address, the member of an archive for a path that leads into
    one, and everything else as it is.
    """
    if _is_address(model):
        from llama_cffi.hub.address import pull_address

        return str(pull_address(model))
    if isinstance(model, (str, os.PathLike)) and isinstance(os.fspath(model), str) and not os.path.exists(model):
        return ArchiveMember.of_path(model) or model
    return model


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Return what another process, with another current folder, understands; an address stays as it is."""
    return str(path) if _is_address(path) else os.path.abspath(path)


@contextmanager
def opened(model: Any) -> Iterator[Any]:
    """Yield the open source of a model until the block ends, or the model itself where it is named by paths."""
    source = open_source(model)
    if source is None:
        yield model
        return
    try:
        with naming(source):
            yield source
    finally:
        source.close()


@contextmanager
def opened_header(model: Any) -> Iterator[Any]:
    """As :func:`opened`, for what only reads headers: of an address, no more than these are read."""
    if _is_address(model):
        from llama_cffi.hub.headers import files_at

        with remote_headers(files_at(model)) as found:
            yield found[0] if len(found) == 1 else found
        return
    with opened(local(model)) as source:
        yield source


@contextmanager
def remote_headers(files: Sequence[WebFile]) -> Iterator[list[Source]]:
    """Yield, for each remote file of a model, a file with the same header and the same size.

    Raises :class:`ModelFileError` for what is not a GGUF file, and the errors of :class:`RangeFile`.
    """
    with ExitStack() as stack:
        found = []
        for file in files:
            source = _header(file)
            stack.callback(source.close)
            stack.enter_context(naming(source))
            found.append(source)
        yield found


def _is_address(model: Any) -> bool:
    return isinstance(model, str) and model.lower().startswith(_ADDRESSES)


def _header(file: WebFile) -> Source:
    from llama_cffi.hub.ranges import RangeFile

    with RangeFile(file) as remote:
        kept = _Kept(remote)
        front = read_front(kept)  # type: ignore[arg-type]
        data = b"".join(kept.blocks)
        if data[: len(MAGIC)] != MAGIC:
            what = f"begins with {data[:16]!r}, not {MAGIC!r}" if data else "is empty"
            raise ModelFileError(f"{file.label} is not a GGUF file: it {what}")
        size = remote.size
        if size is None:
            raise HubConnectionError(f"the server of {file.label} does not say how long it is")
        if front is not None and size < front.end:
            raise ModelFileError(f"{file.label} is truncated: it has {size:,} bytes, and its header {front.end:,}")
    memory = header_file(file.label, data, size)
    return Source(Place(file.label, memory.path, memory.descriptor, size, Shared(memory)))


class _Kept:
    """A file whose blocks are kept as they are read."""

    def __init__(self, file: RangeFile) -> None:
        self._file = file
        self.blocks: list[bytes] = []

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.blocks.append(data)
        return data


__all__ = ["absolute_path", "local", "opened", "opened_header", "remote_headers"]
