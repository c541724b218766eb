"""Drafts by a smaller model with the same vocabulary."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, replace

from llama_cffi._util.scalars import as_float, is_int
from llama_cffi.core.batch import Batch
from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.model import Model
from llama_cffi.core.prompt import common_prefix
from llama_cffi.core.rollback import Rollback
from llama_cffi.core.selection import TokenSelector, row_logprobs
from llama_cffi.core.vocab import Vocab
from llama_cffi.engine.drafters import Drafter
from llama_cffi.engine.side_context import SideContext
from llama_cffi.errors import DraftError, MemoryFullError, UnsupportedError

_MAX_SIZE_DIFFERENCE = 128
"""Tokens that one vocabulary may have more than the other: llama.cpp's limit, for padding at the end."""
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
        check_limits(self.n_draft, self.p_min)


def draft_context(target: ContextOptions, n_ctx: int) -> ContextOptions:
    """Return the options of a draft model's context, with as much room as the ``n_ctx`` cells of its target's.

    That holds whatever shape the target's memory has.
    """
    return replace(target, n_ctx=n_ctx, kv_unified=True, swa_full=True, n_rs_seq=0)


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

    def propose(self, tokens: Tokens[int], n_max: int, *, seq_id: int) -> list[int]:
        """The likeliest tokens to follow; see :class:`Drafter`. What the draft context raises, :class:`MemoryFullError`
        excepted, reaches the caller.
        """
        n_max = min(n_max, self._n_draft, self._n_ctx - len(tokens))
        if n_max < 1:
            return []
        with self._target.lock(), self.context.lock():
            if self.context.thread_limit != self._target.thread_limit:
                self.context.lower_threads(self._target.thread_limit, "as the model that it drafts for")
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

    def _draft(self, tokens: Tokens[int], n_max: int, seq_id: int) -> list[int]:
        held = self._held[seq_id]
        self._cut(seq_id, min(common_prefix(held, tokens), len(tokens) - 1))
        new = tokens[len(held) :]
        if max(new) >= self._n_vocab or min(new) < 0:
            # Padding at the end of the larger vocabulary, or media, which the smaller model does not know.
            return []
        batch = self._batch
        while len(held) < len(tokens) - 1:
            part = tokens[len(held) : min(len(tokens) - 1, len(held) + batch.capacity)]
            batch.clear()
            batch.extend(part, len(held), seq_id)
            self.context.decode(batch)
            held.extend(part)
        if self._rollback is not None:
            self._rollback.copy(seq_id, len(held))
        vocab, least = self.context.model.vocab, self._least_logprob
        draft: list[int] = []
        token = tokens[-1]
        while len(draft) < n_max:
            following = self._step(token, len(held), seq_id)
            if following < 0:
                self.context.step_failed(following)
            held.append(token)
            if following >= self._n_vocab:
                break
            if least is not None and row_logprobs(self.context.outputs, 0, following, 0)[0] < least:
                break
            draft.append(following)
            if vocab.is_eog(following):
                break
            token = following
        return draft

    def _cut(self, seq_id: int, n: int) -> None:
        held = self._held[seq_id]
        if self._rollback is not None:
            n = self._rollback.rewind(seq_id, min(n, len(held)))
        del held[n:]
        if not self._memory.seq_rm(seq_id, n):
            self._memory.seq_rm(seq_id)
            held.clear()


def check_limits(n_draft: object, p_min: object) -> None:
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


__all__ = ["DraftModel", "ModelDrafts", "check_limits", "check_vocabulary"]
