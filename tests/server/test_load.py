"""Clients that ask, cancel, err and leave at random: no stream is lost, and nothing grows.

``pytest -m fuzz`` does it for a minute, or for ``LLAMA_CFFI_FUZZ_SECONDS``, with 64 clients; plain ``pytest`` for a
moment with fewer.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections import Counter
from typing import Any

import psutil
import pytest

from tests.support.serve_command import serving, wait_ready

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn", reason="needs the extra llama-cffi[server]")

SECONDS = float(os.environ.get("LLAMA_CFFI_FUZZ_SECONDS", "60"))
REFUSED = (429, 503)
"""What a server with too much to do may answer, with the seconds after which to come again."""
CHAT: Any = {"messages": [{"role": "user", "content": "Tell me a story"}]}
WORDS = ("Once", "upon", "a", "time", "there", "was", "little", "cat", "and", "dog", "in", "the", "garden", "big")
STREAMS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": (CHAT, "data: [DONE]"),
    "/v1/completions": ({"prompt": "Once"}, "data: [DONE]"),
    "/v1/messages": (CHAT, 'data: {"type":"message_stop"}'),
    "/v1/responses": ({"input": "Tell me a story"}, '"status":"(completed|incomplete)"'),
    "/completion": ({"prompt": "Once"}, '"stop":true'),
}
"""Bodies, and what the last event of a stream has in it."""


class Load:
    """What the clients do until the end, and what they saw."""

    def __init__(self, url: str, seconds: float, seed: int) -> None:
        self.url, self.seed = url, seed
        self.end = time.monotonic() + seconds
        self.seen: Counter[str] = Counter()

    async def clients(self, n: int) -> None:
        await asyncio.gather(*(self.client(random.Random(f"{self.seed} {i}")) for i in range(n)))

    async def client(self, draw: random.Random) -> None:
        calls = [self.stream, self.stream, self.whole, self.leave, self.hang_up, self.err, self.long, self.small]
        while time.monotonic() < self.end:
            # Some keep their connection, others come anew.
            async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
                for _ in range(draw.randrange(1, 6)):
                    call = draw.choice(calls)
                    await call(client, draw)
                    self.seen[call.__name__] += 1

    def body(self, draw: random.Random, path: str, **more: Any) -> dict[str, Any]:
        return {**STREAMS[path][0], "max_tokens": draw.randrange(1, 24), "seed": draw.randrange(9), **more}

    def refused(self, response: Any) -> bool:
        if response.status_code not in REFUSED:
            return False
        assert int(response.headers["retry-after"]) >= 1
        self.seen["refused"] += 1
        return True

    async def stream(self, client: Any, draw: random.Random) -> None:
        path = draw.choice([*STREAMS])
        body = self.body(draw, path, stream=True)
        async with client.stream("POST", path, json=body) as response:
            if self.refused(response):
                return
            assert response.status_code == 200, await response.aread()
            lines = [line async for line in response.aiter_lines() if line]
        assert re.search(STREAMS[path][1].replace("[DONE]", r"\[DONE\]"), lines[-1]), f"lost after {lines[-1]}"

    async def whole(self, client: Any, draw: random.Random) -> None:
        path = draw.choice([*STREAMS])
        n = draw.choice([1, 1, 2]) if "completions" in path else 1
        response = await client.post(path, json=self.body(draw, path, n=n))
        if not self.refused(response):
            assert response.status_code == 200, response.text

    async def leave(self, client: Any, draw: random.Random) -> None:
        """Close a stream after some chunks."""
        path = draw.choice([*STREAMS])
        body = self.body(draw, path, stream=True, max_tokens=200)
        async with client.stream("POST", path, json=body) as response:
            n = draw.randrange(4)
            async for _ in response.aiter_lines():
                n -= 1
                if n < 0:
                    return

    async def hang_up(self, client: Any, draw: random.Random) -> None:
        """Close the connection while the answer is computed, or before."""
        path = draw.choice([*STREAMS])
        task = asyncio.ensure_future(client.post(path, json=self.body(draw, path, max_tokens=200)))
        await asyncio.sleep(draw.random() * 0.3)
        task.cancel()
        await asyncio.wait({task})

    async def err(self, client: Any, draw: random.Random) -> None:
        path = draw.choice([*STREAMS])
        wrong: dict[str, Any] = draw.choice([{"max_tokens": "x"}, {"temperature": -1}, {"stop": 3}, {"top_k": "many"}])
        response = await client.post(path, json={**self.body(draw, path), **wrong})
        assert 400 <= response.status_code < 500, response.text

    async def long(self, client: Any, draw: random.Random) -> None:
        """Send a prompt of up to twice what there is room for."""
        n = draw.randrange(100, 1000)
        prompt = " ".join(draw.choice(WORDS) for _ in range(n))
        response = await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 4})
        if not self.refused(response):
            # One word is one token or two.
            allowed = {200} if n < 240 else {400} if n > 512 else {200, 400}
            assert response.status_code in allowed, (n, response.text)

    async def small(self, client: Any, draw: random.Random) -> None:
        if draw.random() < 0.5:
            response = await client.get(draw.choice(["/metrics", "/slots", "/v1/models", "/health", "/props"]))
        else:
            path = draw.choice(["/v1/embeddings", "/tokenize"])
            response = await client.post(path, json={"input": ["a cat", "a dog"], "content": "a cat"})
        assert response.status_code == 200 or self.refused(response), response.text


def at_rest(url: str) -> None:
    """Wait until nothing runs or waits."""
    for _ in range(6000):
        text = httpx.get(f"{url}/metrics", timeout=60).text
        if all(re.search(rf"llama_cffi_requests_{what}{{[^}}]*}} 0\n", text) for what in ("running", "waiting")):
            return
        time.sleep(0.01)
    raise AssertionError("something runs for ever")


def measured(process: psutil.Process, url: str) -> dict[str, int]:
    """What a server holds that has nothing to do: files once the connections of before are closed."""
    at_rest(url)
    sizes = []
    for _ in range(200):
        sizes.append(process.num_fds())
        if len(sizes) > 20 and len(set(sizes[-20:])) == 1:
            break
        time.sleep(0.05)
    return {"rss": process.memory_info().rss >> 20, "files": sizes[-1], "threads": process.num_threads()}


def load(seconds: float, n_clients: int, rounds: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    with serving("-np", "4", "--max-queue", "40", "--request-timeout", "60") as (process, url):
        wait_ready(url)
        child, found, seen = psutil.Process(process.pid), [], Counter[str]()
        for i in range(rounds):
            one = Load(url, seconds / rounds, seed + i)
            asyncio.run(one.clients(n_clients))
            seen += one.seen
            found.append(measured(child, url))
        print(dict(seen))
        print(found)
        text = httpx.get(f"{url}/metrics", timeout=60).text
        statuses = dict(re.findall(r'llama_cffi_http_requests_total{.*status="(5..)"} (\d+)', text))
        assert statuses.keys() <= {"503"}, statuses
        # What is kept for prompts to come grows at the beginning, up to its limit.
        first, last = found[len(found) // 2], found[-1]
        assert last["files"] <= first["files"] + 2
        assert last["threads"] <= first["threads"] + 2
        assert last["rss"] <= first["rss"] * 1.1 + 16


def test_random_clients() -> None:
    load(2.0, 8, 2)


@pytest.mark.fuzz
def test_random_clients_for_a_minute() -> None:
    load(SECONDS, 64, 6)
