"""Show the way of a call: the functions between a public method and the decode, and what is done on the way.

python scripts/walk.py            # generate, stream_chat with tools and a schema, embed
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import llama_cffi
from llama_cffi import Llama

PACKAGE = Path(llama_cffi.__file__).parent

COUNTED = {
    ("prompt/sandbox.py", "render"): "template runs",
    ("core/vocab.py", "tokenize"): "texts tokenized",
    ("grammar/guidance.py", "compile"): "grammars compiled",
    ("grammar/schema.py", "compile_schema"): "schemas read",
    ("spec.py", "__post_init__"): "specs made",
}
"""What is counted, by file and function."""


class Walk:
    """The calls of one question, from its method down to the first decode."""

    def __init__(self) -> None:
        self.frames: list[str] = []
        self.counts: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        place = where(frame)
        if place is None:
            return
        name = COUNTED.get(place)
        if name is not None:
            self.counts[name] += 1
        if not self.frames and place[0].startswith("core/context") and place[1] in ("decode", "encode"):
            self.frames = stack(frame)


def where(frame: FrameType) -> tuple[str, str] | None:
    """File and function of a frame of the package."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return None
    return str(path.relative_to(PACKAGE)), frame.f_code.co_name


def stack(frame: FrameType | None) -> list[str]:
    """The functions of the package on the stack, the outermost first."""
    found = []
    while frame is not None:
        place = where(frame)
        if place is not None:
            found.append(f"{place[0]}: {place[1]}")
        frame = frame.f_back
    return found[::-1]


def walk(question: Callable[[], object]) -> Walk:
    """Ask a question and watch it."""
    seen = Walk()
    sys.setprofile(seen)
    try:
        question()
    finally:
        sys.setprofile(None)
    return seen


def get_weather(city: str) -> str:
    """Tell what the weather is like."""
    return "rain"


def questions(llm: Llama) -> dict[str, Callable[[], object]]:
    """The questions that are watched, by how they are written."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    return {
        'generate("Once")': lambda: llm.generate("Once", max_tokens=1),
        'stream_chat("Hi", tools=, schema=)': lambda: next(
            iter(llm.stream_chat("Hi", tools=[get_weather], schema=schema, max_tokens=8))
        ),
        'embed("Once")': lambda: llm.embed("Once"),
    }


def main() -> None:
    """Print every walk."""
    with Llama.demo() as llm:
        for name, question in questions(llm).items():
            question()  # what is made once for a model is no part of a call
            seen = walk(question)
            print(f"Llama.{name}")
            for frame in seen.frames:
                print(f"    {frame}")
            print("  " + ", ".join(f"{n} {what}" for what, n in sorted(seen.counts.items())) + "\n")


if __name__ == "__main__":
    main()
