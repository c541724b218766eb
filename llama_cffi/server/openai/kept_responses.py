"""GET, DELETE, /input_items and /cancel of a response that is kept."""

from __future__ import annotations

from typing import Any

from llama_cffi.server.exchange import Call, takes
from llama_cffi.server.openai.response_store import Stored
from llama_cffi.server.problem import Problem, wrong
from llama_cffi.server.response import Answer, json_answer

_IDS = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
"""What the ids of items begin with, by their kind."""
_MAX_ITEMS, _N_ITEMS = 100, 20
"""Items of one answer: the most, and unless a number is given."""


async def get_response(call: Call) -> Answer:
    """Return a response."""
    return json_answer(_kept(call).response)


async def delete_response(call: Call) -> Answer:
    """Forget a response."""
    name = call.path_params["id"]
    call.service.responses.remove(name)
    return json_answer({"id": name, "object": "response", "deleted": True})


@takes(nothing=True)
async def cancel_response(call: Call) -> Answer:
    """Refuse to cancel a response: one that is kept has ended."""
    _kept(call)
    raise Problem(400, "only a response in the background can be cancelled: close the stream of another one instead")


async def list_input_items(call: Call) -> Answer:
    """Return the items that a response followed, the last one first unless ``order=asc``."""
    stored = _kept(call)
    found = [_shown(item, stored.response["id"], i) for i, item in enumerate(stored.input_items)]
    order = call.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise wrong("order", f"must be asc or desc, got {order!r:.60}")
    if order == "desc":
        found.reverse()
    if (after := call.query.get("after")) is not None:
        places = [i for i, item in enumerate(found) if item["id"] == after]
        if not places:
            raise wrong("after", f"is the id of no item: {after!r:.80}")
        found = found[places[-1] + 1 :]
    page = found[: _limit(call)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": "", "last_id": ""}
    return json_answer({"object": "list", "data": page, "has_more": len(page) < len(found), **ends})


def _kept(call: Call) -> Stored:
    return call.service.responses.get(call.path_params["id"])


def _limit(call: Call) -> int:
    given = call.query.get("limit", str(_N_ITEMS))
    if not (given.isascii() and given.isdigit() and len(given) < 4 and 1 <= int(given) <= _MAX_ITEMS):
        raise wrong("limit", f"must be 1 to {_MAX_ITEMS}, got {given!r:.60}")
    return int(given)


def _shown(item: dict[str, Any], response: str, place: int) -> dict[str, Any]:
    """Return an item with what it may lack: kind, id, status and the form of its content."""
    kind = item.get("type", "message")
    found = {**item, "type": kind, "id": item.get("id") or f"{_IDS[kind]}_{response.partition('_')[2]}_{place}"}
    if kind == "reasoning":
        return {"summary": [], **found}
    found = {"status": "completed", **found}
    if kind == "message":
        given = item.get("content")
        parts = [given] if isinstance(given, str) else given or []
        found["content"] = [_part(part, item["role"]) for part in parts]
    return found


def _part(part: Any, role: str) -> dict[str, Any]:
    given = {"text": part} if isinstance(part, str) else part
    if "refusal" in given:
        return {"type": "refusal", "refusal": given["refusal"]}
    if role != "assistant":
        return {"type": "input_text", "text": given["text"]}
    more = {key: given.get(key) or [] for key in ("annotations", "logprobs")}
    return {"type": "output_text", "text": given["text"], **more}


__all__ = ["cancel_response", "delete_response", "get_response", "list_input_items"]
