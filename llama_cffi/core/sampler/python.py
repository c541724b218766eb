"""Samplers written in Python."""

from __future__ import annotations

import operator
import weakref
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import ffi
from llama_cffi._native.atomic import Cell
from llama_cffi._native.selector import logits_sound, write_candidates
from llama_cffi.core.sampler.base import Sampler
from llama_cffi.errors import InUseError, SamplerError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi._native.handle import Handle
    from llama_cffi.core.vocab import Vocab

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""``llama_token_data``."""

_RECORD = np.dtype((np.void, CANDIDATE.itemsize))  # the same, moved as a whole: numpy copies fields one by one
_ALL = 2**63 - 1


class PythonSampler(Sampler):
    """The base of samplers written in Python: override :meth:`apply`, and other methods if needed.

    ::

        class NoDigits(PythonSampler):
            def __init__(self, vocab):
                pieces = (vocab.piece(token) for token in range(vocab.n_tokens))
                self.digits = np.array([piece.strip().isdigit() for piece in pieces])

            def apply(self, candidates):
                candidates.logits[self.digits[candidates.ids]] = -np.inf

    The chain's ``sample``, ``apply``, ``accept`` or ``reset`` raises the exceptions of a method. The chain can then be
    used again, although its other samplers have already drawn or accepted. The object is not copied: it may be part of
    one open chain at a time (:class:`InUseError`). Set ``selects`` to True in a class that selects a token.
    """

    @property
    def history(self) -> int:
        return _ALL

    @abstractmethod
    def apply(self, candidates: Candidates) -> None:
        """Change, reorder or remove candidates, or select one."""

    def accept(self, token: int) -> None:
        """Accept a chosen token; it is also called for the tokens of a prompt."""

    def reset(self) -> None:
        """Return to the initial state."""

    def clone(self) -> PythonSampler:
        """Return another sampler in the same state; without it, a chain with this sampler cannot be cloned."""
        raise SamplerError(f"{type(self).__name__} cannot be cloned: it has no clone()")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def create(self, vocab: Vocab, cell: Cell) -> None:
        """Raises :class:`SamplerError`: the native side of a Python sampler is part of its chain."""
        raise SamplerError(f"{type(self).__name__} is a Python sampler: only a SamplerChain can run it")


class Candidates:
    """The tokens that a :class:`PythonSampler` can choose from during one ``apply``.

    The arrays are views: writing to :attr:`logits` changes the logits of the next sampler. They are invalid after the
    call.
    """

    __slots__ = ("_data", "_selected", "_sorted", "_writable")

    def __init__(self, data: NDArray[Any], selected: int, is_sorted: bool) -> None:
        self._data = data
        self._selected = selected
        self._sorted = is_sorted
        self._writable = False

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"<Candidates: {len(self)}>"

    @property
    def ids(self) -> NDArray[np.int32]:
        """Token ids, int32 of shape ``(n,)``, read-only; reorder with :meth:`keep`."""
        ids: NDArray[np.int32] = self._data["id"]
        ids.flags.writeable = False
        return ids

    @property
    def logits(self) -> NDArray[np.float32]:
        """Logits, float32 of shape ``(n,)``; NaN and +inf in them are a :class:`SamplerError`."""
        self._writable = True
        logits: NDArray[np.float32] = self._data["logit"]
        return logits

    @property
    def p(self) -> NDArray[np.float32]:
        """Probabilities, float32 of shape ``(n,)``: those of the last sampler that needed some, 0 before it."""
        p: NDArray[np.float32] = self._data["p"]
        return p

    @property
    def sorted(self) -> bool:
        """Whether the logits came in descending order. The next sampler is told that they are not."""
        return self._sorted

    @property
    def size(self) -> int:
        """The number of candidates; setting a smaller number keeps the first ones.

        Setting raises :class:`SamplerError` for 0, and for more than there are.
        """
        return len(self._data)

    @size.setter
    def size(self, size: int) -> None:
        n = operator.index(size)
        if not 1 <= n <= len(self._data):
            raise SamplerError(f"size must be 1 to {len(self._data)}, got {n}")
        self._data = self._data[:n]
        if self._selected >= n:
            self._selected = -1

    def keep(self, which: NDArray[Any]) -> None:
        """Keep the candidates at these indices, in their order; or those where a bool array is true.

        Nothing is selected afterwards. Raises :class:`SamplerError` when nothing would be left, for more indices than
        there are candidates and for one out of range.
        """
        records = self._data.view(_RECORD)
        try:
            kept = records[np.asarray(which)]
        except IndexError as error:
            raise SamplerError(f"keep: {error}") from None
        if kept.ndim != 1 or not 1 <= len(kept) <= len(records):
            raise SamplerError(f"keep must leave 1 to {len(records)} candidates, not {kept.shape}")
        self._data = self._data[: len(kept)]
        self._data.view(_RECORD)[:] = kept
        self._selected = -1

    @property
    def selected(self) -> int | None:
        """Index of the selected candidate, None while none is."""
        return self._selected if self._selected >= 0 else None

    def select(self, index: int) -> None:
        """Select the candidate at an index; :class:`SamplerError` out of range."""
        i = operator.index(index)
        if not 0 <= i < len(self._data):
            raise SamplerError(f"select: index {i} is outside the {len(self._data)} candidates")
        self._selected = i

    def _check(self, sampler: PythonSampler, records: Any) -> None:
        """Raise :class:`SamplerError` for NaN and +inf among the logits; ``records`` is the address of the first."""
        if not self._writable or logits_sound(records, len(self._data)):
            return  # the logits were not looked at, or they are as they should be
        logits = self._data["logit"]
        i = int((~(logits < np.inf)).argmax())
        token = self._data["id"][i]
        raise SamplerError(f"after {type(sampler).__name__}, token {token} has the logit {logits[i]}")


class Workspace:
    """What the Python samplers of one chain share: the candidates under their views, and the first exception."""

    __slots__ = ("address", "array", "candidates", "error")

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.candidates = np.zeros(0, dtype=CANDIDATE)
        self.array: Any = None
        self.address = 0

    def fill(self, logits: NDArray[np.float32], ids: NDArray[np.int32] | None = None) -> Any:
        """Return the ``llama_token_data_array *`` of logits, of the tokens ``ids`` or of the first n."""
        n = len(logits)
        if len(self.candidates) != n:
            # Our own memory, held by every view of it: a view that outlives the call shows old numbers, not freed ones.
            self.candidates = np.zeros(n, dtype=CANDIDATE)
            self.array = ffi.new("llama_token_data_array *")
            self.address = int(ffi.cast("intptr_t", ffi.from_buffer(self.candidates)))
        self.array.data = ffi.cast("llama_token_data *", self.address)
        write_candidates(ffi.from_buffer("float[]", np.ascontiguousarray(logits)), n, self.array.data)
        if ids is not None:
            self.candidates["id"] = ids
        self.array.size, self.array.selected, self.array.sorted = n, -1, False
        return self.array

    def left(self) -> NDArray[Any]:
        """Return the candidates that a chain left in the array, copied from its own when it made one."""
        return self.view(self.array)[0]

    def view(self, array: Any) -> tuple[NDArray[Any], bool]:
        """Return the candidates of an array, and whether they are a copy."""
        size = int(array.size)
        start, odd = divmod(int(ffi.cast("intptr_t", array.data)) - self.address, CANDIDATE.itemsize)
        if odd or not 0 <= start <= len(self.candidates) - size:
            return np.frombuffer(ffi.buffer(array.data, size * CANDIDATE.itemsize), dtype=CANDIDATE).copy(), True
        return self.candidates[start : start + size], False

    def reraise(self) -> None:
        """Raise what a Python sampler raised, once."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame


class Link:
    """A Python sampler as one step of one chain: what llama.cpp calls."""

    __slots__ = ("__weakref__", "_chain", "_released", "_workspace", "sampler")

    def __init__(self, sampler: PythonSampler, workspace: Workspace) -> None:
        other = vars(sampler).get("_link", _nobody)()
        # A copy of a sampler carries the link of the original.
        if other is not None and other.sampler is sampler and other.in_use:
            raise InUseError(
                f"this {type(sampler).__name__} is part of a chain already; give each its own, or a clone()"
            )
        self.sampler = sampler
        self._workspace = workspace
        self._chain: weakref.ref[Handle] | None = None
        self._released = False
        # Past a frozen dataclass's own setter.
        object.__setattr__(sampler, "_link", weakref.ref(self))

    @property
    def in_use(self) -> bool:
        """Whether the chain is being made, or made and open."""
        if self._chain is None:
            return not self._released
        chain = self._chain()
        return chain is not None and not chain.closed

    def belongs_to(self, chain: Handle) -> None:
        """The chain is made."""
        self._chain = weakref.ref(chain)

    def release(self) -> None:
        """No chain came of it."""
        self._released = True

    def on_apply(self, array: Any) -> None:
        workspace = self._workspace
        if workspace.error is not None:
            return  # nothing of this round counts any more
        try:
            data, copied = workspace.view(array)
            candidates = Candidates(data, int(array.selected), bool(array.sorted))
            self.sampler.apply(candidates)
            data = candidates._data
            if copied:
                ffi.memmove(array.data, data, data.nbytes)
            candidates._check(self.sampler, array.data)
            array.size, array.selected, array.sorted = len(data), candidates._selected, False
        except BaseException as error:
            self.failed(error)
            # One sound candidate: the samplers after this one must survive what it left.
            first = array.data[0]
            first.id, first.logit, first.p = 0, 0.0, 1.0
            array.size, array.selected, array.sorted = 1, -1, False

    def on_accept(self, token: int) -> None:
        self.sampler.accept(token)

    def on_reset(self) -> None:
        self.sampler.reset()

    def failed(self, error: BaseException) -> None:
        if self._workspace.error is None:
            self._workspace.error = error


def _nobody() -> None:
    return None


__all__ = ["CANDIDATE", "Candidates", "Link", "PythonSampler", "Workspace"]
