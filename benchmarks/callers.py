"""Callers that stream at the same time, here or from a server, and when each of their tokens came.

    python benchmarks/callers.py KIND TARGET < JOB

KIND is ``threads`` or ``tasks`` (TARGET is a model, which is opened afresh) or ``http`` (TARGET is the port of a
server with llama-server's interface). JOB is a JSON object: ``settings`` for the model, and ``callers``, each a
``delay`` and its ``turns`` of ``tokens``, ``n`` to generate and ``leave`` (after so many tokens, or null). A turn goes
on from the turns before it.
Prints one line of JSON: for each turn when it began, when its tokens came, and how many of its prompt were reused.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, closing
from time import perf_counter
from typing import Any, NamedTuple

Job = dict[str, Any]


class Piece(NamedTuple):
    """What a stream gave at once; ``cached`` comes with the last one."""

    tokens: list[int]
    cached: int | None


class Record:
    """What one turn saw."""

    def __init__(self, n_prompt: int) -> None:
        self.start = perf_counter()
        self.times: list[float] = []
        self.tokens: list[int] = []
        self.n_prompt, self.cached = n_prompt, 0

    def add(self, piece: Piece, leave: int | None) -> bool:
        """Note a piece; whether the caller leaves now."""
        now = perf_counter()
        self.times += [now] * len(piece.tokens)
        self.tokens += piece.tokens
        self.cached = piece.cached or 0
        return leave is not None and len(self.tokens) >= leave

    def to_json(self, left: bool) -> Job:
        return {
            "start": self.start,
            "times": self.times,
            "prompt": self.n_prompt,
            "cached": self.cached,
            "left": left,
        }


class HttpCaller:
    """Streams from a server, each text over a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def ask(self, prompt: list[int], n: int) -> AsyncGenerator[Piece, None]:
        body = {"prompt": prompt, "n_predict": n, "temperature": 0, "stream": True, "return_tokens": True}
        data = json.dumps({**body, "cache_prompt": True}).encode()
        async for line in lines_of(self._port, "/completion", data):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                stop = event.get("stop")
                cached = event["timings"].get("cache_n") if stop else None
                yield Piece([] if stop else event.get("tokens", []), cached)


async def lines_of(port: int, path: str, data: bytes) -> AsyncIterator[bytes]:
    """Post JSON over a connection of its own; the lines of the answer, which comes in chunks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer[:16]:
            raise SystemExit(f"the server answered {answer!r} {await reader.read(500)!r}")
        rest = b""
        while size := int(await reader.readline(), 16):
            *lines, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
            for line in lines:
                yield line
    finally:
        writer.close()


class TaskCaller:
    """Streams from an AsyncLlama of this process."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    async def ask(self, prompt: list[int], n: int) -> AsyncGenerator[Piece, None]:
        async with self._llm.stream(prompt, max_tokens=n, temperature=0) as stream:
            async for chunk in stream:
                done = chunk.completion
                yield Piece(list(chunk.tokens), done.usage.cached_tokens if done is not None else None)


class ThreadCaller:
    """Streams from a Llama of this process."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def ask(self, prompt: list[int], n: int) -> Generator[Piece, None, None]:
        with self._llm.stream(prompt, max_tokens=n, temperature=0) as stream:
            for chunk in stream:
                done = chunk.completion
                yield Piece(list(chunk.tokens), done.usage.cached_tokens if done is not None else None)


def serve_thread(caller: ThreadCaller, job: Job, found: list[Job]) -> None:
    """Do the turns of one caller."""
    time.sleep(job["delay"])
    history: list[int] = []
    for turn in job["turns"]:
        history += turn["tokens"]
        record = Record(len(history))
        with closing(caller.ask(history, turn["n"])) as stream:
            left = any(record.add(piece, turn["leave"]) for piece in stream)
        found.append(record.to_json(left))
        history += record.tokens


async def serve_task(caller: HttpCaller | TaskCaller, job: Job, found: list[Job]) -> None:
    """As :func:`serve_thread`, as a coroutine."""
    await asyncio.sleep(job["delay"])
    history: list[int] = []
    for turn in job["turns"]:
        history += turn["tokens"]
        record, left = Record(len(history)), False
        async with aclosing(caller.ask(history, turn["n"])) as stream:
            async for piece in stream:
                if left := record.add(piece, turn["leave"]):
                    break
        found.append(record.to_json(left))
        history += record.tokens


def in_threads(llm: Any, callers: list[Job]) -> list[Job]:
    """Let each caller work on a thread."""
    found: list[Job] = []
    threads = [threading.Thread(target=serve_thread, args=(ThreadCaller(llm), job, found)) for job in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


async def in_tasks(caller: HttpCaller | TaskCaller, callers: list[Job]) -> list[Job]:
    """Let each caller work as a coroutine."""
    found: list[Job] = []
    await asyncio.gather(*(serve_task(caller, one, found) for one in callers))
    return found


def main() -> None:
    kind, target, job = sys.argv[1], sys.argv[2], json.loads(sys.stdin.read())
    if kind == "http":
        found = asyncio.run(in_tasks(HttpCaller(int(target)), job["callers"]))
    else:
        from llama_cffi import AsyncLlama, Llama

        with Llama(target, driver="thread", **job["settings"]) as llm:
            # The first decode sets llama.cpp up, in a server before it says that it is ready.
            llm.generate([1], max_tokens=2, temperature=0)
            if kind == "threads":
                found = in_threads(llm, job["callers"])
            else:
                found = asyncio.run(in_tasks(TaskCaller(AsyncLlama(llm)), job["callers"]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
