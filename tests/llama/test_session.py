"""Conversations that go on: a scripted chatter shows what is asked, the demo model that it really works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Llama
from llama_cffi.chat_session import ChatSession
from llama_cffi.errors import BusyError, MessageError
from llama_cffi.prompt.messages import Message
from llama_cffi.reply.completion import FinishReason, Timings, Usage
from llama_cffi.reply.reply import Reply, ReplyChunk

pytest_plugins = ["tests.support.models"]


class Echo:
    """Replies with what was said last, in two chunks, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Message]] = []
        self.options: list[dict[str, Any]] = []

    def stream_chat(self, messages: Sequence[Message], **options: Any) -> Iterator[ReplyChunk]:
        self.asked.append(list(messages))
        self.options.append(options)
        text = f"You said {messages[-1]['content']}"
        yield ReplyChunk(text)
        if messages[-1]["content"] == "break":
            raise RuntimeError("broken")
        reason = FinishReason.STOP
        yield ReplyChunk("", (), None, Reply(text, (), reason, None, Usage(1, 0, 1), Timings(0, 0, 0, 0), 0))

    def tokenize_chat(self, messages: Sequence[Message], **options: Any) -> list[int]:
        return list(range(sum(len(message["content"]) for message in messages)))


@pytest.fixture
def echo() -> Echo:
    return Echo()


def test_turns_add_up(echo: Echo) -> None:
    session = ChatSession(echo, [{"role": "system", "content": "s"}], temperature=0.5)
    assert session.chat("a").text == "You said a"
    assert "".join(chunk.text for chunk in session.stream_chat("b", temperature=0.7)) == "You said b"
    assert [(m["role"], m["content"]) for m in session.messages] == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "You said a"),
        ("user", "b"),
        ("assistant", "You said b"),
    ]
    assert [len(messages) for messages in echo.asked] == [2, 4]
    assert [options["temperature"] for options in echo.options] == [0.5, 0.7]
    assert session.n_tokens == sum(len(m["content"]) for m in session.messages)


def test_a_turn_that_fails_leaves_no_trace(echo: Echo) -> None:
    session = ChatSession(echo)
    session.chat("a")
    with pytest.raises(RuntimeError, match="broken"):
        session.chat("break")
    chunks = session.stream_chat("c")
    next(chunks)
    del chunks
    with pytest.raises(MessageError):
        session.chat(3)  # type: ignore[arg-type]
    assert len(session) == 2


def test_rewind(echo: Echo) -> None:
    session = ChatSession(echo, [{"role": "system", "content": "s"}])
    for text in "abc":
        session.chat(text)
    assert [m["content"] for m in session.rewind()] == ["c", "You said c"]
    assert len(session.rewind(2)) == 4
    assert [m["role"] for m in session.messages] == ["system"]
    for turns in (0, 1, -1):
        with pytest.raises(ValueError, match="take back"):
            session.rewind(turns)


def test_a_fork_goes_its_own_way(echo: Echo) -> None:
    session = ChatSession(echo, temperature=0.5)
    session.chat("a")
    twin = session.fork()
    twin.chat("b")
    session.add({"role": "user", "content": "x"})
    assert [m["content"] for m in twin.messages] == ["a", "You said a", "b", "You said b"]
    assert [m["content"] for m in session.messages] == ["a", "You said a", "x"]
    assert echo.options[-1]["temperature"] == 0.5


def test_messages_are_copies(echo: Echo) -> None:
    session = ChatSession(echo, [{"role": "user", "content": "a"}])
    session.messages[0]["content"] = "changed"
    session.messages.clear()
    assert session.messages == [{"role": "user", "content": "a"}]


def test_messages_of_ones_own(echo: Echo) -> None:
    session = ChatSession(echo)
    session.chat("a")
    session.replace([{"role": "system", "content": "s"}, *session.messages])
    assert [m["content"] for m in session.messages] == ["s", "a", "You said a"]
    with pytest.raises(MessageError):
        session.replace([{"role": "system"}])
    assert len(session) == 3
    session.replace([])
    assert len(session) == 0


def test_a_reply_to_what_was_added(echo: Echo) -> None:
    session = ChatSession(echo)
    session.add({"role": "user", "content": "a"})
    assert session.chat().text == "You said a"
    assert [m["role"] for m in session.messages] == ["user", "assistant"]


def test_save_and_restore(echo: Echo, tmp_path: Path) -> None:
    session = ChatSession(echo)
    session.chat("Grüße\n\u2028")
    path = tmp_path / "talk.json"
    path.write_text("old")
    session.save(path)
    assert list(tmp_path.iterdir()) == [path]
    other = ChatSession(echo)
    other.load(path)
    assert other.messages == session.messages


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', "\x00"])
def test_files_that_are_no_conversation(echo: Echo, tmp_path: Path, text: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(text)
    session = ChatSession(echo)
    session.chat("a")
    with pytest.raises(MessageError, match="not a saved conversation"):
        session.load(path)
    assert len(session) == 2


def test_a_saved_conversation_with_bad_messages(echo: Echo, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    ChatSession(echo, [{"role": "user", "content": "a"}]).save(path)
    path.write_text(path.read_text().replace("user", "us er"))
    with pytest.raises(MessageError, match=r"messages\[0\]"):
        ChatSession(echo).load(path)


def test_with_a_model_earlier_turns_are_not_computed_again() -> None:
    with Llama.demo(n_ctx=512) as llm:
        session = llm.session([{"role": "system", "content": "You write stories."}], temperature=0, max_tokens=30)
        first = session.chat("Tell me a story about a cat.")
        n_first = session.n_tokens
        twin = session.fork()
        second = session.chat("And about a dog?")
        assert first.text
        assert second.usage.cached_tokens >= n_first - 8
        third = twin.chat("And about a bird?")
        assert third.usage.cached_tokens >= n_first - 8
        assert len(session) == len(twin) == 5


@pytest.mark.parametrize("depth", [400, 900, 100_000])
@pytest.mark.parametrize("ends", [("[", "]"), ('{"a":', "}")])
def test_a_saved_conversation_of_great_depth_is_refused_or_read(
    llm: Llama, tmp_path: Path, depth: int, ends: tuple[str, str]
) -> None:
    deep = ends[0] * depth + "1" + ends[1] * depth
    for message in ('{"role": "user", "content": %s}', '{"role": "user", "content": "a", "x": %s}'):
        path = tmp_path / "deep"
        path.write_text(f'{{"format": "llama_cffi conversation 1", "messages": [{message % deep}]}}')
        session = llm.session(chat_template="{{ messages[0].role }}{{ messages[0].content }}")
        try:
            session.load(path)
            session.chat("b", max_tokens=1)
        except MessageError:
            continue
        assert depth == 400


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_that_a_tool_changes_keeps_that_alone(echo: Echo, stream: bool) -> None:
    def look() -> str:
        """Look."""
        return "nothing"

    session = ChatSession(echo, tools=[look])
    turn = session.stream_tools("a")
    next(turn)
    session.chat("b")
    said = session.messages
    with pytest.raises(BusyError, match="changed during this turn"):
        list(turn)
    if not stream:
        begin = echo.stream_chat

        def between(messages: Sequence[Message], **options: Any) -> Iterator[ReplyChunk]:
            session.add({"role": "system", "content": "c"})
            return begin(messages, **options)

        echo.stream_chat = between  # type: ignore[method-assign]
        with pytest.raises(BusyError, match="changed during this turn"):
            session.run_tools("a")
        said.append({"role": "system", "content": "c"})
    assert session.messages == said
