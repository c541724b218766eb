"""The asyncio face on the demo model: the same answers as Llama's, and what becomes of tasks that end early."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, Generic, TypeVar, cast

import numpy as np
import pytest
from pydantic import BaseModel

import llama_cffi
from llama_cffi import AsyncLlama, Llama, Tool
from llama_cffi.aio import running
from llama_cffi.aio.delivery import Delivery
from llama_cffi.errors import (
    BusyError,
    ClosedError,
    ContextOverflowError,
    IncompleteOutput,
    MessageError,
    QueueFullError,
    SchemaError,
)
from llama_cffi.reply.completion import FinishReason
from llama_cffi.tool_loop import ToolResult
from tests.support.ties import same_but_for_ties

T = TypeVar("T")
PROMPTS = ["Once upon a time", "The cat", "A big red ball", "Tom and Sue went to the park"]
ENDLESS: dict[str, Any] = {"overflow": "shift", "logit_bias": dict.fromkeys((2, 4), "never"), "temperature": 0}
ASK = [{"role": "user", "content": "What is the weather?"}]


@pytest.fixture(scope="module")
def sync() -> Iterator[Llama]:
    with Llama.demo(n_ctx=512, n_threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def llm() -> Iterator[AsyncLlama]:
    llm = asyncio.run(AsyncLlama.demo(n_ctx=512, n_seq_max=4, n_threads=1))
    yield llm
    asyncio.run(llm.aclose())


def run(make: Callable[[], Awaitable[T]], seconds: float = 60) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(make(), seconds)

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come true")


def idle(llm: AsyncLlama) -> bool:
    stats = llm.stats()
    return stats.running == stats.waiting == 0


# -- the same answers


def test_answers_are_those_of_llama(llm: AsyncLlama, sync: Llama) -> None:
    class Person(BaseModel):
        name: str
        age: int

    async def ask() -> list[Any]:
        return [
            (await llm.generate(PROMPTS[0], max_tokens=20, temperature=0)).text,
            (await llm.generate(PROMPTS[0], max_tokens=20, seed=7)).text,
            [one.text for one in await llm.generate(PROMPTS[0], n=2, max_tokens=8, seed=7)],
            (await llm.chat("Hi", max_tokens=20, seed=3)).text,
            (await llm.generate("A person: ", schema=Person, max_tokens=200, seed=3)).parsed,
            await llm.score("Once", [" upon", " cat"]),
            (await llm.perplexity("Once upon a time there was a cat. " * 8)).value,
            llm.render_chat(ASK),
            llm.detokenize(llm.tokenize("Hello")),
        ]

    assert run(ask) == [
        sync.generate(PROMPTS[0], max_tokens=20, temperature=0).text,
        sync.generate(PROMPTS[0], max_tokens=20, seed=7).text,
        [one.text for one in sync.generate(PROMPTS[0], n=2, max_tokens=8, seed=7)],
        sync.chat("Hi", max_tokens=20, seed=3).text,
        sync.generate("A person: ", schema=Person, max_tokens=200, seed=3).parsed,
        sync.score("Once", [" upon", " cat"]),
        sync.perplexity("Once upon a time there was a cat. " * 8).value,
        sync.render_chat(ASK),
        sync.detokenize(sync.tokenize("Hello")),
    ]


def test_vectors(llm: AsyncLlama, sync: Llama) -> None:
    async def ask() -> tuple[Any, Any]:
        return await llm.embed(PROMPTS), await llm.similarity("a cat", ["a dog", "a tree"])

    embeddings, similarity = run(ask)
    np.testing.assert_allclose(embeddings.array, sync.embed(PROMPTS).array, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(similarity, sync.similarity("a cat", ["a dog", "a tree"]), rtol=1e-4, atol=1e-5)


def test_streams(llm: AsyncLlama, sync: Llama) -> None:
    async def read() -> None:
        stream = llm.stream(PROMPTS[1], max_tokens=20, temperature=0)
        text = ""
        async for chunk in stream:
            text += chunk.text
        assert stream.completion is not None
        assert stream.completion.text == text == sync.generate(PROMPTS[1], max_tokens=20, temperature=0).text
        chunks = await llm.stream_chat("Hi", max_tokens=10, seed=3).collect()
        assert "".join(chunk.text for chunk in chunks) == sync.chat("Hi", max_tokens=10, seed=3).text
        assert (await llm.stream(PROMPTS[1], max_tokens=0).result()).text == ""

    run(read)


def alone(sync: Llama) -> list[tuple[int, ...]]:
    return [sync.generate(prompt, max_tokens=12, temperature=0).tokens for prompt in PROMPTS]


def check(sync: Llama, found: list[tuple[int, ...]]) -> None:
    for prompt, tokens, expected in zip(PROMPTS, found, alone(sync), strict=True):
        assert same_but_for_ties(sync, prompt, tokens, expected)


def test_many_tasks_get_what_each_gets_alone(llm: AsyncLlama, sync: Llama) -> None:
    async def read(prompt: str) -> tuple[int, ...]:
        return tuple(
            [token async for chunk in llm.stream(prompt, max_tokens=12, temperature=0) for token in chunk.tokens]
        )

    async def all_of_them() -> list[tuple[int, ...]]:
        return await asyncio.gather(*(read(prompt) for _ in range(4) for prompt in PROMPTS))

    found = run(all_of_them)
    for i in range(0, 16, 4):
        check(sync, found[i : i + 4])
    assert idle(llm)


def test_completions_come_when_they_are_done(llm: AsyncLlama, sync: Llama) -> None:
    wanted = [(prompt, n) for n in (3, 40, 5) for prompt in PROMPTS]

    async def collect() -> dict[int, int]:
        return {i: len(done.tokens) async for i, done in llm.map([p for p, _ in wanted], max_tokens=9, **ENDLESS)}

    assert run(collect) == dict.fromkeys(range(len(wanted)), 9)

    async def leave() -> None:
        async for _, _ in llm.map((prompt for prompt in PROMPTS * 1000), max_tokens=3):
            break
        with pytest.raises(TypeError):
            async for _ in llm.map([PROMPTS[0], 5]):  # type: ignore[list-item]
                pass
        gc.collect()
        await until(lambda: idle(llm))

    run(leave)


def test_several_loops_and_threads_share_one_model(llm: AsyncLlama, sync: Llama) -> None:
    found: list[list[tuple[int, ...]]] = []

    async def ask() -> list[tuple[int, ...]]:
        done = await asyncio.gather(*(llm.generate(prompt, max_tokens=12, temperature=0) for prompt in PROMPTS))
        return [one.tokens for one in done]

    def in_a_loop() -> None:
        found.append(asyncio.run(ask()))

    def without_a_loop() -> None:
        found.append([llm.llama.generate(prompt, max_tokens=12, temperature=0).tokens for prompt in PROMPTS])

    threads = [threading.Thread(target=call) for call in (in_a_loop, without_a_loop) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(found) == 4
    for one in found:
        check(sync, one)


def test_a_llama_of_the_caller_becomes_threaded_and_stays_open(sync: Llama) -> None:
    expected = sync.generate(PROMPTS[0], max_tokens=9, temperature=0).text

    async def ask() -> str:
        async with AsyncLlama(sync) as llm:
            return (await llm.generate(PROMPTS[0], max_tokens=9, temperature=0)).text

    assert run(ask) == expected
    assert not sync.closed
    assert sync.generate(PROMPTS[0], max_tokens=9, temperature=0).text == expected
    with pytest.raises(ValueError, match="n_ctx"):
        AsyncLlama(sync, n_ctx=5)


def test_progress_of_scores(llm: AsyncLlama) -> None:
    parts: list[float] = []
    scores = run(lambda: llm.score("Once", [" upon", " cat"], progress=parts.append))
    assert len(scores) == 2
    assert parts[-1] == 1.0
    with pytest.raises(TypeError, match="progress"):
        run(lambda: llm.score("Once", [" upon"], progress="yes"))  # type: ignore[arg-type]


# -- what ends early


def test_cancelling_a_task_frees_its_slot(llm: AsyncLlama) -> None:
    async def cancel_when(ready: Callable[[], bool], make: Callable[[], Awaitable[Any]]) -> None:
        task = asyncio.ensure_future(make())
        await until(ready)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: idle(llm))

    async def read() -> None:
        async for _ in llm.stream(PROMPTS[0], **ENDLESS):
            pass

    async def all_ways() -> None:
        running = lambda: llm.stats().running > 0  # noqa: E731
        await cancel_when(running, read)
        await cancel_when(running, lambda: llm.generate(PROMPTS[0], **ENDLESS))
        await cancel_when(running, lambda: llm.generate(PROMPTS, **ENDLESS))
        await cancel_when(running, lambda: llm.chat(ASK, **ENDLESS))
        await cancel_when(lambda: llm.stats().waiting > 0, lambda: llm.generate(PROMPTS * 2, **ENDLESS))
        await cancel_when(lambda: True, lambda: llm.generate(PROMPTS[0], **ENDLESS))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(llm.generate(PROMPTS[0], **ENDLESS), 0.05)
        await until(lambda: idle(llm))

    run(all_ways)


def test_cancelling_a_task_ends_the_computation_of_vectors_and_scores(llm: AsyncLlama) -> None:
    many = ["Once upon a time there was a cat. " * 8] * 2000

    async def cancel(make: Callable[[], Awaitable[Any]]) -> None:
        task = asyncio.ensure_future(make())
        await until(lambda: bool(llm._calls.running))
        [job] = [one for one in llm._calls.running if isinstance(one, Future)]
        await until(job.running)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(job.done)
        assert job.exception() is not None, "it was computed to its end"

    async def all_kinds() -> None:
        await cancel(lambda: llm.embed(many))
        await cancel(lambda: llm.similarity("a cat", many))
        await cancel(lambda: llm.score("Once", many))

    run(all_kinds)


def test_leaving_closing_and_dropping_a_stream_cancel_it(llm: AsyncLlama) -> None:
    async def leave() -> None:
        async with llm.stream(PROMPTS[0], **ENDLESS) as stream:
            await anext(stream)
        await until(lambda: idle(llm))
        last = [chunk async for chunk in stream][-1]
        assert last.completion is not None
        assert last.completion.finish_reason is FinishReason.CANCELLED

        stream = llm.stream(PROMPTS[0], **ENDLESS)
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        await until(lambda: idle(llm))

        stream = llm.stream(PROMPTS[0], **ENDLESS)
        await anext(stream)
        del stream
        gc.collect()
        await until(lambda: idle(llm))

        never_begun = llm.stream(PROMPTS[0])
        await never_begun.aclose()
        assert [chunk async for chunk in never_begun] == []

    run(leave)


def test_a_loop_that_is_closed_while_streams_run(llm: AsyncLlama) -> None:
    loop = asyncio.new_event_loop()
    stream = llm.stream(PROMPTS[0], **ENDLESS)
    loop.run_until_complete(anext(stream))
    loop.close()
    run(lambda: until(lambda: idle(llm)))
    assert run(lambda: llm.generate(PROMPTS[0], max_tokens=3)).usage.completion_tokens == 3


def test_a_loop_that_is_closed_before_it_took_the_news() -> None:
    loop = asyncio.new_event_loop()
    abandoned: list[Any] = []
    ended: list[Any] = []
    delivery = Delivery(loop, abandoned.append, ended.append)
    first, second = cast("Any", [SimpleNamespace(done=False), SimpleNamespace(done=True)])
    delivery([first])  # the loop is not running: this call is never made
    loop.close()
    delivery([second])
    assert (abandoned, ended) == ([first, second], [second])
    delivery([])  # there is room in the queue, and nothing waits for it


def test_requests_that_ended_are_forgotten(llm: AsyncLlama) -> None:
    async def many() -> None:
        for _ in range(100):
            await llm.generate(PROMPTS[0], max_tokens=1)
            assert len(llm._calls.running) <= 1

    run(many)


def test_a_reader_that_stops_reading_does_not_stop_the_others(llm: AsyncLlama, sync: Llama) -> None:
    async def slow() -> tuple[int, ...]:
        stream = llm.stream(PROMPTS[0], max_tokens=60, **ENDLESS)
        first = await anext(stream)
        await until(lambda: idle(llm))
        rest = [chunk async for chunk in stream]
        assert len(rest) < 30  # what it missed comes as one
        assert stream.completion is not None
        assert stream.completion.text == "".join(chunk.text for chunk in (first, *rest))
        return stream.completion.tokens

    expected = sync.generate(PROMPTS[0], max_tokens=60, **ENDLESS).tokens
    assert same_but_for_ties(sync, PROMPTS[0], run(slow), expected)


def test_one_task_at_a_time_reads_a_stream(llm: AsyncLlama) -> None:
    async def two() -> None:
        async with llm.stream(PROMPTS[0], **ENDLESS) as stream:
            found = await asyncio.gather(anext(stream), anext(stream), return_exceptions=True)
        assert sum(isinstance(one, RuntimeError) for one in found) == 1

    run(two)


# -- errors


def test_a_stream_is_started_before_it_is_read(llm: AsyncLlama, sync: Llama) -> None:
    async def ask() -> tuple[int, int, str]:
        stream = llm.stream_chat(ASK, max_tokens=6, temperature=0)
        numbers = await stream.start(), await stream.start()
        return *numbers, (await stream.result()).text

    n = len(sync.tokenize_chat(ASK))
    assert run(ask) == (n, n, sync.chat(ASK, max_tokens=6, temperature=0).text)

    async def wrong(start: bool) -> None:
        stream = llm.stream("a " * 2000)
        if start:
            await stream.start()
        await stream.aclose()
        await stream.start()

    with pytest.raises(ContextOverflowError):
        run(lambda: wrong(True))
    with pytest.raises(RuntimeError, match="closed"):
        run(lambda: wrong(False))


def test_errors_are_those_of_llama_and_come_with_the_first_await(llm: AsyncLlama) -> None:
    async def fail() -> None:
        with pytest.raises(ContextOverflowError):
            await llm.generate("word " * 2000)
        stream = llm.stream("word " * 2000)
        with pytest.raises(ContextOverflowError):
            await anext(stream)
        with pytest.raises(MessageError):
            await llm.chat([{"role": "user"}])
        with pytest.raises(SchemaError):
            await llm.generate("x", schema={"type": "strange"})
        with pytest.raises(IncompleteOutput):
            await llm.generate(
                "x", schema={"type": "array", "minItems": 50, "items": {"type": "integer"}}, max_tokens=5
            )
        with pytest.raises(TypeError, match="max_tokns"):
            await llm.generate("x", max_tokns=5)  # type: ignore[call-overload]

    run(fail)
    assert idle(llm)


def test_closing_ends_what_runs() -> None:
    async def close() -> None:
        llm = await AsyncLlama.demo(n_ctx=256, n_seq_max=2, n_threads=1)
        tasks = [asyncio.ensure_future(llm.generate(prompt, **ENDLESS)) for prompt in PROMPTS]
        await until(lambda: llm.stats().waiting > 0)
        await llm.aclose()
        for one in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(one, ClosedError) or getattr(one, "finish_reason", None) is FinishReason.CANCELLED, one
        assert llm.closed
        with pytest.raises(ClosedError):
            await llm.generate("x")
        await llm.aclose()

    run(close)


def test_drain() -> None:
    async def drain() -> None:
        async with await AsyncLlama.demo(n_ctx=256, n_seq_max=2, n_threads=1) as llm:
            task = asyncio.ensure_future(llm.generate(PROMPTS[0], max_tokens=100, **ENDLESS))
            await until(lambda: llm.stats().running > 0)
            with pytest.raises(TimeoutError, match="1 calls still run"):
                await llm.drain(0)
            with pytest.raises(ClosedError, match="draining"):
                await llm.generate("x")
            await llm.drain()
            assert (await task).usage.completion_tokens == 100

    run(drain)


def test_a_call_that_a_request_is_in_the_way_of_is_made_again_when_that_ends(
    llm: AsyncLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_LOOK_SECONDS", 1000)

    async def wait(timeout: float) -> tuple[int, int]:
        n_attempts = 0

        def clear() -> int:
            nonlocal n_attempts
            n_attempts += 1
            return llm.llama.clear_slot(2)

        async with llm.stream(PROMPTS[0], slot=2, max_tokens=None, **ENDLESS) as stream:
            await anext(stream)
            waiting = asyncio.ensure_future(llm.retry_while_busy(clear, timeout))
            await until(lambda: n_attempts > 0)
            if timeout < 1:
                with pytest.raises(BusyError, match="running"):
                    await waiting
                return n_attempts, 0
            # The end of another one wakes it in vain.
            await llm.generate(PROMPTS[1], max_tokens=2)
            await until(lambda: n_attempts > 1)
            assert not waiting.done()
        return n_attempts, await waiting

    n_attempts, n_held = run(lambda: wait(50))
    assert n_held > 0
    assert n_attempts <= 4
    assert run(lambda: wait(0.01))[0] <= 3
    assert not llm._calls.running._ends


class Counted(Generic[T]):
    """Awaits something, and counts how often that is woken."""

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._awaitable = awaitable
        self.n_wakes = 0

    def __await__(self) -> Generator[Any, Any, T]:
        waiting = self._awaitable.__await__()
        while True:
            try:
                future = next(waiting)
            except StopIteration as end:
                return cast("T", end.value)
            yield future
            self.n_wakes += 1


def kinds(llm: AsyncLlama) -> list[str]:
    return sorted(type(one).__name__ for one in llm._calls.running)


def test_waiting_for_room_and_for_the_last_call_is_sleeping() -> None:
    async def awaited(counted: Counted[T]) -> T:
        return await counted

    async def drain() -> None:
        async with await AsyncLlama.demo(n_ctx=256, n_seq_max=2, n_threads=1, max_waiting=1, when_full="wait") as llm:
            endless = [asyncio.ensure_future(llm.generate(prompt, **ENDLESS)) for prompt in PROMPTS[:2]]
            await until(lambda: llm.stats().running == 2)
            # One of these waits in the queue, the others for room in it.
            counted = [Counted(llm.generate(prompt, max_tokens=3, **ENDLESS)) for prompt in PROMPTS]
            others = [asyncio.ensure_future(awaited(one)) for one in counted]
            await until(lambda: llm.stats().waiting == 1)
            await until(lambda: kinds(llm) == ["RunningSequence"] * 3 + ["_InLine"] * 3)
            last = Counted(llm.drain())
            draining = asyncio.ensure_future(awaited(last))
            before = sum(one.n_wakes for one in counted)
            await asyncio.sleep(0.3)
            assert last.n_wakes == 0
            assert sum(one.n_wakes for one in counted) <= before + 1
            with pytest.raises(TimeoutError, match="6 calls still run"):
                await llm.drain(0)
            for task in endless:
                task.cancel()
            # They began before the draining, and are waited for.
            assert [one.usage.completion_tokens for one in await asyncio.gather(*others)] == [3] * 4
            await draining
            assert last.n_wakes <= 2
            assert len(llm._calls.running) == 0
            await llm.drain(0)

    run(drain)


def test_closing_ends_what_waits_for_room() -> None:
    async def close() -> None:
        llm = await AsyncLlama.demo(n_ctx=256, n_seq_max=1, n_threads=1, max_waiting=1, when_full="wait")
        tasks = [asyncio.ensure_future(llm.generate(prompt, **ENDLESS)) for prompt in PROMPTS]
        await until(lambda: kinds(llm) == ["RunningSequence"] * 2 + ["_InLine"] * 2)
        tasks[3].cancel()
        await asyncio.gather(tasks[3], return_exceptions=True)
        await until(lambda: len(llm._calls.running) == 3)
        llm.llama.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [ClosedError] * 3 + [asyncio.CancelledError]

    run(close)


def test_a_full_queue_raises_or_waits() -> None:
    async def fill(when_full: Any) -> list[Any]:
        async with await AsyncLlama.demo(
            n_ctx=256, n_seq_max=1, n_threads=1, max_waiting=1, when_full=when_full
        ) as llm:
            tasks = [llm.generate(prompt, max_tokens=40, **ENDLESS) for prompt in PROMPTS * 2]
            return list(await asyncio.gather(*tasks, return_exceptions=True))

    found = run(lambda: fill("raise"))
    assert any(isinstance(one, QueueFullError) and one.retry_after >= 1 for one in found)
    assert all(one.usage.completion_tokens == 40 for one in run(lambda: fill("wait")))


def test_compiling_has_an_end_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.aio import calls
    from llama_cffi.prepare import generation

    compile_structure, may_go_on = generation.compile_structure, threading.Event()

    def slow(options: Any, vocab: Any, **more: Any) -> Any:
        if options.get("schema") == ["slow"]:
            assert may_go_on.wait(60)
        return compile_structure(options, vocab, **more)

    monkeypatch.setattr(generation, "compile_structure", slow)

    async def ask() -> None:
        async with await AsyncLlama.demo(n_ctx=256, n_threads=1, max_compile_seconds=0.3) as llm:
            late = [
                asyncio.ensure_future(llm.stream("Once", schema=["slow"], max_tokens=3).result())
                for _ in range(calls.N_COMPILING)
            ]
            await asyncio.sleep(0)
            # All threads that compile are taken, and plain texts go on.
            assert (await llm.generate("Once", max_tokens=3)).usage.completion_tokens == 3
            cancelled = asyncio.ensure_future(llm.generate("Once", schema=["slow"], max_tokens=3))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            found = await asyncio.gather(*late, cancelled, return_exceptions=True)
            assert [type(one) for one in found] == [SchemaError] * len(late) + [asyncio.CancelledError]
            assert "0.3 seconds to compile" in str(found[0])
            may_go_on.set()
            assert (await llm.generate("Once", schema=["slow"], max_tokens=9)).text == "slow"
            await llm.drain(30)
            assert idle(llm)

    run(ask)
    with pytest.raises(ValueError, match="max_compile_seconds must be above 0"):
        run(lambda: AsyncLlama.demo(max_compile_seconds=0))


# -- tools and sessions


def _tools() -> tuple[list[str], list[Any]]:
    log: list[str] = []

    async def weather(city: str) -> str:
        """Tells the weather."""
        log.append("begin")
        await asyncio.sleep(0.05)
        log.append("end")
        return "sunny"

    def place(city: str) -> str:
        """Tells where a city is."""
        log.append(threading.current_thread().name)
        return "far away"

    return log, [weather, place]


OPTIONS: dict[str, Any] = {"tool_choice": "required", "max_tokens": 300, "seed": 1, "on_error": "report"}


def test_tools_may_be_coroutines(llm: AsyncLlama) -> None:
    log, (weather, _) = _tools()

    async def ask() -> None:
        events = [event async for event in llm.stream_tools(ASK, tools=[weather], **OPTIONS)]
        results = [event for event in events if isinstance(event, ToolResult)]
        assert results
        assert all(result.content == "sunny" for result in results if result.error is None)
        assert log.count("begin") == log.count("end") == len(results)

    run(ask)


def test_an_async_tool_without_a_loop_is_refused(sync: Llama) -> None:
    _, (weather, _) = _tools()
    with pytest.raises(llama_cffi.errors.ToolError, match="AsyncLlama"):
        Tool.from_function(weather).call({"city": "Rome"})
    with pytest.raises(llama_cffi.errors.ToolError, match="AsyncLlama"):
        sync.run_tools(ASK, tools=[weather])


def test_calls_of_one_reply_run_at_the_same_time_and_end_together() -> None:
    from llama_cffi.aio.tool_loop import AsyncToolLoop
    from llama_cffi.reply.reply import ToolCall
    from llama_cffi.spec import ToolsSpec

    log, tools = _tools()

    async def nothing(_: Any) -> AsyncIterator[Any]:
        raise AssertionError
        yield

    async def call_all() -> None:
        loop = AsyncToolLoop(nothing, ToolsSpec(ASK, {"tools": tools}))
        calls = [ToolCall(str(i), name, {"city": "Rome"}) for i, name in enumerate(["weather", "weather", "place"])]
        results = await loop._call_all(tuple(calls))
        assert [result.content for result in results] == ["sunny", "sunny", "far away"]
        assert log[:2] == ["begin", "begin"]
        assert threading.current_thread().name not in log  # a plain function runs on another thread

        log.clear()
        task = asyncio.ensure_future(loop._call_all(tuple(calls[:2])))
        await until(lambda: len(log) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["begin", "begin"]  # none of them is left behind

    run(call_all)


def test_sessions(llm: AsyncLlama, sync: Llama) -> None:
    async def talk() -> None:
        session, other = llm.session(temperature=0, max_tokens=10), sync.session(temperature=0, max_tokens=10)
        reply = await session.chat("Hello")
        assert reply.text == other.chat("Hello").text
        async for _ in session.stream_chat("And then?"):
            pass
        other.chat("And then?")
        assert session.messages == other.messages
        assert session.n_tokens == other.n_tokens
        twin = session.fork()
        twin.rewind()
        assert len(twin) == 2
        task = asyncio.ensure_future(session.chat("More", max_tokens=10**6, **ENDLESS))
        await until(lambda: llm.stats().running > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.messages == other.messages

    run(talk)


def test_a_dropped_llama_frees_its_engine() -> None:
    import weakref

    async def use() -> Any:
        llm = await AsyncLlama.demo(n_ctx=128)
        await llm.generate("x", max_tokens=2)
        return weakref.ref(llm.llama._runtime.engine)

    engine = run(use)
    run(lambda: until(lambda: gc.collect() >= 0 and engine() is None))
