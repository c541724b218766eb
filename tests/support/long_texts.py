"""Long runs of one kind of character, tokenized by the package and by llama.cpp on a stack without bounds.

Runs as a program in a child process: ``python -m tests.support.long_texts VOCAB LENGTH... -- PRE...``.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llama_cffi import Model, ModelOptions
from llama_cffi._native import ffi, lib
from llama_cffi.core.long_text import MAX_SLOW_RUN
from llama_cffi.core.vocab import Vocab
from llama_cffi.errors import TokenizeError

SLOW = {("superbpe", "digits"), ("deepseek-llm", "blanks and a digit")}
"""What takes time by the square of its length, and is refused when it is long."""


def runs(length: int) -> dict[str, str]:
    """Ten kinds of runs, and two that patterns find harder, of about this many characters."""
    return {
        "letters": "a" * length,
        "capitals": "A" * length,
        "punctuation": "-" * length,
        "digits": "5" * length,
        "blanks": " " * length,
        "line breaks": "\n" * length,
        "CJK": "漢" * length,
        "accented": "é" * length,
        "marks": "a" + "\u0301" * length,
        "emoji": "😀" * length,
        "blanks and a digit": " " * length + "5",
        "letters with blanks": "a " * (length // 2),
    }


def pre_tokenizers(source: Path) -> list[str]:
    """The names that llama.cpp's source knows."""
    text = (source / "src" / "llama-vocab.cpp").read_text(encoding="utf-8")
    return [name for name in dict.fromkeys(re.findall(r'tokenizer_pre == "([^"]*)"', text)) if name]


def judge(vocab: Vocab, text: str) -> list[int]:
    """What llama.cpp itself says, called without the package on a thread with 3 GB of stack."""
    data, found = text.encode(), list[list[int]]()

    def work() -> None:
        tokens = np.empty(2 * len(data) + 8, dtype=np.int32)
        n = lib.llama_tokenize(
            vocab.ptr, data, len(data), ffi.from_buffer("int32_t[]", tokens), len(tokens), False, False
        )
        found.append(tokens[:n].tolist())

    before = threading.stack_size(3 << 30)
    thread = threading.Thread(target=work)
    thread.start()
    threading.stack_size(before)
    thread.join()
    return found[0]


def on_small_stack(vocab: Vocab, text: str) -> list[int]:
    """The package's tokens, asked for by a thread with a quarter of a megabyte of stack."""
    found: list[list[int]] = []
    before = threading.stack_size(256 << 10)
    thread = threading.Thread(target=lambda: found.append(vocab.tokenize(text, add_special=False).tolist()))
    thread.start()
    threading.stack_size(before)
    thread.join()
    return found[0]


def compare(vocab_file: str, lengths: list[int], pres: list[str]) -> Iterator[str]:
    """A line for each difference, and the number of texts that were compared as the last one."""
    n_same = n_refused = 0
    for pre in pres:
        with Model(vocab_file, ModelOptions(vocab_only=True, kv_overrides={"tokenizer.ggml.pre": pre})) as model:
            for length in lengths:
                for kind, text in runs(length).items():
                    if (pre, kind) in SLOW and length >= MAX_SLOW_RUN:
                        try:
                            model.vocab.tokenize(text)
                            yield f"{pre}: {length} {kind} are not refused"
                        except TokenizeError:
                            n_refused += 1
                        continue
                    try:
                        tokens = model.vocab.tokenize(text, add_special=False).tolist()
                    except TokenizeError:  # a C++ exception, which would end the judge
                        n_refused += 1
                        continue
                    expected = judge(model.vocab, text)
                    if tokens != expected:
                        yield f"{pre}: {length} {kind} differ"
                    if length <= 100_000 and on_small_stack(model.vocab, text) != expected:
                        yield f"{pre}: {length} {kind} differ on a small stack"
                    n_same += 1
    yield f"{n_same} equal, {n_refused} refused"


if __name__ == "__main__":
    border = sys.argv.index("--")
    for line in compare(sys.argv[1], [int(n) for n in sys.argv[2:border]], sys.argv[border + 1 :]):
        print(line, flush=True)
