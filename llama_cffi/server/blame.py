"""The field of a request that an exception of the package is about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llama_cffi import errors as err
from llama_cffi.server.problem import Problem, problem_of

_PROMPTS = ("prompt", "messages", "input", "content", "tokens")
_OPTIONS = (
    (err.ToolError, ("tools",)),
    (err.GrammarError, ("grammar", "schema")),
    (err.SchemaError, ("schema",)),
    (err.AdapterError, ("adapters",)),
    ((err.PromptError, err.TokenizeError, err.TokenError), _PROMPTS),
)
"""Options that exceptions are about which do not begin with a name, the first one that was given."""
_PLACE = re.compile(r"([a-z_]+)(?:[.\[]\w+\]?)*")


def problem_about(error: BaseException, request_id: str, body: Mapping[str, Any], given: Mapping[str, str]) -> Problem:
    """Return what an exception is to the client, with the field that it is about where that is known.

    ``given`` has the names of fields by the options that they became.
    """
    problem = problem_of(error, request_id)
    if problem.param is None and problem.status < 500:
        problem.param = _field_of(error, body, given)
    return problem


def _field_of(error: BaseException, body: Mapping[str, Any], given: Mapping[str, str]) -> str | None:
    place = _PLACE.match(error.message if isinstance(error, err.LlamaCffiError) else str(error))
    if place is not None and place[1] in given:
        return given[place[1]]
    if place is not None and place[1] in body:
        return place[0]
    options = next((options for kind, options in _OPTIONS if isinstance(error, kind)), ())
    if place is not None and place[1] == "prompt":  # which other dialects call otherwise
        options = _PROMPTS
    return next((given.get(one, one) for one in options if one in given or one in body), None)


__all__ = ["problem_about"]
