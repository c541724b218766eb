"""Llama 3.1 to 3.3: a JSON object with ``parameters``, sometimes behind ``<|python_tag|>``."""

from __future__ import annotations

from llama_cffi.reply.bare_json import BareJsonFormat
from llama_cffi.reply.json_calls import Keys

LLAMA3 = BareJsonFormat(
    name="llama3",
    keys=Keys(arguments="parameters"),
    firsts=("name", "type", "parameters"),
    tag="<|python_tag|>",
    between="; ",
    signs=('"parameters": dictionary of argument name', '{"name": function name, "parameters"'),
    thinking=None,
)

FORMATS = (LLAMA3,)
