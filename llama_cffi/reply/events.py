"""The events of a reply parser, while the text arrives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A tool call begins; calls are numbered from 0. ``id`` is the model's own, or "" when its format has none."""

    index: int
    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call is complete: its arguments were a JSON object. ``id`` is the model's own where it came only now."""

    index: int
    id: str = ""


Event = Reasoning | Text | CallBegin | CallArguments | CallEnd


__all__ = ["CallArguments", "CallBegin", "CallEnd", "Event", "Reasoning", "Text"]
