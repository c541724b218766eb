"""Downloading one file so that nothing of it is fetched twice: also after a crash, and by two processes at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from llama_cffi.errors import HubChecksumError, HubConnectionError, HubNotFoundError, HubStorageError
from llama_cffi.hub.web import Answer, WebFile, request

_BLOCK = 1 << 20
_ATTEMPTS = 5
"""Requests in a row that bring nothing, after which the error is raised."""
_FIRST_PAUSE = 0.5
"""Seconds before the second request, doubled before each further one."""
_LOCK_POLL = 0.2
MAGIC = b"GGUF"

Report = Callable[[int], object]
"""Receives how many bytes are there; what it raises ends the download."""


@dataclass
class Version:
    """What tells one content of an address from another; None where the server does not say."""

    etag: str | None = None
    modified: str | None = None
    size: int | None = None
    sha256: str | None = None
    address: str | None = None
    """Where it comes from, without secrets."""

    @property
    def can_resume(self) -> bool:
        """Whether a part of it can be completed: by a server that says what it sends, or with a known checksum."""
        return bool(self.etag or self.modified or self.sha256)


class Transfer:
    """The download of one file to ``target``, by way of ``target.part``.

    The part stays when the download is interrupted, by a cancel or a crash, too, and the next one goes on behind it if
    the file on the server is the same. The target appears when it is complete and its SHA-256, where it is known, was
    compared; with ``keep_facts`` its version stands beside it then, see :func:`facts_of`.
    """

    def __init__(
        self, file: WebFile, target: Path, report: Report, *, size: int | None = None, keep_facts: bool = False
    ) -> None:
        self._file, self._target, self._report, self._keep_facts = file, target, report, keep_facts
        self._announced = size
        self._part = part_of(target)
        self._facts = facts_of(self._part)
        self.version = Version(size=size, sha256=file.sha256)
        """What is downloaded."""

    def run(self, is_current: Callable[[], bool] = lambda: True) -> None:
        """Download the file, unless the target exists and ``is_current``, once no other process downloads it.

        Raises the subclasses of :class:`HubError` and what the report raises.
        """
        with storing(self._target), only_one(self._target, self._waited):
            if not self._target.exists() or not is_current():
                try:
                    self._fetch()
                finally:
                    self._drop_empty()

    def _drop_empty(self) -> None:
        """Delete a part of no bytes: nothing has come, and nothing can go on from it."""
        with suppress(OSError):
            if not self._part.stat().st_size:
                self._part.unlink()
                self._facts.unlink()

    def _waited(self) -> None:
        with suppress(OSError):
            self._report(self._part.stat().st_size)

    def _fetch(self) -> None:
        known = read_version(self._facts)
        if known is None or not self._same_file(known):
            self._part.unlink(missing_ok=True)
        else:
            self.version = known
        failures, pause = 0, _FIRST_PAUSE
        with open(os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as part:
            while True:
                before = _size(part)
                try:
                    if self._ask(part):
                        break
                    raise HubConnectionError(f"{self._file.label} could not be fetched: the connection broke")
                except HubConnectionError:
                    failures, pause = (failures + 1, pause) if _size(part) <= before else (1, _FIRST_PAUSE)
                    if failures >= _ATTEMPTS:
                        raise
                    time.sleep(pause)
                    pause *= 2
            self._check(part)
            os.fsync(part.fileno())
        os.replace(self._part, self._target)
        if self._keep_facts:
            os.replace(self._facts, facts_of(self._target))
        else:
            self._facts.unlink(missing_ok=True)

    def _same_file(self, known: Version) -> bool:
        """Whether a part that was begun can be completed."""
        for mine, theirs in ((self.version.sha256, known.sha256), (self.version.size, known.size)):
            if mine is not None and theirs is not None and mine != theirs:
                return False
        return known.can_resume

    def _ask(self, part: BinaryIO) -> bool:
        """Make one request and write what comes; return whether the file is complete."""
        have = _size(part) if self.version.can_resume else 0
        size = self.version.size
        if have and size is not None and have >= size:
            if have == size and self.version.sha256 is not None:
                return True
            have = have if have == size else 0
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            if condition := self.version.etag or self.version.modified:
                headers["If-Range"] = condition
        with request(self._file, headers) as answer:
            if answer.status == 206 and have:
                start, _, whole = answer.part()
                same = whole is None or size is None or whole == size
                same = same and all(
                    theirs is None or mine is None or theirs == mine
                    for theirs, mine in (
                        (answer.etag, self.version.etag),
                        (answer.modified, self.version.modified),
                    )
                )
                if start != have or not same:
                    return self._begin_again(part)
                self.version.size = size if size is not None else whole
            elif answer.status == 200:
                have = 0
                part.truncate(0)
                self._begin(answer)
            elif answer.status == 416 and have == size and (answer.etag or self.version.etag) == self.version.etag:
                return True
            elif have:
                return self._begin_again(part)  # the file is shorter now
            else:
                raise HubConnectionError(f"the server of {self._file.label} answers HTTP {answer.status}")
            part.seek(have)
            return self._write(part, answer, have)

    def _begin(self, answer: Answer) -> None:
        """Note which content comes, before the first byte of it."""
        announced = self._announced if self._announced is not None else answer.length
        self.version = Version(answer.etag, answer.modified, announced, self._file.sha256, self._file.label)
        if announced is not None:
            free = shutil.disk_usage(self._part.parent).free
            if announced > free:
                raise HubStorageError(
                    f"{self._file.label} needs {announced:,} bytes in {self._part.parent}, where {free:,} are free"
                )
        self._facts.write_text(json.dumps(asdict(self.version)), encoding="utf-8")

    def _begin_again(self, part: BinaryIO) -> bool:
        part.truncate(0)
        self.version = Version(size=self._announced, sha256=self._file.sha256)
        return self._ask(part)

    def _write(self, part: BinaryIO, answer: Answer, have: int) -> bool:
        size = self.version.size
        while data := answer.read(_BLOCK):
            if have == 0 and self._announced is None and not data.startswith(MAGIC[: len(data)]):
                part.truncate(0)
                raise HubNotFoundError(
                    f"{self._file.label} is not a GGUF file: it begins with {data[:16]!r}, not {MAGIC!r}"
                )
            if size is not None and have + len(data) > size:
                part.truncate(0)
                raise HubConnectionError(f"the server of {self._file.label} sends more than the {size:,} bytes it has")
            rest = memoryview(data)
            while rest:
                rest = rest[part.write(rest) :]
            have += len(data)
            self._report(have)
        if have < len(MAGIC) and self._announced is None:
            # As of a connection that broke in the headers, which Python's module takes for the whole of them.
            raise HubConnectionError(f"the server of {self._file.label} sends {have} bytes, which are no GGUF file")
        return have == size if size is not None else True

    def _check(self, part: BinaryIO) -> None:
        """Compare the checksum. Raises :class:`HubChecksumError` and deletes the part."""
        wanted = self.version.sha256
        if wanted is None:
            return
        digest = hashlib.sha256()
        part.seek(0)
        while data := part.read(_BLOCK):
            digest.update(data)
        if digest.hexdigest() != wanted:
            self._part.unlink(missing_ok=True)
            self._facts.unlink(missing_ok=True)
            raise HubChecksumError(
                f"{self._file.label} was downloaded damaged and was deleted: SHA-256 {digest.hexdigest()} instead of "
                f"{wanted}"
            )


def _size(part: BinaryIO) -> int:
    return os.fstat(part.fileno()).st_size


def part_of(target: Path) -> Path:
    """Return where a file is while it is downloaded, and afterwards when that was interrupted."""
    return target.with_name(target.name + ".part")


def facts_of(target: Path) -> Path:
    """Return where the version of a downloaded file is noted."""
    return target.with_name(target.name + ".json")


def read_version(path: Path) -> Version | None:
    """Return what was noted of a file; None where nothing sound was."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = Version(**found)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (version.etag, version.modified, version.sha256, version.address)
    sound = all(isinstance(text, str | None) for text in texts) and isinstance(version.size, int | None)
    sound = sound and (version.size is None or version.size >= 0)
    return version if sound else None


@contextmanager
def storing(target: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error of this package; the part stays."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, (HubStorageError, HubConnectionError)):
            raise
        goes_on = "; the next download goes on where this one ended" if error.errno == errno.ENOSPC else ""
        raise HubStorageError(f"{target} could not be stored: {error.strerror or error}{goes_on}") from error


@contextmanager
def only_one(target: Path, waited: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of a file between processes and threads; ``waited`` is called while another one has it.

    Its folder is made, if it is not there.
    """
    path = target.with_name(target.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # a system without flock
        yield
        return
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was empty, and was deleted
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        with open(descriptor, "r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited()
                time.sleep(_LOCK_POLL)
                continue
            except OSError:  # a file system without locks
                pass
            if not _is_at(file, path):
                continue  # the one that had it is done, and has deleted it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


__all__ = ["MAGIC", "Report", "Transfer", "Version", "facts_of", "only_one", "part_of", "read_version", "storing"]
