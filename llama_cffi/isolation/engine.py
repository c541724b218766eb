"""The engine of another process, with the methods of an engine of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_cffi._util.process_bound import ProcessBound
from llama_cffi.engine.waiter import Waiter
from llama_cffi.isolation.remote_sequence import RemoteSequence
from llama_cffi.isolation.supervisor import Supervisor, TimedOut

if TYPE_CHECKING:
    from llama_cffi.engine.request import Request
    from llama_cffi.engine.running_sequence import Listener
    from llama_cffi.engine.snapshot import EngineSnapshot, SlotSnapshot
    from llama_cffi.reply.completion import Chunk

_LOOK_SECONDS = 1.0
"""How long a snapshot is waited for before the last one is returned."""


class RemoteEngine(ProcessBound):
    """Stands in for the :class:`Engine` of the other process, which computes on a thread of its own."""

    _instead_of_pickling = "create one over a Context in each process"
    _instead_of_copying = "any number of threads may use one"

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._snapshot: EngineSnapshot | None = None

    def submit(self, request: Request, listener: Listener | None = None) -> RemoteSequence:
        """As :meth:`Engine.submit`; also raises :class:`EngineCrashed`."""
        supervisor = self._supervisor
        supervisor.check_open()
        request.check_fits(supervisor.facts["room"])
        sequence = RemoteSequence(supervisor.next_number(), request, listener)
        supervisor.requests.submit(sequence)
        return sequence

    def poll(self, sequence: RemoteSequence) -> Chunk | None:
        """As :meth:`Engine.poll`."""
        chunks = sequence.chunks
        if sequence.done or not sequence.held:
            try:
                chunk = chunks.popleft()
            except IndexError:
                pass
            else:
                sequence.given = True
                return chunk
        if sequence.done and not chunks:
            self._raise(sequence)
        return None

    def next_chunk(self, sequence: RemoteSequence) -> Chunk | None:
        """As :meth:`Engine.next_chunk`, which here waits for the other process."""
        while True:
            chunk = self.poll(sequence)
            if chunk is not None:
                return chunk
            if sequence.done:
                if sequence.chunks:  # the last one came between these two looks
                    continue
                return None
            self._wait(sequence)

    def _wait(self, sequence: RemoteSequence) -> None:
        self._supervisor.check_open()
        waiter = Waiter()
        sequence.listeners += (waiter.wake,)
        try:
            if not sequence.done and (sequence.held or not sequence.chunks):
                waiter.wait()
        finally:
            sequence.listeners = tuple(one for one in sequence.listeners if one != waiter.wake)

    def _raise(self, sequence: RemoteSequence) -> None:
        error, sequence.error = sequence.error, None
        if error is not None:
            raise error

    def hold(self, sequence: RemoteSequence, *, chunks: bool = False) -> None:
        """Say that the caller passes nothing of a text on before its end, so that a crash may begin it anew.

        Its chunks come at its end, or with ``chunks`` as before, maybe again.
        """
        if not sequence.given:
            sequence.repeatable, sequence.held = True, not chunks

    def cancel(self, sequence: RemoteSequence) -> None:
        """As :meth:`Engine.cancel`."""
        self._supervisor.requests.cancel(sequence)

    abandon = cancel

    def start_worker(self) -> None:
        """The other process has one."""

    def snapshot(self) -> EngineSnapshot:
        """As :meth:`Engine.snapshot`; the last one that was seen when the other process does not answer at once."""
        supervisor = self._supervisor
        supervisor.check_open()
        last = self._snapshot
        if last is None or supervisor.running:
            try:
                self._snapshot = last = supervisor.call(
                    ("runtime",), ("engine",), ("snapshot", (), {}), look=True, timeout=_LOOK_SECONDS
                )
            except TimedOut:
                if last is None:
                    raise TimeoutError("the process of the model does not answer") from None
        return last

    def slots(self) -> tuple[SlotSnapshot, ...]:
        """As :meth:`Engine.slots`."""
        found: tuple[SlotSnapshot, ...] = self._supervisor.call(("runtime",), ("engine",), ("slots", (), {}), look=True)
        return found


__all__ = ["RemoteEngine"]
