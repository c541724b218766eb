"""Prompts as llama-server takes them: texts and token ids, alone or mixed, and texts with images and sounds."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from llama_cffi.core.prompt import Prompt
from llama_cffi.errors import MediaError
from llama_cffi.prompt.media_parts import MARKER, MAX_MEDIA, VALUES, Medium, read_fetched
from llama_cffi.server.problem import Problem, unsupported, wrong
from llama_cffi.server.values import items, token_id, typed, wrong_type

if TYPE_CHECKING:
    from llama_cffi.llama import Llama

Part = str | int
"""A text, or a token."""
AnyPart = str | int | Medium

MAX_TOKENS = 1 << 22


def read_parts(param: str, value: Any) -> list[Part]:
    """Return a prompt as its parts: from a text, or a list of texts and token ids."""
    if isinstance(value, str):
        return [value]
    return [
        part if isinstance(part, str) else token_id(f"{param}[{i}]", part)
        for i, part in enumerate(items(param, value, MAX_TOKENS))
    ]


def read_prompts(param: str, value: Any, limit: int, *, media: bool = False) -> list[list[AnyPart]]:
    """Return the prompts of a body: one, or a list of them. ``media`` are refused by default."""
    if _is_several(value):
        found = [_read_prompt(f"{param}[{i}]", one, media) for i, one in enumerate(items(param, value, limit))]
        if not found:
            raise wrong(param, "is empty")
        return found
    return [_read_prompt(param, value, media)]


def count_prompts(value: Any) -> int:
    """Return how many prompts a body has, without reading them."""
    return max(1, len(value)) if _is_several(value) else 1


def _is_several(value: Any) -> bool:
    return isinstance(value, list) and not any(_is_token(one) for one in value)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_prompt(param: str, value: Any, media: bool) -> list[AnyPart]:
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            if not media:
                raise unsupported(f"{param}.multimodal_data", "this model takes only text")
            return _with_media(param, value["multimodal_data"], value.get("prompt_string"))
        return [*read_parts(f"{param}.prompt_string", value.get("prompt_string"))]
    if not isinstance(value, (str, list)):
        raise wrong_type(param, "a text, a list of texts and token ids, or a list of these", value)
    return [*read_parts(param, value)]


def _with_media(param: str, data: Any, text: Any) -> list[AnyPart]:
    """A text with the marker in the place of each medium, whose file comes as Base64."""
    found = [_medium(f"{param}.multimodal_data[{i}]", one)
             for i, one in enumerate(items(f"{param}.multimodal_data", data, MAX_MEDIA))]  # fmt: skip
    texts = typed(f"{param}.prompt_string", text, str).split(MARKER)
    if len(texts) != len(found) + 1:
        raise wrong(
            f"{param}.prompt_string",
            f"has the marker {MARKER} {len(texts) - 1} times, for {len(found)} images or sounds",
        )
    parts: list[AnyPart] = [texts[0]]
    for medium, following in zip(found, texts[1:], strict=True):
        parts += (medium, following)
    return [part for part in parts if part != ""]


def _medium(place: str, value: Any) -> Medium:
    text = typed(place, value, str)
    try:
        data = b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
        medium: Medium
        (_, medium) = read_fetched({"type": "file"}, data, place).values()
    except (binascii.Error, ValueError) as error:
        raise wrong(place, f"is not valid Base64: {error}") from None
    except MediaError as error:
        raise Problem(400, error.message, code="invalid_media", param=place) from None
    return medium


def make_prompt(llama: Llama, parts: list[AnyPart], *, parse_special: bool) -> Prompt:
    """Return the prompt of parts in a row, with the special tokens that the model adds where the first is no token.

    Raises the errors of :meth:`Llama.make_prompt`.
    """
    if not any(isinstance(part, VALUES) for part in parts):
        return Prompt(tokenize_parts(llama, parts, add_special=True, parse_special=parse_special))  # type: ignore[arg-type]
    return _mixed(llama, parts, parse_special=parse_special)


def make_embeddable(llama: Llama, parts: list[AnyPart]) -> Prompt:
    """Return the prompt of parts in a row that is to be embedded. Raises the errors of :func:`make_prompt`.

    The text of control tokens is text; in a prompt with media it is those tokens, as in llama-server.
    """
    return make_prompt(llama, parts, parse_special=any(isinstance(part, VALUES) for part in parts))


def _mixed(llama: Llama, parts: list[AnyPart], *, parse_special: bool) -> Prompt:
    cells: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            cells += llama.tokenize(part, add_special=False, parse_special=parse_special).tolist()
        else:
            cells.append(part)
    return llama.make_prompt(cells)


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


__all__ = [
    "MAX_TOKENS",
    "AnyPart",
    "Part",
    "count_prompts",
    "make_embeddable",
    "make_prompt",
    "read_parts",
    "read_prompts",
    "tokenize_parts",
]
