"""The input of a sequence: tokens, and media between them, as cells of a context's memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._util.scalars import as_int
from llama_cffi._util.shown import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

_DIGEST_SIZE = 16


@dataclass(frozen=True, slots=True)
class Media:
    """A medium (an image, a piece of sound) as it is stored in memory.

    Two pieces are equal when their digests and sizes are; ``content`` is what a projector computes them from, and no
    part of the comparison.
    """

    digest: bytes
    """16 bytes: a hash of everything that decides what is computed."""
    n_cells: int
    """Cells of memory that it takes."""
    n_positions: int
    """Positions that it takes, which some models count otherwise than cells; 1 to ``n_cells``."""
    content: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.digest, bytes) or len(self.digest) != _DIGEST_SIZE:
            raise ValueError(f"digest must be {_DIGEST_SIZE} bytes, got {self.digest!r:.60}")
        if not 1 <= self.n_positions <= self.n_cells < 2**31:
            raise ValueError(
                f"n_positions must be 1 to n_cells, got n_positions={self.n_positions}, n_cells={self.n_cells}"
            )

    @property
    def cell(self) -> int:
        """What stands for it in each of its cells: a negative number of digest and sizes, the same in every process."""
        return -1 - (int.from_bytes(self.digest, "little") << 64 | self.n_cells << 32 | self.n_positions)


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """Media and the cell of a :class:`Prompt` at which they begin."""

    start: int
    media: Media

    @property
    def end(self) -> int:
        """The cell behind the last one."""
        return self.start + self.media.n_cells


class Prompt(tuple[int, ...]):
    """The cells of a sequence: a token is itself (0 or more), media are one negative number in each of their cells.

    As a tuple of numbers it compares, hashes and is searched like one: equal cells are equal content. ``media`` says
    where the media are, so that :meth:`position` and :meth:`boundary` know what must not be cut.

    Make one from tokens and :class:`Media` in their order. Adding tokens or another prompt gives a longer prompt.
    """

    media: tuple[MediaSpan, ...] = ()
    """The media, in their order."""

    def __new__(cls, parts: Iterable[int | Media] = ()) -> Self:
        if isinstance(parts, cls):
            return parts
        cells: list[int] = []
        spans: list[MediaSpan] = []
        for part in parts:
            if isinstance(part, Media):
                spans.append(MediaSpan(len(cells), part))
                cells.extend([part.cell] * part.n_cells)
            else:
                token = as_int(part)
                if token is None:
                    raise TypeError(f"a Prompt is made of tokens, which are ints, and Media, got {shown(part)}")
                cells.append(token)
        return cls.of_cells(cells, tuple(spans))

    @classmethod
    def of_cells(cls, cells: Iterable[int], media: tuple[MediaSpan, ...] = ()) -> Self:
        """Make a prompt of cells that are known already; of ``media`` those that lie in the cells."""
        made = tuple.__new__(cls, cells)
        if media:
            made.media = tuple(span for span in media if span.end <= len(made))
        return made

    def n_shared(self, other: Prompt) -> int:
        """Return the length of the common beginning, as :func:`common_prefix` does: for prompts that are compared with
        many others, whose cells are kept as an array.
        """
        if self.media or other.media:
            return common_prefix(self, other)
        limit = min(len(self), len(other))
        differ = self._array[:limit] != other._array[:limit]
        first = int(differ.argmax()) if limit else 0
        return first if limit and differ[first] else limit

    @cached_property
    def _array(self) -> NDArray[np.int64]:
        return np.fromiter(self, dtype=np.int64, count=len(self))

    @property
    def tokens(self) -> tuple[int, ...]:
        """The cells that are tokens, media left out."""
        return tuple(cell for cell in self if cell >= 0)

    @property
    def n_positions(self) -> int:
        """Positions that the whole takes."""
        return len(self) + sum(span.media.n_positions - span.media.n_cells for span in self.media)

    @property
    def least_positions(self) -> int:
        """The fewest positions that a memory may report that holds the whole.

        With M-RoPE all cells of an image are at its first position: one that comes last ends the memory there.
        """
        if self.media and self.media[-1].end == len(self):
            return self.position(self.media[-1].start) + 1
        return self.n_positions

    def position(self, cell: int) -> int:
        """Return the position of a cell, that of the first cell for all cells of a piece of media.

        Cells behind the end are those of tokens that will follow.
        """
        offset = 0
        for span in self.media:
            if span.end > cell:
                return min(cell, span.start) + offset
            offset += span.media.n_positions - span.media.n_cells
        return cell + offset

    def boundary(self, n: int) -> int:
        """Return the largest number of first cells, at most ``n``, after which nothing is cut in two."""
        for span in self.media:
            if span.start < n < span.end:
                return span.start
        return n

    def first(self, n: int) -> Prompt:
        """Return the prompt of the first ``boundary(n)`` cells."""
        return Prompt.of_cells(self[: self.boundary(n)], self.media)

    def without_content(self) -> Prompt:
        """Return the same cells without what their media are computed from: for what is only compared."""
        if all(span.media.content is None for span in self.media):
            return self
        bare = (MediaSpan(span.start, replace(span.media, content=None)) for span in self.media)
        return Prompt.of_cells(self, tuple(bare))

    def digest(self) -> str:
        """Return a hash of the content as 20 hexadecimal digits, the same in every process."""
        found = blake2b(digest_size=10)
        for cell in self:
            found.update(cell.to_bytes(25, "little", signed=True))
        return found.hexdigest()

    def __add__(self, other: Iterable[int]) -> Prompt:  # type: ignore[override]
        cells = tuple.__add__(self, tuple(other))
        added = other.media if isinstance(other, Prompt) else ()
        return Prompt.of_cells(cells, (*self.media, *(MediaSpan(s.start + len(self), s.media) for s in added)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (tuple(self), self.media)

    def __copy__(self) -> Self:
        return self

    def __repr__(self) -> str:
        media = f", {len(self.media)} media" if self.media else ""
        return f"<Prompt of {len(self)} cells{media}>"


def _restore(cells: tuple[int, ...], media: tuple[MediaSpan, ...]) -> Prompt:
    return Prompt.of_cells(cells, media)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common beginning of two sequences of cells or tokens of the same type."""
    # Slices compare at C speed. Most pairs differ soon, so the first ones are short.
    limit = min(len(a), len(b))
    low, high = 0, min(limit, 32)
    while a[low:high] == b[low:high]:
        if high == limit:
            return limit
        low, high = high, min(limit, 4 * high)
    # The place is in the last one: halve it instead of walking it.
    while low < high - 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def reusable(held: Prompt, prompt: Prompt, *, can_cut: bool = True) -> int:
    """Return how many cells of a prompt need not be computed with ``held`` in memory.

    The last cell always is: its logits choose the first new token. Media are reused as a whole. A memory that cannot
    be cut is of use only when the prompt goes on where it ends.
    """
    n = prompt.boundary(min(common_prefix(held, prompt), len(prompt) - 1))
    return n if can_cut or n == len(held) else 0


__all__ = ["Media", "MediaSpan", "Prompt", "common_prefix", "reusable"]
