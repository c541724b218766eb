"""Drafts by a smaller model with the same vocabulary."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from dataclasses import dataclass, replace

from llama_cffi._util.scalars import as_float, is_int
from llama_cffi.core.batch import Batch
from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.model import Model
from llama_cffi.core.prompt import common_prefix
from llama_cffi.core.rollback import Rollback
from llama_cffi.core.selection import TokenSelector, row_logprobs
from llama_cffi.core.vocab import Vocab
from llama_cffi.engine.drafters import Drafter, Wanted
from llama_cffi.engine.side_context import SideContext
from llama_cffi.errors import DraftError, MemoryFullError, UnsupportedError

_MAX_SIZE_DIFFERENCE = 128
"""Tokens that one vocabulary may have more than the other: llama.cpp's limit, for padding at the end."""
_TOGETHER = 16
"""So many tokens of a text are computed in the decode of its last one; more than that are computed before."""
_FIRST_COMPARED = 5
"""The first tokens may differ, as they do in llama.cpp's comparison: unknown, padding and the like."""


@dataclass(frozen=True, kw_only=True)
class DraftModel:
    """Drafts by a smaller model or an EAGLE-3 model: its most likely tokens, while their probability is at least
    ``p_min``."""

    model: str | os.PathLike[str] | Model
    """A GGUF file, or a loaded model; it must have the target's vocabulary."""
    n_draft: int = 8
    """Most tokens of a draft."""
    p_min: float = 0.5
    """A draft ends before a token with a lower probability than this in the draft model."""

    def __post_init__(self) -> None:
        _check_limits(self.n_draft, self.p_min)


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
        _check_limits(self.n_draft, self.p_min)


def draft_context(target: ContextOptions, n_ctx: int) -> ContextOptions:
    """Return the options of a draft model's context, with as much room as the ``n_ctx`` cells of its target's.

    That holds whatever shape the target's memory has.
    """
    return replace(target, n_ctx=n_ctx, kv_unified=True, swa_full=True, n_rs_seq=0)


class _Text:
    """A text for which tokens are drafted. ``held`` are those in memory, and ``pending`` those to compute next."""

    __slots__ = ("draft", "held", "n_max", "pending", "seq_id")

    def __init__(self, seq_id: int, held: list[int], pending: list[int], n_max: int) -> None:
        self.seq_id, self.held, self.pending, self.n_max = seq_id, held, pending, n_max
        self.draft: list[int] = []


class ModelDrafts:
    """A draft model at work beside the Context of its target, with a context and memory of its own.

    Each of the target's sequences has a twin here with the same id. A draft begins with cutting the twin back to what
    it has in common with the text, and computing the rest; so corrections, shifts and whatever else happens to the
    target need no word of it. Where layers are recurrent, their state is copied before each draft to go back to.

    Raises :class:`DraftError` for another vocabulary, and :class:`UnsupportedError` for a draft model with an encoder.
    Not for two threads at once.
    """

    def __init__(self, target: Context, model: Model, options: DraftModel) -> None:
        check_vocabulary(target.model.vocab, model.vocab)
        if model.has_encoder or not model.has_decoder:
            raise UnsupportedError("this model cannot be a draft model: it has an encoder")
        self._side = SideContext(model, draft_context(target.options, target.n_ctx), threads_of=target)
        self.context = self._side.context
        self._target = target
        self._n_draft = options.n_draft
        self._least_logprob = math.log(options.p_min) if options.p_min > 0 else None
        self._n_ctx = self.context.n_ctx_seq
        self._memory = self.context.memory
        self._rollback = Rollback(self.context) if model.is_recurrent or model.is_hybrid else None
        self._batch = Batch(self.context.n_batch)
        self._selector = TokenSelector(self.context.outputs, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0)
        self._step = self.context.stepper(self._selector)
        self._n_vocab = min(target.n_vocab, self.context.n_vocab)
        self._held: list[list[int]] = [[] for _ in range(self.context.n_seq_max)]
        """Tokens that are surely in memory, by seq_id; there may be more of them behind."""

    def start(self) -> Drafter:
        """The drafter of any text: it finds out itself which one it is asked about."""
        return self

    def close(self) -> None:
        """Free the context. Idempotent."""
        self._side.close()

    @property
    def together(self) -> ModelDrafts:
        """See :class:`SharingDrafter`."""
        return self

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        """The likeliest tokens to follow; see :class:`Drafter`. What the draft context raises, :class:`MemoryFullError`
        excepted, reaches the caller.
        """
        with self._held_context():
            try:
                return self._draft(tokens, n_max, seq_id)
            except MemoryFullError:
                # The other twins' memory can be computed again when it is wanted.
                for other in range(len(self._held)):
                    self._cut(other, 0)
            try:
                return self._draft(tokens, n_max, seq_id)
            except MemoryFullError:
                return []

    def propose_all(self, wanted: Tokens[Wanted]) -> list[list[int]]:
        """The likeliest tokens to follow each of several texts, one of all texts in a decode; see
        :class:`SharedDrafts`. Raises what the draft context raises.
        """
        found: list[list[int]] = []
        with self._held_context():
            for start in range(0, len(wanted), self._batch.capacity):
                part = wanted[start : start + self._batch.capacity]
                texts = [self._begin(one.tokens, one.n_max, one.seq_id) for one in part]
                self._go_on([text for text in texts if text is not None])
                found += [[] if text is None else text.draft for text in texts]
        return found

    @contextmanager
    def _held_context(self) -> Iterator[None]:
        with self._target.lock(), self.context.lock():
            if self.context.thread_limit != self._target.thread_limit:
                self.context.lower_threads(self._target.thread_limit, "as the model that it drafts for")
            yield

    def _draft(self, tokens: Tokens[int], n_max: int, seq_id: int) -> list[int]:
        text = self._begin(tokens, n_max, seq_id)
        if text is None:
            return []
        self._go_on([text])
        return text.draft

    def _begin(self, tokens: Tokens[int], n_max: int, seq_id: int) -> _Text | None:
        """Cut the twin of a sequence to what it has in common with a text; None where nothing is drafted."""
        n_max = min(n_max, self._n_draft, self._n_ctx - len(tokens))
        if n_max < 1:
            return None
        held = self._held[seq_id]
        self._cut(seq_id, min(common_prefix(held, tokens), len(tokens) - 1))
        new = tokens[len(held) :]
        if max(new) >= self._n_vocab or min(new) < 0:
            # Padding at the end of the larger vocabulary, or media, which the smaller model does not know.
            return None
        return _Text(seq_id, held, list(new), n_max)

    def _go_on(self, texts: list[_Text]) -> None:
        """Draft for several texts: each decode computes a token of every text that has no whole draft yet."""
        self._compute_first(texts)
        if self._rollback is not None:
            for text in texts:
                self._rollback.copy(text.seq_id, len(text.held))
        while texts:
            if len(texts) == 1 and len(texts[0].pending) == 1:
                # The same in one native call.
                text, rows = texts[0], [0]
                following = self._step(text.pending[0], len(text.held), text.seq_id)
                if following < 0:
                    self.context.step_failed(following)
                text.held += text.pending
                found = [following]
            else:
                rows = self._decode(texts)
                found = [self._selector.select(row) for row in rows]
            texts = [text for text, row, token in zip(texts, rows, found, strict=True) if self._add(text, row, token)]

    def _compute_first(self, texts: list[_Text]) -> None:
        """Compute what is missing of some texts, but for what fits the decode of their last tokens."""
        batch = self._batch
        few = 1 if self._rollback is not None else max(1, min(_TOGETHER, batch.capacity // max(1, len(texts))))
        parts: list[tuple[_Text, int]] = []
        batch.clear()
        for text in texts:
            n_left = len(text.pending) - 1 if len(text.pending) > few else 0
            while n_left:
                n = min(n_left, batch.capacity - batch.n_tokens)
                batch.extend(text.pending[:n], len(text.held), text.seq_id)
                parts.append((text, n))
                n_left -= n
                if batch.n_tokens == batch.capacity:
                    self._finish(parts)
        if parts:
            self._finish(parts)

    def _finish(self, parts: list[tuple[_Text, int]]) -> None:
        """Decode the batch, which holds so many of the pending tokens of these texts."""
        self.context.decode(self._batch)
        self._batch.clear()
        for text, n in parts:
            text.held += text.pending[:n]
            del text.pending[:n]
        parts.clear()

    def _decode(self, texts: list[_Text]) -> list[int]:
        """Compute the pending tokens of some texts; return the row of each one's last token."""
        batch = self._batch
        batch.clear()
        rows = [batch.extend(text.pending, len(text.held), text.seq_id, output_last=True) for text in texts]
        self.context.decode(batch)
        for text in texts:
            text.held += text.pending
        return rows

    def _add(self, text: _Text, row: int, following: int) -> bool:
        """Add the likeliest token of a row to a draft; whether another one may follow."""
        least = self._least_logprob
        if following >= self._n_vocab:
            return False
        if least is not None and row_logprobs(self.context.outputs, row, following, 0)[0] < least:
            return False
        text.draft.append(following)
        text.pending = [following]
        return len(text.draft) < text.n_max and not self.context.model.vocab.is_eog(following)

    def _cut(self, seq_id: int, n: int) -> None:
        held = self._held[seq_id]
        if self._rollback is not None:
            n = self._rollback.rewind(seq_id, min(n, len(held)))
        del held[n:]
        if not self._memory.seq_rm(seq_id, n):
            self._memory.seq_rm(seq_id)
            held.clear()


def _check_limits(n_draft: object, p_min: object) -> None:
    """Raise ``ValueError`` unless these are a number of tokens and a probability."""
    if not is_int(n_draft, 1):
        raise ValueError(f"n_draft must be at least 1, got {n_draft!r}")
    if not 0.0 <= (-1.0 if (value := as_float(p_min)) is None else value) <= 1.0:
        raise ValueError(f"p_min must be between 0 and 1, got {p_min!r}")


def check_vocabulary(target: Vocab, draft: Vocab) -> None:
    """Raise :class:`DraftError` unless tokens of one are tokens of the other, as llama.cpp's tools compare them."""
    if target.type is not draft.type:
        raise DraftError(f"the draft model's vocabulary is of type {draft.type.name}, not {target.type.name}")
    for name in ("add_bos", "add_eos"):
        if getattr(target, name) != getattr(draft, name):
            raise DraftError(f"the draft model has {name}={getattr(draft, name)}, not {getattr(target, name)}")
    for name, wanted in (("bos", target.add_bos), ("eos", target.add_eos)):
        if wanted and getattr(target, name) != getattr(draft, name):
            raise DraftError(f"the draft model's {name.upper()} is {getattr(draft, name)}, not {getattr(target, name)}")
    sizes = target.n_tokens, draft.n_tokens
    if abs(sizes[0] - sizes[1]) > _MAX_SIZE_DIFFERENCE:
        raise DraftError(
            f"the draft model has {sizes[1]} tokens and the model {sizes[0]}: more than {_MAX_SIZE_DIFFERENCE} apart"
        )
    for token in range(_FIRST_COMPARED, min(sizes)):
        if target.text(token) != draft.text(token):
            raise DraftError(
                f"token {token} is {draft.text(token)!r} to the draft model and {target.text(token)!r} to the model"
            )


__all__ = ["DraftHeads", "DraftModel", "ModelDrafts", "check_vocabulary", "draft_context"]
