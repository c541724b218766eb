"""Requests that come from a file: the same handlers as over HTTP, without a connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from llama_cffi.server.app import ROUTES
from llama_cffi.server.blame import problem_about
from llama_cffi.server.body import check_depth
from llama_cffi.server.exchange import Call
from llama_cffi.server.guard import dialect_of
from llama_cffi.server.problem import Problem, problem_of, unsupported
from llama_cffi.server.response import Whole

if TYPE_CHECKING:
    from llama_cffi.server.service import Service


async def answer(service: Service, path: str, body: Any, request_id: str) -> tuple[int, Any]:
    """Return the status and the body of the answer to a POST; raises nothing but cancellation."""
    dialect, call = dialect_of(path), None
    try:
        handler = ROUTES.get(path, {}).get("POST")
        if handler is None:
            raise Problem(404, f"there is no {path[:200]}", code="not_found")
        if not isinstance(body, dict):
            raise Problem(400, "the body must be a JSON object", code="invalid_json")
        if body.get("stream"):
            raise unsupported("stream", "an answer in a file is not a stream")
        check_depth(body)
        given = {name: value for name, value in body.items() if value is not None}
        facts = {"request_id": request_id, "headers": {}}
        scope: Any = {"path_params": {}, "query_string": b"", "llama_cffi": facts}
        call = Call(service, scope, dialect, given)
        found = await handler(call)
        if not isinstance(found, Whole) or found.type != "application/json":
            raise Problem(400, "the answer is not JSON, as the lines of a file are", code="unsupported_parameter")
        return found.status, orjson.loads(found.content)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        if call is not None:
            problem = problem_about(error, request_id, call.body, call.given)
        else:
            problem = problem_of(error, request_id)
        return problem.status, problem.body(dialect)


__all__ = ["answer"]
