"""A syntax of calls, described once for the parser and for the grammar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.format import ReplyRules
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.lark import Lark


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of a reply as Lark expressions.

    ``openings`` are pairs of a text and an expression: as soon as that text has appeared, the expression must follow.
    The first is how the model itself was trained to begin. ``more`` may follow any of them, or is "".
    """

    openings: tuple[tuple[str, str], ...]
    more: str = ""


class CallSyntax(Protocol):
    """One way of writing calls: how they are read, and what they must look like."""

    @property
    def opens(self) -> tuple[str, ...]:
        """The texts that a call, or a list of calls, begins with."""

    def read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules, opened: str) -> Reading:
        """Read on behind ``opened``. What turns out to be no call goes out as text, ``opened`` included; what breaks
        off in the middle of a call is left to be read as text."""

    def calls(self, lark: Lark, rules: ReplyRules) -> Calls:
        """Return what the rules allow. Raises :class:`ToolError` for a tool whose arguments cannot be held to its
        schema."""


__all__ = ["CallSyntax", "Calls"]
