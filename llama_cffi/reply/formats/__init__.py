"""Every format of replies, and which one a chat template asks for."""

from __future__ import annotations

from llama_cffi.reply.format import ReplyFormat
from llama_cffi.reply.formats import (
    command_r,
    deepseek,
    functionary,
    gemma,
    generic,
    harmony,
    hermes,
    json_lists,
    kimi,
    lfm2,
    llama3,
    minimax,
    mistral,
    muse,
    plain,
    solar,
    xml,
)

# What a template is matched against, in this order: tags of one family first, those that many share last.
_MODULES = (
    harmony,
    minimax,
    muse,
    gemma,
    lfm2,
    kimi,
    solar,
    deepseek,
    command_r,
    mistral,
    functionary,
    json_lists,
    xml,
    llama3,
    hermes,
)

FORMATS: dict[str, ReplyFormat] = {
    format.name: format for module in (*_MODULES, generic, plain) for format in module.FORMATS
}
"""Every format by its name."""


def find(name: str) -> ReplyFormat:
    """Return the format of this name. Raises ValueError, with the names that there are, for another."""
    try:
        return FORMATS[name]
    except KeyError:
        raise ValueError(
            f"reply_format: there is no reply format {name!r}; the formats are {', '.join(FORMATS)}"
        ) from None


def detect(template: str) -> ReplyFormat:
    """Return the format of the models that have this chat template: ``generic`` when it is none that is known.

    A template that says nothing of tools is no sign of a format, and a model that was never told of them can be.
    """
    for module in _MODULES:
        for format in module.FORMATS:
            if format.matches(template):
                return FORMATS[format.name]
    return FORMATS["generic"]


__all__ = ["FORMATS", "detect", "find"]
