"""Loading and unloading models: the one place that starts and ends their processes.

All of it runs in one event loop. What :attr:`ManagedModel.changing` runs does the work, and a model has one of these at
most; everything else waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from llama_cffi.server.problem import Problem
from llama_cffi.server.router.managed import Failure, ManagedModel, Status
from llama_cffi.server.router.process import Command, ModelProcess, ProcessEnded
from llama_cffi.server.router.room import Limits, Room

_log = logging.getLogger("llama_cffi.server.models")
END_SECONDS = 10.0
"""How long a process may take to end that answers no request."""
CUT_SECONDS = 5.0
"""How long one may take that ends its requests with an error."""
_MAX_PATH = 90
"""Bytes of the name of a folder for socket files, with some to spare."""


@dataclass(frozen=True)
class Hooks:
    """What a :class:`Keeper` asks and tells."""

    models: Callable[[], Collection[ManagedModel]]
    """Returns the models that share the room."""
    on_loaded: Callable[[ManagedModel], object]
    """Is called with each model that was loaded."""


class Keeper:
    """Loads and unloads models within ``limits``; ``drain_seconds`` is how long running requests may take to end."""

    def __init__(self, command: Command, limits: Limits, drain_seconds: float, hooks: Hooks) -> None:
        self.evictions: Counter[str] = Counter()
        """How often each model made room for another."""
        self.closing = False
        self._command, self._limits, self._drain_seconds, self._hooks = command, limits, drain_seconds, hooks
        self._folder: Path | None = None
        self._n_started = 0
        self._change = asyncio.Event()
        self._room = Room(limits, hooks.models, self._evict, self.change)

    def open(self) -> None:
        """Make the folder of the socket files."""
        self._folder = _private_folder()

    async def close(self) -> None:
        """End all processes."""
        self.closing = True
        models = self._hooks.models()
        changing = [one.changing for one in models if one.changing is not None]
        for task in changing:
            task.cancel()
        await asyncio.gather(*changing, return_exceptions=True)
        processes = [one.process for one in models if one.process is not None]
        await asyncio.gather(*(one.end(END_SECONDS, cut=True) for one in processes))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, model: ManagedModel) -> asyncio.Task[Failure | None]:
        """Begin to load a model that is not loaded, and return what does."""
        model.become("loading")
        model.changing = asyncio.ensure_future(self._load(model))
        return model.changing

    def want(self, model: ManagedModel) -> None:
        """Load a model although no request waits for it, and whatever failed before; :class:`Problem` if it runs."""
        if model.status in ("loading", "loaded"):
            raise Problem(400, f"the model {model.id!r} is {model.status} already", code="model_loaded", param="model")
        model.wanted = True
        model.forgive()
        if model.status != "unloading":
            self.start(model)

    def unload(self, model: ManagedModel, status: Status = "unloaded") -> asyncio.Task[Failure | None]:
        """Begin to unload a model, which finishes what it answers, and return what does.

        Raises :class:`Problem` for one that is not loaded.
        """
        if model.status == "unloading" and model.changing is not None:
            model.wanted = False
            return model.changing
        if model.status not in ("loading", "loaded"):
            raise Problem(400, f"the model {model.id!r} is not loaded", code="model_not_loaded", param="model")
        before = model.changing
        model.wanted = False
        model.become("unloading")
        model.changing = asyncio.ensure_future(self._unload(model, before, status))
        return model.changing

    # -- loading

    async def _load(self, model: ManagedModel) -> Failure | None:
        process: ModelProcess | None = None
        try:
            model.process = process = await self._start(model)
            needed = await process.plan() if self._limits.memory is not None else 0
            failure = await self._room.grant(model, needed)
            if failure is None:
                model.card = await process.load(model.advance)
        except ProcessEnded as ended:
            code = None if process is None else process.exited.result()
            failure = Failure(f"the model {model.id!r} could not be loaded: {ended}", "model_failed", exit_code=code)
            return self._failed(model, failure)
        except OSError as error:
            message = f"the process of the model {model.id!r} cannot be started: {error}"
            return self._failed(model, Failure(message, "model_failed"))
        except asyncio.CancelledError:
            await self._kill(model)
            if model.status == "loading":
                model.become("unloaded")
            raise
        model.wanted = False
        if failure is not None:
            await self._kill(model)
            model.become("unloaded")
            return failure
        model.n_loads += 1
        model.last_used = model.loaded_at = time.monotonic()
        model.become("loaded")
        process.exited.add_done_callback(lambda _: self._ended(model, process))
        _log.info("%s is loaded", model.id)
        self._hooks.on_loaded(model)
        return None

    async def _start(self, model: ManagedModel) -> ModelProcess:
        assert self._folder is not None
        self._n_started += 1
        path = self._folder / f"{self._n_started}.sock"
        arguments = (*model.entry.arguments, "--host", f"unix:{path}", "--alias", model.id)
        return await ModelProcess.start(
            self._command, arguments, path, lambda line: _log.warning("%s: %s", model.id, line)
        )

    # -- unloading

    async def _evict(self, model: ManagedModel) -> None:
        """Unload an idle model in order to make room."""
        _log.warning("%s makes room", model.id)
        self.evictions[model.id] += 1
        await asyncio.wait({self.unload(model)})

    async def _unload(
        self, model: ManagedModel, before: asyncio.Task[Failure | None] | None, status: Status
    ) -> Failure | None:
        if before is not None and not before.done():
            before.cancel()
            await asyncio.wait({before})
        process = model.process
        if process is not None:
            given = model.entry.stop_timeout
            until = time.monotonic() + (self._drain_seconds if given is None else given)
            while model.n_active and not process.exited.done() and (left := until - time.monotonic()) > 0:
                await self.change(left)
            await process.end(CUT_SECONDS if model.n_active else END_SECONDS, cut=bool(model.n_active))
        model.gone()
        model.become(status)
        if model.wanted and not self.closing:
            self.start(model)
        return None

    async def _kill(self, model: ManagedModel) -> None:
        if model.process is not None:
            model.process.kill()
            await asyncio.wait({model.process.exited})
        model.gone()

    # -- failures

    def _ended(self, model: ManagedModel, process: ModelProcess) -> None:
        """Note that the process of a loaded model has ended by itself."""
        if self.closing or model.process is not process or model.status != "loaded":
            return
        message = f"the process of the model {model.id!r} has failed: {process.words()}"
        self._failed(model, Failure(message, "model_crashed", exit_code=process.exited.result()))

    def _failed(self, model: ManagedModel, failure: Failure) -> Failure:
        _log.error("%s", failure.message)
        model.gone()
        model.wanted = False
        model.fail(failure)
        return failure

    # -- those that wait

    async def change(self, seconds: float) -> None:
        """Wait until any model changes, or for this many seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._change.wait(), seconds)

    def wake(self) -> None:
        """Wake all that wait for a change."""
        self._change.set()
        self._change = asyncio.Event()


def _private_folder() -> Path:
    """Return a new folder for socket files, which this user alone can enter."""
    folder = tempfile.mkdtemp(prefix="llama-cffi-")
    if len(os.fsencode(folder)) > _MAX_PATH:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="llama-cffi-", dir="/tmp")
    return Path(folder)


__all__ = ["CUT_SECONDS", "END_SECONDS", "Hooks", "Keeper"]
