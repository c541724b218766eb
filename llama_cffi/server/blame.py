"""The field of a request that an exception of the package is about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llama_cffi import errors as err

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


def field_of(error: BaseException, body: Mapping[str, Any], given: Mapping[str, str]) -> str | None:
    """Return the field, or a place in it; None where that is not known. ``given`` has the fields by their options."""
    place = _PLACE.match(error.message if isinstance(error, err.LlamaCffiError) else str(error))
    if place is not None and place[1] in given:
        return given[place[1]]
    if place is not None and place[1] in body:
        return place[0]
    options = next((options for kind, options in _OPTIONS if isinstance(error, kind)), ())
    if place is not None and place[1] == "prompt":  # which other dialects call otherwise
        options = _PROMPTS
    return next((given.get(one, one) for one in options if one in given or one in body), None)


__all__ = ["field_of"]
