"""Texts that repeat themselves or their prompt more or less, and how many decodes other ways of drafting need for them.

The texts are files of this repository and what a model might be asked to make of them. A text is known from its
beginning on, so what drafts save can be counted without a model: a decode gives the drafted tokens up to the first
that is wrong, and one token more.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
N_WORDS = 1_000_003
"""Different tokens that :func:`words` gives."""

Tokens = Sequence[int]
Propose = Callable[[list[int], int], list[int]]
"""What may follow a text, at most so many tokens."""


@dataclass(frozen=True)
class Sample:
    """A prompt and the text that follows it."""

    prompt: str
    text: str


def samples() -> dict[str, list[Sample]]:
    """Texts by kind, the same each time."""
    rng = random.Random(1)
    loop, scheduler, runner = (_source(f"engine/{name}.py") for name in ("loop", "scheduler", "runner"))
    prose = [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("deploying", "structured-output")]
    return {
        "a file copied": [Sample(loop, loop)],
        "names changed": [Sample(one, re.sub(r"\b(sequence|n)\b", r"\1_1", one)) for one in (loop, runner)],
        "lines changed": [Sample(text, _edited(text, rng)) for text in (loop, scheduler, runner)],
        "a list in JSON": [Sample("Some users:", _records(rng))],
        "lines again and again": [Sample("Count.", "\n".join(f"{i}. The cat sat on the mat." for i in range(80)))],
        "code": [Sample(text[:2000], text[2000:4000]) for text in (loop, scheduler, runner)],
        "prose": [Sample(text[:2000], text[2000:4000]) for text in prose],
        "random words": [Sample(_noise(rng, 300), _noise(rng, 600))],
    }


def words(text: str) -> list[int]:
    """Return tokens of about the size that vocabularies have: pieces of words, digits and signs."""
    return [hash_of(piece) for piece in re.findall(r" ?[A-Za-z]{1,6}|\d|\n *| ?[^\sA-Za-z\d]{1,2}|\s", text)]


def hash_of(piece: str) -> int:
    """Return a number for a piece, the same in every process."""
    return int.from_bytes(piece.encode(), "little") % N_WORDS


def decodes(prompt: Tokens, text: Tokens, propose: Propose) -> tuple[int, int]:
    """Return the decodes that a text takes after its first token, and the tokens that were drafted in vain.

    The token behind a right draft comes from the same decode.
    """
    known, n, in_vain = [*prompt, text[0]], 0, 0
    while (done := len(known) - len(prompt)) < len(text):
        draft = propose(known, len(text) - done - 1)
        n_right = 0
        while n_right < len(draft) and draft[n_right] == text[done + n_right]:
            n_right += 1
        known += text[done : done + n_right + 1]
        n += 1
        in_vain += len(draft) - n_right
    return n, in_vain


def longest_match(n_draft: int) -> Propose:
    """What followed the longest earlier match of the end of the text, the last one of several: found by trying all."""

    def propose(known: list[int], n_max: int) -> list[int]:
        coded, n = "".join(map(chr, known)), len(known)
        place, size, end = 0, 0, n - 1
        # The last place with a longer match is not behind the last one with a shorter match.
        while size < n - 1 and (found := coded.rfind(coded[n - size - 1 :], 0, end)) >= 0:
            place = end = found + size + 1
            size += 1
            while place > size and known[place - size - 1] == known[n - size - 1]:
                size += 1
        draft = known[place : place + min(n_draft, n_max)] if size else []
        while draft and len(draft) < min(n_draft, n_max):
            draft.append(draft[place - n])
        return draft

    return propose


def ngram_simple(size_n: int, size_m: int) -> Propose:
    """What llama-server's ``--spec-type ngram-simple`` drafts with these sizes: what followed the last earlier
    occurrence of ``size_n`` tokens, if that is at least as many tokens, and nothing behind the end of the text."""

    def propose(known: list[int], n_max: int) -> list[int]:
        n = len(known) - 1
        if n <= size_n + size_m + 1:
            return []
        tail = known[-size_n:]
        for place in range(n - size_n - 1, 0, -1):
            if known[place] == tail[0] and known[place : place + size_n] == tail:
                draft = known[place + size_n : min(n, place + size_n + size_m)]
                return draft[:n_max] if len(draft) >= size_n else []
        return []

    return propose


def _source(name: str) -> str:
    return (ROOT / "llama_cffi" / name).read_text(encoding="utf-8")[:5000]


def _edited(text: str, rng: random.Random) -> str:
    """Every tenth line is changed: left out, written twice, or with a word replaced."""
    lines: list[str] = []
    for line in text.splitlines():
        what = rng.randrange(30)
        if what == 0:
            continue
        lines.append(re.sub(r"\w+", "changed", line, count=1) if what == 1 else line)
        if what == 2:
            lines.append(f"    added({rng.randrange(1000)})")
    return "\n".join(lines)


def _records(rng: random.Random) -> str:
    tags = ["new", "old", "vip", "trial", "staff"]
    records = [
        {
            "id": i,
            "name": f"user{rng.randrange(1000)}",
            "active": rng.random() < 0.5,
            "score": rng.randrange(10_000) / 100,
            "tags": rng.sample(tags, 2),
        }
        for i in range(60)
    ]
    return json.dumps(records, indent=1)


def _noise(rng: random.Random, n: int) -> str:
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(n))


__all__ = ["N_WORDS", "Propose", "Sample", "decodes", "hash_of", "longest_match", "ngram_simple", "samples", "words"]
