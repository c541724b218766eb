"""A state with a header, which is checked before llama.cpp reads it: in memory, as bytes, in a file."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from llama_cffi._util.arguments import check_path
from llama_cffi._util.checksum import BLOCK, Checksum
from llama_cffi._util.files import replacement, start_writeback
from llama_cffi._util.worker import work_off
from llama_cffi.core.prompt import Prompt
from llama_cffi.core.state import view_of, write_error
from llama_cffi.core.state_header import MemoryKind, SavedCheckpoint, SavedSequence, StateHeader, library_name
from llama_cffi.errors import StateError, StateFormatError, StateMismatchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.context import Context
    from llama_cffi.core.state import BytesLike

    Checkpoint = tuple[int, BytesLike, bool]
    """After how many cells, its bytes, and whether these are without the cells of full attention."""

MAGIC = b"LCFSTATE"
VERSION = 1
# Magic, version, lengths of header and payload, their digests. Little-endian whatever the machine.
_FRONT = struct.Struct("<8sIQQ16s16s")
_WRITE = 8 * BLOCK
"""About 2 MB: what was summed is still in the cache when it is copied."""
_WRITEBACK = 16 * _WRITE
"""About 33 MB: as much goes to the disk while the next is copied. In smaller pieces some disks take twice the time."""
_READ = 192 * BLOCK
"""About 50 MB: while the disk reads one the one before is summed. With pieces of a few megabytes it reads slower."""


class SavedState:
    """The state of a context or of one sequence, with its header.

    As bytes and in files: a front of 60 bytes (magic ``LCFSTATE``, version, lengths, checksums), the header as JSON,
    then llama.cpp's bytes, those of checkpoints last.
    """

    __slots__ = ("header", "payload")

    def __init__(self, header: StateHeader, payload: NDArray[np.uint8]) -> None:
        self.header = header
        """The origin of the state and its contents."""
        self.payload = payload
        """llama.cpp's bytes, uint8 of shape ``(n,)``."""

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The bytes of the whole memory, without those of checkpoints."""
        return self.payload[: len(self.payload) - self.header.n_checkpoint_bytes]

    def checkpoints(self, seq_id: int) -> list[Checkpoint]:
        """Return the checkpoints of a sequence of the header, with their bytes."""
        start = len(self.memory)
        found: list[Checkpoint] = []
        for one, sequence in self.header.sequences.items():
            for checkpoint in sequence.checkpoints:
                end = start + checkpoint.n_bytes
                if one == seq_id:
                    found.append((checkpoint.n_cells, self.payload[start:end], checkpoint.partial))
                start = end
        return found

    @classmethod
    def take(
        cls,
        context: Context,
        prompts: Mapping[int, Sequence[int]] | None = None,
        *,
        seq_id: int | None = None,
        conditioning: Sequence[str] = (),
        checkpoints: Mapping[int, Sequence[Checkpoint]] | None = None,
    ) -> SavedState:
        """Save a context, or only the sequence ``seq_id``; one copy of the memory.

        ``prompts`` are the contents of each sequence (tokens, or a :class:`~llama_cffi.core.prompt.Prompt`), if the
        caller knows them; ``conditioning`` names the current adapters and control vector. ``checkpoints`` are what the
        memory of each sequence was after some of its first cells. Raises ``ValueError`` when a prompt does not cover
        the positions in memory, and for an empty sequence.
        """
        with context.lock():
            memory, state = context.memory, context.state
            ids = range(context.n_seq_max) if seq_id is None else (seq_id,)
            last = {one: memory.seq_pos_max(one) for one in ids}
            sequences = {
                one: _sequence(context, one, pos + 1, (prompts or {}).get(one), (checkpoints or {}).get(one, ()))
                for one, pos in last.items()
                if pos is not None
            }
            if seq_id is not None and not sequences:
                raise ValueError(f"sequence {seq_id} is empty")
            payload = state.data() if seq_id is None else state.seq_data(seq_id)
        kept = [view_of(data) for one in sequences for _, data, _ in (checkpoints or {}).get(one, ())]
        if kept:
            payload = np.concatenate([payload, *(np.frombuffer(one, dtype=np.uint8) for one in kept)])
        header = StateHeader(
            kind="context" if seq_id is None else "sequence",
            model=context.model.fingerprint,
            library=library_name(),
            memory=MemoryKind.of(context),
            conditioning=tuple(conditioning),
            sequences=sequences,
        )
        return cls(header, payload)

    def restore(
        self, context: Context, *, seq_id: int | None = None, conditioning: Sequence[str] = ()
    ) -> dict[int, Prompt | None]:
        """Restore the state, and return the contents of each sequence.

        A single sequence is restored as ``seq_id`` (default: its own), a whole context replaces all sequences. Raises
        :class:`StateMismatchError` before anything is changed when it does not fit, and :class:`StateError` when
        llama.cpp refuses it nevertheless; the replaced sequences are then empty.
        """
        header = self.header
        header.check(context, conditioning=conditioning)
        if header.kind == "context":
            if seq_id is not None:
                raise StateMismatchError("the state of a whole context cannot be restored into one sequence")
            targets = dict(header.sequences)
        else:
            ((saved_id, sequence),) = header.sequences.items()
            targets = {saved_id if seq_id is None else seq_id: sequence}
        with context.lock():
            memory = context.memory
            if header.kind == "context":
                context.state.set_data(self.memory)
            else:
                context.state.seq_set_data(next(iter(targets)), self.memory)
            for target, sequence in targets.items():
                if not _covers(sequence, memory.seq_pos_max(target)):
                    for one in targets:
                        memory.seq_rm(one)
                    raise StateFormatError(
                        f"the positions of sequence {target} in the state differ from those in its header"
                    )
        return {target: sequence.prompt for target, sequence in targets.items()}

    # -- bytes and files

    @property
    def nbytes(self) -> int:
        """The size of its file in bytes."""
        return _FRONT.size + len(self.header.to_json()) + len(self.payload)

    def to_bytes(self) -> bytes:
        """Return all of it as bytes; :meth:`from_bytes` reads them."""
        buffer = io.BytesIO()
        self._write(buffer, sync=False)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: BytesLike) -> SavedState:
        """Return the state of :meth:`to_bytes`, without a copy. Raises :class:`StateFormatError` for other or damaged
        bytes."""
        view = view_of(data).cast("B")
        start, header, n_payload, digest = _read_front(io.BytesIO(view[: _front_size(view)]), len(view))
        payload = np.frombuffer(view, dtype=np.uint8, count=n_payload, offset=start)
        checksum = Checksum()
        checksum.update(payload)
        _check_digest(checksum, digest)
        return cls(header, payload)

    def write(self, path: str | os.PathLike[str], *, sync: bool = True) -> None:
        """Write a file for :meth:`read`; an existing file is replaced atomically. ``sync`` waits for the disk. Raises
        :class:`StateWriteError`, for example on a full disk; an existing file at ``path`` is then unchanged.
        """
        try:
            with replacement(check_path("path", path), sync=sync) as part, open(part, "r+b", buffering=0) as file:
                self._write(file, sync=sync)
        except OSError as error:
            raise write_error(path, error) from error

    @classmethod
    def read(cls, path: str | os.PathLike[str], check: Callable[[StateHeader], None] | None = None) -> SavedState:
        """Read a file of :meth:`write`.

        ``check`` sees the header before the rest is read, and may raise. Raises :class:`StateFormatError` for another
        or a damaged file.
        """
        try:
            with open(check_path("path", path), "rb", buffering=0) as file:
                start, header, n_payload, digest = _read_front(file, os.fstat(file.fileno()).st_size)
                if check is not None:
                    check(header)
                file.seek(start)
                return cls(header, _read_payload(file, n_payload, digest))
        except StateFormatError as error:
            raise StateFormatError(f"{os.fspath(path)}: {error.message}") from error

    def _write(self, file: BinaryIO | io.FileIO, *, sync: bool) -> None:
        head = self.header.to_json()
        payload = self.payload
        # The checksum comes to the front when the payload has passed: it is read once only.
        _write_all(file, bytes(_FRONT.size) + head)
        checksum = Checksum()
        for start in range(0, len(payload), _WRITE):
            chunk = payload[start : start + _WRITE]
            checksum.update(chunk)
            _write_all(file, chunk.data)
            if sync and (start + _WRITE) % _WRITEBACK == 0:
                start_writeback(file, file.tell() - _WRITEBACK, _WRITEBACK)
        file.seek(0)
        front = _FRONT.pack(MAGIC, VERSION, len(head), len(payload), _digest(head), checksum.digest())
        _write_all(file, front)


def read_header(path: str | os.PathLike[str]) -> StateHeader:
    """Return the header of a file, checked; the payload is not read. Raises :class:`StateFormatError`."""
    with open(path, "rb", buffering=0) as file:
        return _read_front(file, os.fstat(file.fileno()).st_size)[1]


def _sequence(
    context: Context, seq_id: int, n_past: int, cells: Sequence[int] | None, checkpoints: Sequence[Checkpoint]
) -> SavedSequence:
    if cells is None:
        return SavedSequence(n_past=n_past)
    prompt = cells if isinstance(cells, Prompt) else Prompt(context.model.vocab.check_tokens(cells).tolist())
    context.model.vocab.check_tokens(prompt.tokens)
    if not prompt.least_positions <= n_past <= prompt.n_positions:
        raise ValueError(
            f"sequence {seq_id} has {n_past} positions in memory, and {prompt.n_positions} tokens were given"
        )
    found = tuple(SavedCheckpoint(n, view_of(data).nbytes, partial) for n, data, partial in checkpoints)
    return SavedSequence(n_past=prompt.n_positions, prompt=prompt, checkpoints=found)


def _covers(sequence: SavedSequence, last: int | None) -> bool:
    """Whether memory that ends at this position is that of a saved sequence."""
    least = sequence.n_past if sequence.prompt is None else sequence.prompt.least_positions
    return last is not None and least <= last + 1 <= sequence.n_past


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _check_digest(checksum: Checksum, digest: bytes) -> None:
    if checksum.digest() != digest:
        raise StateFormatError("the state is damaged: its checksum does not match")


def _front_size(view: memoryview) -> int:
    """How much of some bytes is front and header, as far as they say so."""
    if len(view) < _FRONT.size:
        return len(view)
    return min(len(view), _FRONT.size + int(_FRONT.unpack_from(view)[2]))


def _read_front(file: Any, size: int) -> tuple[int, StateHeader, int, bytes]:
    """Where the payload starts, the header, and the payload's length and checksum."""
    front = file.read(_FRONT.size)
    if front[: len(MAGIC)] != MAGIC:
        raise StateFormatError("this is not a saved state")
    if len(front) < _FRONT.size:
        raise StateFormatError("the state is cut short")
    _, version, n_header, n_payload, header_digest, digest = _FRONT.unpack(front)
    if version != VERSION:
        raise StateFormatError(f"the state has format version {version}; supported is {VERSION}")
    start = _FRONT.size + n_header
    if start + n_payload != size:
        what = "cut short" if start + n_payload > size else "damaged"
        raise StateFormatError(f"the state is {what}: its header says {start + n_payload} bytes, and it has {size}")
    head = file.read(n_header)
    if _digest(head) != header_digest:
        raise StateFormatError("the state is damaged: the checksum of its header does not match")
    header = StateHeader.from_json(head)
    if n_payload <= header.n_checkpoint_bytes:
        raise StateFormatError("the state is empty")
    return start, header, n_payload, digest


def _read_payload(file: Any, n_payload: int, digest: bytes) -> NDArray[np.uint8]:
    # Read, not mapped: truncating a mapped file ends the process that reads it.
    try:
        payload = np.empty(n_payload, dtype=np.uint8)
    except MemoryError as error:
        raise StateError(f"no memory for a state of {n_payload} bytes") from error
    checksum = Checksum()
    pieces: SimpleQueue[NDArray[np.uint8] | None] = SimpleQueue()
    stopped = threading.Event()

    def read() -> None:
        for start in range(0, n_payload, _READ):
            if stopped.is_set():
                return
            piece = payload[start : start + _READ]
            _read_all(file, piece.data)
            pieces.put(piece)
        pieces.put(None)

    def add() -> None:
        while (piece := pieces.get()) is not None:
            checksum.update(piece)

    def stop() -> None:
        stopped.set()
        pieces.put(None)

    # What is one piece needs no second thread: it is read, and then it is summed.
    work_off((read, add), [_call] * (2 if n_payload > _READ else 1), stop)
    _check_digest(checksum, digest)
    return payload


def _call(job: Callable[[], None]) -> None:
    job()


def _read_all(file: Any, room: memoryview) -> None:
    while room.nbytes:
        n = file.readinto(room)
        if not n:
            raise StateFormatError("the state is cut short")
        room = room[n:]


def _write_all(file: BinaryIO | io.FileIO, data: Any) -> None:
    view = memoryview(data)
    while view.nbytes:
        view = view[file.write(view) :]


__all__ = ["SavedState", "StateHeader", "read_header"]
