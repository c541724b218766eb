"""Prompts as llama-server takes them: texts and token ids, alone or mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_cffi.server.problem import unsupported, wrong
from llama_cffi.server.values import items, token_id, wrong_type

if TYPE_CHECKING:
    from llama_cffi.llama import Llama

Part = str | int
"""A text, or a token."""

MAX_TOKENS = 1 << 22


def read_parts(param: str, value: Any) -> list[Part]:
    """Return a prompt as its parts: from a text, or a list of texts and token ids."""
    if isinstance(value, str):
        return [value]
    return [
        part if isinstance(part, str) else token_id(f"{param}[{i}]", part)
        for i, part in enumerate(items(param, value, MAX_TOKENS))
    ]


def read_prompts(param: str, value: Any, limit: int) -> list[list[Part]]:
    """Return the prompts of a body: one, or a list of them."""
    if isinstance(value, list) and not any(_is_token(one) for one in value):
        found = [_read_prompt(f"{param}[{i}]", one) for i, one in enumerate(items(param, value, limit))]
        if not found:
            raise wrong(param, "is empty")
        return found
    return [_read_prompt(param, value)]


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_prompt(param: str, value: Any) -> list[Part]:
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            raise unsupported(f"{param}.multimodal_data", "this model takes only text")
        return read_parts(f"{param}.prompt_string", value.get("prompt_string"))
    if not isinstance(value, (str, list)):
        raise wrong_type(param, "a text, a list of texts and token ids, or a list of these", value)
    return read_parts(param, value)


def tokenize_parts(llama: Llama, parts: list[Part], *, add_special: bool, parse_special: bool) -> list[int]:
    """Return the tokens of parts in a row; special ones are added where the first part is a text.

    Raises :class:`TokenError` for an id outside the vocabulary.
    """
    found: list[int] = []
    for i, part in enumerate(parts):
        if isinstance(part, str):
            tokens = llama.tokenize(part, add_special=add_special and not i, parse_special=parse_special)
            found += tokens.tolist()
        else:
            found.append(part)
    llama.model.vocab.check_tokens(found)
    return found


__all__ = ["MAX_TOKENS", "Part", "read_parts", "read_prompts", "tokenize_parts"]
