"""Log-probabilities of given tokens, in batches, with output for the needed rows only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from llama_cffi.core.batch import Batch
from llama_cffi.core.selection import row_logprobs

if TYPE_CHECKING:
    from llama_cffi.core.context import Context

_OUTPUT_BYTES = 64 * 2**20
"""Most bytes of logits at once: llama.cpp keeps the rows of one decode."""

Probability = tuple[float, tuple[tuple[int, float], ...]]
"""Natural log-probability of a token, and the likeliest tokens at its place with theirs, best first."""

Text = tuple[Sequence[int], int]
"""Tokens, and how many of the first are only read: the others' log-probabilities are wanted. At least one is."""


class _Span(NamedTuple):
    """Tokens of a sequence from position ``start`` on, each with the tokens to be scored after it."""

    seq_id: int
    start: int
    tokens: Sequence[int]
    targets: Sequence[tuple[int, ...]]


class Scorer:
    """Scores tokens on a :class:`~llama_cffi.core.context.Context` of its own, with unified memory.

    Every method raises the errors of :meth:`Context.decode`, and :class:`SamplerError` for logits that are NaN.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._memory = context.memory
        self._batch = Batch(context.n_batch)
        self._max_rows = max(1, _OUTPUT_BYTES // (4 * context.n_vocab))
        self._held: list[int] = []

    def forget(self) -> None:
        """Empty the memory: what it holds was computed otherwise than what comes."""
        self._held = []
        self._memory.clear(data=False)

    def texts(self, texts: Sequence[Text]) -> list[list[Probability]]:
        """Score texts that have nothing in common, in one batch; not more of them than the context has sequences.

        For each text, one entry for every token that is wanted.
        """
        self.forget()
        try:
            return self._spans([_span(seq_id, text, 0) for seq_id, text in enumerate(texts)], 0)
        finally:
            self.forget()

    def continuations(
        self, texts: Sequence[Text], *, n_top: int = 0, progress: Callable[[float], object] | None = None
    ) -> list[list[Probability]]:
        """Score any number of texts that begin alike; the common beginning is computed once.

        It stays in memory, and texts that begin with a part of it find that part computed.
        For each text, one entry for every token that is wanted, with ``n_top`` alternatives. ``progress`` receives the
        part that is done, 0.0 to 1.0; what it raises ends the computation.
        """
        shared = _shared(texts)
        n = len(shared)
        # What follows the common beginning at once is read from its last row.
        nexts = {tokens[n]: None for tokens, first in texts if first == n and n}
        after = dict(zip(nexts, self._prefill(shared, tuple(nexts), n_top), strict=True))
        results: list[list[Probability]] = [[] for _ in texts]
        group: dict[int, _Span] = {}
        cells = self.context.n_ctx - n
        for i, text in enumerate(texts):
            tokens, first = text
            if first == n and n:
                results[i].append(after[tokens[n]])
            if len(tokens) - 1 == n:
                continue
            if len(group) == self.context.n_seq_max - 1 or cells < len(tokens) - 1 - n:
                self._branches(group, results, n_top)
                if progress is not None:
                    progress(i / len(texts))
                cells = self.context.n_ctx - n
            group[i] = _span(len(group) + 1, text, n)
            cells -= len(tokens) - 1 - n
        self._branches(group, results, n_top)
        if progress is not None:
            progress(1.0)
        return results

    def _prefill(self, tokens: list[int], targets: tuple[int, ...], n_top: int) -> list[Probability]:
        """Bring sequence 0 to hold these tokens, and score what may follow them."""
        n = min(_common(self._held, tokens), len(tokens) - 1)
        self._held = []
        if n < 1 or not self._memory.seq_rm(0, n):
            self._memory.clear(data=False)
            n = 0
        rows: list[tuple[int, ...]] = [()] * (len(tokens) - n)
        if rows:
            rows[-1] = targets
        found = self._spans([_Span(0, n, tokens[n:], rows)], n_top)[0]
        self._held = tokens
        return found

    def _branches(self, group: dict[int, _Span], results: list[list[Probability]], n_top: int) -> None:
        """Compute spans that go on from sequence 0, each in a sequence of its own that shares its cells."""
        if not group:
            return
        for span in group.values():
            self._memory.seq_cp(0, span.seq_id)
        try:
            for i, found in zip(group, self._spans(list(group.values()), n_top), strict=True):
                results[i] += found
        finally:
            for span in group.values():
                self._memory.seq_rm(span.seq_id)
            group.clear()

    def _spans(self, spans: Sequence[_Span], n_top: int) -> list[list[Probability]]:
        results: list[list[Probability]] = [[] for _ in spans]
        for i, found in self._scored(spans, n_top):
            results[i].append(found)
        return results

    def _scored(self, spans: Sequence[_Span], n_top: int) -> Iterator[tuple[int, Probability]]:
        batch = self._batch
        wanted: list[tuple[int, int, tuple[int, ...]]] = []
        batch.clear()
        for index, span in enumerate(spans):
            for i, (token, targets) in enumerate(zip(span.tokens, span.targets, strict=True)):
                if batch.n_tokens == batch.capacity or len(wanted) == self._max_rows:
                    yield from self._decode(wanted, n_top)
                row = batch.add(token, span.start + i, span.seq_id, output=bool(targets))
                if targets:
                    wanted.append((row, index, targets))
        if batch.n_tokens:
            yield from self._decode(wanted, n_top)

    def _decode(self, wanted: list[tuple[int, int, tuple[int, ...]]], n_top: int) -> list[tuple[int, Probability]]:
        with self.context.lock():
            self.context.decode(self._batch)
            found = [
                (index, row_logprobs(self.context.outputs, row, target, n_top))
                for row, index, targets in wanted
                for target in targets
            ]
        self._batch.clear()
        wanted.clear()
        return found


def _span(seq_id: int, text: Text, start: int) -> _Span:
    """What of a text comes after its first ``start`` tokens: all but its last token, which is only a target."""
    tokens, first = text
    targets = [(tokens[i + 1],) if i + 1 >= first else () for i in range(start, len(tokens) - 1)]
    return _Span(seq_id, start, tokens[start:-1], targets)


def _shared(texts: Sequence[Text]) -> list[int]:
    """The beginning that all texts have in common, of what is only read."""
    tokens, n = texts[0]
    for other, first in texts[1:]:
        n = min(_common(tokens[:n], other), first)
    return list(tokens[:n])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


__all__ = ["Probability", "Scorer", "Text"]
