"""The format of models without training for tools: instructions describe how to write a call, and a grammar enforces
it."""

from __future__ import annotations

from llama_cffi.reply.bare_json import BareJsonFormat
from llama_cffi.reply.json_calls import Keys

GENERIC = BareJsonFormat(name="generic", keys=Keys(), firsts=("name",), told=False)

FORMATS = (GENERIC,)
