"""The format of a family of models, as reasoning and a way of writing calls; and the parser of its replies."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llama_cffi.errors import ToolError
from llama_cffi.reply.call_syntax import Calls, CallSyntax
from llama_cffi.reply.event_buffer import EventBuffer
from llama_cffi.reply.events import Event
from llama_cffi.reply.format import ReplyRules
from llama_cffi.reply.input_buffer import InputBuffer, Reading
from llama_cffi.reply.lark import Lark, Token, either, literal, quoted, regex
from llama_cffi.reply.reasoning import THINK, Thinking


class ReplyParser:
    """Runs a reading over a reply that arrives in pieces.

    Nothing is lost but layout, that is tags and the whitespace beside them. A call that does not begin as one is
    text. A call that breaks off after it began stays without CallEnd, and what follows the break is text.
    """

    def __init__(self, reading: Callable[[InputBuffer, EventBuffer], Reading]) -> None:
        self._source = InputBuffer()
        self._out = EventBuffer()
        self._reading = reading(self._source, self._out)
        self._done = False

    def feed(self, text: str) -> Sequence[Event]:
        """Add text and return what is certain now; nothing after :meth:`flush`."""
        if self._done:
            return ()
        self._source.push(text)
        next(self._reading, None)
        return self._out.drain()

    def flush(self, *, cut: bool = False) -> Sequence[Event]:
        """End the reply and return what was held back; with ``cut`` without the beginning of a tag at its end."""
        if self._done:
            return ()
        self._done = True
        self._source.ended, self._source.cut = True, cut
        for _ in self._reading:
            pass
        self._out.end()
        return self._out.drain()


class ParsedFormat:
    """Base of the formats that are read by a reading of their own, and whose chat templates tell of the tools."""

    __slots__ = ()

    def _read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules) -> Reading:
        raise NotImplementedError

    def parser(self, rules: ReplyRules) -> ReplyParser:
        """Return a parser for one reply."""
        return ReplyParser(lambda source, out: self._read(source, out, rules))

    def instructions(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """Nothing: the chat template itself tells of the tools."""
        return ""


@dataclass(frozen=True, slots=True)
class TaggedFormat(ParsedFormat):
    """Optional reasoning, then text, then calls that begin with a tag.

    ``signs`` are alternatives; each is a list of texts that must all stand in a chat template for it to be one of
    this format's, and ``!`` before a text means that it must not.
    """

    name: str
    syntax: CallSyntax | None
    signs: tuple[tuple[str, ...], ...] = ()
    thinking: Thinking | None = THINK
    controls: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    """Tags that stand before the answer and behind it, these with the whitespace that divides them from a call."""
    tail: tuple[str, ...] = ()
    """Tags that may stand behind the last call."""

    def matches(self, template: str) -> bool:
        """Return whether a model with this chat template writes replies so."""
        return any(
            all(sign[1:] not in template if sign[0] == "!" else sign in template for sign in signs)
            for signs in self.signs
        )

    def state(self, prompt: str) -> Literal["auto", "open", "off"]:
        """Return what the end of a prompt says about reasoning: the value for :attr:`ReplyRules.reasoning`."""
        return self.thinking.state(prompt) if self.thinking else "off"

    def _read(self, source: InputBuffer, out: EventBuffer, rules: ReplyRules) -> Reading:
        syntax = None if rules.choice == "none" else self.syntax
        opens = syntax.opens if syntax else ()

        def read_call(source: InputBuffer, out: EventBuffer, opened: str) -> Reading:
            return syntax.read(source, out, rules, opened) if syntax else source.rest(out.text)

        thinking = self.thinking if rules.reasoning != "off" else None
        if thinking:
            # A prescribed answer may hold anything, so that calls begin where it would begin, or nowhere.
            inside = opens if rules.content is None else ()
            yield from thinking.read(source, out, rules.reasoning == "open", inside, read_call)
        opened = ""
        if rules.content is not None:
            opened = yield from self._first(source, out, opens)
            if opened not in opens:
                yield from self._prescribed(source, out)
                return
        again = (self.thinking.start.rstrip(),) if self.thinking and self.thinking.again else ()
        strays = (*self.before, *self._ends, *(self.thinking.strays if self.thinking else ()))
        tags = (*opens, *strays, *again)
        if not tags:
            yield from source.rest(out.text)
            return
        while True:
            if opened in opens:
                source.record(opened)
                yield from read_call(source, out, opened)
            elif opened in again and self.thinking:
                out.tag()
                yield from self.thinking.read_open(source, out, opens, read_call)
            elif opened:
                out.tag()
            opened = yield from source.until(tags, out.text)
            if not opened:
                return

    @property
    def _ends(self) -> tuple[str, ...]:
        return (*(tag.rstrip() for tag in self.after), *self.tail)

    def _prescribed(self, source: InputBuffer, out: EventBuffer) -> Reading:
        """The rest of the reply is the answer, but for tags at its very end."""
        while self._ends:
            found = yield from source.until(self._ends, out.text)
            if not found:
                return
            found += yield from source.blank()
            while tag := (yield from source.one_of(*self._ends)):
                found += tag + (yield from source.blank())
            if not (yield from source.peek()):
                out.tag()
                return
            out.text(found)
        yield from source.rest(out.text)

    def _first(self, source: InputBuffer, out: EventBuffer, opens: tuple[str, ...]) -> Generator[None, None, str]:
        """The tag that a reply begins with, or ""."""
        found = ""
        while True:
            out.text((yield from source.blank()))
            strays = (*self.before, *self._ends, *(self.thinking.strays if self.thinking else ()))
            tags = (*opens, *strays)
            found = (yield from source.one_of(*tags)) if tags else ""
            if found not in strays:
                return found
            out.tag()

    def grammar(
        self,
        rules: ReplyRules,
        token: Token,
    ) -> str | None:
        """Return a Lark grammar of the replies that the rules allow; None when every text is one."""
        if rules.choice == "required" and self.syntax is None:
            raise ToolError("a call is required, but this format has none")
        calls_allowed = self.syntax is not None and rules.allows_calls()
        if not calls_allowed and rules.content is None:
            return None
        lark = Lark(token, self.controls)
        thinking = self.thinking if rules.reasoning != "off" else None
        begin = [thinking.rule(lark, rules.reasoning == "open")] if thinking else []
        begin.extend(f"({lark.text(tag)})?" for tag in self.before)
        behind = " ".join(f"({lark.text(tag.rstrip())} /\\n{{0,2}}/)?" for tag in self.after)
        bodies = []
        if rules.choice != "required":
            bodies.append(f"{rules.content or self._text(lark, rules)} {behind}".rstrip())
        if calls_allowed and self.syntax is not None:
            calls = self.syntax.calls(lark, rules)
            free = rules.choice == "auto" and rules.content is None
            tail = " ".join(f"({lark.text(tag)})?" for tag in self.tail)
            bodies.extend(rf"{opening} /\n{{0,2}}/ {tail}".rstrip() for opening in self._openings(lark, calls, free))
        return f"{lark}start: {' '.join((*begin, either(bodies)))}\n"

    def _openings(self, lark: Lark, calls: Calls, free: bool) -> list[str]:
        more = f" ({calls.more})*" if calls.more else ""
        # Where a tag is a token it is no text, so that those behind the answer are named before those of a call.
        behind = " ".join(f"({lark.text(tag)})?" for tag in self.after if lark.has_token(tag))
        if not free:
            opened, rest = calls.openings[0]
            return [f"{behind} {lark.text(opened)} {rest}{more}".lstrip()]
        found = []
        for opened, rest in calls.openings:
            found.append(f"{lark.up_to(opened, self._plain(lark))} {rest}{more}")
            if behind:
                found.append(f"{self._plain(lark)} {behind} {lark.text(opened)} {rest}{more}")
        return found

    def _text(self, lark: Lark, rules: ReplyRules) -> str:
        """The expression of an answer in text, which must end lexemes where the openings of calls end them."""
        plain = self._plain(lark)
        opens = self.syntax.opens if self.syntax and rules.allows_calls() and rules.choice == "auto" else ()
        parts = [
            lark.rule("up_to", f"{plain} {quoted(before)}", "[lazy]") for before, _ in map(lark.split, opens) if before
        ]
        return f"{either(dict.fromkeys(parts))}* {plain}" if parts else plain

    def _plain(self, lark: Lark) -> str:
        if self.thinking is None:
            return "ANY"
        # Text that begins with the tag of reasoning is reasoning.
        tag = regex(rf"\s*{literal(self.thinking.start)}(?s:.*)")
        lark.free.add("PLAIN")
        return lark.terminal("PLAIN", f"ANY & ~{tag}")


__all__ = ["ParsedFormat", "ReplyParser", "TaggedFormat"]
