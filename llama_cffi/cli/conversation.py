"""The interactive part of ``llama-cffi chat``: a prompt, commands that begin with a slash, answers as they come."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.table import Table

from llama_cffi.cli.console import colorful, one_line, printable
from llama_cffi.cli.markdown import MarkdownStream
from llama_cffi.cli.tool_file import load_tools
from llama_cffi.cli.wording import describe
from llama_cffi.core.media.audio import Audio
from llama_cffi.core.media.image import Image
from llama_cffi.errors import LlamaCffiError

if TYPE_CHECKING:
    from llama_cffi.chat_session import ChatSession
    from llama_cffi.prompt.messages import Content
    from llama_cffi.prompt.tools import Tool
    from llama_cffi.reply.reply import ReplyChunk
    from llama_cffi.tool_loop import ToolResult

HELP = """\
/system TEXT   set the system message; without TEXT, show it
/undo          remove your last message and the answer to it
/retry         answer the last message again
/clear         remove all messages but the system message
/save FILE     write the conversation to a file
/load FILE     continue a saved conversation
/image FILE    add an image to the next message
/audio FILE    add a sound to the next message
/tools [FILE]  let the model call the functions of a Python file; without FILE, list them
/stats         tokens and speed of the last answer
/help          this
/exit          leave, as Ctrl-D does

Enter sends; Alt-Enter begins a new line. Ctrl-C stops an answer."""


class Conversation:
    """A conversation at a terminal. :meth:`run` returns when the person leaves."""

    def __init__(
        self,
        session: ChatSession,
        *,
        tools: tuple[Tool, ...] = (),
        show_reasoning: bool = True,
        describe: Callable[[BaseException], str] = describe,
    ) -> None:
        self._session = session
        self._describe = describe
        self._tools = tools
        self._show_reasoning = show_reasoning
        self._terminal = Console(highlight=False, no_color=None if colorful(sys.stdout) else True)
        self._stats_of_last = "there was no answer yet"
        self.media: list[Image | Audio] = []
        """What comes before the text of the next message."""
        self._unanswered: Content = ""
        """A message whose answer was stopped before it said anything; it is not in the conversation."""
        self._commands: dict[str, Callable[[str], None]] = {
            "/system": self._system,
            "/undo": self._undo,
            "/retry": self._retry,
            "/clear": self._clear,
            "/save": self._save,
            "/load": self._load,
            "/tools": self._use_tools,
            "/image": self._add_image,
            "/audio": self._add_sound,
            "/stats": self._stats,
            "/help": self._help,
        }

    def run(self) -> None:
        """Ask, answer, and so on. Ctrl-D and /exit end it."""
        words = WordCompleter([*self._commands, "/exit"], sentence=True)
        prompts: PromptSession[str] = PromptSession(
            history=_history(), completer=words, complete_while_typing=False, key_bindings=_keys(), multiline=True
        )
        self._note("Ctrl-D leaves, /help lists what else there is.")
        while True:
            try:
                text = prompts.prompt("> ", prompt_continuation="  ").strip()
            except KeyboardInterrupt:
                continue  # what was typed is dropped, as in a shell
            except EOFError:
                return
            if text == "/exit":
                return
            if text:
                self.take(text)

    def take(self, text: str) -> None:
        """One line of input: a command, or something to answer."""
        try:
            if text.startswith("/"):
                name, _, rest = text.partition(" ")
                command = self._commands.get(name)
                if command is None:
                    self._note(f"{name} is no command; /help lists them")
                else:
                    command(rest.strip())
            else:
                content, self.media = [*self.media, text] if self.media else text, []
                self._answer(content)
        except (LlamaCffiError, ValueError, OSError) as error:
            self._error(self._describe(error))
        except SystemExit as error:
            self._error(f"a tool ended the program with sys.exit({'' if error.code is None else repr(error.code)})")

    # -- answering

    def _answer(self, text: Content) -> None:
        """Show the answer as it comes; Ctrl-C ends it and keeps what there is."""
        shown: list[str] = []
        self._unanswered = ""
        count = _Count()
        try:
            with _without_echo():
                self._show(count.of(self._events(text)), shown)
        except KeyboardInterrupt:
            self._note("stopped")
            self._stats_of_last = count.summary()
            said = "".join(shown).strip()
            self._unanswered = "" if said else text
            if said:
                self._session.add({"role": "user", "content": text})
                self._session.add({"role": "assistant", "content": said})

    def _events(self, text: Content) -> Iterator[ReplyChunk | ToolResult]:
        if self._tools:
            return self._session.stream_tools(text, tools=self._tools, on_error="report")
        return iter(self._session.stream_chat(text))

    def _show(self, events: Iterator[Any], shown: list[str]) -> None:
        from llama_cffi.cli.generate import summary
        from llama_cffi.tool_loop import ToolResult

        page: MarkdownStream | None = None
        thinking = False
        try:
            for event in events:
                if isinstance(event, ToolResult):
                    self._note(f"← {one_line(event.content)}")
                    continue
                if event.reasoning and self._show_reasoning:
                    thinking = True
                    self._write(event.reasoning, style="dim")
                if event.text:
                    if thinking:
                        self._write("\n\n")
                        thinking = False
                    if page is None:
                        page = MarkdownStream(self._terminal).__enter__()
                    page.write(event.text)
                    shown.append(event.text)
                if event.reply is not None:
                    if page is not None:
                        page.__exit__(None, None, None)
                        page = None
                    self._stats_of_last = summary(event.reply)
                    for call in event.reply.tool_calls:
                        arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
                        self._note(f"→ {call.name}({one_line(arguments)})")
        finally:
            if page is not None:
                page.__exit__(None, None, None)
            elif thinking:
                self._write("\n")

    # -- commands

    def _system(self, text: str) -> None:
        messages = self._session.messages
        begun = bool(messages) and messages[0]["role"] == "system"
        if not text:
            self._note(messages[0]["content"] if begun else "there is no instruction")
            return
        rest = messages[1:] if begun else messages
        self._session.replace([{"role": "system", "content": text}, *rest])
        self._note("the system message is set")

    def _undo(self, _: str) -> None:
        self._need_question("take back")
        removed = self._session.rewind()
        self._note(f"taken back: {one_line(_words(removed[0]['content']))}")

    def _need_question(self, what: str) -> None:
        if all(message["role"] != "user" for message in self._session.messages):
            raise ValueError(f"there is no message to {what}")

    def _retry(self, _: str) -> None:
        if self._unanswered:
            self._answer(self._unanswered)
            return
        self._need_question("answer again")
        before = self._session.messages
        removed = self._session.rewind()
        self._answer(removed[0]["content"])
        if len(self._session.messages) < len(before) - len(removed) + 2:
            self._session.replace(before)  # there is no new answer: the old one stays

    def _clear(self, _: str) -> None:
        messages = self._session.messages
        kept = messages[:1] if messages and messages[0]["role"] == "system" else []
        self._session.replace(kept)
        self._note(f"{len(messages) - len(kept)} messages removed")

    def _save(self, name: str) -> None:
        self._session.save(_path(name, "/save"))
        self._note(f"{len(self._session)} messages saved")

    def _load(self, name: str) -> None:
        self._session.load(_path(name, "/load"))
        for message in self._session.messages:
            self._terminal.print(f"[bold]{message['role']}[/bold]", end=" ")
            self._write(f"{_words(message['content'] or '')}\n")

    def _use_tools(self, name: str) -> None:
        if name:
            self._tools = load_tools(_path(name, "/tools"))
        for tool in self._tools:
            self._note(f"{tool.name}: {one_line(tool.description or '')}")
        if not self._tools:
            self._note("no tools; /tools FILE loads the functions of a Python file")

    def _add_image(self, name: str) -> None:
        self._add(Image(_path(name, "/image")))

    def _add_sound(self, name: str) -> None:
        self._add(Audio(_path(name, "/audio")))

    def _add(self, medium: Image | Audio) -> None:
        self.media.append(medium)
        self._note(f"{medium!r} comes with the next message")

    def _stats(self, _: str) -> None:
        self._note(self._stats_of_last)

    def _help(self, _: str) -> None:
        commands, keys = HELP.split("\n\n")
        table = Table.grid(padding=(0, 2, 0, 0))
        for line in commands.splitlines():
            table.add_row(*re.split(r" {2,}", line, maxsplit=1))
        self._terminal.print(table, style="dim", markup=False)
        self._note(f"\n{keys}")

    # -- the terminal

    def _note(self, text: str) -> None:
        self._terminal.print(printable(text), style="dim", markup=False)

    def _error(self, text: str) -> None:
        self._terminal.print("[bold red]error:[/bold red]", end=" ")
        self._terminal.print(printable(text), markup=False)

    def _write(self, text: str, *, style: str = "") -> None:
        self._terminal.print(printable(text), style=style, markup=False, end="", soft_wrap=True)


def _words(content: Content) -> str:
    """What a message says, with a mark for each medium."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else f"[{part['type']}]" for part in content)  # type: ignore[index]


class _Count:
    """Counts the tokens of an answer that may be stopped, and the time that they take."""

    def __init__(self) -> None:
        self._n_tokens = 0
        self._first = self._last = 0.0

    def of(self, events: Iterator[ReplyChunk | ToolResult]) -> Iterator[ReplyChunk | ToolResult]:
        """Hand on the events."""
        for event in events:
            self._last = time.monotonic()
            self._first = self._first or self._last
            self._n_tokens += len(getattr(event, "tokens", ()))
            yield event

    def summary(self) -> str:
        """One line, as that of a whole answer."""
        seconds = self._last - self._first
        speed = f", {(self._n_tokens - 1) / seconds:.0f} per second" if self._n_tokens > 1 and seconds > 0 else ""
        return f"text: {self._n_tokens} tokens{speed}; stopped by Ctrl-C"


@contextmanager
def _without_echo() -> Iterator[None]:
    """Keep what is typed during an answer out of it, and out of the next message; Ctrl-C works as ever."""
    try:
        import termios

        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (ImportError, OSError, ValueError):
        yield  # no terminal of this kind
        return
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


def _path(text: str, command: str) -> Path:
    try:
        (name,) = shlex.split(text)
    except ValueError:
        raise ValueError(f"{command} takes the name of one file") from None
    return Path(name).expanduser()


def _history() -> History:
    """What was typed before, where files of state belong; only in memory where there is no such place."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "llama-cffi"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = state / "history"
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    # Ctrl-J is what Enter was, when it was pressed before the prompt was there.
    @keys.add("enter")
    @keys.add("c-j")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


__all__ = ["Conversation"]
