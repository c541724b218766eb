"""One request while it runs: its cells, the part of them in memory, and the text of its tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import NoReturn, Protocol, cast

from llama_cffi.core.prompt import MediaSpan, Prompt
from llama_cffi.engine.drafters import DraftController
from llama_cffi.engine.media_encoder import Encoding
from llama_cffi.engine.pieces import EndingPieces, Pieces
from llama_cffi.engine.request import Request
from llama_cffi.errors import AbortedError
from llama_cffi.reply.completion import Chunk, Completion, FinishReason, TextProgress, Timings, TokenLogprob, Usage
from llama_cffi.reply.detokenizer import Detokenizer
from llama_cffi.reply.stop_patterns import make_stops

Listener = Callable[[list["RunningSequence"]], object]

_ALL = 2**63
_MAX_OUTPUTS = 128
"""Most tokens of a prompt whose logits are wanted at once: each takes as many floats as the vocabulary has tokens."""
_new = object.__new__


class SequenceSampler(Protocol):
    """Picks the next token of one sequence from a row of logits and remembers what it picked."""

    @property
    def step(self) -> Callable[[int, int, int], int] | None:
        """Computes the one pending (token, position, seq_id) of the sequence and chooses the next token, if the sampler
        has a faster way than a decode and :meth:`choose`. A negative result is for :meth:`step_failed`.
        """

    @property
    def ended(self) -> bool:
        """Whether nothing can follow the token chosen last."""

    def step_failed(self, result: int) -> NoReturn:
        """Raise what went wrong in :attr:`step`, as the runner's decode and :meth:`choose` would."""

    def choose(self, row: int) -> int:
        """Return the token chosen from batch row ``row`` of the last decode."""

    def logprob(self, row: int, token: int, n_top: int) -> TokenLogprob:
        """Return the log-probability of ``token`` at that row with ``n_top`` alternatives."""

    def close(self) -> None:
        """Free native resources."""


class RunningSequence:
    """The state of a request between submit and its last chunk.

    ``cells`` is what the memory holds or must hold next, ``n_past`` how many of them it holds, and ``offset`` what the
    position of a generated token is above its cell. A context shift removes from ``cells``; ``output`` keeps everything
    that was generated, and ``n_exact`` says how many of the first cells are in memory as they would be without the
    shift.

    With ``decoder_start`` an encoder reads the prompt: the cells begin with that token, and as they depend on what the
    encoder has read, no other request can use them.
    """

    __slots__ = (
        "_detokenizer",
        "_end_token",
        "_logprobs",
        "_max_tokens",
        "_skip",
        "_stops",
        "_text",
        "cells",
        "checkpoints",
        "chunks",
        "created",
        "deadline",
        "done",
        "drafting",
        "encodings",
        "error",
        "finish_reason",
        "first",
        "last",
        "listeners",
        "n_cached",
        "n_disk",
        "n_exact",
        "n_host",
        "n_passed",
        "n_past",
        "n_prompt",
        "n_start",
        "number",
        "offset",
        "output",
        "pieces",
        "prefills",
        "priority",
        "prompt_logprobs",
        "request",
        "reuse",
        "sampler",
        "seed",
        "seq_id",
        "started",
        "submitted",
        "turn",
        "unwanted",
        "waits",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        sampler: SequenceSampler,
        seed: int,
        pieces: Pieces,
        drafting: DraftController | None = None,
        decoder_start: int | None = None,
    ) -> None:
        self.request = request
        self.reuse = request.reuse and decoder_start is None
        """Whether it reuses what others have computed, and leaves what it computes for others."""
        self.sampler = sampler
        self._end_token: int | None = None
        """The token that ended the text and is not a part of it."""
        ending = frozenset(stop for stop in request.stop if isinstance(stop, int))
        self.pieces = EndingPieces(pieces, ending) if ending else pieces
        self.drafting = drafting
        self.seed = seed
        self.cells = list(request.prompt) if decoder_start is None else [decoder_start]
        self.n_prompt = len(request.prompt)
        """Cells of the prompt."""
        self.n_start = len(self.cells)
        """Cells before the first generated token: those of the prompt, unless an encoder reads it."""
        self.offset = request.prompt.n_positions - self.n_prompt
        self.n_past = 0
        self.n_exact = _ALL
        self.n_cached = 0
        self.n_host = self.n_disk = 0
        """Cells that were brought into memory for it from the host's memory and from the disk."""
        self.checkpoints: tuple[int, ...] = ()
        """After how many cells of the prompt the memory is copied: it cannot be cut back to there later."""
        self.seq_id: int | None = None
        self.encodings: dict[int, Encoding] = {}
        """The embeddings of its next media, by the cell at which these begin."""
        self.waits = False
        """Whether its next cells cannot be computed yet, because those embeddings are not there."""
        self.unwanted = False
        """Whether it is cancelled, which the next step does."""
        self.output: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.error: BaseException | None = None
        self.done = False
        """Whether nothing more will come, but for what is in ``chunks``. Set last: other threads look at it."""
        self.listeners: tuple[Listener, ...] = ()
        """Are called with a list of their sequences after each step that gave these a chunk or ended them, on the
        thread that computed."""
        self.chunks: deque[Chunk] = deque()
        self._detokenizer = Detokenizer()
        self._stops = make_stops([stop for stop in request.stop if not isinstance(stop, int)])
        self._skip = len(request.healed)
        self._text: list[str] = [request.echo] if request.echo else []
        if request.echo:
            self.chunks.append(Chunk(request.echo))
        self.deadline = None if request.max_seconds is None else monotonic() + request.max_seconds
        """The :func:`time.monotonic` at which the sequence ends."""
        self.priority = request.priority
        """The lower, the sooner."""
        self.submitted = 0.0
        """The scheduler's clock when the sequence was submitted."""
        self.n_passed = 0
        """Sequences that started before this one, which could not start yet."""
        self.turn = 0
        """When the sequence was computed last in a group of several."""
        self._logprobs: list[TokenLogprob] | None = [] if request.logprobs is not None else None
        self._max_tokens = request.max_tokens
        self.prefills = request.max_tokens == 0
        """Whether only the prompt is computed."""
        self.prompt_logprobs: list[TokenLogprob | None] | None = [None] if request.prompt_logprobs is not None else None
        self.number = 0
        """Its place among all requests of an engine, from 1 on."""
        self.created = perf_counter()
        self.started = self.first = self.last = 0.0
        """The :func:`time.perf_counter` of its start, and of its first and its last token; 0 while there is none."""

    @property
    def n_pending(self) -> int:
        """Cells that must still be computed before the next token can be chosen."""
        return len(self.cells) - self.n_past

    @property
    def held(self) -> Prompt:
        """What is in memory, as computing it alone would give."""
        return Prompt.of_cells(self.cells[: min(self.n_past, self.n_exact)], self.request.prompt.media)

    @property
    def whole(self) -> Prompt:
        """All cells."""
        return Prompt.of_cells(self.cells, self.request.prompt.media)

    @property
    def wanted(self) -> Prompt:
        """What may be found in memory and not computed again."""
        return Prompt() if self.computes_all else self.whole

    @property
    def computes_all(self) -> bool:
        """Whether nothing may be found in memory: the prompt's log-probabilities are wanted, or no reuse."""
        return self.prompt_logprobs is not None or not self.reuse

    def position(self, cell: int) -> int:
        """Return the position of a cell."""
        return cell if not self.request.prompt.media else self.request.prompt.position(cell)

    @property
    def next_medium(self) -> MediaSpan | None:
        """The medium whose cells are the next ones; None where a token is."""
        if self.n_past < self.n_start and self.cells[self.n_past] < 0:
            return next((span for span in self.request.prompt.media if span.start == self.n_past), None)
        return None

    def next_cells(self, limit: int) -> int:
        """Return how many of the pending cells one decode of ``limit`` tokens can compute: none from a medium on, which
        has a decode of its own.
        """
        if self.prompt_logprobs is not None:
            limit = min(limit, _MAX_OUTPUTS)
        end = min(len(self.cells), self.n_past + limit)
        borders = (*self.checkpoints, *(span.start for span in self.request.prompt.media))
        return min((one for one in borders if self.n_past < one < end), default=end) - self.n_past

    @property
    def n_left(self) -> int:
        """Tokens that may still be generated."""
        return _ALL if self._max_tokens is None else self._max_tokens - len(self.output)

    @property
    def timings(self) -> Timings:
        """The times so far."""
        return Timings(
            prefill_seconds=max(0.0, self.first - self.started),
            decode_seconds=perf_counter() - self.first if self.first else 0.0,
            prefill_tokens=self.n_prompt - self.n_cached,
            decode_tokens=max(0, len(self.output) - 1),
        )

    @property
    def progress(self) -> TextProgress:
        """How far it is. Any thread may ask."""
        return TextProgress(self.n_prompt, self.n_cached, self.n_computed, len(self.output), self.timings)

    @property
    def n_computed(self) -> int:
        """Cells of the prompt that are computed, or were found."""
        return self.n_prompt if self.n_past >= self.n_start else max(self.n_cached, self.n_past)

    @property
    def has_new_line(self) -> bool:
        """Whether a line of the text has ended."""
        return any("\n" in part for part in tuple(self._text))

    def start(self, seq_id: int, n_cached: int) -> None:
        """Begin in the slot that the scheduler gave, whose memory already holds ``n_cached`` of the cells."""
        self.seq_id = seq_id
        self.n_past = n_cached
        self.n_exact = _ALL
        if not self.started:
            self.started = perf_counter()
            self.n_cached = n_cached

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Add a chosen token and queue its chunk."""
        if not self.first:
            self.first = perf_counter()
        piece = self.pieces[token]
        if piece is None:
            self._end_token = token
            self.finish(FinishReason.STOP)
            return
        self.cells.append(token)
        self.output.append(token)
        detokenizer = self._detokenizer
        text = piece if type(piece) is str and not detokenizer.pending else detokenizer.feed(piece)
        if self._skip:
            text = self._without_healed(text)
        stops = self._stops
        if stops is not None:
            text = stops.feed(text)
        if text:
            self._text.append(text)
        logprobs = None
        if self._logprobs is not None and logprob is not None:
            self._logprobs.append(logprob)
            logprobs = (logprob,)
        if stops is not None and stops.matched is not None:
            self._finish(FinishReason.STOP, text, (token,), logprobs)
        elif self.sampler.ended:
            self._finish(FinishReason.STOP, text + self._flush(), (token,), logprobs)
        elif len(self.output) == self._max_tokens:
            self._finish(FinishReason.LENGTH, text + self._flush(), (token,), logprobs)
        else:
            # Chunk(...) would be one more frame; see GenerationLoop.step.
            chunk = _new(Chunk)
            chunk.text, chunk.tokens, chunk.logprobs, chunk.completion = text, (token,), logprobs, None
            self.chunks.append(chunk)

    def finish(self, reason: FinishReason) -> None:
        """End the sequence; the text held back is part of it unless the caller cancelled."""
        if self.chunks and self.chunks[-1].completion is not None:
            self.done = True  # what did this was interrupted
        if not self.done:
            self._finish(reason, "" if reason is FinishReason.CANCELLED else self._flush(), (), None)

    def fail(self, error: BaseException) -> None:
        """End the sequence with an exception, which is raised when its chunks are read."""
        if not self.done:
            self.error = error
            self.sampler.close()
            self.done = True

    @classmethod
    def torn_by(cls, error: BaseException) -> RunningSequence | None:
        """Return the sequence whose text an exception of a signal handler left half written, by its traceback."""
        place = error.__traceback__
        while place is not None:
            if place.tb_frame.f_code in _WRITING:
                return cast("RunningSequence", place.tb_frame.f_locals["self"])
            place = place.tb_next
        return None

    def end_torn(self) -> None:
        """End a sequence that :meth:`torn_by` named: with its completion if that is there, and else with an error."""
        if self.chunks and self.chunks[-1].completion is not None:
            self.done = True
        self.fail(AbortedError("a signal handler raised while a token was added to this text"))

    def _flush(self) -> str:
        text = self._without_healed(self._detokenizer.flush())
        if self._stops is not None:
            text = self._stops.feed(text) + self._stops.flush()
        if text:
            self._text.append(text)
        return text

    def _without_healed(self, text: str) -> str:
        n = self._skip
        self._skip = max(0, n - len(text))
        return text[n:]

    def _finish(
        self,
        reason: FinishReason,
        text: str,
        tokens: tuple[int, ...],
        logprobs: tuple[TokenLogprob, ...] | None,
    ) -> None:
        # A stop string that only the end of the text decided (it began a longer one) counts as a stop.
        stop: str | int | None = self._stops.matched if self._stops is not None else None
        if stop is None and self._end_token in self.request.stop:
            stop = self._end_token
        if reason is FinishReason.LENGTH and stop is not None:
            reason = FinishReason.STOP
        self.finish_reason = reason
        self.sampler.close()
        self.chunks.append(Chunk(text, tokens, logprobs, self._completion(reason, stop)))
        self.done = True

    def _completion(self, reason: FinishReason, stop: str | int | None) -> Completion:
        return Completion(
            text="".join(self._text),
            tokens=tuple(self.output),
            finish_reason=reason,
            stop_sequence=stop,
            usage=Usage(
                self.n_prompt,
                self.n_cached,
                len(self.output),
                host_tokens=min(self.n_host, self.n_cached),
                disk_tokens=min(self.n_disk, self.n_cached - min(self.n_host, self.n_cached)),
            ),
            timings=self.timings,
            seed=self.seed,
            prompt=self.request.prompt,
            sampling={**self.request.sampling.as_dict(), "seed": self.seed},
            slot=self.seq_id,
            context_full=reason is FinishReason.LENGTH and len(self.output) != self._max_tokens,
            prompt_logprobs=tuple(self.prompt_logprobs) if self.prompt_logprobs is not None else None,
            logprobs=tuple(self._logprobs) if self._logprobs is not None else None,
            speculation=self.drafting.result(len(self.output) + (self._end_token is not None))
            if self.drafting
            else None,
        )


_WRITING = (RunningSequence.accept.__code__, RunningSequence.finish.__code__)
