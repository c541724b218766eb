"""What the parent of several models costs: its CPU time for each request and for each event of a stream.

    python -m benchmarks.relay [--events N] [--requests N]

The process of the model is a program that sends an event each millisecond, and the client is a process, too. For
comparison, the same server answers as much itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from llama_cffi.server.app import routed
from llama_cffi.server.exchange import Call
from llama_cffi.server.guard import Guard
from llama_cffi.server.response import Answer, Events, json_answer
from llama_cffi.server.router.app import make_router
from llama_cffi.server.router.pool import Pool
from llama_cffi.server.run import Server, bind
from tests.support.pools import entry, pool

CLIENT = """
import socket, sys
port, n, body = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
head = b"POST /v1/completions HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n"
for _ in range(n):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head % len(body) + body)
        while sock.recv(65536):
            pass
"""


async def plain(call: Call) -> Answer:
    """Answer as the program does, without another process."""
    play: str = call.body["play"]
    if not play:
        return json_answer({"body": call.data.decode()})

    async def frames() -> AsyncGenerator[bytes, None]:
        for i in range(int(play.split()[1])):
            yield b'event: x\ndata: {"sequence_number":%d}\n\n' % i
            await asyncio.sleep(0.001)

    return Events(frames(), call.dialect, call.request_id, None)


async def cpu_seconds(port: int, n: int, play: str) -> float:
    """CPU seconds of this process while a client asks n times."""
    body = json.dumps({"model": "a", "play": play})
    began = time.process_time()
    client = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", CLIENT, str(port), str(n), body)
    await client.wait()
    return time.process_time() - began


async def measure(pool: Pool, app: Guard, n_events: int, n_requests: int) -> tuple[float, float]:
    """CPU seconds of a request, and of an event."""
    server = Server(pool, app)
    server.loop = asyncio.get_running_loop()
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    await cpu_seconds(port, 10, "")
    request = await cpu_seconds(port, n_requests, "") / n_requests
    event = (await cpu_seconds(port, 1, f"paced {n_events} end") - request) / n_events
    server.should_exit = True
    await serving
    return request, event


async def main(n_events: int, n_requests: int) -> None:
    """Print the figures."""
    async with pool(entry("a")) as models:
        for name, app in (("itself", routed(models, {"/v1/completions": {"POST": plain}})),
                          ("relayed", make_router(models))):  # fmt: skip
            request, event = await measure(models, app, n_events, n_requests)
            print(f"{name}: a request {request * 1e6:.0f} us, an event {event * 1e6:.0f} us of CPU time")
    print(f"memory of the parent: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args()
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    try:
        import uvloop
    except ImportError:
        pass
    else:
        run = uvloop.run
    run(main(given.events, given.requests))
