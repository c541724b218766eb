"""Running the server: the socket first, then the model; signals end it in order."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from llama_cffi.server.app import make_app

if TYPE_CHECKING:
    from types import FrameType

    from llama_cffi.server.service import Service

KEEP_ALIVE_SECONDS = 75


class _Server(uvicorn.Server):
    """uvicorn, whose signals end the requests in order: the first lets them finish, the second cuts them."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.n_signals = 0
        self.signal = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.n_signals += 1
        self.signal = sig
        if self.n_signals > 2:
            self.force_exit = True
        self.should_exit = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.service.begin_drain)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; OSError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(1024)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


async def serve(service: Service, sock: socket.socket, on_ready: Callable[[], object] | None = None) -> bool:
    """Answer requests until a signal ends it; return whether a second Ctrl-C did.

    The model is loaded meanwhile; raises what that raises. ``on_ready`` is called when it is there.
    """
    config = uvicorn.Config(
        make_app(service),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=64 << 10,
    )
    server = _Server(config, service)
    server.loop = asyncio.get_running_loop()
    failures: list[BaseException] = []

    async def load() -> None:
        try:
            await service.load()
        except Exception as error:
            failures.append(error)
            server.should_exit = True
            return
        gc.freeze()  # what was loaded stays, and need not be looked through again and again
        if on_ready is not None:
            on_ready()

    loading = asyncio.ensure_future(load())
    try:
        await server.serve(sockets=[sock])
    finally:
        await asyncio.wait({loading})
        await service.close()
    if failures:
        raise failures[0]
    return server.n_signals > 1 and server.signal == signal.SIGINT


def run(service: Service, sock: socket.socket, on_ready: Callable[[], object] | None = None) -> bool:
    """Do as :func:`serve` in an event loop of its own: uvloop's where it is installed."""
    main = serve(service, sock, on_ready)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return bool(uvloop.run(main))


__all__ = ["bind", "run", "serve"]
