"""Conversations with a history that can be continued, rewound, forked, saved and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from llama_cffi._util.arguments import check_path, whole_number
from llama_cffi._util.files import replacement
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.shown import shown
from llama_cffi.errors import BusyError, MessageError
from llama_cffi.options import ChatOptions, ToolOptions, check_options
from llama_cffi.prompt.media_parts import messages_as_json
from llama_cffi.prompt.messages import Content, Message, check_history, check_messages
from llama_cffi.reply.completion import FinishReason, P
from llama_cffi.spec import ToolsSpec
from llama_cffi.tool_loop import ToolLoop, ToolResult, ToolRun

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from llama_cffi.reply.reply import Reply, ReplyChunk

_FORMAT = "llama_cffi conversation 1"
_TEMPLATE_OPTIONS = ("chat_template", "tools", "documents", "chat_template_kwargs")


class Tokenizer(Protocol):
    """What counts the tokens of a conversation."""

    @property
    def tokenize_chat(self) -> Callable[..., Sized]:
        """As :meth:`Llama.tokenize_chat`."""


class Chatter(Tokenizer, Protocol):
    """What a session talks to: a :class:`~llama_cffi.llama.Llama`."""

    @property
    def stream_chat(self) -> Callable[..., Iterator[ReplyChunk]]:
        """As :meth:`Llama.stream_chat`."""


C = TypeVar("C", bound=Tokenizer)


class Conversation(ProcessBound, Generic[C]):
    """The history of a conversation: the common base of the sessions."""

    _instead_of_pickling = "send its messages, and begin a session with them in the other process"
    _instead_of_copying = "use fork()"

    def __init__(self, chatter: C, messages: Sequence[Message] = (), **options: Unpack[ChatOptions]) -> None:
        self._chatter = chatter
        self._messages = check_history(messages)
        self._options: dict[str, Any] = check_options(ChatOptions, options)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far; a copy."""
        return [dict(message) for message in self._messages]

    @property
    def n_tokens(self) -> int:
        """The number of tokens of the conversation so far, as the template renders it."""
        if not self._messages:
            return 0
        options = {name: self._options[name] for name in _TEMPLATE_OPTIONS if name in self._options}
        return len(self._chatter.tokenize_chat(self._messages, add_generation_prompt=False, **options))

    def __len__(self) -> int:
        return len(self._messages)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self._messages)} messages>"

    def _asked(self, text: Content | None, role: str) -> list[dict[str, Any]]:
        """The conversation with one more message, unless there is none."""
        return self.messages if text is None else [*self._messages, *check_messages([{"role": role, "content": text}])]

    def _answered(self, asked: list[dict[str, Any]], chunk: ReplyChunk) -> ReplyChunk:
        """Add what was asked and the reply to it, if the chunk has one that was not cancelled."""
        reply = chunk.reply
        if reply is not None and reply.finish_reason is not FinishReason.CANCELLED:
            self._said(asked, [reply.message])
        return chunk

    def _tools_spec(self, asked: list[dict[str, Any]], options: ToolOptions) -> ToolsSpec:
        return ToolsSpec(asked, cast("ToolOptions", {**self._options, **options}))

    def _said(self, asked: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
        """Add what was asked and everything that was said then."""
        if self._messages != asked[: len(self._messages)] or len(asked) - len(self._messages) > 1:
            raise BusyError("the conversation was changed during this turn: run one turn at a time, or use fork()")
        self._messages = [*asked, *messages]

    def add(self, message: Message) -> None:
        """Add a message without asking for a reply."""
        self._messages.extend(check_messages([message]))

    def replace(self, messages: Sequence[Message]) -> None:
        """Replace all messages. Raises :class:`MessageError` for malformed messages, and then changes nothing."""
        self._messages = check_history(messages)

    def rewind(self, turns: int = 1) -> list[dict[str, Any]]:
        """Remove the last ``turns`` messages of the user and all messages after them; return the removed messages.

        Raises :class:`ValueError` when there are fewer.
        """
        turns = whole_number("turns", turns)
        places = [i for i, message in enumerate(self._messages) if message["role"] == "user"]
        if not places:
            raise ValueError("there is no user message to take back")
        if not 1 <= turns <= len(places):
            raise ValueError(f"turns must be 1 to {len(places)} (the number of user messages), got {shown(turns)}")
        start = places[-turns]
        removed, self._messages = self._messages[start:], self._messages[:start]
        return removed

    def fork(self) -> Self:
        """Return an independent conversation with a copy of these messages."""
        twin = type(self)(self._chatter, **self._options)
        twin._messages = self.messages
        return twin

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the messages as JSON, images and sounds with their data; an existing file is replaced atomically."""
        messages = messages_as_json(self._messages)
        data = json.dumps({"format": _FORMAT, "messages": messages}, ensure_ascii=False, indent=1)
        with replacement(check_path("path", path)) as part:
            part.write_text(data + "\n", encoding="utf-8")

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue the conversation that :meth:`save` wrote. Raises :class:`MessageError` for another file."""
        try:
            data = json.loads(Path(check_path("path", path)).read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise MessageError(f"{os.fspath(path)} is not a saved conversation: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise MessageError(f"{os.fspath(path)} is not a saved conversation")
        messages = data.get("messages")
        self._messages = check_messages(messages) if messages else []


class ChatSession(Conversation[Chatter]):
    """A conversation with a model.

    ``messages`` are the first messages, for example a system message; the ``options`` are those of :meth:`Llama.chat`,
    and each turn may override them. Tokens of earlier turns are not computed again, also in a :meth:`fork`. A session
    may be used by one thread at a time.
    """

    def chat(self, text: Content | None = None, *, role: str = "user", **options: Unpack[ChatOptions[P]]) -> Reply[P]:
        """Add a message and the reply to it, and return the reply.

        The message is a text, or a list of texts, images and sounds. Without one, the reply is to the last message,
        such as the result of a tool that was added. Raises the errors of :meth:`Llama.chat`, and then leaves the
        conversation unchanged; a cancelled reply is not added.
        """
        return _last(self.stream_chat(text, role=role, **options))

    def stream_chat(
        self, text: Content | None = None, *, role: str = "user", **options: Unpack[ChatOptions[P]]
    ) -> Iterator[ReplyChunk[P]]:
        """Generate the reply as :meth:`chat` does, as an iterator of chunks; the messages are added with the last
        one."""
        asked = self._asked(text, role)
        chunks = self._chatter.stream_chat(asked, **{**self._options, **options})
        return self._follow(asked, chunks)

    def _follow(self, asked: list[dict[str, Any]], chunks: Iterator[ReplyChunk]) -> Iterator[ReplyChunk]:
        for chunk in chunks:
            yield self._answered(asked, chunk)

    def run_tools(self, text: Content, **options: Unpack[ToolOptions[P]]) -> ToolRun[P]:
        """Generate replies and call the tools that they ask for; see :meth:`Llama.run_tools`.

        Everything said is added at the end. When anything is raised, the conversation is as before.
        """
        asked = self._asked(text, "user")
        run = self._loop(asked, options).run()
        self._said(asked, run.messages)
        return run

    def stream_tools(self, text: Content, **options: Unpack[ToolOptions[P]]) -> Iterator[ReplyChunk[P] | ToolResult]:
        """Run tools as :meth:`run_tools` does, as an iterator of chunks and results."""
        asked = self._asked(text, "user")
        return self._follow_loop(asked, self._loop(asked, options))

    def _follow_loop(self, asked: list[dict[str, Any]], loop: ToolLoop) -> Iterator[ReplyChunk | ToolResult]:
        yield from loop
        self._said(asked, loop.dialogue.messages)

    def _loop(self, asked: list[dict[str, Any]], options: ToolOptions) -> ToolLoop:
        spec = self._tools_spec(asked, options)
        return ToolLoop(lambda one: self._chatter.stream_chat(one.messages, **one.options), spec)


def _last(chunks: Iterator[ReplyChunk]) -> Reply:
    reply = None
    for chunk in chunks:
        reply = chunk.reply or reply
    if reply is None:
        raise RuntimeError("the reply ended without its last chunk")
    return reply


__all__ = ["ChatSession", "Chatter", "Conversation"]
