"""The calls of coroutines on their way: prepared on other threads, submitted, awaited, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from llama_cffi._util.fork import after_fork, made_elsewhere
from llama_cffi._util.progress import Progress, reporting
from llama_cffi._util.worker import ThreadPool
from llama_cffi.aio.delivery import Delivery
from llama_cffi.aio.running import Running
from llama_cffi.aio.stream import AsyncStream, Started
from llama_cffi.errors import ClosedError, QueueFullError, SchemaError
from llama_cffi.reply.completion import Chunk, Completion
from llama_cffi.reply.reader import Reading

if TYPE_CHECKING:
    from llama_cffi.engine.running_sequence import RunningSequence
    from llama_cffi.options import WhenFull
    from llama_cffi.prepare.prepared import Prepared
    from llama_cffi.runtime import Runtime

T = TypeVar("T")
C = TypeVar("C", bound=Chunk)

N_PREPARING = 2
"""Threads that check, render and tokenize."""
N_COMPILING = 4
"""Threads that prepare what has a schema, a grammar or tools: compiling may take seconds, for which plain texts need
not wait."""
N_COMPUTING = 4
"""Threads that wait for vectors and scores, which have contexts of their own."""


async def on_thread(call: Callable[[], T]) -> T:
    """Return what a rare call returns, made on a thread of its own; unlike asyncio's, also at the end of a process."""
    pool = ThreadPool(1)
    try:
        return await asyncio.wrap_future(pool.submit(call))
    finally:
        pool.shutdown()


class _Cancelled(Exception):
    """Ends a computation whose task was cancelled."""


class _Late(Exception):
    """A call has taken too long."""


async def _within(seconds: float, job: Future[T], began: list[float]) -> T:
    """Return what a job returns that has begun when it is told there; :class:`_Late` when it takes longer."""
    future = asyncio.wrap_future(job)
    while not future.done():
        left = seconds - (monotonic() - began[0] if began else 0.0)
        if left <= 0:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise _Late
        try:
            await asyncio.wait({future}, timeout=left)
        except asyncio.CancelledError:
            future.cancel()
            raise
    return future.result()


class _InLine:
    """Stands for a request that waits for room in the queue."""


class _Preparation(Generic[T]):
    """Prepares a spec when it is called."""

    def __init__(self, prepare: Callable[[], T], spec: object) -> None:
        self._prepare = prepare
        given = getattr(spec, "options", {})
        self.compiles = any(given.get(name) is not None for name in ("schema", "grammar", "tools"))
        """Whether that may take long."""

    def __call__(self) -> T:
        return self._prepare()


class Calls:
    """What the calls of one :class:`~llama_cffi.AsyncLlama` have in common.

    No event loop is blocked: what takes longer than a moment runs on threads of this object, and the engine's thread
    computes the text.
    """

    def __init__(
        self, runtime: Runtime, *, when_full: WhenFull = "raise", max_compile_seconds: float | None = None
    ) -> None:
        self._runtime = runtime
        self._wait_when_full = when_full == "wait"
        self._max_compile_seconds = max_compile_seconds
        self._preparing = ThreadPool(N_PREPARING)
        self._compiling = ThreadPool(N_COMPILING)
        self._computing = ThreadPool(N_COMPUTING)
        # One speech is computed at a time: those that wait for it need no threads.
        self._speaking = ThreadPool(1)
        self._stops: dict[Future[None], Callable[[], object]] = {}
        self._deliveries: dict[int, Delivery] = {}
        self.running = Running()
        """Requests, jobs of the threads, and what waits for room in the queue."""
        self._draining = False
        self._forked = False
        self.closed = False
        after_fork(self, Calls._refuse)
        if runtime.generates:
            runtime.engine.start_worker()

    def _refuse(self) -> None:
        # The threads did not survive the fork.
        self._forked, self.running, self._stops = True, Running(), {}

    def prepare(self, prepare: Callable[[Any, Any, Any], T], asked: Any) -> Callable[[], T]:
        """Return what prepares a spec."""
        return _Preparation(lambda: prepare(asked, self._runtime.formats, self._runtime.defaults), asked)

    def _pool(self, call: Callable[[], Any]) -> ThreadPool:
        return self._compiling if isinstance(call, _Preparation) and call.compiles else self._preparing

    # -- on other threads

    async def call(self, call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """Return what a short call returns, made on another thread.

        When the task is cancelled meanwhile, ``undo`` gets what the call comes to return.
        """
        return await self._on(self._pool(call), call, undo)

    async def answer(self, call: Callable[..., T], *asked: Any) -> T:
        """Return what a function of :mod:`~llama_cffi.answers` returns; made and ended as by the method below."""
        return await self.call_with_progress(call, None, *asked, self._runtime)

    async def call_with_progress(
        self, call: Callable[..., T], progress: Progress | None, *args: Any, **options: Any
    ) -> T:
        """Return what a long call that takes ``progress`` returns, made on another thread; the task's end ends it."""
        cancelled = False

        try:
            with reporting(progress, "computing") as told:

                def report(part: float) -> object:
                    if cancelled or self.closed:
                        raise _Cancelled
                    return told(part) if told is not None else None

                return await self._on(self._computing, partial(call, *args, progress=report, **options))
        except _Cancelled:
            raise ClosedError("this AsyncLlama is closed") from None
        finally:
            cancelled = True

    async def _on(
        self, pool: ThreadPool, call: Callable[[], T], undo: Callable[[T], object] | None = None, *, begun: bool = False
    ) -> T:
        """Return what a call returns; ``begun`` is whether it is part of one that began before :meth:`drain`."""
        self._check_open(begun=begun)
        began: list[float] = []

        def work() -> T:
            began.append(monotonic())
            return self._unless_closed(call)

        try:
            job: Future[T] = pool.submit(partial(copy_context().run, work))
        except RuntimeError:
            self._check_open(begun=begun)  # another loop closed it meanwhile
            raise
        self.running.add(job)
        job.add_done_callback(self.running.remove)
        try:
            if pool is self._compiling and self._max_compile_seconds is not None:
                return await _within(self._max_compile_seconds, job, began)
            return await asyncio.wrap_future(job)
        except (asyncio.CancelledError, _Late) as error:
            if undo is not None:
                job.add_done_callback(partial(_undo, undo))
            if isinstance(error, _Late):
                limit = f"{self._max_compile_seconds:g} seconds"
                raise SchemaError(f"the schema, the grammar or the tools take more than {limit} to compile") from None
            raise

    def _unless_closed(self, call: Callable[[], T]) -> T:
        if self.closed:
            raise ClosedError("this AsyncLlama is closed")
        return call()

    @property
    def runtime(self) -> Runtime:
        """What computes."""
        return self._runtime

    def speak(self, call: Callable[[], None], stop: Callable[[], object]) -> None:
        """Make a call on the thread for speech, after those before it; ``stop`` ends it early."""
        self._check_open()
        try:
            job = self._speaking.submit(partial(copy_context().run, call))
        except RuntimeError:
            self._check_open()  # another loop closed it meanwhile
            raise
        self._stops[job] = stop
        self.running.add(job)
        for done in (self.running.remove, partial(_forget, self._stops)):
            job.add_done_callback(done)

    # -- requests

    async def start(self, prepare: Callable[[], Prepared[C]]) -> Started[C]:
        """Prepare and submit a request; raises what is wrong with it."""
        delivery = self._delivery()

        def work() -> tuple[Prepared[C], RunningSequence | _InLine]:
            prepared = prepare()
            return prepared, self._submit(prepared, delivery)

        prepared, submitted = await self._on(self._pool(prepare), work, lambda done: self._abandon(done[1]))
        return await self._started(prepared, submitted, delivery)

    async def run(self, parts: Sequence[Prepared[Chunk]]) -> list[Completion]:
        """Compute requests together and return their completions, before any reader has judged them.

        What fails raises and cancels the others.
        """
        delivery = self._delivery()
        streams: list[AsyncStream[Chunk]] = []
        submitted: list[RunningSequence | _InLine] = []

        def work() -> None:
            for one in parts:
                submitted.append(self._submit(one, delivery))

        def undo(_: None = None) -> None:
            for sent in submitted:
                self._abandon(sent)

        try:
            await self.call(work, undo)
            for one, sent in zip(parts, submitted, strict=True):
                started = await self._started(one, sent, delivery)
                streams.append(AsyncStream.of(started._replace(reading=Reading(None))))
            return [await stream.result() for stream in streams]
        finally:
            undo()
            for stream in streams:
                await stream.aclose()

    async def as_completed(
        self, prepare: Callable[[], Iterator[Prepared[Chunk]]], n_ahead: int
    ) -> AsyncIterator[tuple[int, Completion]]:
        """Compute requests as an iterator gives them; yield the number and the completion of each one that is done.

        At most ``n_ahead`` are submitted and not done. What fails raises and cancels the others.
        """
        left = enumerate(await self.call(prepare))
        running: dict[asyncio.Future[Completion], int] = {}
        more = True
        try:
            while running or more:
                while more and len(running) < n_ahead:
                    following = await self.call(partial(next, left, None))
                    if following is None:
                        more = False
                    else:
                        i, prepared = following
                        stream = AsyncStream(partial(self.start, partial(_same, prepared)))
                        running[asyncio.ensure_future(stream.result())] = i
                if running:
                    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield running.pop(task), task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _submit(self, prepared: Prepared[C], delivery: Delivery) -> RunningSequence | _InLine:
        """Submit a request, or note that it waits for room in the queue."""
        # What waits already comes first.
        sequence = None if delivery.line.locked() else self._try(prepared, delivery)
        if sequence is not None:
            return sequence
        waiting = _InLine()
        self.running.add(waiting)
        return waiting

    def _try(self, prepared: Prepared[C], delivery: Delivery) -> RunningSequence | None:
        """Submit a request; None when it is to wait for room in the queue."""
        try:
            sequence = prepared.submit(self._runtime.engine, delivery)
        except QueueFullError:
            if self._wait_when_full:
                return None
            raise
        self.running.add(sequence)
        if sequence.done:  # maybe before it was noted
            self.running.remove(sequence)
        if self.closed:
            self._abandon(sequence)
        return sequence

    async def _started(
        self, prepared: Prepared[C], submitted: RunningSequence | _InLine, delivery: Delivery
    ) -> Started[C]:
        if isinstance(submitted, _InLine):
            try:
                sequence = await self._submit_when_room(prepared, delivery)
            finally:
                self.running.remove(submitted)
        else:
            sequence = submitted
        return Started(self._runtime.engine, delivery, sequence, Reading(prepared.reader))

    async def _submit_when_room(self, prepared: Prepared[C], delivery: Delivery) -> RunningSequence:
        async with delivery.line:
            while True:
                # Before the attempt: room that comes from now on is heard of.
                delivery.room.clear()
                attempt = partial(self._try, prepared, delivery)
                sequence = await self._on(self._preparing, attempt, self._abandon, begun=True)
                if sequence is not None:
                    return sequence
                await delivery.room.wait()

    def _abandon(self, submitted: RunningSequence | _InLine | None) -> None:
        if isinstance(submitted, _InLine):
            self.running.remove(submitted)
        elif submitted is not None and not self._runtime.closed:
            self._runtime.engine.abandon(submitted)

    def _delivery(self) -> Delivery:
        self._check_open()
        engine, loop = self._runtime.engine, asyncio.get_running_loop()
        found = self._deliveries.get(id(loop))
        if found is None or found.loop is not loop:
            for key, one in tuple(self._deliveries.items()):
                if one.loop.is_closed():
                    self._deliveries.pop(key, None)
            self._deliveries[id(loop)] = found = Delivery(loop, engine.abandon, self.running.end)
        return found

    # -- the end

    def _check_open(self, *, begun: bool = False) -> None:
        if self.closed:
            raise ClosedError("this AsyncLlama is closed")
        if self._draining and not begun:
            raise ClosedError("this AsyncLlama takes no more calls: it is draining")
        if self._forked:
            raise made_elsewhere("AsyncLlama")
        self._runtime.check_open()

    async def drain(self, timeout: float | None) -> None:
        """See :meth:`AsyncLlama.drain`."""
        self._draining = True
        await self.running.wait(timeout)

    def close(self) -> None:
        """Cancel what runs, and take no more."""
        self.closed = True
        for one in self.running:
            if not isinstance(one, (Future, _InLine)):
                self._abandon(cast("RunningSequence", one))
        for delivery in tuple(self._deliveries.values()):
            delivery.tell_of_room()  # what waits for it finds this closed
        for stop in tuple(self._stops.values()):
            stop()
        if not self._forked:
            self._speaking.shutdown()
            self._preparing.shutdown()
            self._compiling.shutdown()
            self._computing.shutdown()


def _forget(stops: dict[Future[None], Callable[[], object]], job: Future[None]) -> None:
    stops.pop(job, None)


def _same(value: T) -> T:
    return value


def _undo(undo: Callable[[T], object], job: Future[T]) -> None:
    with suppress(Exception):
        if not job.cancelled() and job.exception() is None:
            undo(job.result())


__all__ = ["Calls", "on_thread"]
