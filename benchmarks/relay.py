"""What the parent of several models costs: CPU time for each request, and for each event of a stream.

The process of the model is a program that sends an event each millisecond; the client is a process, too. Run with
``python -m benchmarks.relay``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time

from llama_cffi.server.router.app import make_router
from llama_cffi.server.run import Server, bind
from tests.support.pools import entry, pool

CLIENT = """
import json, socket, sys
port, n = int(sys.argv[1]), int(sys.argv[2])
body = sys.argv[3].encode()
head = b"POST /v1/completions HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: %d\\r\\n" % len(body)
for i in range(n):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head + b"Connection: close\\r\\n\\r\\n" + body)
        while sock.recv(65536):
            pass
"""


async def measured(port: int, n: int, play: str) -> float:
    """CPU seconds of this process while a client asks n times."""
    body = json.dumps({"model": "a", "play": play})
    began = time.process_time()
    client = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", CLIENT, str(port), str(n), body)
    await client.wait()
    return time.process_time() - began


async def main(n_events: int, n_requests: int) -> None:
    """Print the figures."""
    async with pool(entry("a")) as models:
        server = Server(models, make_router(models))
        server.loop = asyncio.get_running_loop()
        sock = bind("127.0.0.1", 0)
        serving = asyncio.ensure_future(server.serve(sockets=[sock]))
        port = sock.getsockname()[1]
        await measured(port, 10, "")
        each = await measured(port, n_requests, "") / n_requests
        stream = (await measured(port, 1, f"paced {n_events} end") - each) / n_events
        print(f"a request: {each * 1e6:.0f} us of CPU time, an event of a stream: {stream * 1e6:.0f} us")
        print(f"memory of the parent: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        server.end()
        await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--requests", type=int, default=500)
    given = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(given.events, given.requests))
    else:
        uvloop.run(main(given.events, given.requests))
