"""A child process, and the thread of this process that talks with it."""

from __future__ import annotations

import json
import logging
import os
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama_cffi._native import library
from llama_cffi._util.fork import after_fork
from llama_cffi._util.worker import start_daemon
from llama_cffi.errors import EngineCrashed
from llama_cffi.isolation.frames import Frame, Kind, Receiver, encode

_CHILD = Path(__file__).with_name("child.py")
_TICK = 0.5
SILENT_SECONDS = 10.0
"""Without a word of the child for this long, it hangs. It says something every half second, on a thread of its own."""
START_SECONDS = 120.0
"""The same until its first word: Python and the library may come from a slow disk."""
_EXIT_SECONDS = 5.0
"""How long a child may take to end that was asked to."""
_N_LINES, _N_TOLD = 1000, 40
"""Lines that are kept, of standard error and the log, and those of them that an error has."""
_ASSERTION = re.compile(r"failed an assertion that no Python call can report: (?:\S*[/\\])?(.*)")
_STACKS = re.compile(r"(Current thread|Thread) 0x")
"""How Python's own stacks begin, which a failed assertion prints last."""

_log = logging.getLogger("llama_cffi.isolation")


class Link:
    """A child process. ``on_frame`` gets each of its frames, and ``on_end`` is called when it has ended, on one thread.

    The thread ends with the child. It does not keep the interpreter alive, and the child ends with this process,
    however that ends.
    """

    def __init__(
        self,
        on_frame: Callable[[Link, Frame], object],
        on_end: Callable[[Link], object],
        cwd: str,
        descriptors: Sequence[int] = (),
    ) -> None:
        if not sys.executable:
            raise EngineCrashed("isolate=True: sys.executable is not set, so no child process can be started")
        self._on_frame = on_frame
        self._on_end = on_end
        self.ended = False
        """Whether nothing more comes. Set before ``on_end`` is called."""
        self.crash = EngineCrashed("the process of the model has ended")
        """Why it has ended, when it has."""
        self._gone = threading.Event()
        self.discarded = False
        """Whether this process has ended the child itself."""
        self.lines: deque[str] = deque(maxlen=_N_LINES)
        """The last lines that the child wrote to standard error, or logged."""
        self._rest = b""
        """The beginning of a line of standard error whose end has not come."""
        self._frames: deque[Any] = deque()
        self._closing: float | None = None
        self._reason = ""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._sock, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", str(_CHILD)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd=cwd,
                    pass_fds=descriptors,
                    # Not a member of the terminal's group: Ctrl-C is for this process.
                    start_new_session=True,
                )
        except OSError as error:
            self._close_files()
            raise EngineCrashed(f"the process of the model cannot be started: {error}") from error
        self._sock.setblocking(False)
        self._receiver = Receiver(self._sock)
        request = json.dumps(
            {
                "sys_path": [os.path.abspath(folder) for folder in sys.path],
                "library": library.choice(),
                "parent": os.getpid(),
            }
        ).encode()
        self._frames.append(memoryview(struct.pack("<I", len(request)) + request))
        after_fork(self, Link._forked)
        self._ident = start_daemon(self._run).ident

    @property
    def pid(self) -> int:
        """The process id of the child."""
        return self.process.pid

    @property
    def is_here(self) -> bool:
        """Whether this is the thread that talks with the child, which cannot wait for it."""
        return threading.get_ident() == self._ident

    def post(self, kind: Kind, number: int, parts: Any = ()) -> None:
        """Send a frame. Waits for nothing and takes no lock: a finalizer may call it."""
        self._frames.extend(memoryview(part).cast("B") for part in encode(kind, number, parts))
        self._wake()

    def close(self) -> None:
        """Let the child end; it is killed if it does not. Waits for nothing."""
        self._closing = time.monotonic()
        self.post(Kind.CLOSE, 0)

    def kill(self, reason: str = "") -> None:
        """End the child at once; ``reason`` is what the error says."""
        self._reason = self._reason or reason
        self.process.kill()

    def discard(self) -> None:
        """End the child at once, which is no crash."""
        self.discarded = True
        self.kill()

    def wait(self) -> None:
        """Wait until the child is gone, which :meth:`close` makes sure of."""
        self._gone.wait(3 * _EXIT_SECONDS)

    def _wake(self) -> None:
        if self.ended:
            return  # the number may be that of another file by now
        with suppress(OSError):  # it is awake, or ending
            os.write(self._wake_write, b"\0")

    def _forked(self) -> None:
        # The other end must see the end of the process that this one was copied from.
        self.ended, self._ident = True, None
        self._gone = threading.Event()
        self._gone.set()
        self.process.returncode = 0  # it is not a child of this process
        self._close_files()

    def _close_files(self) -> None:
        if self._sock.fileno() < 0:
            return  # the numbers may be those of other files by now
        self._sock.close()
        for descriptor in (self._wake_read, self._wake_write):
            with suppress(OSError):
                os.close(descriptor)

    # -- on the thread

    def _run(self) -> None:
        try:
            self._talk()
        except OSError:
            pass  # the connection was reset: it is gone
        except SystemExit:
            raise
        except BaseException as error:
            self.kill(f"the thread that talks with the process of the model has failed: {error!r}")
        self._finish()

    def _talk(self) -> None:
        sock, stderr = self._sock, self.process.stderr
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            if stderr is not None:
                selector.register(stderr, selectors.EVENT_READ)
            silent, limit = 0.0, START_SECONDS
            writing = False
            before = time.monotonic()
            while True:
                if self._frames:
                    self._send()
                if bool(self._frames) is not writing:
                    writing = not writing
                    selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0))
                found = selector.select(_TICK)
                now = time.monotonic()
                # However long this process itself was stopped, it counts as one tick.
                silent, before = silent + min(now - before, _TICK), now
                for key, events in found:
                    if key.fileobj is sock:
                        if events & selectors.EVENT_READ:
                            frames = self._receiver.take()
                            if frames is None:
                                return
                            silent, limit = 0.0, SILENT_SECONDS
                            for frame in frames:
                                self._on_frame(self, frame)
                    elif key.fileobj == self._wake_read:
                        with suppress(BlockingIOError):
                            os.read(self._wake_read, 4096)
                    elif not self._read_lines():
                        selector.unregister(key.fileobj)
                if silent >= limit:
                    self.kill(f"the process of the model hung: it said nothing for {silent:.0f} seconds")
                    return
                if self._closing is not None and now - self._closing > _EXIT_SECONDS:
                    self.kill()
                    return

    def _send(self) -> None:
        frames = self._frames
        with suppress(BlockingIOError):
            while frames:
                view = frames[0]
                n = self._sock.send(view)
                if n == len(view):
                    frames.popleft()
                else:
                    frames[0] = view[n:]

    def _read_lines(self) -> bool:
        stderr = self.process.stderr
        data = os.read(stderr.fileno(), 1 << 16) if stderr is not None else b""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop() if data else b""
        for line in lines:
            if text := line.decode("utf-8", "replace").rstrip():
                self.lines.append(text)
                _log.debug("%s", text)
        return bool(data)

    def _finish(self) -> None:
        """Wait for the end of the child, or bring it about, and say how it ended."""
        process = self.process
        try:
            process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            os.set_blocking(process.stderr.fileno(), False)
            with suppress(OSError):
                while self._read_lines():
                    pass
            process.stderr.close()
        self.crash = self._death(process.returncode)
        self.ended = True
        self._close_files()
        try:
            self._on_end(self)
        finally:
            self._gone.set()

    def _death(self, code: int) -> EngineCrashed:
        lines = list(self.lines)
        stacks = next((i for i, line in enumerate(lines) if _STACKS.match(line)), len(lines))
        name = _signal_name(-code) if code < 0 else None
        reason = self._reason
        if not reason and name is not None:
            reason = f"the process of the model was ended by {name}"
            assertion = next((found[1] for line in reversed(lines) if (found := _ASSERTION.search(line))), None)
            if assertion is not None:
                reason += f": {assertion}"
            elif name == "SIGKILL":
                reason += ", as the system does when memory runs out"
        elif not reason:
            reason = f"the process of the model ended with exit code {code}"
        told = lines[max(0, stacks - _N_TOLD) : stacks]
        crash = EngineCrashed(reason, log=told)
        crash.code, crash.signal = (code if code >= 0 else None), name
        return crash


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


__all__ = ["SILENT_SECONDS", "START_SECONDS", "Link"]
