"""llama-server's small endpoints for tokens and templates."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_cffi.server.conversation import TEMPLATE_FIELDS, template_options
from llama_cffi.server.exchange import Call
from llama_cffi.server.fields import FIELDS, Field, read_fields
from llama_cffi.server.llama_server.prompts import MAX_TOKENS, read_parts, tokenize_parts
from llama_cffi.server.media import read_with_media
from llama_cffi.server.messages import read_messages, read_tools
from llama_cffi.server.response import Answer, json_answer
from llama_cffi.server.values import flag, token_ids, wrong_type


async def tokenize(call: Call) -> Answer:
    """Return the tokens of a text, or of texts and tokens in a row."""
    fields = (Field.of("add_special", flag), Field.of("parse_special", flag), Field.of("with_pieces", flag))
    asked = read_fields(call, fields, frozenset({"content"}))
    llama = call.service.llm.llama
    special, parse = bool(asked.take("add_special")), bool(asked.take("parse_special", True))

    def work() -> list[int]:
        parts = read_parts("content", call.body.get("content", ""))
        return tokenize_parts(llama, parts, add_special=special, parse_special=parse)

    tokens = await asyncio.to_thread(work)
    if not asked.take("with_pieces"):
        return json_answer({"tokens": tokens})
    pieces = [{"id": token, "piece": _piece(llama.model.vocab.piece(token))} for token in tokens]
    return json_answer({"tokens": pieces})


def _piece(piece: bytes) -> Any:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


async def detokenize(call: Call) -> Answer:
    """Return the text of tokens."""
    read_fields(call, (), frozenset({"tokens"}))
    llama = call.service.llm.llama
    tokens = token_ids("tokens", call.body.get("tokens", []), MAX_TOKENS)
    return json_answer({"content": await asyncio.to_thread(llama.detokenize, tokens)})


async def apply_template(call: Call) -> Answer:
    """Return a conversation as the model's template writes it."""
    known = frozenset(
        {"messages", "tools", "tool_choice", "with_tokens", *(name for one in FIELDS for name in one.names)}
    )
    asked = read_fields(call, TEMPLATE_FIELDS, known)
    llama = call.service.llm.llama
    messages = await read_with_media(call, lambda call: read_messages(call.body.get("messages", []), media=call.media))
    tools, _ = read_tools(call.body.get("tools"), call.body.get("tool_choice"))
    options = template_options(asked.options)
    if call.service.settings.chat_template is not None:
        options["chat_template"] = call.service.settings.chat_template
    if tools:
        options["tools"] = tools
    with_tokens = call.body.get("with_tokens", False)
    if not isinstance(with_tokens, bool):
        raise wrong_type("with_tokens", "true or false", with_tokens)
    found: dict[str, Any] = {"prompt": await asyncio.to_thread(lambda: llama.render_chat(messages, **options))}
    if with_tokens:
        tokens = await asyncio.to_thread(lambda: llama.tokenize_chat(messages, **options))
        found["tokens"] = tokens.tolist()
    return json_answer(found)


__all__ = ["apply_template", "detokenize", "tokenize"]
