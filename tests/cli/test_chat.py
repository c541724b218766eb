"""``llama-cffi chat``: in a pipe, in a terminal, and its parts alone."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from llama_cffi import Llama
from llama_cffi.cli.conversation import Conversation
from llama_cffi.cli.markdown import MarkdownStream, finished_blocks
from tests.cli.test_commands import Terminal, clean_environment, plain, refused, run

__all__ = ["clean_environment"]  # a fixture of every test here, too

ASK = "Tell me a story about a cat."
PROMPT = b"\x1b[?2004h"  # pasted text is asked to be marked as such
GREEDY = ("--temp", "0", "-n", "12")


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama.demo(n_seq_max=1, n_threads=1) as model:
        yield model


# -- in a pipe


def test_one_answer_to_an_argument_or_to_standard_input(llm: Llama) -> None:
    expected = llm.chat(ASK, temperature=0, max_tokens=12).text
    assert run("chat", ASK, *GREEDY).stdout == expected
    done = run("chat", *GREEDY, stdin=ASK)
    assert (done.returncode, done.stdout) == (0, expected)
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}]
    expected = llm.chat(system, temperature=0, max_tokens=12).text
    assert run("chat", ASK, "--system", "Be brief.", *GREEDY).stdout == expected


def test_json(llm: Llama) -> None:
    report = json.loads(run("chat", ASK, "--json", *GREEDY).stdout)
    assert report["text"] == llm.chat(ASK, temperature=0, max_tokens=12).text
    assert report["finish_reason"] == "length"
    assert (report["reasoning"], report["tool_calls"], report["parsed"]) == ("", [], None)


def test_a_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": [{"sure": true}, {"sure": false}]}')
    assert json.loads(run("chat", ASK, "--schema", schema, "--temp", "0").stdout) in ({"sure": True}, {"sure": False})
    report = json.loads(run("chat", ASK, "--schema", schema, "--temp", "0", "--json").stdout)
    assert report["parsed"] == json.loads(report["text"])
    assert run("chat", ASK, "-j", '{"const": 7}').stdout == "7"
    assert "--json-schema is not JSON" in refused(1, "chat", ASK, "-j", "{")


def test_tools(tmp_path: Path) -> None:
    tools = tmp_path / "tools.py"
    tools.write_text(
        "from json import dumps\n"  # not one of the file's own functions
        "def shout(text: str) -> str:\n"
        '    """Make it loud."""\n'
        "    return text.upper()\n"
        "def _hidden() -> str: return ''\n"
    )
    done = run("chat", ASK, "--tools", tools, "--json", *GREEDY)
    report = json.loads(done.stdout)
    assert report["tool_results"] == []
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 +", "cannot be run: SyntaxError"),
        ("x = 1", "defines no public function"),
        ("def f(x): return x", "no annotation"),
        ("import sys; sys.exit(0)", "cannot be run: SystemExit: 0"),
    ],
)
def test_tool_files_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    tools = tmp_path / "tools.py"
    tools.write_text(content)
    assert message in refused(1, "chat", ASK, "--tools", tools)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "schema.json"
    broken.write_text("{")
    assert "is not JSON" in refused(1, "chat", ASK, "--schema", broken)
    broken.write_text('{"contains": 1, "type": "array"}')
    assert "contains" in refused(1, "chat", ASK, "--schema", broken)
    # Nothing is loaded before, so that no line says which model.
    assert refused(1, "chat", ASK, "--reply-format", "x").startswith(
        "error: --reply-format: there is no reply format 'x'"
    )
    assert refused(1, "chat", ASK, "--load", "no.json") == "error: no such file: no.json\n"
    assert "is not a saved conversation" in refused(1, "chat", ASK, "--load", broken)
    assert refused(2, "chat", ASK, "--chat-template", "a", "--chat-template-file", broken)
    assert refused(2, "chat")  # standard input is empty
    assert "give one of --schema" in refused(2, "chat", ASK, "--schema", broken, "--grammar", "root ::= [a]")
    assert "no room for calls" in refused(2, "chat", ASK, "--tools", broken, "--grammar-file", broken)
    assert "error: no such file: no.py" in refused(1, "chat", ASK, "--tools", "no.py")
    assert refused(1, "chat", ASK, "--chat-template-file", "no.jinja") == "error: no such file: no.jinja\n"


def test_a_cut_answer_is_shown(tmp_path: Path) -> None:
    done = run("chat", ASK, "--schema", endless(tmp_path), "--json", *GREEDY)
    report = json.loads(done.stdout)
    assert (done.returncode, report["finish_reason"], report["parsed"]) == (1, "length", None)
    assert report["text"].startswith('["again')
    assert report["partial"][0].startswith("again")
    assert "was cut after 12 tokens" in done.stderr


def test_a_grammar_and_a_byte_order_mark(tmp_path: Path) -> None:
    grammar = tmp_path / "answer.gbnf"
    grammar.write_bytes(b'\xef\xbb\xbfroot ::= "yes" | "no"\n')
    assert run("chat", ASK, "--grammar-file", grammar, "--temp", "0").stdout in ("yes", "no")
    assert run("chat", "--grammar", 'root ::= "ja"', stdin=ASK).stdout == "ja"
    schema = tmp_path / "schema.json"
    schema.write_bytes(b'\xef\xbb\xbf{"const": 7}')
    assert run("chat", "--schema", schema, stdin=b"\xef\xbb\xbf" + ASK.encode()).stdout == "7"
    schema.write_text('{"const": 7}', encoding="utf-16")
    assert "at byte 0: it looks like UTF-16" in refused(1, "chat", ASK, "--schema", schema)


def test_standard_input_follows_the_message(llm: Llama) -> None:
    expected = llm.chat(f"{ASK}\n\nIt is black.", temperature=0, max_tokens=12).text
    assert run("chat", ASK, *GREEDY, stdin="It is black.\n").stdout == expected


def test_no_end_when_told_so() -> None:
    report = json.loads(run("chat", ASK, "--temp", "0", "--ignore-eos", "-n", "400", "--json").stdout)
    assert (report["finish_reason"], len(report["tokens"])) == ("length", 400)


def test_the_message_and_the_system_message_from_everywhere(llm: Llama, tmp_path: Path) -> None:
    message, system = tmp_path / "message.txt", tmp_path / "system.txt"
    message.write_text(f"{ASK}\n")
    system.write_text("Be brief.\n")
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}]
    expected = llm.chat(said, temperature=0, max_tokens=12).text
    assert run("chat", "-f", message, "-sysf", system, *GREEDY).stdout == expected
    assert run("chat", "-p", ASK, "-sys", "Be brief.", *GREEDY).stdout == expected
    assert "give the message once" in refused(2, "chat", ASK, "-p", ASK)
    assert "give either --system" in refused(2, "chat", ASK, "-sys", "a", "-sysf", system)


def test_a_stop_text_and_samplers_reach_the_answer(llm: Llama) -> None:
    whole = llm.chat(ASK, temperature=0, max_tokens=12).text
    stop = whole.split()[3]
    assert run("chat", ASK, *GREEDY, "-r", stop).stdout == whole[: whole.index(stop)]
    biased = json.loads(run("chat", ASK, "-l", "5+100", "--samplers", "temperature", "--json", *GREEDY).stdout)
    assert biased["tokens"] == [5] * 12


# -- in a terminal


def test_a_conversation_in_a_terminal(llm: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")  # this terminal does not say where its cursor is
    terminal = Terminal("chat", "--temp", "0", "-n", "40")
    terminal.read(until=b"/help lists")
    terminal.read(until=PROMPT)
    terminal.type(f"{ASK}\r")
    shown = plain(terminal.read(until=PROMPT))
    assert " ".join(llm.chat(ASK, temperature=0, max_tokens=40).text.split()[:6]) in shown
    saved = tmp_path / "talk.json"
    for line, shown in ((f"/save {saved}", "2 messages saved"), ("/undo", "taken back"), ("/what", "is no command")):
        terminal.type(f"{line}\r")
        terminal.read(until=shown.encode())
        terminal.read(until=PROMPT)
    terminal.type("\x04")
    terminal.read()
    assert terminal.close() == 0
    messages = json.loads(saved.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["content"] == ASK
    assert (tmp_path / "state" / "llama-cffi" / "history").read_text().count("\n+") == 4


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")  # this terminal does not say where its cursor is
    terminal = Terminal("chat", "--temp", "0", "-c", "2048", "--schema", str(endless(tmp_path)))
    terminal.read(until=b"/help lists")
    terminal.type(f"{ASK}\r")
    terminal.read(until=b'"')
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.read(until=b"stopped")
    terminal.type("/exit\r")
    terminal.read()
    assert terminal.close() == 0


def endless(folder: Path) -> Path:
    schema = folder / "endless.json"
    schema.write_text('{"type": "array", "items": {"const": "again and again"}, "minItems": 9000}')
    return schema


# -- its parts


class Commands:
    """A Conversation whose answers are scripted, and what it wrote."""

    def __init__(self, llm: Llama) -> None:
        self.session = llm.session(temperature=0, max_tokens=8)
        self.talk = Conversation(self.session)
        self.out = io.StringIO()
        self.talk._terminal = Console(file=self.out, highlight=False, no_color=True, width=80)

    def __call__(self, line: str) -> str:
        self.out.seek(0)
        self.out.truncate()
        self.talk.take(line)
        return self.out.getvalue()


@pytest.fixture
def commands(llm: Llama) -> Commands:
    return Commands(llm)


def test_commands(commands: Commands, tmp_path: Path) -> None:
    session = commands.session
    assert "there was no answer" in commands("/stats")
    assert "no instruction" in commands("/system")
    assert commands("/system Be brief.") == "the system message is set\n"
    assert "Be brief." in commands("/system")
    answer = commands(ASK)
    assert len(session) == 3
    assert session.messages[2]["content"].split()[0] in answer
    assert "tokens" in commands("/stats")
    commands("/retry")
    assert len(session) == 3
    commands(f"/save '{tmp_path / 'a talk.json'}'")
    assert commands("/undo").startswith("taken back: Tell me")
    assert len(session) == 1
    assert ASK in commands(f"/load '{tmp_path / 'a talk.json'}'")
    assert len(session) == 3
    assert commands("/clear") == "2 messages removed\n"
    assert [message["role"] for message in session.messages] == ["system"]
    assert commands("/undo") == "error: there is no message to take back\n"
    assert commands("/retry") == "error: there is no message to answer again\n"
    assert commands("/load nothing.json") == "error: no such file: nothing.json\n"
    assert commands("/tools nothing.py") == "error: no such file: nothing.py\n"
    assert commands("/save nowhere/talk.json") == "error: no such folder: nowhere\n"
    (tmp_path / "exit.py").write_text("raise SystemExit")
    assert "SystemExit" in commands(f"/tools {tmp_path / 'exit.py'}")
    for line in ("/undo", "/save", "/load nothing.json", "/load", "/tools nothing.py", "/save a b"):
        assert commands(line).startswith("error:"), line
    assert len(session) == 1


def test_the_help_fits_a_narrow_terminal(commands: Commands) -> None:
    assert "/undo          remove your last message and the answer to it" in commands("/help").replace(" \n", "\n")
    commands.talk._terminal.width = 40
    shown = commands("/help").split("\n\n")[0].splitlines()
    assert max(map(len, shown)) <= 40
    assert all(line.startswith(("/", " " * 15)) for line in shown)


def test_tools_in_a_talk(commands: Commands, tmp_path: Path) -> None:
    assert "no tools" in commands("/tools")
    (tmp_path / "tools.py").write_text(
        'def shout(text: str) -> str:\n    """Make it loud."""\n    return text.upper()\n'
    )
    assert "shout: Make it loud." in commands(f"/tools {tmp_path / 'tools.py'}")
    commands.session._options |= {"tool_choice": "required", "max_tokens": 120, "temperature": 0.8, "seed": 1}
    shown = commands(ASK)
    assert "→ shout(text=" in shown
    assert "← " in shown
    assert [m["role"] for m in commands.session.messages] == ["user", "assistant", "tool", "assistant"]


def test_a_stopped_answer_is_kept(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = commands.session.stream_chat

    def interrupted(text: str, **options: Any) -> Iterator[Any]:
        for i, chunk in enumerate(stream(text, **options)):
            if i == 4:
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(commands.session, "stream_chat", interrupted)
    assert "stopped" in commands(ASK)
    assert [message["role"] for message in commands.session.messages] == ["user", "assistant"]
    assert 0 < len(commands.session.messages[1]["content"]) < 40
    assert re.search(r"text: [34] tokens(, \d+ per second)?; stopped by Ctrl-C", commands("/stats"))


def test_a_message_without_an_answer_is_answered_by_retry(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(commands.session, "stream_chat", lambda text: iter(_Stopped()))
        assert "stopped" in commands(ASK)
    assert "0 tokens; stopped by Ctrl-C" in commands("/stats")
    assert len(commands.session) == 0
    commands("/retry")
    assert [message["content"] for message in commands.session.messages[:1]] == [ASK]
    assert len(commands.session) == 2
    commands("/retry")
    assert len(commands.session) == 2


class _Stopped:
    def __iter__(self) -> Iterator[Any]:
        raise KeyboardInterrupt


# -- Markdown

WORDS = st.sampled_from(["a", "*b*", "\n", "\n\n", "```\n", "```py\n", "- x\n", "1. y\n", "  ", "# t\n", "~~~\n", " "])


@given(st.lists(WORDS, max_size=30).map("".join))
def test_what_is_finished_stays_finished(text: str) -> None:
    end = finished_blocks(text)
    assert 0 <= end <= len(text)
    assert end == 0 or text[:end].endswith("\n")
    for more in ("x", "\n", "\n\nmore\n\n", "```\n", "- z\n"):
        assert finished_blocks(text + more) >= end


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("one\n\ntwo", "one\n\n"),
        ("one\ntwo", ""),
        ("```\na\n\nb", ""),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```\n\n"),
        ("- a\n\n- b\n\n", ""),
        ("- a\n\ntext\n", "- a\n\n"),
    ],
)
def test_blocks(text: str, finished: str) -> None:
    assert text[: finished_blocks(text)] == finished


def test_markdown_is_shown_once_however_it_is_cut() -> None:
    text = "# Title\n\nSome *words* and `code`.\n\n```python\nprint(1)\n\nprint(2)\n```\n\n- one\n- two\n\nThe end."
    text += "\x1b[31m"
    shown = set()
    for step in (1, 3, 17, len(text)):
        out = io.StringIO()
        with MarkdownStream(Console(file=out, width=60, no_color=True)) as page:
            for i in range(0, len(text), step):
                page.write(text[i : i + step])
        shown.add("\n".join(line.rstrip() for line in plain(out.getvalue()).splitlines() if line.strip()))
    (page_text,) = shown
    assert page_text.count("Title") == page_text.count("The end.") == page_text.count("print(2)") == 1
    assert "\x1b[31m" not in page_text
