"""The application: which path is answered by what."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.routing import Route, Router

from llama_cffi.server import health, page, props, tokens
from llama_cffi.server.anthropic.messages import count_tokens, messages
from llama_cffi.server.exchange import Call, Endpoint, Handler
from llama_cffi.server.guard import Guard, dialect_of
from llama_cffi.server.llama_server.completion import completion
from llama_cffi.server.llama_server.embedding import embedding
from llama_cffi.server.llama_server.infill import infill
from llama_cffi.server.llama_server.lora import list_adapters, set_adapters
from llama_cffi.server.llama_server.rerank import rerank
from llama_cffi.server.llama_server.slots import change_slot, list_slots
from llama_cffi.server.metrics import TYPE, render
from llama_cffi.server.openai.chat import chat_completions, count_chat
from llama_cffi.server.openai.completions import completions
from llama_cffi.server.openai.embeddings import embeddings
from llama_cffi.server.openai.kept_responses import cancel_response, delete_response, get_response, list_input_items
from llama_cffi.server.openai.models import get_model, list_models
from llama_cffi.server.openai.responses import count_input, responses
from llama_cffi.server.openai.speech import speech
from llama_cffi.server.openai.transcriptions import transcriptions
from llama_cffi.server.problem import Problem
from llama_cffi.server.response import Answer, Whole, problem_answer
from llama_cffi.server.static_files import Files

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from llama_cffi.server.serving import Serving

ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/health": {"GET": health.health},
    "/v1/health": {"GET": health.health},
    "/livez": {"GET": health.live},
    "/readyz": {"GET": health.ready},
    "/v1/models": {"GET": list_models},
    "/models": {"GET": list_models},
    "/v1/models/{id:path}": {"GET": get_model},
    "/v1/chat/completions": {"POST": chat_completions},
    "/chat/completions": {"POST": chat_completions},
    "/v1/chat/completions/input_tokens": {"POST": count_chat},
    "/v1/completions": {"POST": completions},
    "/v1/embeddings": {"POST": embeddings},
    "/v1/responses": {"POST": responses},
    "/responses": {"POST": responses},
    "/v1/responses/input_tokens": {"POST": count_input},
    "/v1/responses/{id}": {"GET": get_response, "DELETE": delete_response},
    "/v1/responses/{id}/input_items": {"GET": list_input_items},
    "/v1/responses/{id}/cancel": {"POST": cancel_response},
    "/v1/audio/transcriptions": {"POST": transcriptions},
    "/audio/transcriptions": {"POST": transcriptions},
    "/v1/audio/speech": {"POST": speech},
    "/audio/speech": {"POST": speech},
    "/v1/messages": {"POST": messages},
    "/v1/messages/count_tokens": {"POST": count_tokens},
    "/completion": {"POST": completion},
    "/completions": {"POST": completion},
    "/infill": {"POST": infill},
    "/embedding": {"POST": embedding},
    "/embeddings": {"POST": embedding},
    "/rerank": {"POST": rerank},
    "/reranking": {"POST": rerank},
    "/v1/rerank": {"POST": rerank},
    "/v1/reranking": {"POST": rerank},
    "/slots": {"GET": list_slots},
    "/slots/{id}": {"POST": change_slot},
    "/lora-adapters": {"GET": list_adapters, "POST": set_adapters},
    "/props": {"GET": props.props, "POST": props.change_props},
    "/tokenize": {"POST": tokens.tokenize},
    "/detokenize": {"POST": tokens.detokenize},
    "/apply-template": {"POST": tokens.apply_template},
}
"""Handlers by path and method."""


class _Named:
    """An endpoint that notes its pattern, by which requests are counted."""

    def __init__(self, pattern: str, endpoint: Endpoint) -> None:
        self.pattern, self.endpoint = pattern, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["llama_cffi"]["route"] = self.pattern
        await self.endpoint(scope, receive, send)


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    path: str = scope["path"]
    facts = scope["llama_cffi"]
    message = f"there is no {path[:200]}"
    if path.startswith("/v1/v1/"):
        message += ": the base URL ends with /v1 already, and so does the client's own"
    answer = problem_answer(Problem(404, message, code="not_found"), dialect_of(path), facts["request_id"])
    facts["status"] = await answer.send(send, facts["reply_headers"])


def make_app(service: Serving) -> Guard:
    """Return the ASGI application of a service."""
    guard: Guard

    async def metrics(call: Call) -> Answer:
        text = await asyncio.to_thread(render, call.service, guard.requests.copy(), guard.seconds.snapshot())
        return Whole(text.encode(), type=TYPE)

    guard = routed(service, {**ROUTES, "/metrics": {"GET": metrics}} if service.settings.metrics else ROUTES)
    return guard


def routed(service: Serving, handlers: Mapping[str, Mapping[str, Handler]]) -> Guard:
    """Return the ASGI application that answers paths by these handlers, and shows the page or a folder."""
    settings = service.settings
    if settings.ui and settings.static_path is None:
        handlers = {**handlers, **{path: {"GET": page.show_page} for path in page.PATHS}}
    routes = [
        Route(pattern, _Named(pattern, Endpoint(service, dialect_of(pattern), one)))
        for pattern, one in handlers.items()
    ]
    other: ASGIApp = _no_such_path if settings.static_path is None else Files(settings.static_path, _no_such_path)

    def is_shown(path: str) -> bool:
        if settings.static_path is None:
            return path in page.PATHS
        return not any(route.path_regex.match(path) for route in routes)

    return Guard(Router(routes, redirect_slashes=False, default=other), service, is_shown)


__all__ = ["ROUTES", "make_app", "routed"]
