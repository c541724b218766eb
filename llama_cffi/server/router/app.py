"""The application of a server with several models: what the parent answers itself, and what it relays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

from llama_cffi.server.app import ROUTES, routed
from llama_cffi.server.exchange import Call, Handler
from llama_cffi.server.guard import Guard
from llama_cffi.server.health import live
from llama_cffi.server.metrics import TYPE
from llama_cffi.server.openai.models import card_answer, list_answer
from llama_cffi.server.problem import Problem
from llama_cffi.server.response import Answer, Events, Whole, event, json_answer
from llama_cffi.server.router.managed import ManagedModel
from llama_cffi.server.router.metrics import render
from llama_cffi.server.router.pool import Pool
from llama_cffi.server.router.relay import name_of, relay, relay_handler
from llama_cffi.server.serving import not_taken

_LISTENERS = 64
"""Listeners of events at once."""


async def _ready(pool: Pool, call: Call) -> Answer:
    """Say that requests are taken; models are loaded when they are asked for."""
    if pool.state == "draining":
        raise not_taken()
    only = next(iter(pool.models.values())) if pool.options.only else None
    if only is not None and only.status in ("loading", "failed"):
        if only.failure is not None and only.status == "failed":
            raise only.failure.problem()
        raise Problem(503, "Loading model", code="model_loading", headers={"Retry-After": "2"})
    return json_answer({"status": "ok"})


async def _list_models(pool: Pool, call: Call) -> Answer:
    """Return all models with their states; with ``?reload=1`` those that are there now."""
    if call.query.get("reload") and pool.read_entries is not None:
        try:
            entries = await asyncio.to_thread(pool.read_entries)
        except (OSError, ValueError) as error:
            raise Problem(409, f"the models stay as they are: {error}", code="models_unreadable") from None
        pool.replace(entries)
    return list_answer(call, _cards(pool))


async def _get_model(pool: Pool, call: Call) -> Answer:
    """Return one model."""
    return card_answer(call, _cards(pool))


def _cards(pool: Pool) -> list[dict[str, Any]]:
    """Return all models, each followed by its adapters that can be asked for as models."""
    return [card for one in pool.models.values() for card in (one.described(), *one.adapters_described())]


def _named(pool: Pool, call: Call) -> ManagedModel:
    name = name_of(call)
    if name is None and not pool.options.only:
        raise Problem(400, "model: is missing", code="missing_model", param="model")
    return pool.find(name)


async def _load_model(pool: Pool, call: Call) -> Answer:
    """Begin to load a model."""
    model = _named(pool, call)
    if pool.state == "draining":
        raise not_taken()
    pool.keeper.want(model)
    return json_answer({"success": True})


async def _unload_model(pool: Pool, call: Call) -> Answer:
    """Begin to unload a model, which finishes what it answers."""
    pool.keeper.unload(_named(pool, call))
    return json_answer({"success": True})


async def _events(pool: Pool, call: Call) -> Answer:
    """Return the stream of changes of states, which has no end."""
    if len(pool.events) >= _LISTENERS:
        raise Problem(503, f"{_LISTENERS} clients listen already", code="too_many_requests")

    async def frames() -> AsyncGenerator[bytes, None]:
        queue: asyncio.Queue[ManagedModel | None] = asyncio.Queue()
        pool.events.add(queue)
        try:
            yield b":\n\n"  # the status is not to wait for a change
            while (model := await queue.get()) is not None:
                status = model.told()
                data: dict[str, Any] = {"status": status.pop("value"), **status}
                if data["status"] == "loaded":
                    data["info"] = model.card
                yield event({"model": model.id, "event": "model_status", "data": data})
        finally:
            pool.events.discard(queue)

    return Events(frames(), call.dialect, call.request_id, pool.settings.ping_interval)


async def _props(pool: Pool, call: Call) -> Answer:
    """Return what the server is, or ask the model that is named; a model that sleeps is not woken."""
    name = name_of(call)
    if name is None and not pool.options.only:
        return json_answer(
            {
                "role": "router",
                "max_instances": pool.options.max_models,
                "models_autoload": pool.options.autoload,
                "model_alias": "llama_cffi",
                "model_path": "none",
                "default_generation_settings": {"params": {}, "n_ctx": 0},
                "ui": False,
                "ui_settings": {},
                "build_info": "llama_cffi",
                "cors_proxy_enabled": False,
                "is_sleeping": False,
            }
        )
    model = pool.find(name)
    if model.status == "sleeping":
        n_ctx = model.card.get("max_model_len") or 0
        return json_answer(
            {
                "role": "model",
                "is_sleeping": True,
                "model_alias": model.id,
                "default_generation_settings": {"params": {}, "n_ctx": n_ctx},
            }
        )
    return await relay(pool, call)


def make_router(pool: Pool) -> Guard:
    """Return the ASGI application of several models."""
    guard: Guard

    async def metrics(pool: Pool, call: Call) -> Answer:
        if call.query.get("model"):
            return await relay(pool, call)
        text = await render(pool, guard.requests.copy(), guard.seconds.snapshot())
        return Whole(text.encode(), type=TYPE)

    own: dict[str, Mapping[str, Handler]] = {
        **{path: {"GET": live} for path in ("/health", "/v1/health", "/livez")},
        "/readyz": {"GET": partial(_ready, pool)},
        **{path: {"GET": partial(_list_models, pool)} for path in ("/v1/models", "/models")},
        "/models/load": {"POST": partial(_load_model, pool)},
        "/models/unload": {"POST": partial(_unload_model, pool)},
        "/models/sse": {"GET": partial(_events, pool)},
        "/v1/models/{id:path}": {"GET": partial(_get_model, pool)},
        "/props": {"GET": partial(_props, pool), "POST": ROUTES["/props"]["POST"]},
    }
    if pool.settings.metrics:
        own["/metrics"] = {"GET": partial(metrics, pool)}
    relayed = {
        pattern: {method: relay_handler(pool, one) for method, one in handlers.items()}
        for pattern, handlers in ROUTES.items()
        if pattern not in own
    }
    guard = routed(pool, {**own, **relayed})
    return guard


__all__ = ["make_router"]
