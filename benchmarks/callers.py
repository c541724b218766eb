"""Callers that stream at the same time, here or from a server, and when each of their tokens came.

    python benchmarks/callers.py KIND TARGET < JOB

KIND is ``threads`` or ``tasks`` (TARGET is a model, which is opened afresh) or ``http`` (TARGET is the port of a
llama-server). JOB is a JSON object: ``settings`` for the model, and ``callers``, each a ``delay`` and its ``turns`` of
``tokens``, ``n`` to generate and ``leave`` (after so many tokens, or null). A turn goes on from the turns before it.
Prints one line of JSON: for each turn when it began, when its tokens came, and how many of its prompt were reused.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
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
    """Streams from llama-server over a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, prompt: list[int], n: int) -> Iterator[Piece]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        body = {"prompt": prompt, "n_predict": n, "temperature": 0, "stream": True, "return_tokens": True}
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/completion", json.dumps({**body, "cache_prompt": True}), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(f"llama-server answered {answer.status}: {answer.read()[:500]!r}")
            while line := answer.readline():
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    stop = event.get("stop")
                    yield Piece(
                        [] if stop else event.get("tokens", []), event["timings"].get("cache_n") if stop else None
                    )
        finally:
            connection.close()


class ThreadCaller:
    """Streams from a Llama of this process."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def ask(self, prompt: list[int], n: int) -> Iterator[Piece]:
        with self._llm.stream(prompt, max_tokens=n, temperature=0) as stream:
            for chunk in stream:
                done = chunk.completion
                yield Piece(list(chunk.tokens), done.usage.cached_tokens if done is not None else None)


def serve_thread(caller: HttpCaller | ThreadCaller, job: Job, found: list[Job]) -> None:
    """Do the turns of one caller."""
    time.sleep(job["delay"])
    history: list[int] = []
    for turn in job["turns"]:
        history += turn["tokens"]
        record, left = Record(len(history)), False
        stream = caller.ask(history, turn["n"])
        for piece in stream:
            if record.add(piece, turn["leave"]):
                left = True
                break
        stream.close()  # type: ignore[attr-defined]
        found.append(record.to_json(left))
        history += record.tokens


async def serve_task(llm: Any, job: Job, found: list[Job]) -> None:
    """As :func:`serve_thread`, as a coroutine."""
    await asyncio.sleep(job["delay"])
    history: list[int] = []
    for turn in job["turns"]:
        history += turn["tokens"]
        record, left = Record(len(history)), False
        async with llm.stream(history, max_tokens=turn["n"], temperature=0) as stream:
            chunks: AsyncIterator[Any] = stream
            async for chunk in chunks:
                done = chunk.completion
                piece = Piece(list(chunk.tokens), done.usage.cached_tokens if done is not None else None)
                if record.add(piece, turn["leave"]):
                    left = True
                    break
        found.append(record.to_json(left))
        history += record.tokens


def in_threads(make: Any, callers: list[Job]) -> list[Job]:
    """Let each caller work on a thread."""
    found: list[Job] = []
    threads = [threading.Thread(target=serve_thread, args=(make(), job, found)) for job in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main() -> None:
    kind, target, job = sys.argv[1], sys.argv[2], json.loads(sys.stdin.read())
    if kind == "http":
        found = in_threads(lambda: HttpCaller(int(target)), job["callers"])
    else:
        from llama_cffi import AsyncLlama, Llama

        with Llama(target, driver="thread", **job["settings"]) as llm:
            # The first decode sets llama.cpp up, in a server before it says that it is ready.
            llm.generate([1], max_tokens=2, temperature=0)
            if kind == "threads":
                found = in_threads(lambda: ThreadCaller(llm), job["callers"])
            else:
                found = []
                tasks = AsyncLlama(llm)

                async def together() -> None:
                    await asyncio.gather(*(serve_task(tasks, one, found) for one in job["callers"]))

                asyncio.run(together())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
