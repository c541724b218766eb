"""Drafts by heads that go on from the hidden states of their target: MTP and EAGLE-3."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from llama_cffi.core.batch import Batch
from llama_cffi.core.context import Context
from llama_cffi.core.draft_layers import n_heads
from llama_cffi.core.embedding_batch import EmbeddingBatch
from llama_cffi.core.head_context import HeadContext, HeadKind
from llama_cffi.core.hidden_states import HiddenStates, check_headed, target_layers
from llama_cffi.core.model import Model
from llama_cffi.core.selection import TokenSelector, row_logprobs
from llama_cffi.engine.draft_model import DraftHeads, DraftModel, check_vocabulary
from llama_cffi.engine.drafters import Drafter, Wanted
from llama_cffi.engine.state_trail import StateTrail, TrailText
from llama_cffi.errors import DecodeError, DraftError, MemoryFullError, NativeError, UnsupportedError

_TOGETHER = 16
"""So many pairs are computed with that of the newest token, in one decode; more than that are computed before, because
logits are computed for all of them."""


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
        n_ubatch = max(target.n_ubatch, target.n_seq_max)
        # As much room as the target has, whatever shape the target's memory has.
        wanted = replace(
            target.options,
            n_ctx=target.n_ctx,
            n_batch=n_ubatch,
            n_ubatch=n_ubatch,
            kv_unified=True,
            swa_full=True,
            embeddings=False,
            pooling=None,
        )
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
                        self._catch_up([(seq_id, trail.end)])
                    except MemoryFullError:
                        self._clear()
            first = end

    # -- drafts

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int, begins: bool) -> list[int]:
        """The likeliest tokens to follow; see :class:`Drafter`. ``begins`` says that the text is a new one."""
        text = self._align(tokens, n_max, seq_id, begins=begins)
        if text is None:
            return []
        with self._target.lock(), self.context.lock():
            for _ in range(2):
                try:
                    self._draft([text])
                    return text.draft
                except MemoryFullError:
                    # The memory of the other sequences can be computed again when it is wanted.
                    self._clear()
                    text.draft.clear()
            return []

    def propose_all(self, wanted: Tokens[Wanted]) -> list[list[int]]:
        """The likeliest tokens to follow each of several texts, one of all texts in a decode; see
        :class:`SharedDrafts`. Raises what the context of the heads raises.
        """
        texts: list[TrailText | None] = []
        for drafter, tokens, n_max, seq_id in wanted:
            begins = isinstance(drafter, _TextDrafts) and drafter.take_begins()
            texts.append(self._align(tokens, n_max, seq_id, begins=begins))
        going = [text for text in texts if text is not None]
        # Several heads compute the pairs of all tokens of a draft.
        n = max(1, self._batch.capacity // self._n_heads)
        with self._target.lock(), self.context.lock():
            for start in range(0, len(going), n):
                self._draft(going[start : start + n])
        return [[] if text is None else text.draft for text in texts]

    def _align(self, tokens: Tokens[int], n_max: int, seq_id: int, *, begins: bool) -> TrailText | None:
        """Cut the trail of a sequence to a text; None where nothing is drafted."""
        n_max = min(n_max, self._n_draft, self.context.n_ctx_seq - len(tokens))
        trail = self._trails[seq_id]
        if begins:
            trail.begin()
        if n_max < 1 or not 0 <= tokens[-1] < self._n_vocab or not trail.align(tokens):
            return None
        return TrailText(seq_id, trail, tokens, n_max)

    def _draft(self, texts: list[TrailText]) -> None:
        """Draft for several texts: each decode computes a token of every text that has no whole draft yet."""
        for text in texts:
            if text.trail.is_new:
                self._share(text.seq_id, text.tokens)
                text.trail.is_new = False
        if self._n_heads > 1:
            self._chained(texts)
        else:
            self._repeated(texts)

    def _repeated(self, texts: list[TrailText]) -> None:
        """Draft with the one head, which goes on from its own state."""
        batch, states = self._batch, self.context.states
        rows = self._begin(texts)
        for text in texts:
            text.position = text.trail.end - self._shift
        with self._cut_afterwards([(text.seq_id, text.position + 1) for text in texts]):
            while True:
                going = [(text, row) for text, row in zip(texts, rows, strict=True) if self._take(row, text)]
                if not going:
                    return
                next_states = [states.row(row) for _, row in going]
                texts, rows = [text for text, _ in going], []
                batch.clear()
                for text, state in zip(texts, next_states, strict=True):
                    text.position += 1
                    rows.append(batch.add(text.draft[-1], text.position, text.seq_id, output=True))
                    batch.states[rows[-1]] = state
                self.context.decode(batch)

    def _chained(self, texts: list[TrailText]) -> None:
        """Draft each token with the next head. A head has a memory of its own, where what was drafted is missing."""
        batch, context = self._batch, self.context
        self._catch_up([(text.seq_id, text.trail.end) for text in texts])
        for text in texts:
            text.position = text.trail.end
            text.pairs = [(text.tokens[-1], text.trail.state(text.position - 1))]
        with self._cut_afterwards([(text.seq_id, text.position) for text in texts]):
            for head in range(self._n_heads):
                batch.clear()
                rows = []
                for text in texts:
                    self._memory.seq_rm(text.seq_id, text.position)
                    row = -1
                    for i, (one, state) in enumerate(text.pairs):
                        row = batch.add(one, text.position + i, text.seq_id, output=True)
                        batch.states[row] = state if state is not None else 0
                    rows.append(row)
                with context.using_head(head):
                    context.decode(batch)
                going = [(text, row) for text, row in zip(texts, rows, strict=True) if self._take(row, text)]
                if not going:
                    return
                for text, row in going:
                    text.pairs.append((text.draft[-1], context.states.row(row)))
                texts = [text for text, _ in going]

    def _take(self, row: int, text: TrailText) -> bool:
        """Add the likeliest token of a row to a draft; whether another one may follow."""
        outputs = self.context.outputs
        following = self._selector.select(row)
        if following >= self._n_vocab:
            return False
        least = self._least_logprob
        if least is not None and row_logprobs(outputs, row, following, 0)[0] < least:
            return False
        text.draft.append(following)
        return len(text.draft) < text.n_max and not self._target.model.vocab.is_eog(following)

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

    def _begin(self, texts: list[TrailText]) -> list[int]:
        """Compute the pairs of what comes behind some trails, with logits, and return their rows in the batch."""
        room, before = self._batch.capacity - len(texts), []
        for text in texts:
            n = text.trail.end - text.trail.n_held
            few = n < _TOGETHER and n <= room
            before.append((text.seq_id, text.trail.n_held if few else text.trail.end))
            room -= n if few else 0
        self._catch_up(before)
        self._batch.clear()
        rows = []
        for text in texts:
            # Some graphs give the state of the first rows for that of the rows with logits: all rows have them here.
            self._fill(text.seq_id, text.trail.end + 1, text.tokens[-1], output=True)
            rows.append(self._batch.n_tokens - 1)
        self.context.decode(self._batch)
        for text in texts:
            text.trail.began_with(text.tokens[-1])
        return rows

    def _catch_up(self, wanted: list[tuple[int, int]]) -> None:
        """Compute the pairs that are not in memory, of the trails of these sequences up to these positions."""
        shift, batch = self._shift, self._batch
        trails = [self._trails[seq_id] for seq_id, _ in wanted]
        for (seq_id, _), trail in zip(wanted, trails, strict=True):
            start = trail.start + 1 - shift
            if start != self._starts[seq_id]:
                self._memory.seq_rm(seq_id, 0, start)
                self._starts[seq_id] = start
            self._memory.seq_rm(seq_id, trail.n_held - shift)
        self._encode(trails)
        while True:
            batch.clear()
            parts = []
            for (seq_id, stop), trail in zip(wanted, trails, strict=True):
                end = min(stop, trail.n_held + batch.capacity - batch.n_tokens)
                if trail.n_held < end:
                    self._fill(seq_id, end)
                    parts.append((seq_id, trail, end))
            if not parts:
                break
            for head in range(self._n_heads):
                for seq_id, trail, _ in parts if head else ():
                    self._memory.seq_rm(seq_id, trail.n_held - shift)
                with self.context.using_head(head):
                    self.context.decode(batch)
            for _, trail, end in parts:
                trail.n_held = end
        for trail in trails:
            trail.let_go()

    def _fill(self, seq_id: int, end: int, last: int | None = None, *, output: bool = False) -> None:
        """Add the pairs of a trail to the batch, from the first that is not in memory; ``last`` is the token behind
        the trail."""
        trail, batch = self._trails[seq_id], self._batch
        first, n = trail.n_held, batch.n_tokens
        tokens = trail.tokens[first - trail.start : end - trail.start]
        batch.extend(tokens if last is None else [*tokens, last], first - self._shift, seq_id)
        batch.output[n : n + end - first] = output
        for row, position in enumerate(range(first - 1, end - 1), n):
            state = trail.state(position)
            batch.states[row] = state if state is not None else 0

    def _encode(self, trails: list[StateTrail]) -> None:
        """Turn the inputs of the target's layers into the states that an EAGLE-3 model takes."""
        batch = self._encoder_batch
        while batch is not None and any(trail.n_encoded < trail.end for trail in trails):
            n, parts = 0, []
            for trail in trails:
                states = trail.states(trail.n_encoded, min(trail.end, trail.n_encoded + batch.capacity - n))
                if states:
                    batch.states[n : n + len(states)] = states
                    parts.append((trail, slice(n, n + len(states))))
                    n += len(states)
            batch.n_tokens = n
            # They have no positions, but what llama.cpp looks at must go on from the memory.
            last = self._memory.seq_pos_max(0)
            batch.pos[:n] = np.arange(n) + (0 if last is None else last + 1)
            batch.output[:n] = 1
            self.context.encode(batch)
            rows = list(self.context.states.rows(n))
            for trail, part in parts:
                trail.encoded(rows[part])

    @contextmanager
    def _cut_afterwards(self, places: list[tuple[int, int]]) -> Iterator[None]:
        """Take what is drafted out of memory again: all of these sequences from these positions on."""
        try:
            yield
        finally:
            if not self.context.closed:
                for seq_id, position in places:
                    self._memory.seq_rm(seq_id, position)

    def _clear(self) -> None:
        self._memory.clear(data=False)
        for trail in self._trails:
            trail.drop()


class _TextDrafts:
    """The drafts of one text."""

    __slots__ = ("_begins", "together")

    def __init__(self, drafts: HeadDrafts) -> None:
        self.together = drafts
        """See :class:`SharingDrafter`."""
        self._begins = True

    def take_begins(self) -> bool:
        """Return whether the text is a new one, once."""
        begins, self._begins = self._begins, False
        return begins

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        """See :class:`Drafter`."""
        return self.together.propose(tokens, n_max, seq_id=seq_id, begins=self.take_begins())


__all__ = ["HeadDrafts"]
