"""A program in place of the process of a model: it speaks with its parent, and answers what it is asked to.

The field ``play`` of a request says what comes: ``events N WHAT`` sends N events and then ends the stream (``end``),
ends the process (``die``), or waits to be cut (``wait``); ``paced N WHAT`` sends one each millisecond; ``part N WHAT``
sends the first N bytes of a text of 100. Without it the request is echoed; a path that ends with ``kept_by_NAME`` is
there in the model of this name alone. The program imports nothing of the package, so that it starts in a few hundredths
of a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from typing import Any


class Fake:
    def __init__(self, given: list[str]) -> None:
        self.options = dict(zip(given[1::2], given[2::2], strict=True))
        self.sock = socket.socket(fileno=int(given[0]))
        self.running = 0
        self.cutting = asyncio.Event()

    async def main(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self.sock)
        print("the fake begins", self.options["--alias"], flush=True)
        path = self.options["--host"].removeprefix("unix:")
        server = ending = None
        while line := await reader.readline():
            order = json.loads(line)["order"]
            if order == "plan":
                writer.write(json.dumps({"event": "planned", "bytes": int(self.options["--bytes"])}).encode() + b"\n")
            elif order == "load":
                if "--fail" in self.options:
                    print("it cannot be loaded", self.options["--fail"], flush=True)
                    os._exit(int(self.options["--fail"]))
                await asyncio.sleep(float(self.options.get("--delay", "0")))
                server = await asyncio.start_unix_server(self.answer, path)
                for event in ({"event": "progress", "value": 0.5}, {"event": "loaded", "card": {"max_model_len": 7}}):
                    writer.write(json.dumps(event).encode() + b"\n")
            else:
                if order == "cut":
                    self.cutting.set()
                ending = asyncio.ensure_future(self.finish())
        del server, ending
        os._exit(70)

    async def finish(self) -> None:
        while self.running:
            await asyncio.sleep(0.005)
        os._exit(0)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.running += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, _ = head.split("\r\n")[0].split(" ")
            lines = (line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            headers = {one[0]: one[1] for one in lines}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            said = json.loads(body) if body.startswith(b"{") else {}
            echo = {"method": method, "target": target, "headers": headers, "body": body.decode("latin-1")}
            await self.play(said.get("play", ""), writer, echo)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.running -= 1
            writer.close()

    async def play(self, text: str, writer: asyncio.StreamWriter, echo: dict[str, Any]) -> None:
        kind, _, rest = text.partition(" ")
        kept = echo["target"].rpartition("kept_by_")[2]
        if kept != echo["target"] and kept != self.options["--alias"]:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif not kind:
            data = json.dumps(echo).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Own: 1\r\nDate: x\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(data) + data)  # fmt: skip
        if not kind:
            await writer.drain()
            return
        count, then = rest.split(" ")
        if kind in ("events", "paced"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for i in range(int(count)):
                data = b'event: x\ndata: {"sequence_number":%d}\n\n' % i
                writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
                await writer.drain()
                if kind == "paced":
                    await asyncio.sleep(0.001)
            if then != "end":
                writer.write(b"5\r\ndata:\r\n")  # the beginning of another one
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n")
            writer.write(b"x" * int(count))
        await writer.drain()
        if then == "die":
            await asyncio.sleep(0.01)
            print("it dies", flush=True)
            os._exit(9)
        if then == "wait":
            await self.cutting.wait()
            data = b' {"cut":true}\n\n'
            writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
        if kind != "part":
            writer.write(b"0\r\n\r\n")
        await writer.drain()


if __name__ == "__main__":
    asyncio.run(Fake(sys.argv[1:]).main())
