"""A conversation that goes on: its history, and ways back and sideways."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llama_cffi.core.files import replacement
from llama_cffi.engine.request import Chunk, Completion, FinishReason
from llama_cffi.errors import MessageError
from llama_cffi.text.messages import Message, check_messages

if TYPE_CHECKING:
    from llama_cffi.text.chat import ChatOptions

_FORMAT = "llama_cffi conversation 1"


class Chatter(Protocol):
    """What a session talks to: a :class:`~llama_cffi.llama.Llama`."""

    @property
    def stream_chat(self) -> Callable[..., Iterator[Chunk]]:
        """As :meth:`Llama.stream_chat`."""

    @property
    def tokenize_chat(self) -> Callable[..., Sized]:
        """As :meth:`Llama.tokenize_chat`."""


class ChatSession:
    """A conversation with a model.

    ``messages`` begin it, for example with a system message; ``chat`` is as in :meth:`Llama.chat`, and so are the
    ``options`` (sampling, ``max_tokens``, ``stop``), which each turn may replace. What has been computed for earlier
    turns is found again by its tokens, also by a :meth:`fork`. Not for two threads at once.
    """

    def __init__(
        self,
        chatter: Chatter,
        messages: Sequence[Message] = (),
        *,
        chat: ChatOptions | None = None,
        **options: Any,
    ) -> None:
        self._chatter = chatter
        self._messages = check_messages(messages) if messages else []
        self._chat = chat
        self._options = options

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far; a copy."""
        return [dict(message) for message in self._messages]

    @property
    def n_tokens(self) -> int:
        """Tokens of the conversation so far."""
        if not self._messages:
            return 0
        tokens = self._chatter.tokenize_chat(self._messages, add_generation_prompt=False, **(self._chat or {}))
        return len(tokens)

    def __len__(self) -> int:
        return len(self._messages)

    def __repr__(self) -> str:
        return f"<ChatSession: {len(self._messages)} messages>"

    def say(self, text: str, *, role: str = "user", **options: Any) -> Completion:
        """Add a message and the reply to it, and return the reply.

        When anything is raised, Ctrl-C included, the conversation is as before.
        """
        completion: Completion | None = None
        for chunk in self.stream(text, role=role, **options):
            completion = chunk.completion
        if completion is None:
            raise RuntimeError("the reply ended without its last chunk")
        return completion

    def stream(self, text: str, *, role: str = "user", **options: Any) -> Iterator[Chunk]:
        """:meth:`say` in chunks. Both messages are added with the last chunk; closing the iterator adds neither."""
        asked = [*self._messages, *check_messages([{"role": role, "content": text}])]
        chunks = self._chatter.stream_chat(asked, chat=self._chat, **{**self._options, **options})
        return self._follow(asked, chunks)

    def _follow(self, asked: list[dict[str, Any]], chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            done = chunk.completion
            if done is not None and done.finish_reason is not FinishReason.CANCELLED:
                self._messages = [*asked, {"role": "assistant", "content": done.text}]
            yield chunk

    def add(self, message: Message) -> None:
        """Add a message without asking for a reply."""
        self._messages.extend(check_messages([message]))

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
        twin = ChatSession(self._chatter, chat=self._chat, **self._options)
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


__all__ = ["ChatSession", "Chatter"]
