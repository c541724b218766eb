"""Running the server: the sockets first, then the model; signals end it in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import uvicorn

from llama_cffi.errors import ModelLoadCancelled
from llama_cffi.server.app import make_app
from llama_cffi.server.connection import Connection
from llama_cffi.server.listening import bind

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from llama_cffi.server.guard import Guard
    from llama_cffi.server.serving import Serving
    from llama_cffi.server.settings import Settings

_log = logging.getLogger("llama_cffi.server")
_WATCH_SECONDS = 0.25
CUT_SECONDS = 5.0
"""How long clients may take to read that their streams were cut, when the server ends."""


class Server(uvicorn.Server):
    """uvicorn, whose signals end the requests in order.

    The first lets them finish, the second cuts them with an error that says so, the third ends the process.
    """

    def __init__(self, service: Serving, guard: Guard | None = None) -> None:
        self.guard = guard if guard is not None else make_app(service)
        super().__init__(_config(self.guard, service.settings))
        self.service = service
        self.n_signals = 0
        self.interrupted = False
        """Whether one of several signals was Ctrl-C: which comes last is up to the system."""
        self._seen: set[int] = set()
        self.loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.n_signals += 1
        self._seen.add(sig)
        self.interrupted = self.n_signals > 1 and signal.SIGINT in self._seen
        if self.n_signals > 2:
            os._exit(128 + sig)  # whatever still computes
        self.end()

    def end(self) -> None:
        """Take no more connections; a second call cuts what runs. Any thread may call it."""
        self.should_exit = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        loop, service = asyncio.get_running_loop(), self.service
        again = service.state == "draining"
        service.begin_drain()
        # A client that does not read cannot be told, and must not be waited for.
        loop.call_later(CUT_SECONDS + (0.0 if again else service.settings.drain_timeout), self.abort)

    def change_keys(self, read_keys: Callable[[], Sequence[str]]) -> None:
        """Take the keys that are there now."""
        try:
            keys = read_keys()
        except (OSError, ValueError) as error:
            _log.warning("the keys stay as they are: %s", error)
            return
        self.guard.set_keys(keys)
        _log.warning("there are %d keys now", len(keys))

    def abort(self) -> None:
        """End every connection as it is."""
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.abort()


def _config(app: Guard, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_keyfile=settings.ssl_key_file,
        ssl_certfile=settings.ssl_cert_file,
    )


async def serve(
    service: Serving,
    sockets: Sequence[socket.socket],
    on_ready: Callable[[], object] | None = None,
    read_keys: Callable[[], Sequence[str]] | None = None,
    guard: Guard | None = None,
) -> bool:
    """Answer requests until a signal ends it; return whether a second Ctrl-C did.

    The model is loaded meanwhile; raises what that raises. ``on_ready`` is called when it is there. ``read_keys`` says
    what the keys are at each SIGHUP; when it raises, they stay as they are. ``guard`` is the application, by default
    that of one model.
    """
    server = Server(service, guard)
    server.loop = asyncio.get_running_loop()
    if read_keys is not None and hasattr(signal, "SIGHUP"):
        server.loop.add_signal_handler(signal.SIGHUP, server.change_keys, read_keys)
    failures: list[BaseException] = []

    async def load() -> None:
        try:
            await service.load()
        except Exception as error:
            if not (server.should_exit and isinstance(error, ModelLoadCancelled)):
                failures.append(error)
            server.should_exit = True
            return
        gc.freeze()  # what was loaded stays, and need not be looked through again and again
        if on_ready is not None:
            on_ready()

    loading = asyncio.ensure_future(load())
    watching = asyncio.ensure_future(_watch(service))
    try:
        await server.serve(sockets=list(sockets))
    finally:
        watching.cancel()
        await asyncio.wait({loading})
        await service.close()
    if failures:
        raise failures[0]
    return server.interrupted


async def _watch(service: Serving) -> None:
    """Measure how late the event loop is."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _WATCH_SECONDS
        await asyncio.sleep(_WATCH_SECONDS)
        service.loop_lag.add(max(0.0, loop.time() - due))


def run(
    service: Serving,
    sockets: Sequence[socket.socket],
    on_ready: Callable[[], object] | None = None,
    read_keys: Callable[[], Sequence[str]] | None = None,
    guard: Guard | None = None,
) -> bool:
    """Do as :func:`serve` in an event loop of its own: uvloop's where it is installed."""
    main = serve(service, sockets, on_ready, read_keys, guard)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return bool(uvloop.run(main))


__all__ = ["Server", "bind", "run", "serve"]
