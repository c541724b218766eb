"""Several models, each in a process of its own: which are loaded, and which make room for others.

All of it runs in one event loop. Only what :attr:`ManagedModel.changing` runs starts and ends processes, and a model
has one of these at most; everything else waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_cffi.errors import LlamaCffiError
from llama_cffi.server.problem import Problem
from llama_cffi.server.router.managed import Entry, Failure, ManagedModel, Status
from llama_cffi.server.router.process import Command, ModelProcess, ProcessEnded
from llama_cffi.server.router.room import Limits, Room
from llama_cffi.server.serving import Serving, not_taken
from llama_cffi.server.settings import Settings

_log = logging.getLogger("llama_cffi.server.models")
END_SECONDS = 10.0
"""How long a process may take to end that answers no request."""
CUT_SECONDS = 5.0
"""How long one may take that ends its requests with an error."""
_MAX_PATH = 90
"""Bytes of the name of a socket file, with some to spare."""


@dataclass(frozen=True)
class PoolOptions:
    """How several models share a machine."""

    max_models: int = 4
    """Models in memory at once; 0 is no limit."""
    autoload: bool = True
    """Whether a request loads its model."""
    sleep_seconds: float | None = None
    """Seconds without a request after which a model leaves memory; None keeps it."""
    memory_limit: int | None = None
    """Bytes that all models may take together."""
    wait_seconds: float = 60.0
    """Seconds that a request waits for its model."""
    only: bool = False
    """Whether there is one model, which is loaded at the start and answers requests for any name."""


class Lease:
    """A model that is in use; it is not unloaded meanwhile. :meth:`release` ends it."""

    def __init__(self, pool: Pool, model: ManagedModel, process: ModelProcess, counts: bool) -> None:
        self.model, self.process = model, process
        self._pool, self._counts = pool, counts
        self._open = True

    def release(self) -> None:
        """Give the model back. Idempotent."""
        if self._open:
            self._open = False
            self._pool.released(self.model, self._counts)


class Pool(Serving):
    """The models of a server. ``entries`` are those that can be asked for, ``command`` starts their processes."""

    def __init__(
        self, entries: Sequence[Entry], settings: Settings, command: Command, options: PoolOptions = PoolOptions()  # noqa: B008
    ) -> None:
        super().__init__(settings)
        self.options = options
        self.events: set[asyncio.Queue[ManagedModel | None]] = set()
        """Where those that listen get each model whose state has changed; None is the end."""
        self.evictions: Counter[str] = Counter()
        self._command = command
        self._folder: Path | None = None
        self._n_started = 0
        self._change = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.models = {one.id: ManagedModel(one, self._changed) for one in entries}
        self._names = {name: one.id for one in entries for name in (*one.aliases, one.id)}
        limits = Limits(options.max_models, options.memory_limit, options.wait_seconds)
        self._room = Room(limits, self.models.values, self.evict, self.change)
        self._draining = asyncio.Event()
        self._closing = False

    # -- the server's own beginning and end

    async def load(self) -> None:
        """Load the models that are wanted from the start; raises the failure of an only one."""
        self._folder = _private_folder()
        self.state = "ready" if self.state == "loading" else self.state
        started = [self.start(one) for one in self.models.values() if one.entry.load_on_startup or self.options.only]
        if not self.options.only:
            return
        ending = asyncio.ensure_future(self._draining.wait())
        await asyncio.wait({started[0], ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if self.state == "ready" and (failure := started[0].result()) is not None:
            raise LlamaCffiError(failure.message)

    def begin_drain(self) -> None:
        """See :class:`Serving`; those that listen to states have heard the last."""
        super().begin_drain()
        self._draining.set()
        for queue in self.events:
            queue.put_nowait(None)

    async def close(self) -> None:
        """End all processes."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        changing = [one.changing for one in self.models.values() if one.changing is not None]
        for task in changing:
            task.cancel()
        await asyncio.gather(*changing, return_exceptions=True)
        processes = [one.process for one in self.models.values() if one.process is not None]
        await asyncio.gather(*(one.end(END_SECONDS, cut=True) for one in processes))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- requests

    def find(self, name: str | None) -> ManagedModel:
        """Return the model with a name; :class:`Problem` for one that there is not."""
        if self.options.only and (name is None or not self.settings.strict_model):
            return next(iter(self.models.values()))
        if name is None:
            if len(self.models) == 1:
                return next(iter(self.models.values()))
            raise Problem(
                400, "model: there are several models: name one, in the body or behind ?model=",
                code="missing_model", param="model",
            )  # fmt: skip
        if name not in self._names:
            raise Problem(
                404, f"the model {name[:200]!r} does not exist; GET /v1/models lists those that do",
                code="model_not_found", param="model",
            )  # fmt: skip
        return self.models[self._names[name]]

    async def lease(self, model: ManagedModel, *, autoload: bool | None = None, counts: bool = True) -> Lease:
        """Return a loaded model for a request, which waits for it; :class:`Problem` where it cannot be had.

        ``counts`` is whether the request keeps the model from sleeping.
        """
        if self.state == "draining":
            raise not_taken()
        autoload = self.options.autoload or self.options.only if autoload is None else autoload
        until = time.monotonic() + self.options.wait_seconds
        model.n_waiting += 1
        try:
            while model.status != "loaded" or model.process is None:
                if model.status in ("loading", "unloading") and model.changing is not None:
                    task = model.changing
                else:
                    self._check(model, autoload)
                    task = self.start(model)
                done, _ = await asyncio.wait({task}, timeout=max(0.0, until - time.monotonic()))
                if not done:
                    raise Problem(
                        503, f"the model {model.id!r} is {model.status} still, after {self.options.wait_seconds:g} s",
                        code="queue_timeout", headers={"Retry-After": "5"},
                    )  # fmt: skip
                failure = None if task.cancelled() else task.result()
                if failure is not None and not failure.abandoned:
                    raise failure.problem(model.retry_at - time.monotonic())
                if self._closing:
                    raise not_taken()
        finally:
            model.n_waiting -= 1
            if model.idle:
                self._wake()
        model.n_active += 1
        if counts:
            model.last_used = time.monotonic()
        return Lease(self, model, model.process, counts)

    def _check(self, model: ManagedModel, autoload: bool) -> None:
        """Raise :class:`Problem` for a model that is not to be loaded now."""
        if not autoload and not model.wanted:
            raise Problem(
                400, f"the model {model.id!r} is not loaded; POST /models/load loads it",
                code="model_not_loaded", param="model",
            )  # fmt: skip
        left = model.retry_at - time.monotonic()
        if model.status == "failed" and model.failure is not None and left > 0:
            raise model.failure.problem(left)

    def released(self, model: ManagedModel, counts: bool) -> None:
        """Note the end of a request."""
        model.n_active -= 1
        if counts:
            model.last_used = time.monotonic()
        if model.idle:
            self._wake()
            self._arm(model)

    # -- states

    def start(self, model: ManagedModel) -> asyncio.Task[Failure | None]:
        """Begin to load a model that is not loaded, and return what does."""
        model.become("loading")
        model.changing = asyncio.ensure_future(self._load(model))
        return model.changing

    def want(self, model: ManagedModel) -> None:
        """Load a model although no request waits for it, and whatever failed before; :class:`Problem` if it runs."""
        if self.state == "draining":
            raise not_taken()
        if model.status in ("loading", "loaded"):
            raise Problem(400, f"the model {model.id!r} is {model.status} already", code="model_loaded", param="model")
        model.wanted = True
        model.forgive()
        if model.status != "unloading":
            self.start(model)

    def unload(self, model: ManagedModel, status: Status = "unloaded") -> asyncio.Task[Failure | None]:
        """Begin to unload a model, which ends what it answers first, and return what does; :class:`Problem` if it is
        not loaded."""
        if model.status == "unloading" and model.changing is not None:
            return model.changing
        if model.status not in ("loading", "loaded"):
            raise Problem(400, f"the model {model.id!r} is not loaded", code="model_not_loaded", param="model")
        before = model.changing
        model.wanted = False
        model.become("unloading")
        model.changing = asyncio.ensure_future(self._unload(model, before, status))
        return model.changing

    async def evict(self, model: ManagedModel) -> None:
        """Unload an idle model in order to make room."""
        _log.warning("%s makes room", model.id)
        self.evictions[model.id] += 1
        await asyncio.wait({self.unload(model)})

    async def _load(self, model: ManagedModel) -> Failure | None:
        process: ModelProcess | None = None
        failure: Failure | None = None
        try:
            process = await self._start(model)
            model.process = process
            needed = await process.plan() if self.options.memory_limit is not None else 0
            failure = await self._room.grant(model, needed)
            if failure is None:
                model.card = await process.load(lambda part: self._progress(model, part))
        except ProcessEnded as ended:
            failure = Failure(
                f"the model {model.id!r} could not be loaded: {ended}", "model_failed",
                exit_code=None if process is None else process.exited.result(),
            )  # fmt: skip
            return self._failed(model, failure)
        except OSError as error:
            failure = Failure(f"the process of the model {model.id!r} cannot be started: {error}", "model_failed")
            return self._failed(model, failure)
        except asyncio.CancelledError:
            await self._kill(model)
            if model.status == "loading":
                model.become("unloaded")
            raise
        if failure is not None:
            await self._kill(model)
            model.wanted = False
            model.become("unloaded")
            return failure
        model.n_loads += 1
        model.last_used = model.loaded_at = time.monotonic()
        model.become("loaded")
        model.wanted = False
        process.exited.add_done_callback(lambda _: self._ended(model, process))
        if model.idle:
            self._arm(model)
        _log.info("%s is loaded", model.id)
        return None

    async def _start(self, model: ManagedModel) -> ModelProcess:
        assert self._folder is not None
        self._n_started += 1
        path = self._folder / f"{self._n_started}.sock"
        host = ("--host", f"unix:{path}", "--alias", model.id)
        return await ModelProcess.start(
            self._command, (*model.entry.arguments, *host), path, lambda line: _log.warning("%s: %s", model.id, line)
        )

    async def _unload(
        self, model: ManagedModel, before: asyncio.Task[Failure | None] | None, status: Status
    ) -> Failure | None:
        if before is not None and not before.done():
            before.cancel()
            await asyncio.wait({before})
        process = model.process
        if process is not None:
            given = model.entry.stop_timeout
            until = time.monotonic() + (self.settings.drain_timeout if given is None else given)
            while model.n_active and not process.exited.done() and (left := until - time.monotonic()) > 0:
                await self.change(left)
            await process.end(CUT_SECONDS if model.n_active else END_SECONDS, cut=bool(model.n_active))
        self._gone(model)
        model.become(status)
        if model.wanted and self.state == "ready":
            self.start(model)
        return None

    def _ended(self, model: ManagedModel, process: ModelProcess) -> None:
        """Note that the process of a loaded model has ended by itself."""
        if self._closing or model.process is not process or model.status != "loaded":
            return
        failure = Failure(
            f"the process of the model {model.id!r} has failed: {process.words()}", "model_crashed",
            exit_code=process.exited.result(),
        )  # fmt: skip
        self._failed(model, failure)

    def _failed(self, model: ManagedModel, failure: Failure) -> Failure:
        _log.error("%s", failure.message)
        self._gone(model)
        model.wanted = False
        model.fail(failure)
        return failure

    async def _kill(self, model: ManagedModel) -> None:
        if model.process is not None:
            model.process.kill()
            await asyncio.wait({model.process.exited})
        self._gone(model)

    def _gone(self, model: ManagedModel) -> None:
        model.process, model.memory, model.granted = None, 0, False

    def _progress(self, model: ManagedModel, part: float) -> None:
        model.progress = part
        model.changed()

    # -- sleep

    def _arm(self, model: ManagedModel) -> None:
        """Let an idle model sleep when its time has come."""
        if self.options.sleep_seconds is None:
            return
        if model.id in self._timers:
            self._timers[model.id].cancel()
        left = model.last_used + self.options.sleep_seconds - time.monotonic()
        self._timers[model.id] = asyncio.get_running_loop().call_later(max(0.0, left), self._let_sleep, model)

    def _let_sleep(self, model: ManagedModel) -> None:
        assert self.options.sleep_seconds is not None
        if self.state != "ready" or model.status != "loaded" or not model.idle:
            return  # the end of the request arms the timer again
        if time.monotonic() - model.last_used < self.options.sleep_seconds:
            self._arm(model)
            return
        self.unload(model, "sleeping")

    # -- those that wait

    async def change(self, seconds: float) -> None:
        """Wait until any model changes, or for so many seconds."""
        try:
            await asyncio.wait_for(self._change.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    def _changed(self, model: ManagedModel) -> None:
        self._wake()
        for queue in self.events:
            queue.put_nowait(model)

    def counts(self) -> Mapping[Status, int]:
        """Return how many models are in each state."""
        return Counter(one.status for one in self.models.values())


def _private_folder() -> Path:
    """Return a new folder for socket files, which this user alone can enter."""
    folder = tempfile.mkdtemp(prefix="llama-cffi-")
    if len(os.fsencode(folder)) > _MAX_PATH:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="llama-cffi-", dir="/tmp")
    return Path(folder)


__all__ = ["Lease", "Pool", "PoolOptions"]
