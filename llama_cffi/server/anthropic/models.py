"""Models in the form of Anthropic's API, made from that of OpenAI's."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any


def anthropic_model(card: dict[str, Any]) -> dict[str, Any]:
    """Return one model."""
    created = datetime.fromtimestamp(card["created"], timezone.utc)
    found = {"type": "model", "id": card["id"], "display_name": card["id"]}
    return {**found, "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ")}


def anthropic_list(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the list of models, as one page."""
    data = [anthropic_model(card) for card in cards]
    return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}


__all__ = ["anthropic_list", "anthropic_model"]
