"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from llama_cffi.server.exchange import Call
from llama_cffi.server.problem import Problem
from llama_cffi.server.response import Answer, json_answer
from llama_cffi.server.service import Service


def model_card(service: Service) -> dict[str, Any]:
    """Return the model as the list of models has it; without numbers while it is loading."""
    card = service.card if service.loaded is not None else None
    return {
        "id": service.id,
        "object": "model",
        "created": int(service.started) if card is None else card.created,
        "owned_by": "llama_cffi",
        "aliases": list(service.names[1:]),
        "tags": list(service.settings.tags),
        "meta": None if card is None else card.meta,
        "capabilities": ["completion", "multimodal"] if service.takes_media else ["completion"],
        "max_model_len": None if card is None else card.n_ctx,
        "status": {"value": "loaded" if service.state in ("ready", "draining") else service.state},
    }


async def list_models(call: Call) -> Answer:
    """Return the list of models, which is never empty and never waits."""
    return json_answer({"object": "list", "data": [model_card(call.service)]})


async def get_model(call: Call) -> Answer:
    """Return one model."""
    name = call.path_params["id"]
    if name not in call.service.names:
        raise Problem(404, f"the model {name!r} does not exist", code="model_not_found", param="model")
    return json_answer(model_card(call.service))


__all__ = ["get_model", "list_models", "model_card"]
