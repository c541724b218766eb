"""The events of a reply as a parser makes them: whitespace around tags left out, calls numbered."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from llama_cffi.reply.events import CallArguments, CallBegin, CallEnd, Event, Reasoning, Text


class EventBuffer:
    """Collects the events of one reply.

    Whitespace beside a tag is layout and no text: it is held back until the next word shows on which side it is.
    """

    __slots__ = ("_arguments", "_blank", "_calls", "_events", "_kind", "_layout")

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._blank: list[str] = []
        self._kind: type[Reasoning] | type[Text] = Text
        self._layout = False
        self._calls = 0
        self._arguments: list[str] = []

    @property
    def begun(self) -> bool:
        """Whether a call began."""
        return self._calls > 0

    def drain(self) -> list[Event]:
        """Return the events since the last time; neighbors of one kind joined."""
        events: list[Event] = []
        for (kind, index), group in groupby(self._events, key=_kind_of):
            if kind in (CallBegin, CallEnd):
                events.extend(group)
                continue
            text = "".join(event.text for event in group if isinstance(event, (Text, Reasoning, CallArguments)))
            events.append(CallArguments(index, text) if kind is CallArguments else kind(text))
        self._events.clear()
        return events

    def text(self, text: str) -> None:
        """More of the answer."""
        self._say(Text, text)

    def reasoning(self, text: str) -> None:
        """More of what comes before the answer."""
        self._say(Reasoning, text)

    def tag(self) -> None:
        """A tag stands here: the whitespace before and behind it is none of the text."""
        self._blank.clear()
        self._layout = True

    def end(self) -> None:
        """The reply is over: whitespace behind text is the text's own."""
        if self._blank and not self._layout:
            self._events.append(self._kind("".join(self._blank)))
        self._blank.clear()

    def _say(self, kind: type[Reasoning] | type[Text], text: str) -> None:
        if kind is not self._kind:
            self.tag()
            self._kind = kind
        if self._layout:
            text = text.lstrip()
        words = text.rstrip()
        if words:
            self._layout = False
            self._events.append(kind("".join(self._blank) + words))
            self._blank.clear()
        if not self._layout and len(words) < len(text):
            self._blank.append(text[len(words) :])

    # -- calls

    def begin(self, name: str, id: str = "") -> None:
        """A call begins."""
        self.tag()
        self._arguments = []
        self._events.append(CallBegin(self._calls, name, id))
        self._calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that began last."""
        self._arguments.append(text)
        self._events.append(CallArguments(self._calls - 1, text))

    def finish(self, id: str = "") -> bool:
        """End the call that began last; False, without an event, when its arguments are no JSON object."""
        self.tag()
        if not isinstance(loads("".join(self._arguments)), dict):
            return False
        self._events.append(CallEnd(self._calls - 1, id))
        return True


def _kind_of(event: Event) -> tuple[Any, int]:
    return type(event), getattr(event, "index", 0)


def loads(text: str) -> Any:
    """Return the value of a JSON text; None when it is none, also for numbers and depths that Python does not read."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


__all__ = ["EventBuffer", "loads"]
