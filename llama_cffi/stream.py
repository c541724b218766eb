"""The chunks of one request, as an iterator that cancels the request when it is dropped."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast, overload

from llama_cffi._util.closing import Closing
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.errors import QueueFullError
from llama_cffi.reply.completion import Chunk, Completion, P
from llama_cffi.reply.reader import Reading

if TYPE_CHECKING:
    from llama_cffi.engine.engine import Engine
    from llama_cffi.engine.running_sequence import RunningSequence
    from llama_cffi.prepare.prepared import Prepared
    from llama_cffi.reply.reply import Reply, ReplyChunk

C = TypeVar("C", bound=Chunk)


class Stream(Closing, ProcessBound, Iterator[C], Generic[C]):
    """The chunks of one request, as an iterator; the last chunk has the completion.

    What is wrong with the end of a text is raised after its last chunk. The request is submitted when the stream is
    made, so that a bad one fails at the call.
    """

    _instead_of_pickling = "send its chunks"
    _instead_of_copying = "start another one"

    def __init__(self, engine: Engine, prepared: Prepared[C]) -> None:
        self._engine = engine
        self._reading = Reading(prepared.reader)
        self._sequence = prepared.submit(engine)
        # A stream that is not read any more must not go on computing in other callers' batches.
        weakref.finalize(self, engine.abandon, self._sequence).atexit = False

    def __iter__(self) -> Iterator[C]:
        if self._reading.reader is not None:
            return self
        # A loop calls the engine without a frame of this class in between; see GenerationLoop.step.
        following = partial(self._engine.next_chunk, self._sequence)
        following.stream = self  # type: ignore[attr-defined]  # what finalizes it must live as long
        return cast("Iterator[C]", iter(following, None))

    def __next__(self) -> C:
        self._reading.check()
        chunk = self._engine.next_chunk(self._sequence)
        if chunk is None:
            raise StopIteration
        return self._reading.read(chunk)

    def close(self) -> None:
        """Cancel the request, if it still runs."""
        self._engine.cancel(self._sequence)

    @overload
    def result(self: Stream[ReplyChunk[P]]) -> Reply[P]: ...

    @overload
    def result(self: Stream[Chunk[P]]) -> Completion[P]: ...

    def result(self) -> Completion:
        """Read to the end and return the completion."""
        self._engine.hold(self._sequence)
        for chunk in self:
            if chunk.completion is not None:
                return chunk.completion
        raise RuntimeError("the stream was read before")


def run(
    engine: Engine, prepared: Sequence[Prepared[Chunk]], report: Callable[[float], object] | None = None
) -> list[Completion]:
    """Compute requests together and return their completions, before any reader has judged them.

    What fails raises and cancels the others. ``report`` receives the part of the requests that is done.
    """
    if report is not None:
        found: dict[int, Completion] = {}
        for i, completion in as_completed(engine, iter(prepared), len(prepared)):
            found[i] = completion
            report(len(found) / len(prepared))
        return [found[i] for i in range(len(prepared))]
    sequences = []
    completions = []
    try:
        for one in prepared:
            sequences.append(one.submit(engine))
            engine.hold(sequences[-1], chunks=True)
        for sequence in sequences:
            while (chunk := engine.next_chunk(sequence)) is not None:
                if chunk.completion is not None:
                    completions.append(chunk.completion)
    finally:
        for sequence in sequences:
            engine.cancel(sequence)
    return completions


def as_completed(engine: Engine, prepared: Iterator[Prepared[Chunk]], n_ahead: int) -> Iterator[tuple[int, Completion]]:
    """Compute requests as an iterator gives them, and yield the number and the completion of each one that is done.

    At most ``n_ahead`` are submitted and not done. What fails raises and cancels the others, as the end of this
    iterator does.
    """
    running: dict[RunningSequence, int] = {}
    left = enumerate(prepared)
    following = next(left, None)
    try:
        while running or following is not None:
            while following is not None and len(running) < n_ahead:
                try:
                    sequence = following[1].submit(engine)
                except QueueFullError:
                    if not running:
                        raise
                    break  # there is room when one of these is done
                engine.hold(sequence, chunks=True)
                running[sequence] = following[0]
                following = next(left, None)
            first = next(iter(running))
            chunk = engine.next_chunk(first)
            done = {} if chunk is None or chunk.completion is None else {first: chunk.completion}
            for sequence in [one for one in running if one.done and one is not first]:
                while (chunk := engine.next_chunk(sequence)) is not None:
                    if chunk.completion is not None:
                        done[sequence] = chunk.completion
            for sequence, completion in done.items():
                yield running.pop(sequence), completion
    finally:
        for sequence in running:
            engine.cancel(sequence)


__all__ = ["Stream", "as_completed", "run"]
