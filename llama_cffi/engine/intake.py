"""What a request becomes: a sequence with its sampler, its drafts and what was kept of its prompt."""

from __future__ import annotations

from llama_cffi._util.seed import draw_seed
from llama_cffi.engine.drafters import DraftController
from llama_cffi.engine.loop import GenerationLoop
from llama_cffi.engine.request import Request
from llama_cffi.engine.runner import Runner, SavedMemory
from llama_cffi.engine.running_sequence import Listener, RunningSequence


class Intake:
    """Makes the sequences of requests, on the threads that submit them: none waits for a decode."""

    def __init__(self, runner: Runner, loop: GenerationLoop) -> None:
        self._runner = runner
        self._loop = loop

    def make(self, request: Request, listener: Listener | None) -> tuple[RunningSequence, SavedMemory | None]:
        """Return the sequence of a request, and what was found for its prompt outside the context.

        Its first medium is being encoded then. Raises the errors of sampling parameters, adapters and drafters.
        """
        runner, loop = self._runner, self._loop
        seed = request.sampling.seed if request.sampling.seed is not None else draw_seed()
        drafting = self._drafting(request)
        found, pieces = self._find_saved(request), runner.pieces(request.visible)
        sequence = RunningSequence(request, runner.sampler(request, seed), seed, pieces, drafting, runner.decoder_start)
        if loop.outside.host.max_bytes and sequence.reuse:
            sequence.checkpoints = runner.checkpoints(request.prompt)
        if listener is not None:
            sequence.listeners = (listener,)
        if loop.media is not None and request.prompt.media:
            loop.media.prefetch(sequence, loop.outside.prompts(request.conditioning, found))
        return sequence, found

    def _drafting(self, request: Request) -> DraftController | None:
        if request.speculative is None:
            return None
        runner, loop = self._runner, self._loop
        drafter = request.speculative.start()
        return DraftController(drafter, runner.n_vocab, loop.cost, loop.clock, n_rollback=runner.n_rollback)

    def _find_saved(self, request: Request) -> SavedMemory | None:
        if request.conditioning or request.prompt_logprobs is not None or not request.reuse:
            return None
        # Without the lock, so that it does not wait for a decode: what is found is compared again when it is used.
        choice = self._loop.scheduler.spare(request.prompt)
        return None if choice is None else self._loop.outside.find(request.prompt, choice[1])


__all__ = ["Intake"]
