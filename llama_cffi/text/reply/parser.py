"""The format of a family of models, as reasoning and a way of writing calls; and the parser of its replies."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_cffi.errors import ToolError
from llama_cffi.text.reply.events import Event
from llama_cffi.text.reply.format import Plan
from llama_cffi.text.reply.lark import Lark, Token, either, json_schema, literal, regex
from llama_cffi.text.reply.outbox import Outbox
from llama_cffi.text.reply.reasoning import THINK, Thinking
from llama_cffi.text.reply.source import Reading, Source
from llama_cffi.text.reply.style import Calls, CallStyle


class ReplyParser:
    """Runs a reading over a reply that arrives in pieces.

    Nothing is lost but layout, that is tags and the whitespace beside them. A call that does not begin as one is
    text. A call that breaks off after it began stays without CallEnd, and what follows the break is text.
    """

    def __init__(self, reading: Callable[[Source, Outbox], Reading]) -> None:
        self._source = Source()
        self._out = Outbox()
        self._reading = reading(self._source, self._out)
        self._done = False

    def feed(self, text: str) -> Sequence[Event]:
        """Add text and return what is certain now; nothing after :meth:`flush`."""
        if self._done:
            return ()
        self._source.push(text)
        next(self._reading, None)
        return self._out.drain()

    def flush(self) -> Sequence[Event]:
        """End the reply and return what was held back."""
        if self._done:
            return ()
        self._done = True
        self._source.ended = True
        for _ in self._reading:
            pass
        self._out.end()
        return self._out.drain()


@dataclass(frozen=True, slots=True)
class TaggedFormat:
    """Optional reasoning, then text, then calls that begin with a tag.

    ``signs`` are alternatives; each is a list of texts that must all stand in a chat template for it to be one of
    this format's, and ``!`` before a text means that it must not.
    """

    name: str
    style: CallStyle | None
    signs: tuple[tuple[str, ...], ...] = ()
    thinking: Thinking | None = THINK
    controls: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Tags that stand before the answer and behind it."""

    def matches(self, template: str) -> bool:
        """Whether a model with this chat template writes replies so."""
        return any(
            all(sign[1:] not in template if sign[0] == "!" else sign in template for sign in signs)
            for signs in self.signs
        )

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """What the end of a prompt says about reasoning: the value for :attr:`Plan.reasoning`."""
        return self.thinking.state(prompt) if self.thinking else "off"

    def parser(self, plan: Plan) -> ReplyParser:
        """A parser for one reply."""
        return ReplyParser(lambda source, out: self._read(source, out, plan))

    def _read(self, source: Source, out: Outbox, plan: Plan) -> Reading:
        if self.thinking and plan.reasoning != "off":
            yield from self.thinking.read(source, out, plan.reasoning == "open")
        style = None if plan.choice == "none" else self.style
        opens = style.opens if style else ()
        if plan.content is not None:
            # A prescribed answer may hold anything, so that calls begin where it would begin, or nowhere.
            opened = yield from self._first(source, out, opens)
            if not style or opened not in opens:
                yield from source.rest(out.text)
                return
        elif not (opens or self.before or self.after):
            yield from source.rest(out.text)
            return
        else:
            opened = ""
        while True:
            if style and opened in opens:
                source.record(opened)
                yield from style.read(source, out, plan, opened)
            elif opened:
                out.tag()
            opened = yield from source.until((*opens, *self.before, *self.after), out.text)
            if not opened:
                return

    def _first(self, source: Source, out: Outbox, opens: tuple[str, ...]) -> Generator[None, None, str]:
        """The tag that a reply begins with, or ""."""
        found = ""
        while True:
            out.text((yield from source.blank()))
            tags = (*opens, *self.before)
            found = (yield from source.one_of(*tags)) if tags else ""
            if found not in self.before:
                return found
            out.tag()

    def grammar(
        self,
        plan: Plan,
        token: Token,
        schema: Callable[[Mapping[str, Any]], str] = json_schema,
    ) -> str | None:
        """A Lark grammar of the replies that the plan allows; None when every text is one."""
        if plan.choice == "required" and self.style is None:
            raise ToolError("a call is required, but this format has none")
        calls_allowed = self.style is not None and plan.allows_calls()
        if not calls_allowed and plan.content is None:
            return None
        lark = Lark(token, self.controls, schema)
        thinking = self.thinking if plan.reasoning != "off" else None
        begin = [thinking.rule(lark, plan.reasoning == "open")] if thinking else []
        begin.extend(f"({lark.text(tag)})?" for tag in self.before)
        bodies = []
        if plan.content is not None and plan.choice != "required":
            bodies.append(plan.content)
        elif plan.choice != "required":
            bodies.append(" ".join((self._plain(lark), *(f"({lark.text(tag)})?" for tag in self.after))))
        if calls_allowed and self.style is not None:
            calls = self.style.calls(lark, plan)
            free = plan.choice == "auto" and plan.content is None
            bodies.extend(self._openings(lark, calls, free))
        return f"{lark}start: {' '.join((*begin, either(bodies)))}\n"

    def instructions(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """Nothing: the chat template itself tells of the tools."""
        return ""

    def _openings(self, lark: Lark, calls: Calls, free: bool) -> list[str]:
        more = f" ({calls.more})*" if calls.more else ""
        if not free:
            opened, rest = calls.openings[0]
            return [f"{lark.text(opened)} {rest}{more}"]
        return [f"{lark.up_to(opened, self._plain(lark))} {rest}{more}" for opened, rest in calls.openings]

    def _plain(self, lark: Lark) -> str:
        if self.thinking is None:
            return "ANY"
        # Text that begins with the tag of reasoning is reasoning.
        tag = regex(rf"\s*{literal(self.thinking.start)}(?s:.*)")
        return lark.terminal("PLAIN", f"ANY & ~{tag}")


__all__ = ["ReplyParser", "TaggedFormat"]
