"""What is left of a step when something raises in the middle of it that is not an error of the library."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from threading import current_thread, main_thread

from llama_cffi._native import shutdown
from llama_cffi.engine.runner import Runner
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.scheduler import Scheduler
from llama_cffi.errors import LlamaCffiError


def is_own_error(error: BaseException) -> bool:
    """Whether what a sequence's own code raised (a sampler, a constraint or a drafter of the caller's) is surely its.

    On the main thread it may also come from a signal handler, and is then for the code that was interrupted. At the end
    of the interpreter it ends the thread.
    """
    if isinstance(error, LlamaCffiError):
        return True
    return current_thread() is not main_thread() and not (isinstance(error, SystemExit) and shutdown.begun())


def repair(
    scheduler: Scheduler, runner: Runner, affected: SequenceOf[RunningSequence], error: BaseException
) -> RunningSequence | None:
    """Bring everything to where a step may begin, after one that an exception has interrupted anywhere.

    Return the sequence that ended because a token was being added to its text, if there is one.
    """
    torn = RunningSequence.torn_by(error)
    if torn is not None:
        torn.end_torn()
    _finish(scheduler, runner)
    for sequence in affected:
        if sequence.seq_id is None:
            continue
        if not sequence.n_pending:
            # Its cells were computed, and the interrupt came before a token was chosen.
            sequence.n_past = sequence.request.prompt.boundary(sequence.n_past - 1)
        # More may be in memory than the sequence knows of.
        sequence.n_past = runner.rewind(sequence)
    return torn


def _finish(scheduler: Scheduler, runner: Runner) -> None:
    """Finish what the scheduler was about to do: afterwards each sequence runs, waits or is gone.

    A sequence that is still in the queue has not begun, whatever was done of its beginning.
    """
    slots, waiting = scheduler.slots, scheduler.waiting
    # The plan may not have been computed, nor its adapters set.
    scheduler.lone = None
    for sequence in tuple(waiting):
        sequence.seq_id, sequence.n_past = None, 0
        if sequence.done:
            scheduler.line.leave(sequence)
    for slot in slots:
        owner = slot.sequence
        if owner is not None and (owner.done or owner.seq_id != slot.seq_id):
            slot.release(keep=False)
            owner.seq_id = None
            runner.keep(slot.seq_id, 0)
    scheduler.running[:] = [
        one for one in scheduler.running if one.seq_id is not None and slots[one.seq_id].sequence is one
    ]


__all__ = ["is_own_error", "repair"]
