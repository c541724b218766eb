"""The interface of reply formats: detecting a format, parsing it, and the grammar that enforces it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from llama_cffi.errors import ToolError
from llama_cffi.reply.events import Event
from llama_cffi.reply.reasoning import Thinking


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is described to a model: ``parameters`` is the JSON Schema of its arguments object."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReplyRules:
    """What a reply may consist of."""

    tools: tuple[ToolSpec, ...] = ()
    choice: Literal["auto", "required", "none"] = "auto"
    """Whether tools may, must or must not be called. A tool chosen by name is ``required`` with that tool alone."""
    parallel: bool = True
    """Whether a reply may hold several calls."""
    content: str | None = None
    """Lark expression that an answer in text must match; None is any text."""
    reasoning: Literal["auto", "open", "off"] = "auto"
    """``open``: the prompt ended inside of reasoning. ``off``: the reply has none (a template wrote an empty one)."""

    def allows_calls(self) -> bool:
        """Return whether the reply may hold calls. Raises :class:`ToolError` where it must and there are no tools."""
        if self.choice == "required" and not self.tools:
            raise ToolError("a call is required, but there are no tools")
        return bool(self.tools) and self.choice != "none"


class Parser(Protocol):
    """Splits a reply into events. Never raises, whatever the text; the events do not depend on how it is cut.

    Consecutive Reasoning, Text or CallArguments events join to the same text however the reply was cut.
    """

    def feed(self, text: str) -> Sequence[Event]:
        """Add text and return what is certain now."""

    def flush(self, *, cut: bool = False) -> Sequence[Event]:
        """End the reply and return what was held back; a call that is not complete stays without CallEnd.

        With ``cut`` something else than the model ended it: the beginning of a tag at its end is no text then.
        """


class ReplyFormat(Protocol):
    """One format of replies, as a family of models writes it."""

    @property
    def name(self) -> str:
        """What users call it, such as ``"hermes"``."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Texts of control tokens that carry meaning in a reply, so that they must be part of the text parsed."""

    @property
    def thinking(self) -> Thinking | None:
        """The texts around reasoning; None for models that have none."""

    def matches(self, template: str) -> bool:
        """Return whether a model with this chat template writes replies so."""

    def parser(self, rules: ReplyRules) -> Parser:
        """Return a parser for one reply."""

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """Return what the end of a prompt says about reasoning: the value for :attr:`ReplyRules.reasoning`."""

    def instructions(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """Return what a system message must say of the tools (in the form of OpenAI's API), because the chat template
        says nothing of them; "" where it does."""

    def grammar(self, rules: ReplyRules, token: Callable[[str], str]) -> str | None:
        """Return a Lark grammar (llguidance) of the replies that the rules allow; None when every text is one.

        ``token`` gives the Lark expression of a text that may be a control token of the vocabulary: ``<[id]>``, or
        the text as a Lark string. Raises :class:`ToolError` when the format cannot hold a model to the rules: a schema
        that it cannot keep to, or calls that are required where there can be none.
        """


__all__ = ["Parser", "ReplyFormat", "ReplyRules", "ToolSpec"]
