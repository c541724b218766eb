"""The model behind the server, from before it is loaded until it is closed, and the requests that run."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cffi.errors import UnsupportedError
from llama_cffi.server.adapters import adapter_named
from llama_cffi.server.media_fetch import MediaFetcher
from llama_cffi.server.media_hosts import MediaHosts
from llama_cffi.server.openai.response_store import ResponseStore
from llama_cffi.server.problem import Problem, unsupported
from llama_cffi.server.serving import Serving, not_taken
from llama_cffi.server.settings import Settings
from llama_cffi.server.values import Facts

if TYPE_CHECKING:
    from llama_cffi.aio.llama import AsyncLlama
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.engine.snapshot import EngineSnapshot


@dataclass(frozen=True)
class ModelCard:
    """What clients are told of the model."""

    path: str
    """The name of its file, without the folder."""
    fingerprint: str
    created: int
    """Seconds since 1970: when the file was last changed."""
    n_ctx: int
    """Tokens that one request can use."""
    slots: int
    meta: dict[str, Any]


class Service(Serving):
    """One model. ``open_model`` opens it, when :meth:`load` runs."""

    def __init__(self, open_model: Callable[[], Awaitable[AsyncLlama]], settings: Settings, default_name: str) -> None:
        super().__init__(settings)
        self.names = settings.names or (default_name,)
        self.load_seconds = 0.0
        self.adapters: tuple[LoraAdapter, ...] = ()
        """The LoRA adapters that requests may name, in the order of their ids."""
        self.responses = ResponseStore(settings.response_store)
        hosts = MediaHosts(settings.media_hosts)
        self.fetcher = (
            MediaFetcher(hosts, max_bytes=settings.max_body, seconds=settings.media_seconds) if hosts else None
        )
        """Fetches media from other hosts; None where none may be asked."""
        self._open = open_model
        self._llm: AsyncLlama | None = None

    async def load(self) -> None:
        """Open the model; raises what that raises."""
        began = time.perf_counter()
        try:
            self._llm = await self._open()
            await asyncio.to_thread(lambda: self.card)
        except BaseException:
            self.state = "failed"
            raise
        self.load_seconds = time.perf_counter() - began
        if self.state == "loading":
            self.state = "ready"

    @property
    def id(self) -> str:
        """The name of the model."""
        return self.names[0]

    @property
    def loaded(self) -> AsyncLlama | None:
        """The model; None before it is loaded."""
        return self._llm

    @property
    def llm(self) -> AsyncLlama:
        """The model, for a new request; :class:`Problem` 503 where none can be answered."""
        if self.state == "draining":
            raise not_taken()
        if self._llm is None:
            if self.state == "failed":
                raise Problem(503, "the model could not be loaded", code="engine_failed")
            raise Problem(503, "Loading model", code="model_loading", headers={"Retry-After": "2"})
        stats = self.stats
        if stats is not None and stats.failed:
            raise Problem(503, "the engine has failed", code="engine_failed")
        return self._llm

    @property
    def takes_media(self) -> bool:
        """Whether the model takes images or sound."""
        return self._llm is not None and self._llm.llama.projector is not None

    @property
    def stats(self) -> EngineSnapshot | None:
        """What the engine counts; None before the model is loaded, and for one that generates no text."""
        try:
            return None if self._llm is None else self._llm.stats()
        except UnsupportedError:
            return None

    @cached_property
    def card(self) -> ModelCard:
        """What clients are told of the model, once it is loaded."""
        if self._llm is None:
            raise Problem(503, "Loading model", code="model_loading")
        llama = self._llm.llama
        model, context = llama.model, llama.context
        path = Path(str(model.path))
        try:
            created = int(path.stat().st_mtime)
        except OSError:
            created = int(self.started)
        digest = hashlib.blake2b(repr(model.fingerprint).encode(), digest_size=6).hexdigest()
        meta = {
            "vocab_type": int(model.vocab.type),
            "n_vocab": len(model.vocab),
            "n_ctx": context.n_ctx_seq,
            "n_ctx_train": model.n_ctx_train,
            "n_embd": model.n_embd,
            "n_params": model.n_params,
            "size": model.size,
            "ftype": model.desc,
        }
        return ModelCard(path.name, f"llama_cffi-{digest}", created, context.n_ctx_seq, context.n_seq_max, meta)

    @property
    def facts(self) -> Facts:
        """What values of requests are checked against."""
        card, settings = self.card, self.settings
        return Facts(card.n_ctx, card.slots, settings.max_n, self.adapters, lenient=settings.compat)

    def check_model(self, name: str | None) -> None:
        """Raise :class:`Problem` for a model that is asked for and not here, and for an adapter."""
        if name is None or name in self.names:
            return
        if adapter_named(name, self.adapters) is not None:
            raise unsupported("model", "an adapter cannot be chosen for this: /lora-adapters sets the scales for all")
        if self.settings.strict_model:
            raise Problem(
                404, f"the model {name!r} does not exist; there is {self.id}", code="model_not_found", param="model"
            )

    async def close(self) -> None:
        """Close the model."""
        if self._llm is not None:
            await self._llm.aclose()


__all__ = ["ModelCard", "Service"]
