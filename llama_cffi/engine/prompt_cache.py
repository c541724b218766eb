"""A folder of states of computed prompts, which are found by their beginning, also by other processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi._util.files import PART
from llama_cffi._util.scalars import is_int
from llama_cffi._util.shown import shown
from llama_cffi.core.prompt import Prompt, common_prefix, reusable
from llama_cffi.core.saved_state import SavedState, read_header
from llama_cffi.core.state_header import MemoryKind, library_name
from llama_cffi.errors import StateError, StateFormatError

if TYPE_CHECKING:
    from llama_cffi.core.context import Context

logger = logging.getLogger("llama_cffi.prompt_cache")
logger.addHandler(logging.NullHandler())

SUFFIX = ".llmstate"
_STALE_SECONDS = 3600.0


class CachedPrompt:
    """The state of one prompt, checked."""

    __slots__ = ("_conditioning", "prompt", "saved")

    def __init__(self, saved: SavedState | None, prompt: Prompt, conditioning: Sequence[str] = ()) -> None:
        self.saved = saved
        """None when the cache was known to hold it already as it was to be copied."""
        self.prompt = prompt
        """What it holds."""
        self._conditioning = conditioning

    def restore(self, context: Context, seq_id: int) -> str | None:
        """Put it into a sequence; otherwise say why llama.cpp has no room for it."""
        if self.saved is None:
            raise ValueError("only a name of this state was kept")
        try:
            self.saved.restore(context, seq_id=seq_id, conditioning=self._conditioning)
        except StateError as error:
            return str(error)
        return None


class PromptCache:
    """A folder of states of single sequences, at most ``max_bytes`` in all.

    Give one to :class:`Llama`: what a request has computed is kept when it ends, if it has at least ``min_tokens``
    tokens and nothing kept begins with them, and read back for a prompt that begins alike, if that spares computing
    ``min_tokens`` tokens. A saved state serves any common beginning if it can be cut. Those of recurrent models and of
    sliding windows cannot: they serve a prompt that goes on where a kept text ended.

    The files used least recently go first. One that is damaged is removed and a warning logged, and so is a failure to
    write: generating goes on. Several processes may share the folder, and several models: each finds its own files.
    The files hold the texts: a reader of the folder can read them. Requests with adapters, or under a control vector,
    neither keep nor find anything here. Raises ``ValueError`` for numbers below 1.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = 4 * 2**30, min_tokens: int = 64) -> None:
        if not (is_int(max_bytes, 1, sys.maxsize) and is_int(min_tokens, 1, sys.maxsize)):
            raise ValueError(
                f"max_bytes and min_tokens must be at least 1, got {shown(max_bytes)} and {shown(min_tokens)}"
            )
        self.folder = Path(folder)
        self.max_bytes, self.min_tokens = int(max_bytes), int(min_tokens)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Prompt] = {}

    def __repr__(self) -> str:
        return f"<PromptCache {str(self.folder)!r}: {self.nbytes} of {self.max_bytes} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _same_folder, (os.path.abspath(self.folder), self.max_bytes, self.min_tokens)

    @property
    def nbytes(self) -> int:
        """The size of all files in it, in bytes."""
        return sum(size for _, size, _ in self._files())

    def clear(self) -> None:
        """Remove every file, also those of other models."""
        for path, _, _ in self._files():
            _remove(path)

    def find(self, context: Context, prompt: Prompt, held: int, *, can_cut: bool) -> CachedPrompt | None:
        """Read the state that spares a prompt most, if it is ``min_tokens`` more than the ``held`` cells in memory."""
        entries = self._entries(context)
        useful = {name: reusable(kept, prompt, can_cut=can_cut) for name, kept in entries.items()}
        for name in sorted(useful, key=lambda name: (-useful[name], len(entries[name]))):
            if useful[name] < held + self.min_tokens:
                break
            path = self.folder / name
            try:
                saved = SavedState.read(path, lambda header: header.check(context))
                os.utime(path)
            except StateFormatError as error:
                self._drop_damaged(path, error)
            except StateError:
                continue  # too long for this context
            except OSError:
                self._known.pop(name, None)  # another process has removed it
            else:
                return CachedPrompt(saved, entries[name])
        return None

    def take(self, context: Context, seq_id: int, held: Prompt, *, can_cut: bool) -> CachedPrompt | None:
        """Copy the memory of a sequence for :meth:`store`; None when it is too short. Looks at no file."""
        if len(held) < self.min_tokens:
            return None
        key = _key(context)
        known = {name: kept for name, kept in list(self._known.items()) if name.startswith(key)}
        if _holder(known, held, can_cut=can_cut) is not None:
            return CachedPrompt(None, held)
        try:
            return CachedPrompt(SavedState.take(context, {seq_id: held}, seq_id=seq_id), held)
        except StateError as error:
            logger.warning("cannot keep a prompt in %s: %s", self.folder, error)
            return None

    def store(self, context: Context, taken: CachedPrompt, *, can_cut: bool) -> None:
        """Write what :meth:`take` copied, unless a file holds as much."""
        saved, prompt = taken.saved, taken.prompt
        entries = self._entries(context)
        holder = _holder(entries, prompt, can_cut=can_cut)
        if holder is not None:
            with contextlib.suppress(OSError):
                os.utime(self.folder / holder)
            return
        if saved is None:
            return  # another process removed the file in the meantime
        name = f"{_key(context)}-{prompt.digest()}{SUFFIX}"
        try:
            if not self._make_room(saved.nbytes):
                return
            # A file that a power cut has damaged is found out by its checksum.
            saved.write(self.folder / name, sync=False)
        except (StateError, OSError) as error:
            logger.warning("cannot keep a prompt in %s: %s", self.folder, error)
            return
        self._known[name] = prompt
        if can_cut:
            for shorter, kept in entries.items():
                if common_prefix(kept, prompt) == len(kept):
                    _remove(self.folder / shorter)

    def _entries(self, context: Context) -> dict[str, Prompt]:
        """What each file holds that may fit a context. Only what is new since the last call is read."""
        key = _key(context)
        names = [path.name for path, _, _ in self._files() if path.name.startswith(key)]
        for gone in [name for name in list(self._known) if name.startswith(key) and name not in names]:
            self._known.pop(gone, None)
        for name in names:
            if name not in self._known:
                try:
                    ((sequence),) = read_header(self.folder / name).sequences.values()
                    self._known[name] = sequence.prompt or Prompt()
                except (StateFormatError, ValueError) as error:
                    self._drop_damaged(self.folder / name, error)
                except OSError:
                    continue
        # Another thread, of a fork of the Llama, may drop some of them meanwhile.
        return {name: kept for name in names if (kept := self._known.get(name)) is not None}

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Path, size and time of last use of each file. A file left by a process that ended while writing goes."""
        try:
            found = list(os.scandir(self.folder))
        except OSError:
            return
        for entry in found:
            ours = entry.name.endswith(SUFFIX)
            if not ours and not (entry.name.startswith(".") and SUFFIX in entry.name and entry.name.endswith(PART)):
                continue
            try:
                status = entry.stat()
            except OSError:
                continue
            if ours:
                yield Path(entry.path), status.st_size, status.st_mtime
            elif time.time() - status.st_mtime > _STALE_SECONDS:
                _remove(Path(entry.path))

    def _make_room(self, size: int) -> bool:
        if size > self.max_bytes:
            return False
        files = sorted(self._files(), key=lambda file: file[2])
        total = sum(file[1] for file in files)
        for path, freed, _ in files:
            if total + size <= self.max_bytes:
                break
            _remove(path)
            self._known.pop(path.name, None)
            total -= freed
        return True

    def _drop_damaged(self, path: Path, error: Exception) -> None:
        logger.warning("removing a damaged file of the prompt cache: %s", error)
        self._known.pop(path.name, None)
        _remove(path)


def _same_folder(folder: str, max_bytes: int, min_tokens: int) -> PromptCache:
    return PromptCache(folder, max_bytes=max_bytes, min_tokens=min_tokens)


def _holder(entries: Mapping[str, Prompt], prompt: Prompt, *, can_cut: bool) -> str | None:
    """The entry that holds all of a prompt."""
    n = len(prompt)
    for name, kept in entries.items():
        if common_prefix(kept, prompt) == n and (can_cut or len(kept) == n):
            return name
    return None


def _key(context: Context) -> str:
    """What the names of all files begin with that may fit a context."""
    memory = asdict(MemoryKind.of(context))
    for name in ("n_ctx", "n_ctx_seq", "n_seq_max"):
        del memory[name]
    what = [asdict(context.model.fingerprint), library_name(), memory, MemoryKind.of(context).n_streams]
    return _hash(json.dumps(what).encode())


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=10).hexdigest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


__all__ = ["CachedPrompt", "PromptCache"]
