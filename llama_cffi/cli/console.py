"""What the commands share on their way to the terminal: errors, exit codes, safe text, aligned rows."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, ParamSpec, TextIO

import typer

from llama_cffi.cli.wording import describe, flags_of
from llama_cffi.errors import LlamaCffiError

FAILURE, INTERRUPTED, BROKEN_PIPE = 1, 130, 141
"""Exit codes; 2 is typer's own for wrong usage. 141 is what a shell shows for death by SIGPIPE."""


class Terminated(SystemExit):
    """The end of a command by SIGTERM."""


_EXPECTED = (LlamaCffiError, ImportError, OSError, ValueError)
"""What a user can cause and mend. ValueError is how the library refuses an option; anything else is a bug."""

P = ParamSpec("P")

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if code not in (ord("\t"), ord("\n"))}
_PICTURES[0x7F] = "\N{SYMBOL FOR DELETE}"
_PICTURES.update(dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}"))


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Give a command the common endings: errors as one message, Ctrl-C, a reader that went away."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        verbose = bool(kwargs.get("verbose"))
        _prepare_streams()
        try:
            if verbose:
                show_native_log()
            function(*args, **kwargs)
            sys.stdout.flush()
        except KeyboardInterrupt:
            _end_line()
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Python flushes stdout once more at exit; let that go nowhere instead of failing again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except _EXPECTED as error:
            if verbose:
                traceback.print_exc()
            broken = isinstance(error, ImportError)  # LibraryError is one
            fail(describe(error, flags_of(function)) + "\nSee also: llama-cffi doctor" * broken)
        except Terminated:
            raise
        except SystemExit as error:
            # Only the caller's own code does that: a tool that is called.
            fail(f"a tool ended the program with sys.exit({'' if error.code is None else repr(error.code)})")

    return run


def _prepare_streams() -> None:
    """Make printing never fail over a character, nor over a stream that the caller closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - it lives as long as sys
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def fail(message: str) -> NoReturn:
    """Print an error and end the command with exit code 1."""
    print(f"{style('error:', '1;31', sys.stderr)} {message}", file=sys.stderr)
    raise typer.Exit(FAILURE)


def note(message: str) -> None:
    """Print a remark that is not part of the result."""
    print(style(message, "2", sys.stderr), file=sys.stderr)


def show_native_log() -> None:
    """Send what llama.cpp logs to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("llama_cffi")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def colorful(stream: TextIO) -> bool:
    """Whether the stream is a terminal that wants styled text."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, codes: str, stream: TextIO | None = None) -> str:
    """`text` in an SGR style such as "1;31", or as it is where the stream shows no styles."""
    return f"\x1b[{codes}m{text}\x1b[0m" if text and colorful(stream or sys.stdout) else text


def printable(text: str) -> str:
    """`text` with symbols for control characters: no model and no file may steer the terminal."""
    return text.translate(_PICTURES)


def one_line(text: str, limit: int = 100) -> str:
    """`text` on one line, control characters visible, cut after `limit` characters."""
    shown = printable(text[: limit + 1].replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t"))
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def rows(pairs: Iterable[tuple[str, str]]) -> None:
    """Print labeled values in two columns."""
    pairs = list(pairs)
    width = max(len(label) for label, _ in pairs)
    for label, value in pairs:
        print(f"{style(label.ljust(width), '1')}  {printable(value)}")


def print_json(report: Mapping[str, Any]) -> None:
    """Print one JSON object; infinities and NaN, which JSON does not have, become strings."""
    print(json.dumps(json.loads(json.dumps(report), parse_constant=str)))


def size_text(size: float) -> str:
    """A number of bytes for people: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def count_text(count: int) -> str:
    """A count for people: 7.24 B, 15.2 M, 960."""
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return str(count)


def _end_line() -> None:
    """Put the shell's prompt on a line of its own after text that stopped in the middle of one."""
    if sys.stdout.isatty():
        print(flush=True)
