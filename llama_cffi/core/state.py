"""The state of a Context's memory, as bytes and as llama.cpp's own files."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from llama_cffi._native import binding, ffi, guard, lib, log
from llama_cffi._util.arguments import check_flag, check_path
from llama_cffi._util.files import replacement
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.core.context_access import ContextAccess
from llama_cffi.core.memory import Memory
from llama_cffi.core.model import Model
from llama_cffi.errors import StateError, StateFormatError, StateMismatchError, StateWriteError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    BytesLike = bytes | bytearray | memoryview | NDArray[np.generic]

_FILE_HEADER = struct.Struct("<III")
_LENGTH = struct.Struct("<I")


class State(ProcessBound):
    """A view of the state of a :class:`~llama_cffi.core.context.Context`, whose native object it keeps alive.

    The bytes are llama.cpp's own. They have little information about their origin and no checksum: keep them in memory,
    and use :class:`~llama_cffi.core.saved_state.SavedState` for states on a disk or from another process. They fit a
    context over the same model, of the same llama.cpp, with the same KV types and kind of memory.

    Every method raises :class:`BusyError` while another thread is inside the context, and ``ValueError`` for a sequence
    id outside ``0 <= seq_id < n_seq_max``. A restored state replaces the previous one; when llama.cpp refuses it in the
    middle, that part of the memory is empty afterward.
    """

    _instead_of_pickling = "send its data(), or a SavedState"
    _instead_of_copying = "it is a view of a Context; data() copies what it shows"

    __slots__ = ("_access", "_memory", "_model", "_on_device")

    def __init__(self, access: ContextAccess, model: Model, memory: Memory) -> None:
        self._access = access
        self._model = model
        self._memory = memory
        # By sequence, whether what seq_data() left on the device is partial, and the bytes that stand for it.
        self._on_device: dict[int, tuple[bool, bytes]] = {}

    # -- the whole context

    @property
    def size(self) -> int:
        """The size of :meth:`data` in bytes. Wraps ``llama_state_get_size``."""
        with self._access.using() as ptr:
            return guard.call_int("llama_state_get_size", ptr)

    def data(self, out: BytesLike | None = None) -> NDArray[np.uint8]:
        """Return the state of all sequences, uint8 of shape ``(size,)``. Wraps ``llama_state_get_data``.

        ``out`` is a writable buffer to use instead of a new one; ``ValueError`` when it is too small.
        """
        with self._access.using() as ptr:
            buffer = _room(out, guard.call_int("llama_state_get_size", ptr))
            n = guard.call_int("llama_state_get_data", ptr, _pointer(buffer), len(buffer))
        return _filled(buffer, n)

    def set_data(self, data: BytesLike) -> None:
        """Restore all sequences. Wraps ``llama_state_set_data``.

        Raises :class:`StateFormatError` for bytes that are not a state, :class:`StateMismatchError` for one of another
        architecture, and :class:`StateError` with llama.cpp's reason for what does not fit.
        """
        source = _bytes(data)
        self._check_architecture(source[: _LENGTH.size + 256].tobytes(), len(source))
        with self._access.using(rewrites=True) as ptr:
            mark = log.mark()
            n = guard.call_int("llama_state_set_data", ptr, _pointer(source), len(source))
            if n != len(source):
                self._refused(None, n, len(source), mark)

    def _check_architecture(self, head: bytes, size: int) -> None:
        """llama.cpp begins with the name of the architecture, and reserves as many bytes as the length says."""
        if len(head) < _LENGTH.size:
            raise StateFormatError(f"{size} bytes are too few for a state")
        (n,) = _LENGTH.unpack_from(head)
        expected = self._model.architecture.encode()
        if n == 0 or n > min(256, size - _LENGTH.size):
            raise StateFormatError("the bytes are not the state of a context: they do not begin with an architecture")
        found = head[_LENGTH.size : _LENGTH.size + n]
        if found != expected:
            name = found.decode("utf-8", "replace")
            raise StateMismatchError(f"a state of a model of architecture {name!r}, not {expected.decode()!r}")

    # -- one sequence

    def seq_size(self, seq_id: int, *, partial: bool = False, on_device: bool = False) -> int:
        """Return the size of :meth:`seq_data` in bytes. Wraps ``llama_state_seq_get_size_ext``."""
        ext, flags = _flags(partial, on_device)
        with self._access.using() as ptr:
            return guard.call_int(f"llama_state_seq_get_size{ext}", ptr, self._access.check_seq_id(seq_id), *flags)

    def seq_data(
        self, seq_id: int, out: BytesLike | None = None, *, partial: bool = False, on_device: bool = False
    ) -> NDArray[np.uint8]:
        """Return the state of one sequence, uint8 of shape ``(n,)``. Wraps ``llama_state_seq_get_data_ext``.

        ``partial`` omits the cells of full attention, so that states that cannot be cut (recurrent layers, sliding
        windows) can be restored beside them. With ``on_device`` the tensors stay where they are computed, the bytes
        only refer to them, and the next such call for this sequence replaces them. Both raise :class:`UnsupportedError`
        with a library that lacks them.
        """
        ext, flags = _flags(partial, on_device)
        with self._access.using() as ptr:
            seq_id = self._access.check_seq_id(seq_id)
            buffer = _room(out, guard.call_int(f"llama_state_seq_get_size{ext}", ptr, seq_id, *flags))
            n = guard.call_int(f"llama_state_seq_get_data{ext}", ptr, _pointer(buffer), len(buffer), seq_id, *flags)
            found = _filled(buffer, n)
            if on_device:
                self._on_device[seq_id] = (partial, found.tobytes())
        return found

    def seq_set_data(self, seq_id: int, data: BytesLike, *, partial: bool = False, on_device: bool = False) -> None:
        """Restore one sequence, under any id. Wraps ``llama_state_seq_set_data_ext``.

        The options must be those of :meth:`seq_data`; bytes saved with ``on_device`` only serve the context that they
        are from, and raise :class:`StateMismatchError` once newer ones replaced them. Otherwise raises as
        :meth:`set_data`.
        """
        ext, flags = _flags(partial, on_device)
        source = _bytes(data)
        with self._access.using(rewrites=True) as ptr:
            seq_id = self._access.check_seq_id(seq_id)
            if on_device and (partial, source.tobytes()) not in self._on_device.values():
                # llama.cpp looks for the tensors without asking whether they are there.
                raise StateMismatchError(
                    "a state on the device can be restored into its own context only, until the next one is saved"
                )
            mark = log.mark()
            n = guard.call_int(f"llama_state_seq_set_data{ext}", ptr, _pointer(source), len(source), seq_id, *flags)
            if n != len(source):
                self._refused(seq_id, n, len(source), mark)

    # -- llama.cpp's files

    def save_file(self, path: str | os.PathLike[str], tokens: Sequence[int] | NDArray[np.int32] = ()) -> None:
        """Write a session file of llama.cpp; an existing file is replaced atomically. Wraps ``llama_state_save_file``.

        ``tokens`` go into the file beside the state. Raises :class:`StateWriteError`, for example on a full disk.
        """
        with self._access.lock():
            self._save_file("llama_state_save_file", path, (), tokens, self.size)

    def load_file(self, path: str | os.PathLike[str]) -> NDArray[np.int32]:
        """Restore a session file of llama.cpp and return its tokens, int32. Wraps ``llama_state_load_file``.

        Raises :class:`StateFormatError` for another file, another version, or a truncated head, otherwise the errors of
        :meth:`set_data`. Only its head can be checked beforehand: the format has no checksum.
        """
        n_tokens, _ = self._check_file(path, int(lib.LLAMA_SESSION_MAGIC), int(lib.LLAMA_SESSION_VERSION), whole=True)
        return self._load_file("llama_state_load_file", path, None, n_tokens)

    def seq_save_file(
        self, seq_id: int, path: str | os.PathLike[str], tokens: Sequence[int] | NDArray[np.int32] = ()
    ) -> None:
        """:meth:`save_file` for one sequence. Wraps ``llama_state_seq_save_file``."""
        self._save_file("llama_state_seq_save_file", path, (self._access.check_seq_id(seq_id),), tokens, None)

    def seq_load_file(self, seq_id: int, path: str | os.PathLike[str]) -> NDArray[np.int32]:
        """:meth:`load_file` for one sequence, under any id. Wraps ``llama_state_seq_load_file``."""
        magic, version = int(lib.LLAMA_STATE_SEQ_MAGIC), int(lib.LLAMA_STATE_SEQ_VERSION)
        n_tokens, size = self._check_file(path, magic, version, whole=False)
        return self._load_file("llama_state_seq_load_file", path, self._access.check_seq_id(seq_id), n_tokens, size)

    def _save_file(
        self,
        function: str,
        path: str | os.PathLike[str],
        seq_id: tuple[int, ...],
        tokens: Sequence[int] | NDArray[np.int32],
        n_state: int | None,
    ) -> None:
        ids = self._model.vocab.check_tokens(tokens)
        check_path("path", path)
        try:
            with replacement(path) as part:
                mark = log.mark()
                with self._access.using() as ptr:
                    n = guard.call_int(
                        function, ptr, os.fsencode(part), *seq_id, ffi.from_buffer("int32_t[]", ids), len(ids)
                    )
                log.pump()
                # What its C library still had in a buffer is written when it closes the file, and that is not checked.
                expected = n if n_state is None else _FILE_HEADER.size + ids.nbytes + n_state
                if not n or part.stat().st_size != expected:
                    raise StateWriteError(f"llama.cpp cannot write {os.fspath(path)}", log=log.lines_since(mark))
        except StateWriteError:
            raise
        except OSError as error:
            raise write_error(path, error) from error

    def _check_file(self, path: str | os.PathLike[str], magic: int, version: int, *, whole: bool) -> tuple[int, int]:
        """(number of tokens, size) of a file of llama.cpp that may be loaded."""
        name = os.fspath(check_path("path", path))
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_FILE_HEADER.size)
            if len(head) < _FILE_HEADER.size:
                raise StateFormatError(f"{name} is not a state of llama.cpp: it has {size} bytes")
            found_magic, found_version, n_tokens = _FILE_HEADER.unpack(head)
            if found_magic != magic:
                raise StateFormatError(f"{name} is not such a state of llama.cpp: it begins with {head[:4]!r}")
            if found_version != version:
                raise StateFormatError(f"{name} has version {found_version}; this llama.cpp reads {version}")
            start = _FILE_HEADER.size + 4 * n_tokens
            if start >= size:
                raise StateFormatError(f"{name} says {n_tokens} tokens and has {size} bytes")
            if whole:
                file.seek(start)
                self._check_architecture(file.read(_LENGTH.size + 256), size - start)
        return n_tokens, size

    def _load_file(
        self, function: str, path: str | os.PathLike[str], seq_id: int | None, n_tokens: int, size: int | None = None
    ) -> NDArray[np.int32]:
        room = np.empty(max(1, n_tokens), dtype=np.int32)
        count = ffi.new("size_t *")
        target = () if seq_id is None else (seq_id,)
        with self._access.using(rewrites=True) as ptr:
            mark = log.mark()
            n = guard.call_int(
                function, ptr, os.fsencode(path), *target, ffi.from_buffer("int32_t[]", room), len(room), count
            )
            if not n or (size is not None and n != size):
                self._refused(seq_id, n, size or 0, mark)
            tokens = room[: count[0]]
            try:
                return self._model.vocab.check_tokens(tokens)
            except ValueError as error:
                self._empty(seq_id)
                raise StateMismatchError(f"{os.fspath(path)} is of another model: {error}") from error

    # -- both

    def _empty(self, seq_id: int | None) -> None:
        if seq_id is None:
            self._memory.clear()
        else:
            self._memory.seq_rm(seq_id)

    def _refused(self, seq_id: int | None, n: int, size: int, mark: int) -> NoReturn:
        log.pump()
        lines = log.lines_since(mark)
        self._empty(seq_id)
        if n:
            raise StateFormatError(f"the state ends after {n} bytes, and {size} were given", log=lines)
        raise StateError("llama.cpp refuses the state", log=lines)


def write_error(path: str | os.PathLike[str], error: OSError) -> StateWriteError:
    """Return what to raise when a state cannot be written."""
    result = StateWriteError(f"cannot write {os.fspath(path)}: {error.strerror or error}")
    result.errno, result.strerror, result.filename = error.errno, error.strerror, os.fspath(Path(path))
    return result


def _flags(partial: bool, on_device: bool) -> tuple[str, tuple[int, ...]]:
    """The ending of the function's name, and its last argument."""
    if not (check_flag("partial", partial) | check_flag("on_device", on_device)):
        return "", ()
    flags = int(lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) if partial else 0
    return "_ext", (flags | (int(lib.LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) if on_device else 0),)


def has_partial_states() -> bool:
    """Return whether the library can save states without the cells of full attention."""
    return binding.has("LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY")


def view_of(data: BytesLike) -> memoryview:
    """Return the memory of a buffer; TypeError for anything else."""
    try:
        view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    except (TypeError, ValueError, BufferError):
        raise TypeError(f"data must be bytes or another buffer, not {type(data).__name__}") from None
    if "O" in view.format:
        # Pointers to Python's objects: written over, they end the process.
        raise TypeError("data must be bytes or another buffer of numbers, not of objects")
    return view


def _bytes(data: BytesLike) -> NDArray[np.uint8]:
    view = view_of(data)
    if not view.nbytes:
        raise StateFormatError("0 bytes are too few for a state")
    return np.frombuffer(view, dtype=np.uint8)


def _room(out: BytesLike | None, size: int) -> NDArray[np.uint8]:
    if out is None:
        # Not ffi.new: it would write zeros over memory that is about to be written anyway.
        return np.empty(size, dtype=np.uint8)
    view = view_of(out)
    if view.readonly or view.nbytes < size:
        raise ValueError(f"out must be writable and hold {size} bytes; it has {view.nbytes}")
    return np.frombuffer(view, dtype=np.uint8)


def _filled(buffer: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
    if not n:
        raise StateError("llama.cpp cannot save the state", log=log.lines_since(log.call_mark()))
    return buffer[:n]


def _pointer(buffer: NDArray[np.uint8]) -> Any:
    return ffi.from_buffer("uint8_t[]", buffer)


__all__ = ["State", "has_partial_states", "view_of", "write_error"]
