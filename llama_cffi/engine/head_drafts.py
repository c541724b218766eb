"""Drafts by heads that go on from the hidden states of their target: MTP and EAGLE-3."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from llama_cffi.core.batch import Batch
from llama_cffi.core.context import Context
from llama_cffi.core.draft_layers import HeadKind, head_options, n_heads
from llama_cffi.core.embedding_batch import EmbeddingBatch
from llama_cffi.core.head_context import HeadContext
from llama_cffi.core.hidden_states import HiddenStates, check_headed, target_layers
from llama_cffi.core.model import Model
from llama_cffi.core.selection import TokenSelector, row_logprobs
from llama_cffi.engine.draft_model import DraftModel, check_limits, check_vocabulary
from llama_cffi.engine.drafters import Drafter
from llama_cffi.engine.state_trail import StateTrail
from llama_cffi.errors import DecodeError, DraftError, MemoryFullError, NativeError, UnsupportedError

_TOGETHER = 16
"""So many pairs are computed with that of the newest token, in one decode; more than that are computed before, because
logits are computed for all of them."""


@dataclass(frozen=True, kw_only=True)
class DraftHeads:
    """Drafts by the layers of a model that predict further tokens (MTP, next-token prediction): their most likely
    tokens, while their probability is at least ``p_min``.
    """

    model: str | os.PathLike[str] | Model | None = None
    """A GGUF file with the heads alone, or that file loaded with ``ModelOptions(load_mtp=True)``; None for heads in the
    file of the model."""
    n_draft: int = 8
    """Most tokens of a draft; at most their number where the model has several heads, each of which drafts one."""
    p_min: float = 0.5
    """A draft ends before a token that is less probable than this."""

    def __post_init__(self) -> None:
        check_limits(self.n_draft, self.p_min)


class HeadDrafts:
    """Draft heads at work beside the Context of their target, with a context and memory of their own.

    A head takes pairs: a token, and the target's hidden state of the token before it. So each decode of the target is
    watched, and the pairs of its tokens are computed when a draft is wanted, or when they fill a batch.
    In a draft, the state is the head's own.

    An EAGLE-3 model takes the inputs of three layers of the target, which it encodes first, and has the pair of a token
    at the position before it.

    Raises :class:`DraftError` for another vocabulary or width, and :class:`UnsupportedError` where llama.cpp has no
    such heads or gives no hidden states. Not for two threads at once.
    """

    def __init__(self, target: Context, model: Model, options: DraftHeads | DraftModel, kind: HeadKind) -> None:
        layers: tuple[int, ...] | None = None
        self._n_heads, self._shift = 1, 0
        if model is not target.model:
            check_vocabulary(target.model.vocab, model.vocab)
        if kind == "mtp":
            check_headed(target.model, model)
            self._n_heads = n_heads(model)
            if model.n_embd_out != target.model.n_embd_out:
                raise DraftError(
                    f"the heads take hidden states of {model.n_embd_out} numbers, not {target.model.n_embd_out}"
                )
        else:
            self._shift = 1
            layers = target_layers(model)
        self._target = target
        self._read = HiddenStates(target.outputs, target.model, layers=layers)
        wanted = head_options(target.options, n_ctx=target.n_ctx, n_ubatch=target.n_ubatch, n_seq_max=target.n_seq_max)
        encoder_width = self._read.width if kind == "eagle3" else 0
        try:
            self.context = context = HeadContext(model, wanted, target=target, kind=kind, encoder_width=encoder_width)
        except BaseException:
            self._read.stop()
            raise
        self._memory = context.memory
        self._batch = context.make_batch(context.n_ubatch)
        self._encoder_batch = context.make_encoder_batch(context.n_ubatch) if encoder_width else None
        self._selector = TokenSelector(context.outputs, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0)
        self._n_draft = min(options.n_draft, self._n_heads) if self._n_heads > 1 else options.n_draft
        self._least_logprob = math.log(options.p_min) if options.p_min > 0 else None
        self._n_vocab = min(target.n_vocab, context.n_vocab)
        self._check()
        self._trails = [StateTrail() for _ in range(target.n_seq_max)]
        self._starts = [0] * target.n_seq_max
        """The position before which nothing of a sequence is in memory."""
        # The target must not keep this object alive, nor be kept alive by a cycle.
        observe = weakref.WeakMethod(self._observe)

        def watch(batch: Batch | EmbeddingBatch) -> None:
            observer = observe()
            if observer is not None:
                observer(batch)

        target.watch = watch

    def _check(self) -> None:
        """Compute a pair: another release of llama.cpp may have the heads of other architectures."""
        try:
            with self._target.lock(), self.context.lock():
                self._batch.single(0, 0, 0)
                self.context.decode(self._batch)
                self._memory.clear()
        except (NativeError, DecodeError) as error:
            self.close()
            raise UnsupportedError(
                f"this libllama does not compute the heads of {self.context.model.architecture} models: {error.message}"
            ) from error

    def start(self) -> Drafter:
        """The drafter of a text."""
        return _TextDrafts(self)

    def close(self) -> None:
        """Free the context, and watch the target no longer. Idempotent."""
        self._target.watch = None
        self._read.stop()
        self.context.close()

    # -- what the target computes

    def _observe(self, batch: Batch | EmbeddingBatch) -> None:
        if isinstance(batch, EmbeddingBatch) or self.context.closed:
            # Heads have no pairs of media: the text after them begins anew.
            return
        n = batch.n_tokens
        states = list(self._read.rows(n))
        seq_ids, tokens, first = batch.seq_id[:n, 0], batch.token[:n].tolist(), 0
        ends = [*(np.flatnonzero(seq_ids[1:] != seq_ids[:-1]) + 1).tolist(), n] if n > 1 else [1]
        for end in ends:
            seq_id = int(seq_ids[first])
            trail = self._trails[seq_id]
            trail.add(int(batch.pos[first]), tokens[first:end], states[first:end])
            if trail.end - trail.n_held >= self._batch.capacity:
                with self.context.lock():
                    try:
                        self._catch_up(seq_id, trail.end)
                    except MemoryFullError:
                        self._clear()
            first = end

    # -- drafts

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int, begins: bool) -> list[int]:
        """The likeliest tokens to follow; see :class:`Drafter`. ``begins`` says that the text is a new one."""
        n_max = min(n_max, self._n_draft, self.context.n_ctx_seq - len(tokens))
        trail = self._trails[seq_id]
        if begins:
            trail.begin()
        if n_max < 1 or not 0 <= tokens[-1] < self._n_vocab or not trail.align(tokens):
            return []
        draft = self._chained if self._n_heads > 1 else self._draft
        with self._target.lock(), self.context.lock():
            if trail.is_new:
                self._share(seq_id, tokens)
                trail.is_new = False
            for _ in range(2):
                try:
                    return draft(seq_id, tokens[-1], n_max)
                except MemoryFullError:
                    # The memory of the other sequences can be computed again when it is wanted.
                    self._clear()
            return []

    def _draft(self, seq_id: int, token: int, n_max: int) -> list[int]:
        """Draft with the one head, which goes on from its own state."""
        trail, batch = self._trails[seq_id], self._batch
        row, position = self._begin(seq_id, token), trail.end - self._shift
        draft: list[int] = []
        with self._cut_afterwards(seq_id, position + 1):
            while self._take(row, draft) and len(draft) < n_max:
                state = self.context.states.row(row)
                position += 1
                batch.single(draft[-1], position, seq_id)
                batch.states[0] = state
                self.context.decode(batch)
                row = 0
        return draft

    def _chained(self, seq_id: int, token: int, n_max: int) -> list[int]:
        """Draft each token with the next head. A head has a memory of its own, where what was drafted is missing."""
        trail, batch, context = self._trails[seq_id], self._batch, self.context
        self._catch_up(seq_id, trail.end)
        position = trail.end
        pairs = [(token, trail.state(position - 1))]
        draft: list[int] = []
        with self._cut_afterwards(seq_id, position):
            for head in range(n_max):
                self._memory.seq_rm(seq_id, position)
                batch.clear()
                for i, (one, state) in enumerate(pairs):
                    row = batch.add(one, position + i, seq_id, output=True)
                    batch.states[row] = state if state is not None else 0
                with context.using_head(head):
                    context.decode(batch)
                if not self._take(row, draft):
                    break
                pairs.append((draft[-1], context.states.row(row)))
        return draft

    def _take(self, row: int, draft: list[int]) -> bool:
        """Add the likeliest token of a row to a draft; whether another one may follow."""
        outputs = self.context.outputs
        following = self._selector.select(row)
        if following >= self._n_vocab:
            return False
        least = self._least_logprob
        if least is not None and row_logprobs(outputs, row, following, 0)[0] < least:
            return False
        draft.append(following)
        return not self._target.model.vocab.is_eog(following)

    # -- memory

    def _share(self, seq_id: int, text: Tokens[int]) -> None:
        """Share the pairs of a text's beginning with the sequence from which the target has the beginning, too."""
        trail, shift = self._trails[seq_id], self._shift
        for source, other in enumerate(self._trails):
            if trail.shares_with(other, text):
                n = trail.start - shift
                self._memory.seq_rm(seq_id, 0, n + 1)
                self._memory.seq_rm(seq_id, trail.n_held - shift)
                self._starts[seq_id] = other.start + 1 - shift
                self._memory.seq_cp(source, seq_id, self._starts[seq_id], n)
                trail.adopt(other)
                return

    def _begin(self, seq_id: int, token: int) -> int:
        """Compute the pair of what comes behind a trail, with logits, and return its row in the batch."""
        trail, batch = self._trails[seq_id], self._batch
        few = trail.end - trail.n_held < _TOGETHER
        self._catch_up(seq_id, trail.n_held if few else trail.end)
        # Some graphs give the state of the first rows for that of the rows with logits: all rows have them here.
        self._fill(seq_id, trail.end + 1, token, output=True)
        self.context.decode(batch)
        trail.began_with(token)
        return batch.n_tokens - 1

    def _catch_up(self, seq_id: int, stop: int) -> None:
        """Compute the pairs of a trail up to a position that are not in memory."""
        trail, shift = self._trails[seq_id], self._shift
        start = trail.start + 1 - shift
        if start != self._starts[seq_id]:
            self._memory.seq_rm(seq_id, 0, start)
            self._starts[seq_id] = start
        self._memory.seq_rm(seq_id, trail.n_held - shift)
        self._encode(trail)
        while trail.n_held < stop:
            first, end = trail.n_held, min(stop, trail.n_held + self._batch.capacity)
            self._fill(seq_id, end)
            for head in range(self._n_heads):
                if head:
                    self._memory.seq_rm(seq_id, first - shift)
                with self.context.using_head(head):
                    self.context.decode(self._batch)
            trail.n_held = end
        trail.let_go()

    def _fill(self, seq_id: int, end: int, last: int | None = None, *, output: bool = False) -> None:
        """Put the pairs of a trail into the batch, from the first that is not in memory; ``last`` is the token behind
        the trail."""
        trail, batch = self._trails[seq_id], self._batch
        first = trail.n_held
        tokens = trail.tokens[first - trail.start : end - trail.start]
        batch.clear()
        batch.extend(tokens if last is None else [*tokens, last], first - self._shift, seq_id)
        batch.output[: end - first] = output
        for row, position in enumerate(range(first - 1, end - 1)):
            state = trail.state(position)
            batch.states[row] = state if state is not None else 0

    def _encode(self, trail: StateTrail) -> None:
        """Turn the inputs of the target's layers into the states that an EAGLE-3 model takes."""
        batch = self._encoder_batch
        if batch is None:
            return
        while trail.n_encoded < trail.end:
            states = trail.states(trail.n_encoded, trail.n_encoded + batch.capacity)
            n = batch.n_tokens = len(states)
            # They have no positions, but what llama.cpp looks at must go on from the memory.
            last = self._memory.seq_pos_max(0)
            batch.pos[:n] = np.arange(n) + (0 if last is None else last + 1)
            batch.states[:n] = states
            batch.output[:n] = 1
            self.context.encode(batch)
            trail.encoded(list(self.context.states.rows(n)))

    @contextmanager
    def _cut_afterwards(self, seq_id: int, position: int) -> Iterator[None]:
        """Take what is drafted out of memory again."""
        try:
            yield
        finally:
            if not self.context.closed:
                self._memory.seq_rm(seq_id, position)

    def _clear(self) -> None:
        self._memory.clear(data=False)
        for trail in self._trails:
            trail.drop()


class _TextDrafts:
    """The drafts of one text."""

    __slots__ = ("_begins", "_drafts")

    def __init__(self, drafts: HeadDrafts) -> None:
        self._drafts = drafts
        self._begins = True

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        """See :class:`Drafter`."""
        begins, self._begins = self._begins, False
        return self._drafts.propose(tokens, n_max, seq_id=seq_id, begins=begins)


__all__ = ["DraftHeads", "HeadDrafts"]
