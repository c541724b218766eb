"""Where the bytes of a model are that is not named by a path: in memory, in an open file, in an archive."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

from llama_cffi._native import binding
from llama_cffi._native.c_file import c_file
from llama_cffi._util.shown import shown
from llama_cffi.core.archive import ArchiveMember, check_stored
from llama_cffi.core.gguf_header import Front, read_front
from llama_cffi.core.host_memory import available
from llama_cffi.core.memory_file import MemoryFile, Shared, descriptor_path
from llama_cffi.core.model_options import LazyMode, ModelOptions
from llama_cffi.core.open_member import member_place, real_file
from llama_cffi.errors import LlamaCffiError, ModelFileError, UnsupportedError

MAGIC = b"GGUF"
_BLOCK = 1 << 20
_LONGEST_PATH = 4096
_HEADER = 64 << 20
"""Bytes of the beginning of a file that are enough for llama.cpp to say what is wrong with it."""
_ALIGNMENT = 32
"""Bytes: where tensors must begin in a file for llama.cpp to map them into memory."""


@dataclass(frozen=True)
class Place:
    """``name`` is what messages call it, ``data_offset`` where the tensors are in it, ``member`` what another process
    can open, None for what exists in this one only.
    """

    name: str
    path: str
    descriptor: int
    size: int
    shared: Shared
    offset: int = 0
    data_offset: int = 0
    member: ArchiveMember | None = None


class Source:
    """An open model: as a path, a file with the same header and the same size.

    ``path`` has the content, too, unless the model begins at an ``offset`` of the open file. It is valid in this
    process until the last owner closes the source.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.name, self.path, self.offset, self.member = place.name, place.path, place.offset, place.member
        self._part = place.shared.hold(self)

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return self._place.size

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<Source {self.name}>"

    def twin(self) -> Source:
        """Return the same for one more owner."""
        return Source(self._place)

    def close(self) -> None:
        """Give the part up; what is open is closed with the last one. Idempotent."""
        self._part()

    def open(self) -> BinaryIO:
        """Return a reader of the content, which has a position of its own."""
        return cast("BinaryIO", _Part(self._place.descriptor, self.offset, self._place.size))

    @contextmanager
    def c_file(self) -> Iterator[Any]:
        """Yield a ``FILE *`` that stands where the model begins."""
        again = descriptor_path(self._place.descriptor)
        descriptor = os.open(again if again is not None else self.member.archive, os.O_RDONLY)  # type: ignore[union-attr]
        os.lseek(descriptor, self.offset, os.SEEK_SET)
        with c_file(descriptor) as file:
            yield file

    def fit(self, options: ModelOptions) -> ModelOptions:
        """Return the options with which llama.cpp can read it.

        Raises :class:`UnsupportedError` for one that it cannot read it with.
        """
        if not self.offset:
            return options
        wanted, start = options.load_mode, self.offset + self._place.data_offset
        if wanted == "direct_io":
            raise UnsupportedError(f'load_mode="direct_io" needs the path of a file, and {self.name} is a part of one')
        # llama.cpp reads all of a file that it maps, also what is not the model.
        pays = 2 * self._place.size >= os.fstat(self._place.descriptor).st_size
        if start % _ALIGNMENT == 0:
            return options if pays or wanted != "auto" else replace(options, load_mode="none")
        if "mmap" in wanted or options.lazy_mode == "on":
            name = f'load_mode="{wanted}"' if "mmap" in wanted else 'lazy_mode="on"'
            raise UnsupportedError(
                f"{name}: the tensors of {self.name} begin at byte {start} of the file, which is not a multiple of "
                f"{_ALIGNMENT}, so they cannot be mapped into memory"
            )
        lazy: LazyMode | None = "off" if binding.has("llama_model_params.lazy_mode") else None
        return replace(options, load_mode="none" if wanted == "auto" else wanted, lazy_mode=lazy)

    def passed(self) -> str | ArchiveMember | PassedSource:
        """Return what a child process opens it by, which has inherited :attr:`descriptors`."""
        if self.member is not None:
            return self.member
        if descriptor_path(self._place.descriptor) is None:
            return self.path
        return PassedSource(self._place.descriptor, self.offset, self._place.size, self.name)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a child process is to inherit."""
        return (self._place.descriptor,) if isinstance(self.passed(), PassedSource) else ()


@dataclass(frozen=True)
class PassedSource:
    """A source of the process that started this one."""

    descriptor: int
    offset: int
    size: int
    name: str


class _Part(io.RawIOBase):
    """Bytes of a file, read without moving the position of its descriptor."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size, self._at = descriptor, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, max(0, min(len(buffer), self._size - self._at)), self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_source(model: object) -> Source | None:
    """Return the source of a model that is not named by paths: bytes, a binary file object, an :class:`ArchiveMember`.

    None for everything else. A file object is read from its position on; one that is neither a file on disk nor an
    uncompressed member of an open archive on disk is read to its end, into memory. Raises :class:`ModelFileError` for
    what is not GGUF, cannot be read or does not fit the memory, :class:`UnsupportedError` for a compressed archive,
    ``TypeError`` for a text file, and what reading raises.
    """
    if isinstance(model, Source):
        return model.twin()
    if isinstance(model, PassedSource):
        return _opened(model.name, os.dup(model.descriptor), model.offset, model.size)
    if isinstance(model, ArchiveMember):
        name, start, size = model.find()
        descriptor = os.open(model.archive, os.O_RDONLY)
        member = ArchiveMember(os.path.abspath(model.archive), name)
        return _opened(f"{model.archive}/{name}", descriptor, start, size, member=member)
    if model is None or isinstance(model, (str, os.PathLike, list, tuple)):
        return None
    data = _buffer(model)
    if data is not None:
        if bytes(data[:4]) != MAGIC and 0 < len(data) < _LONGEST_PATH and bytes(data).decode("latin-1").isprintable():
            return None  # the path of a file as bytes, which no function of this package takes
        return _copied(f"<{len(data):,} bytes in memory>", io.BytesIO(b""), data)
    return _of_file(model) if callable(getattr(model, "read", None)) else None


@contextmanager
def naming(source: Source | None) -> Iterator[None]:
    """Name a source in errors, in place of its path."""
    try:
        yield
    except LlamaCffiError as error:
        if source is not None:
            error.message = error.message.replace(source.path, source.name)
            error.log = tuple(line.replace(source.path, source.name) for line in error.log)
            error.args = (error.message, *error.args[1:])
        raise


def _buffer(model: Any) -> memoryview | None:
    try:
        view = memoryview(model)
        return view.cast("B") if view.itemsize == 1 else None
    except (TypeError, ValueError):
        return None


def _of_file(file: Any) -> Source:
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"a model is read from a binary file, and {shown(file)} is a text file: open it with mode 'rb'")
    inner = getattr(file, "file", None)
    if isinstance(inner, io.BufferedIOBase):  # of tempfile.NamedTemporaryFile
        file = inner
    kind = getattr(file, "_compress_type", None)
    name = getattr(file, "name", None)
    label = f"<file {name}>" if isinstance(name, str) else f"<{type(file).__name__}>"
    if isinstance(kind, int):
        check_stored(label, kind)
    member = member_place(file)
    whole, start, size = member if member is not None else (file, 0, None)
    path = real_file(whole)
    if path is not None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ModelFileError(f"cannot read {label}: {error.strerror}") from error
        end = os.fstat(descriptor).st_size
        if size is None:
            start = file.tell()
            size = max(0, end - start)
        elif start + size > end:
            os.close(descriptor)
            raise ModelFileError(f"{label} is truncated: its archive has {end:,} of {start + size:,} bytes")
        return _opened(label, descriptor, start, size)
    return _copied(label, file)


def _opened(name: str, descriptor: int, start: int, size: int, *, member: ArchiveMember | None = None) -> Source:
    """The source of a part of an open file, whose descriptor belongs to it from now on."""
    file: Any = os.fdopen(descriptor, "rb", buffering=0)
    try:
        part = cast("BinaryIO", _Part(descriptor, start, size))
        _check_magic(name, part.read(len(MAGIC)))
        path = descriptor_path(descriptor)
        part.seek(0)
        front = _front(name, part)
        if not start and path is not None:
            return Source(Place(name, path, descriptor, size, Shared(file), member=member))
        if not _reads_parts() or (path is None and member is None):
            part.seek(0)
            found = _copied(name, part, member=member)
            file.close()
            return found
        header = header_file(name, front.data if front else os.pread(descriptor, min(size, _HEADER), start), size)
        shared, data_offset = Shared(file, header), front.end if front is not None else 0
        return Source(Place(name, header.path, descriptor, size, shared, start, data_offset, member))
    except BaseException:
        file.close()
        raise


def _front(name: str, part: BinaryIO) -> Front | None:
    front = read_front(part)
    if front is not None and front.n_split > 1:
        raise UnsupportedError(f"{name} is one of the {front.n_split} files of a model: give their paths")
    return front


def header_file(name: str, data: bytes, size: int) -> MemoryFile:
    """Return a file of a size that begins with bytes, and takes no memory for the rest. Raises ModelFileError."""
    header = MemoryFile()
    try:
        header.write(data)
        header.extend(max(size, len(data)))
    except BaseException as error:
        header.close()
        if isinstance(error, (OSError, OverflowError)):
            raise ModelFileError(f"cannot read {name}: {error}") from error
        raise
    return header


def _reads_parts() -> bool:
    """Whether the library reads a model that does not begin where its file does; older ones did not pad from there."""
    return all(binding.has(name) for name in ("llama_model_load_from_file_ptr", "gguf_init_from_callback"))


def _copied(name: str, file: Any, data: memoryview | None = None, *, member: ArchiveMember | None = None) -> Source:
    """The source of bytes in memory, or of what a file object returns up to its end, as a copy in memory."""
    first = bytes(data[:4]) if data is not None else _read(file.read, len(MAGIC), name)
    _check_magic(name, first)
    memory = MemoryFile()
    try:
        size = 0
        block: Any = first
        if data is not None:
            block = data
        while block:
            size += len(block)
            _check_room(name, len(block))
            memory.write(block)
            block = _read(file.read, _BLOCK, name)
        memory.seal()
        _front(name, cast("BinaryIO", _Part(memory.descriptor, 0, size)))
        return Source(Place(name, memory.path, memory.descriptor, size, Shared(memory), member=member))
    except BaseException as error:
        memory.close()
        if isinstance(error, OSError) and data is not None:
            raise ModelFileError(f"{name} could not be copied: {error.strerror}") from error
        raise


def _read(read: Callable[[int], Any], size: int, name: str) -> bytes:
    """At least one byte, at most ``size``; of the first ones all, if there are so many."""
    found = b""
    while len(found) < min(size, len(MAGIC)):
        block = read(size - len(found))
        if not isinstance(block, (bytes, bytearray, memoryview)):
            raise TypeError(f"read() of {name} returned {type(block).__name__}, not bytes: a model needs a binary file")
        if not block:
            break
        found += block
    return found


def _check_magic(name: str, first: bytes) -> None:
    if not first:
        raise ModelFileError(f"{name} is empty")
    if first != MAGIC:
        raise ModelFileError(f"{name} is not a GGUF file: it begins with {first!r}, not {MAGIC!r}")


def _check_room(name: str, size: int) -> None:
    room = available()
    if room and size > room:
        raise ModelFileError(
            f"{name} does not fit the memory: {size:,} bytes more, and {room:,} are available; "
            "give the path of a file instead"
        )


__all__ = ["MAGIC", "PassedSource", "Place", "Source", "header_file", "naming", "open_source"]
