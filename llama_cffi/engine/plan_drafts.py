"""The drafts of a plan: one sequence after another, or several by one computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llama_cffi.engine.drafters import DraftController, SharedDrafts
from llama_cffi.engine.plan import StepPlan, Work
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.errors import LlamaCffiError


def propose(one: RunningSequence, drafting: DraftController, n_max: int, n_ctx: int, n_others: int = 0) -> list[int]:
    """Return a draft that fits the context, and what may still be generated: one token always comes after it."""
    n_max, seq_id = _limit(one, n_max, n_ctx), one.seq_id
    if n_max < 1 or seq_id is None:
        return []
    return drafting.propose(one.cells, n_max, seq_id=seq_id, n_others=n_others)


def draft_all(plan: StepPlan, n_ctx: int, clock: Callable[[], float]) -> Iterator[RunningSequence]:
    """Find the drafts for a plan and write them into it; each sequence is yielded before it is asked for its own.

    What raises then is the one sequence's own. Before that, what is computed for several of them is computed together.
    """
    drafting = [i for i, work in enumerate(plan) if work.n_draft]
    if not drafting:
        return
    n_others = sum(one.n_tokens for one in plan) - 1
    if len(drafting) > 1:
        _draft_together([plan[i] for i in drafting], n_ctx, n_others, clock)
    for i in drafting:
        work = plan[i]
        if work.sequence.drafting is not None:
            yield work.sequence
            draft = propose(work.sequence, work.sequence.drafting, work.n_draft, n_ctx, n_others)
            plan[i] = work._replace(draft=draft)


def _draft_together(works: list[Work], n_ctx: int, n_others: int, clock: Callable[[], float]) -> None:
    groups: dict[int, tuple[SharedDrafts, list[tuple[Work, DraftController]]]] = {}
    for work in works:
        drafting = work.sequence.drafting
        shared = drafting.together if drafting is not None else None
        if drafting is not None and shared is not None:
            groups.setdefault(id(shared), (shared, []))[1].append((work, drafting))
    for shared, members in groups.values():
        wanted, drafters = [], []
        for work, drafting in members if len(members) > 1 else ():
            sequence, n_max = work.sequence, _limit(work.sequence, work.n_draft, n_ctx)
            if n_max < 1 or sequence.seq_id is None:
                continue
            one = drafting.want(sequence.cells, n_max, seq_id=sequence.seq_id, n_others=n_others)
            if one is not None:
                wanted.append(one)
                drafters.append(drafting)
        if len(wanted) < 2:
            continue  # a single one is asked as any other
        known, start = all(drafting.asked for drafting in drafters), clock()
        try:
            drafts = shared.propose_all(wanted)
        except LlamaCffiError:
            continue  # and so are all of them, to find the one whose error it is
        each = (clock() - start) / max(1, sum(map(len, drafts)))
        for drafting, draft in zip(drafters, drafts, strict=True):
            drafting.expect(draft, each * len(draft) if known else None)


def _limit(one: RunningSequence, n_max: int, n_ctx: int) -> int:
    return min(n_max, n_ctx - len(one.cells), one.n_left - 1)


__all__ = ["draft_all", "propose"]
