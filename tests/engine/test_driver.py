"""Who computes: threads that wait, or one thread for all. Without a model, so that every order can be made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.engine.scheduler import StepPlan
from llama_cffi.engine.telemetry import RequestEvent
from llama_cffi.errors import BusyError, ClosedError, DecodeError, EngineFailedError, QueueFullError, QueueTimeoutError
from llama_cffi.reply.completion import FinishReason
from tests.support.faulty_runner import FaultyRunner

THREADED = EngineOptions(driver="thread")


class Slow(FakeRunner):
    """Each decode waits until :meth:`let` has allowed it."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.inside = threading.Semaphore(0)
        self._allowed = threading.Semaphore(0)
        self.free = False

    def let(self, n: int = 1) -> None:
        for _ in range(n):
            self._allowed.release()

    def let_all(self) -> None:
        self.free = True
        self.let(100)

    def wait(self) -> None:
        if not self.free:
            self.inside.release()
            self._allowed.acquire()

    def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
        self.wait()
        return super().decode(plan, deadline)

    def sampler(self, request: Request, seed: int) -> Any:
        sampler = super().sampler(request, seed)
        sampler.step = None  # every token comes from a decode
        return sampler


@pytest.fixture(params=["inline", "thread"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(runner: FakeRunner, **options: Any) -> Engine:
        made.append(Engine(runner, EngineOptions(**options)))
        return made[-1]

    yield make
    for engine in made:
        if isinstance(engine._runner, Slow):
            engine._runner.let_all()
        engine.close()


def ask(first: int = 1, **fields: Any) -> Request:
    return Request(prompt=Prompt((first,)), **fields)


def text_of(engine: Engine, sequence: RunningSequence) -> str:
    text = ""
    while (chunk := engine.next_chunk(sequence)) is not None:
        text += chunk.text
    return text


def expected(runner: FakeRunner, first: int, n: int) -> str:
    return "".join(map(chr, runner.expected([first], n, runner.n_ctx)))


def in_threads(calls: list[Callable[[], object]], seconds: float = 20) -> None:
    errors: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
        assert not thread.is_alive(), "a thread waits for ever"
    if errors:
        raise errors[0]


def test_threads_get_the_texts_that_each_gets_alone(driver: str, engines: Callable[..., Engine]) -> None:
    runner = FakeRunner(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner, driver=driver)

    def work(first: int) -> None:
        for again in range(3):
            sequence = engine.submit(ask(first + 100 * again % 256, max_tokens=20))
            assert text_of(engine, sequence) == expected(runner, first + 100 * again % 256, 20)

    in_threads([lambda n=n: work(n) for n in range(10)])  # type: ignore[misc]
    assert engine.idle


def test_neither_submit_nor_cancel_waits_for_a_decode(driver: str, engines: Callable[..., Engine]) -> None:
    runner = Slow(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner, driver=driver)
    first, second = engine.submit(ask(1, max_tokens=3)), engine.submit(ask(2, max_tokens=30))
    reader = threading.Thread(target=text_of, args=(engine, first), daemon=True)
    reader.start()
    runner.inside.acquire()  # in the middle of a decode
    third = engine.submit(ask(3, max_tokens=30))
    engine.cancel(second)
    engine.cancel(third)
    assert not second.done
    assert not third.done
    runner.let_all()
    reader.join(20)
    assert not reader.is_alive()
    assert text_of(engine, first) == ""
    for sequence in (second, third):
        text_of(engine, sequence)
        assert sequence.finish_reason is FinishReason.CANCELLED
        assert len(sequence.output) <= 1
    assert engine.idle


def test_a_cancel_in_the_middle_of_a_long_prefill_waits_for_the_step_that_runs(
    driver: str, engines: Callable[..., Engine]
) -> None:
    runner = Slow(n_batch=256, n_ctx=4096, n_seq_max=2)
    engine = engines(runner, driver=driver)
    sequence = engine.submit(Request(prompt=Prompt(n % 256 for n in range(4000)), max_tokens=5))
    reader = threading.Thread(target=text_of, args=(engine, sequence), daemon=True)
    reader.start()
    for _ in range(3):
        runner.inside.acquire()
        runner.let()
    runner.inside.acquire()  # in the fourth of sixteen
    engine.cancel(sequence)
    n_decoded = len(runner.decoded)
    runner.let_all()
    reader.join(20)
    assert not reader.is_alive()
    assert sequence.finish_reason is FinishReason.CANCELLED
    assert len(runner.decoded) <= n_decoded + 1
    assert engine.snapshot().running == 0


def test_chunks_come_out_step_by_step(driver: str, engines: Callable[..., Engine]) -> None:
    """Each reader has its chunk before the next decode is over, whoever computes."""
    runner = Slow(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner, driver=driver)
    got = [threading.Semaphore(0) for _ in range(4)]
    before = engine.submit(ask(9, max_tokens=1))
    threading.Thread(target=text_of, args=(engine, before), daemon=True).start()
    runner.inside.acquire()  # all that follow begin together
    sequences = [engine.submit(ask(n, max_tokens=6)) for n in range(4)]
    counts = [len(runner.expected([n], 6, 64)) for n in range(4)]

    def read(i: int) -> None:
        while engine.next_chunk(sequences[i]) is not None:
            got[i].release()

    threads = [threading.Thread(target=read, args=(i,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    runner.let()
    for step in range(min(counts)):
        runner.inside.acquire()
        runner.let()
        for i, one in enumerate(got):
            assert one.acquire(timeout=20), f"reader {i} waits for its chunk of step {step}"
    runner.let_all()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_one_of_those_that_wait_goes_on_when_the_one_that_computed_leaves(engines: Callable[..., Engine]) -> None:
    runner = Slow(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner)
    short, long = engine.submit(ask(1, max_tokens=1)), engine.submit(ask(2, max_tokens=20))
    first = threading.Thread(target=text_of, args=(engine, short), daemon=True)
    first.start()
    runner.inside.acquire()
    texts: list[str] = []
    second = threading.Thread(target=lambda: texts.append(text_of(engine, long)), daemon=True)
    second.start()
    runner.let_all()
    for thread in (first, second):
        thread.join(20)
        assert not thread.is_alive()
    assert texts == [expected(runner, 2, 20)]


def test_listeners_hear_of_each_step_once(engines: Callable[..., Engine]) -> None:
    runner = FakeRunner(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner)
    heard: list[list[RunningSequence]] = []
    mine = [engine.submit(ask(n, max_tokens=5), heard.append) for n in (1, 2)]
    other = engine.submit(ask(3, max_tokens=5))
    while engine.step():
        pass
    assert all(set(one) <= set(mine) and len(set(one)) == len(one) for one in heard)
    assert len(heard) == max(len(runner.expected([n], 5, 64)) + (len(runner.expected([n], 5, 64)) < 5) for n in (1, 2))
    assert other.done


def test_a_cancelled_sequence_tells_its_listener(driver: str, engines: Callable[..., Engine]) -> None:
    runner = Slow(n_batch=16, n_ctx=64, n_seq_max=1)
    engine = engines(runner, driver=driver)
    heard = threading.Event()
    engine.submit(ask(1, max_tokens=3))
    waiting = engine.submit(ask(2), lambda _: heard.set())
    engine.cancel(waiting)
    runner.let_all()
    assert heard.wait(20)
    assert waiting.done


class Broken(FakeRunner):
    """Fails whenever one of the bad sequences is in the batch."""

    def __init__(self, *bad: int, error: BaseException) -> None:
        super().__init__(n_batch=32, n_ctx=64, n_seq_max=8)
        self.bad, self.error, self.calls = bad, error, 0
        self.ready = threading.Event()
        self.ready.set()

    def decode(self, plan: StepPlan, deadline: float | None = None) -> list[int]:
        self.calls += 1
        self.ready.wait()
        if any(work.sequence.request.prompt[0] in self.bad for work in plan):
            for work in plan:  # half of it is in memory
                if work.sequence.seq_id is not None:
                    self.memory[work.sequence.seq_id].append(0)
                    self.positions[work.sequence.seq_id].append(0)
            raise self.error
        return super().decode(plan, deadline)


@pytest.mark.parametrize("bad", [(3,), (1, 8), (2, 3, 4), tuple(range(1, 9))])
def test_a_failing_decode_ends_only_what_fails_alone(
    bad: tuple[int, ...], driver: str, engines: Callable[..., Engine]
) -> None:
    runner = Broken(*bad, error=DecodeError("broken", code=-3))
    engine = engines(runner, driver=driver)
    sequences = {n: engine.submit(ask(n, max_tokens=9)) for n in range(1, 9)}
    for n, sequence in sequences.items():
        if n in bad:
            with pytest.raises(DecodeError, match="broken"):
                text_of(engine, sequence)
        else:
            assert text_of(engine, sequence) == expected(runner, n, 9)
    assert engine.idle
    assert runner.calls < 9 + 4 * len(bad) * 2 + 16


def test_a_worker_that_fails_ends_every_stream(engines: Callable[..., Engine]) -> None:
    runner = Broken(1, error=ZeroDivisionError("a bug"))
    runner.ready.clear()
    engine = engines(runner, driver="thread")
    heard = threading.Event()
    sequences = [engine.submit(ask(n, max_tokens=50), lambda _: heard.set()) for n in (1, 2)]
    runner.ready.set()
    for sequence in sequences:
        with pytest.raises(EngineFailedError, match="ZeroDivisionError: a bug") as caught:
            text_of(engine, sequence)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert heard.is_set()
    with pytest.raises(EngineFailedError, match="a bug"):
        engine.submit(ask())
    assert engine.snapshot().failed


@pytest.mark.parametrize("raised", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["sampler", "drafts"])
def test_what_the_code_of_one_request_raises_ends_that_request_only(
    kind: str, raised: type[BaseException], driver: str, engines: Callable[..., Engine]
) -> None:
    class Drafts:
        def start(self) -> Drafts:
            return self

        def propose(self, tokens: Any, n_max: int, *, seq_id: int) -> list[int]:
            raise raised("mine")

    runner = FaultyRunner(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner, driver=driver)
    bad = ask(3, max_tokens=20, **({"speculative": Drafts()} if kind == "drafts" else {}))
    if kind == "sampler":
        runner.broken[id(bad)] = raised("mine")
    found: list[str] = []

    def owner() -> None:
        with pytest.raises(raised, match="mine"):
            text_of(engine, engine.submit(bad))
        found.append("raised")

    def other() -> None:
        found.append(text_of(engine, engine.submit(ask(1, max_tokens=20))))

    in_threads([owner, other])
    assert sorted(found) == sorted(["raised", expected(runner, 1, 20)])
    assert text_of(engine, engine.submit(ask(1, max_tokens=20))) == expected(runner, 1, 20)


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_a_worker_that_is_told_to_exit_ends_every_stream(
    raised: type[BaseException], engines: Callable[..., Engine]
) -> None:
    runner = Broken(1, error=raised("a bug"))
    engine = engines(runner, driver="thread")

    def read() -> None:
        with pytest.raises(EngineFailedError, match=f"{raised.__name__}: a bug"):
            text_of(engine, engine.submit(ask(max_tokens=50)))

    in_threads([read, read])


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["queued", "ended"])
def test_an_event_handler_that_exits_disturbs_nobody(
    kind: str, raised: type[BaseException], driver: str, engines: Callable[..., Engine]
) -> None:
    def broken(event: RequestEvent) -> None:
        if event.kind == kind:
            raise raised("mine")

    runner = FakeRunner(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner, driver=driver, on_event=broken)
    found: list[str] = []
    in_threads([lambda: found.append(text_of(engine, engine.submit(ask(1, max_tokens=20))))] * 3)
    assert found == [expected(runner, 1, 20)] * 3


def test_a_context_that_closes_within_a_step_is_no_bug_of_the_engine(engines: Callable[..., Engine]) -> None:
    class Closing(FaultyRunner):
        def keep(self, seq_id: int, n: int) -> bool:
            at_keep.set()
            closed.wait(20)
            return super().keep(seq_id, n)

    at_keep, closed = threading.Event(), threading.Event()
    runner = Closing(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner, driver="thread")
    sequence = engine.submit(ask(1))
    assert at_keep.wait(20)
    with engine.closing():
        runner.closed = True
        closed.set()
    with pytest.raises(ClosedError, match="this Llama or Engine is closed"):
        text_of(engine, sequence)


def test_closing_ends_what_runs_and_what_waits(driver: str, engines: Callable[..., Engine]) -> None:
    runner = Slow(n_batch=16, n_ctx=64, n_seq_max=1)
    engine = engines(runner, driver=driver)
    sequences = [engine.submit(ask(n)) for n in (1, 2)]
    raised: list[BaseException] = []

    def read(sequence: RunningSequence) -> None:
        try:
            text_of(engine, sequence)
        except ClosedError as error:
            raised.append(error)

    threads = [threading.Thread(target=read, args=(one,), daemon=True) for one in sequences]
    for thread in threads:
        thread.start()
    runner.inside.acquire()
    closer = threading.Thread(target=engine.close, daemon=True)
    closer.start()
    while engine._inbox.end is None or (engine._worker is not None and not engine._worker._stopping):
        time.sleep(0.001)
    runner.let_all()
    for thread in (closer, *threads):
        thread.join(20)
        assert not thread.is_alive()
    assert len(raised) == 2
    with pytest.raises(ClosedError):
        engine.submit(ask())
    engine.close()


def test_a_worker_ends_when_it_is_retired_and_another_one_begins(engines: Callable[..., Engine]) -> None:
    runner = FakeRunner(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner, driver="thread")
    for first in (1, 2, 3):
        assert text_of(engine, engine.submit(ask(first, max_tokens=9))) == expected(runner, first, 9)
        worker = engine._worker
        assert worker is not None
        engine.retire()
        worker._thread.join(20)
        assert worker.ended


def test_the_queue_has_an_end(driver: str, engines: Callable[..., Engine]) -> None:
    runner = Slow(n_batch=16, n_ctx=64, n_seq_max=1)
    engine = engines(runner, driver=driver, max_waiting=2, max_waiting_tokens=40)
    running = engine.submit(ask(1, max_tokens=4))
    reader = threading.Thread(target=text_of, args=(engine, running), daemon=True)
    reader.start()
    runner.inside.acquire()
    long = engine.submit(Request(prompt=Prompt(range(50)), max_tokens=1))  # alone it may wait
    with pytest.raises(QueueFullError, match="50 tokens are waiting") as caught:
        engine.submit(ask(2, max_tokens=1))
    assert 1 <= caught.value.retry_after <= 60
    engine.cancel(long)
    runner.let()
    runner.inside.acquire()
    waiting = [engine.submit(ask(n, max_tokens=1)) for n in (2, 3)]
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        engine.submit(ask(4, max_tokens=1))
    assert engine.snapshot().waiting == 2
    assert engine.snapshot().running == 1
    runner.let_all()
    reader.join(20)
    for sequence in waiting:
        text_of(engine, sequence)
    assert engine.snapshot().waiting == 0
    text_of(engine, engine.submit(ask(4, max_tokens=1)))


def test_a_listener_that_was_refused_hears_of_room_once() -> None:
    engine = Engine(FakeRunner(n_batch=16, n_ctx=64, n_seq_max=1), EngineOptions(max_waiting=1))
    told: list[list[RunningSequence]] = []

    def refuse() -> None:
        with pytest.raises(QueueFullError):
            engine.submit(ask(9), told.append)
        with pytest.raises(QueueFullError):
            engine.submit(ask(9))  # without a listener: nothing to tell

    running = engine.submit(ask(1, max_tokens=30), told.append)
    engine.step()
    waiting = engine.submit(ask(2, max_tokens=30), told.append)
    refuse()
    refuse()
    for _ in range(3):
        engine.step()
    assert told.count([]) == 0  # the queue is as full as before
    engine.cancel(running)
    for _ in range(3):
        engine.step()
    assert told.count([]) == 1  # the one that waited has begun
    last = engine.submit(ask(3, max_tokens=30), told.append)
    assert told.count([]) == 1
    refuse()
    engine.cancel(last)
    engine.step()
    assert told.count([]) == 2  # the one that waited has ended
    engine.submit(ask(4), told.append)
    refuse()
    engine.close()
    assert waiting.done
    assert told.count([]) == 3


def test_room_that_comes_while_a_request_is_refused_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakeRunner(n_batch=16, n_ctx=64, n_seq_max=1), EngineOptions(max_waiting=1))
    inbox, told = engine._inbox, list[list[RunningSequence]]()
    no_room, begun = inbox._no_room, threading.Event()

    def look(request: Request) -> QueueFullError | None:
        found = no_room(request)
        if found is not None and not begun.is_set():
            begun.set()
            engine.cancel(running)
            engine.step()  # the one that waited begins after this look
        return found

    running = engine.submit(ask(1, max_tokens=30))
    engine.step()
    waiting = engine.submit(ask(2, max_tokens=30))
    monkeypatch.setattr(inbox, "_no_room", look)
    sequence = engine.submit(ask(3, max_tokens=1), told.append)
    assert (begun.is_set(), waiting.started > 0, sequence in engine.waiting) == (True, True, True)


def test_waiting_has_an_end(driver: str, engines: Callable[..., Engine]) -> None:
    runner = Slow(n_batch=16, n_ctx=64, n_seq_max=1)
    engine = engines(runner, driver=driver, max_waiting_seconds=0.05)
    running = engine.submit(ask(1, max_tokens=4))
    reader = threading.Thread(target=text_of, args=(engine, running), daemon=True)
    reader.start()
    runner.inside.acquire()
    late = engine.submit(ask(2, max_tokens=1))
    time.sleep(0.06)  # longer than it may wait; the one that runs has begun, and may take longer
    runner.let_all()
    with pytest.raises(QueueTimeoutError, match="seconds for its turn"):
        text_of(engine, late)
    reader.join(20)
    assert len(running.output) == 4
    assert engine.snapshot().requests == {"error": 1, "length": 1}
    text_of(engine, engine.submit(ask(3, max_tokens=1)))


def test_at_rest_waits_for_its_turn_and_others_wait_for_it(driver: str, engines: Callable[..., Engine]) -> None:
    runner = FakeRunner(n_batch=16, n_ctx=64, n_seq_max=4)
    engine = engines(runner, driver=driver)
    assert text_of(engine, engine.submit(ask(1, max_tokens=5))) == expected(runner, 1, 5)
    with engine.at_rest() as slots:
        sequence = engine.submit(ask(2, max_tokens=5))
        texts: list[str] = []
        reader = threading.Thread(target=lambda: texts.append(text_of(engine, sequence)), daemon=True)
        reader.start()
        time.sleep(0.05)
        assert not texts
        assert any(slot.held for slot in slots)
    reader.join(20)
    assert texts == [expected(runner, 2, 5)]
    running = engine.submit(ask(3, max_tokens=50))
    if driver == "inline":
        engine.step()
        with pytest.raises(BusyError), engine.at_rest():
            pass
    engine.cancel(running)
    with engine.at_rest():
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"driver": "fast"},
        {"max_waiting": 0},
        {"max_waiting": 1.5},
        {"max_waiting_tokens": -1},
        {"max_waiting_seconds": 0},
        {"max_waiting_seconds": "1"},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        EngineOptions(**options)
