"""The models of a server that has several: by their names, for the requests that need them, and asleep without any."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from llama_cffi.errors import LlamaCffiError
from llama_cffi.server.problem import Problem
from llama_cffi.server.router.keeper import Hooks, Keeper
from llama_cffi.server.router.managed import Entry, ManagedModel
from llama_cffi.server.router.process import Command, ModelProcess
from llama_cffi.server.router.room import Limits
from llama_cffi.server.serving import Serving, not_taken
from llama_cffi.server.settings import Settings


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
        self, entries: Sequence[Entry], settings: Settings, command: Command, options: PoolOptions = PoolOptions()
    ) -> None:
        super().__init__(settings)
        self.options = options
        self.models: dict[str, ManagedModel] = {}
        """Those that can be asked for, by their ids."""
        self.events: set[asyncio.Queue[ManagedModel | None]] = set()
        """Where those that listen get each model whose state has changed; None is the end."""
        self.read_entries: Callable[[], Sequence[Entry]] | None = None
        """Says which models there are now; it raises ValueError or OSError where it cannot."""
        self._names: dict[str, str] = {}
        self._removed: set[ManagedModel] = set()
        """Those that cannot be asked for any more, until they are unloaded."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._draining = asyncio.Event()
        limits = Limits(options.max_models, options.memory_limit, options.wait_seconds)
        hooks = Hooks(lambda: (*self.models.values(), *self._removed), self._arm)
        self.keeper = Keeper(command, limits, settings.drain_timeout, hooks)
        self.replace(entries)

    # -- the server's own beginning and end

    async def load(self) -> None:
        """Load the models that are wanted from the start; raises the failure of an only one."""
        self.keeper.open()
        self.state = "ready" if self.state == "loading" else self.state
        started = []
        for model in self.models.values():
            if model.entry.load_on_startup or self.options.only:
                model.wanted = True
                started.append(self.keeper.start(model))
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
        for timer in self._timers.values():
            timer.cancel()
        await self.keeper.close()

    def replace(self, entries: Sequence[Entry]) -> None:
        """Offer these models from now on. Those that changed are unloaded, and so are those that are not among them."""
        before, self.models = self.models, {}
        self._names = {name: one.id for one in entries for name in (*one.adapters, *one.aliases, one.id)}
        for entry in entries:
            model = before.pop(entry.id, None) or ManagedModel(entry, self._changed)
            self.models[entry.id] = model
            if model.entry.arguments != entry.arguments:
                model.forgive()
                if model.status in ("loading", "loaded"):
                    self.keeper.unload(model)
            model.entry = entry
        for model in before.values():
            if model.status in ("loading", "loaded", "unloading"):
                self._removed.add(model)
                self.keeper.unload(model).add_done_callback(partial(self._forget, model))

    def _forget(self, model: ManagedModel, _: object) -> None:
        self._removed.discard(model)

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
                await self._wait_for(model, autoload, until)
        finally:
            model.n_waiting -= 1
            if model.idle:
                self.keeper.wake()
        model.n_active += 1
        if counts:
            model.last_used = time.monotonic()
        return Lease(self, model, model.process, counts)

    async def _wait_for(self, model: ManagedModel, autoload: bool, until: float) -> None:
        """Wait for the end of what changes a model that is not loaded: loading, which begins where nothing does."""
        if self.keeper.closing:
            raise not_taken()
        task = model.changing
        if model.status not in ("loading", "unloading") or task is None:
            self._check(model, autoload)
            task = self.keeper.start(model)
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - time.monotonic()))
        if not done:
            raise Problem(
                503, f"the model {model.id!r} is {model.status} still, after {self.options.wait_seconds:g} s",
                code="queue_timeout", headers={"Retry-After": "5"},
            )  # fmt: skip
        failure = None if task.cancelled() else task.result()
        if failure is not None and not failure.abandoned:
            raise failure.problem(model.retry_at - time.monotonic())

    def _check(self, model: ManagedModel, autoload: bool) -> None:
        """Raise :class:`Problem` for a model that is not to be loaded now."""
        if model in self._removed or model.id not in self.models:
            raise Problem(404, f"the model {model.id!r} is gone", code="model_not_found", param="model")
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
        if not model.n_active:
            self.keeper.wake()
        if model.idle:
            self._arm(model)

    # -- sleep

    def _arm(self, model: ManagedModel) -> None:
        """Let a model sleep when its time has come, if it is idle then."""
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
        self.keeper.unload(model, "sleeping")

    def _changed(self, model: ManagedModel) -> None:
        self.keeper.wake()
        for queue in self.events:
            queue.put_nowait(model)


__all__ = ["Lease", "Pool", "PoolOptions"]
