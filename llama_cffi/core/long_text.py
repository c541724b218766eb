"""How long a text may be, and how much stack llama.cpp takes to tokenize it.

Most pre-tokenizers match regular expressions with ``std::regex``, which recurses once for each character of a match:
a long run of one kind of character would overflow the stack, and end the process.
"""

from __future__ import annotations

import re

from llama_cffi.errors import TokenizeError

MAX_RUN = 4_000_000
"""Characters of the longest text without a line break: a match of that length takes 1.4 GB of stack."""

_BASE = 128 << 10
"""Bytes of stack that a short text takes, with much to spare."""
_PER_CHARACTER = 1 << 10
"""Bytes of stack for a character of a match: 320 as compilers optimize, up to 670 measured without optimization."""

# A match comes past a line break only through blanks or slashes: "[^\s\p{L}\p{N}]+[\r\n/]*" is the widest there is.
_BREAK = re.compile(r"\n(?=[^\s/])")

MAX_SLOW_RUN = 12_000
# What takes time by the square of its length, with what may follow without harm: a look ahead to the end from every
# digit, and the search for blanks at the end of a piece, from every blank. This many take 10 seconds.
_SLOW = {
    "superbpe": ("digits", re.compile(rf"\d{{{MAX_SLOW_RUN},}}"), re.compile(r"(?!)")),
    "deepseek-llm": ("blanks", re.compile(rf"[^\S\r\n]{{{MAX_SLOW_RUN},}}"), re.compile(r"\Z|[\r\nA-Za-z!-/:-~]")),
}


def stack_to_tokenize(text: str | bytes, pre: str) -> int:
    """Return bytes of stack that suffice to tokenize a text with the pre-tokenizer of this name.

    Raises :class:`TokenizeError` for a text with more than ``MAX_RUN`` characters and no line break between them, and
    for a run of ``MAX_SLOW_RUN`` digits or blanks that would take minutes.
    """
    n = len(text)
    if n >= MAX_SLOW_RUN:
        _check_run(text, pre)
    return _BASE + _PER_CHARACTER * min(n, MAX_RUN)


def _check_run(text: str | bytes, pre: str) -> None:
    slow = _SLOW.get(pre)
    if slow is None and len(text) <= MAX_RUN:
        return
    if isinstance(text, bytes):
        # llama.cpp, too, takes each byte that is not UTF-8 for a character.
        text = text.decode("utf-8", "surrogateescape")
    if slow is not None:
        what, runs, harmless = slow
        for run in runs.finditer(text):
            if not harmless.match(text, run.end()):
                raise TokenizeError(
                    f"the text has {run.end() - run.start()} {what} in a row, from index {run.start()}: the "
                    f"pre-tokenizer {pre!r} of this model would take minutes for {MAX_SLOW_RUN} or more; put something "
                    "else between them"
                )
    start = 0
    for end in (*(found.start() for found in _BREAK.finditer(text)), len(text)):
        if end - start > MAX_RUN:
            raise TokenizeError(
                f"the text has {end - start} characters without a line break, from index {start}; at most {MAX_RUN} "
                "can be tokenized at once: break it into lines, or tokenize it in parts"
            )
        start = end


__all__ = ["MAX_RUN", "MAX_SLOW_RUN", "stack_to_tokenize"]
