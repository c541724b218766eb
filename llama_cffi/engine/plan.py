"""What a scheduler decides: the work of one decode, and where a sequence starts."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.slots import Slot


class Work(NamedTuple):
    """The next ``n_tokens`` cells of a sequence; with ``output`` the last one's logits are wanted.

    The plan has room for ``n_draft`` tokens more, and ``draft`` is what was found to fill it: computed behind the
    sequence's own tokens, every one with logits. ``n_padding`` rows more are computed behind those because the decode
    is faster with them; their results are not read, and they do not stay in memory.
    """

    sequence: RunningSequence
    n_tokens: int
    output: bool
    n_draft: int = 0
    draft: SequenceOf[int] = ()
    n_padding: int = 0


class Admission(NamedTuple):
    """A sequence about to enter ``slot``, reusing ``n_reused`` tokens: the slot's own, or copied from ``source``."""

    slot: Slot
    source: Slot | None
    n_reused: int


StepPlan = list[Work]
"""One decode: never more than ``n_batch`` tokens in all, drafts and padding included, and all of them with the same
adapters."""

Prepare = Callable[[Admission, RunningSequence], int]
"""Brings a slot's memory into the state that an Admission asks for; returns how many tokens are really reused, more
than that where they came from outside."""


def count_tokens(plan: StepPlan) -> tuple[int, int]:
    """Return how many tokens of a plan are rows, drafts and padding included, and how many are those of prompts."""
    n_rows = n_prefill = 0
    for _, n_tokens, output, _, draft, n_padding in plan:
        if n_tokens == 1 and output:
            n_rows += 1 + len(draft) + n_padding
        else:
            n_prefill += n_tokens
    return n_rows, n_prefill


def drafted(plan: StepPlan) -> list[tuple[int, int, int]]:
    """Return of each sequence with a draft its seq_id, the position of its next token, and how many are computed."""
    drafts = ((one.sequence, one.n_tokens + len(one.draft)) for one in plan if one.draft)
    return [(one.seq_id, one.position(one.n_past), n) for one, n in drafts if one.seq_id is not None]


def may_be_lone(running: SequenceOf[RunningSequence]) -> bool:
    """Whether the first of some sequences generates, or will when the tokens at the end of its prompt are computed."""
    if not running or running[0].prefills:
        return False
    media = running[0].request.prompt.media
    return not media or running[0].n_past >= media[-1].end


__all__ = ["Admission", "Prepare", "StepPlan", "Work", "count_tokens", "drafted", "may_be_lone"]
