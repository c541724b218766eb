"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from llama_cffi.server.anthropic.models import anthropic_list, anthropic_model
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


def _cards(service: Service) -> list[dict[str, Any]]:
    """Return the model, and its adapters, each of which is a model with this parent."""
    card = model_card(service)
    names = (adapter.path.stem for adapter in service.adapters)
    return [card, *({**card, "id": name, "aliases": [], "parent": service.id} for name in names)]


async def list_models(call: Call) -> Answer:
    """Return the list of models, which is never empty and never waits."""
    return list_answer(call, _cards(call.service))


async def get_model(call: Call) -> Answer:
    """Return one model."""
    return card_answer(call, _cards(call.service))


def list_answer(call: Call, cards: list[dict[str, Any]]) -> Answer:
    """Return these models; to Anthropic's clients in their form."""
    if "anthropic-version" in call.headers:
        return json_answer(anthropic_list(cards))
    return json_answer({"object": "list", "data": cards})


def card_answer(call: Call, cards: list[dict[str, Any]]) -> Answer:
    """Return the model among these that the path names; :class:`Problem` for none."""
    name = call.path_params["id"]
    for card in cards:
        if name in (card["id"], *card["aliases"]):
            return json_answer(anthropic_model(card) if "anthropic-version" in call.headers else card)
    raise Problem(404, f"the model {name!r} does not exist", code="model_not_found", param="model")


__all__ = ["card_answer", "get_model", "list_answer", "list_models", "model_card"]
