"""A conversation that goes on: its history, and ways back and sideways."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llama_cffi._util.files import replacement
from llama_cffi.errors import MessageError
from llama_cffi.facade.tool_loop import OnError, ToolLoop, ToolResult, ToolRun
from llama_cffi.prompt.messages import Message, check_messages
from llama_cffi.reply.completion import FinishReason

if TYPE_CHECKING:
    from llama_cffi.facade.reply import Reply, ReplyChunk

_FORMAT = "llama_cffi conversation 1"
_TEMPLATE_OPTIONS = ("template", "tools", "documents", "variables")


class Chatter(Protocol):
    """What a session talks to: a :class:`~llama_cffi.llama.Llama`."""

    @property
    def stream_chat(self) -> Callable[..., Iterator[ReplyChunk]]:
        """As :meth:`Llama.stream_chat`."""

    @property
    def tokenize_chat(self) -> Callable[..., Sized]:
        """As :meth:`Llama.tokenize_chat`."""


class ChatSession:
    """A conversation with a model.

    ``messages`` begin it, for example with a system message; the ``options`` are those of :meth:`Llama.chat`, and each
    turn may replace them. What has been computed for earlier turns is found again by its tokens, also by a
    :meth:`fork`. Not for two threads at once.
    """

    def __init__(self, chatter: Chatter, messages: Sequence[Message] = (), **options: Any) -> None:
        self._chatter = chatter
        self._messages = check_messages(messages) if messages else []
        self._options = options

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far; a copy."""
        return [dict(message) for message in self._messages]

    @property
    def n_tokens(self) -> int:
        """Tokens of the conversation so far, as the template writes it."""
        if not self._messages:
            return 0
        options = {name: self._options[name] for name in _TEMPLATE_OPTIONS if name in self._options}
        return len(self._chatter.tokenize_chat(self._messages, add_generation_prompt=False, **options))

    def __len__(self) -> int:
        return len(self._messages)

    def __repr__(self) -> str:
        return f"<ChatSession: {len(self._messages)} messages>"

    def say(self, text: str, *, role: str = "user", **options: Any) -> Reply:
        """Add a message and the reply to it, and return the reply.

        When anything is raised, Ctrl-C included, the conversation is as before.
        """
        return _last(self.stream(text, role=role, **options))

    def stream(self, text: str, *, role: str = "user", **options: Any) -> Iterator[ReplyChunk]:
        """:meth:`say` in chunks. Both messages are added with the last chunk; closing the iterator adds neither."""
        return self._ask([*self._messages, *check_messages([{"role": role, "content": text}])], options)

    def reply(self, **options: Any) -> Reply:
        """Add the reply to what was said last, such as the answer of a tool that was added."""
        return _last(self._ask(self.messages, options))

    def _ask(self, asked: list[dict[str, Any]], options: dict[str, Any]) -> Iterator[ReplyChunk]:
        chunks = self._chatter.stream_chat(asked, **{**self._options, **options})
        return self._follow(asked, chunks)

    def _follow(self, asked: list[dict[str, Any]], chunks: Iterator[ReplyChunk]) -> Iterator[ReplyChunk]:
        for chunk in chunks:
            reply = chunk.reply
            if reply is not None and reply.finish_reason is not FinishReason.CANCELLED:
                self._messages = [*asked, reply.message]
            yield chunk

    def run(self, text: str, *, max_rounds: int = 10, on_error: OnError = "raise", **options: Any) -> ToolRun:
        """:meth:`say`, calling the tools that replies ask for; see :meth:`Llama.run_tools`.

        Everything said is added at the end. When anything is raised, the conversation is as before.
        """
        loop = self._loop(text, max_rounds=max_rounds, on_error=on_error, options=options)
        run = loop.run()
        self._messages = [*self._messages, {"role": "user", "content": text}, *run.messages]
        return run

    def stream_run(
        self, text: str, *, max_rounds: int = 10, on_error: OnError = "raise", **options: Any
    ) -> Iterator[ReplyChunk | ToolResult]:
        """:meth:`run` as an iterator of chunks and results."""
        loop = self._loop(text, max_rounds=max_rounds, on_error=on_error, options=options)
        return self._follow_loop(text, loop)

    def _follow_loop(self, text: str, loop: ToolLoop) -> Iterator[ReplyChunk | ToolResult]:
        yield from loop
        self._messages = [*self._messages, {"role": "user", "content": text}, *loop.messages]

    def _loop(self, text: str, *, max_rounds: int, on_error: OnError, options: dict[str, Any]) -> ToolLoop:
        asked = [*self._messages, *check_messages([{"role": "user", "content": text}])]
        options = {**self._options, **options}
        tools = options.pop("tools", ())
        ask = self._chatter.stream_chat
        return ToolLoop(ask, asked, tools, max_rounds=max_rounds, on_error=on_error, **options)

    def add(self, message: Message) -> None:
        """Add a message without asking for a reply."""
        self._messages.extend(check_messages([message]))

    def replace(self, messages: Sequence[Message]) -> None:
        """Go on from other messages. Raises :class:`MessageError` for messages that are none, and changes nothing."""
        self._messages = check_messages(messages) if messages else []

    def rewind(self, turns: int = 1) -> list[dict[str, Any]]:
        """Take back the last ``turns`` messages of the user with everything after them, and return what went.

        Raises :class:`ValueError` when there are fewer.
        """
        places = [i for i, message in enumerate(self._messages) if message["role"] == "user"]
        if not 1 <= turns <= len(places):
            raise ValueError(f"cannot take back {turns} turns of {len(places)}")
        start = places[-turns]
        removed, self._messages = self._messages[start:], self._messages[:start]
        return removed

    def fork(self) -> ChatSession:
        """A conversation of its own that begins like this one."""
        twin = ChatSession(self._chatter, **self._options)
        twin._messages = self.messages
        return twin

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the messages as JSON, replacing the file in one step."""
        data = json.dumps({"format": _FORMAT, "messages": self._messages}, ensure_ascii=False, indent=1)
        with replacement(path) as part:
            part.write_text(data + "\n", encoding="utf-8")

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Continue the conversation that :meth:`save` wrote. Raises :class:`MessageError` for another file."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise MessageError(f"{os.fspath(path)} is no saved conversation: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise MessageError(f"{os.fspath(path)} is no saved conversation")
        messages = data.get("messages")
        self._messages = check_messages(messages) if messages else []


def _last(chunks: Iterator[ReplyChunk]) -> Reply:
    reply = None
    for chunk in chunks:
        reply = chunk.reply or reply
    if reply is None:
        raise RuntimeError("the reply ended without its last chunk")
    return reply


__all__ = ["ChatSession", "Chatter"]
