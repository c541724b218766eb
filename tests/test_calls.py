"""The way of a call: every option is said once, and nothing is done twice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llama_cffi.options
from llama_cffi import Llama
from walk import questions, walk

PACKAGE = Path(__file__).resolve().parents[1] / "llama_cffi"
ON_THE_WAY = ("llama.py", "spec.py", "stream.py", "answers.py", "tool_loop.py", "runtime.py", "prepare/*.py")
"""From the public methods to the engine."""

OPTIONS = {
    name
    for kind in vars(llama_cffi.options).values()
    if isinstance(kind, type) and hasattr(kind, "__total__")
    for name in kind.__annotations__
}

OF_THEIR_OWN = {"overflow", "pooling", "prefix", "progress", "truncate"}
"""Names that also say something else: a callback, or the one thing that a helper is told."""


@pytest.fixture(scope="module")
def demo() -> Iterator[Llama]:
    with Llama.demo() as llm:
        yield llm


def _is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it only tells type checkers what a call with schema= returns."""
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)


def test_no_option_is_declared_on_the_way() -> None:
    assert len(OPTIONS) > 70
    declared = {}
    for pattern in ON_THE_WAY:
        for path in PACKAGE.glob(pattern):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not _is_overload(node):
                    named = {one.arg for one in node.args.kwonlyargs}
                    if found := (named & OPTIONS) - OF_THEIR_OWN:
                        declared[f"{path.name}: {node.name}"] = found
    assert declared == {}


@pytest.mark.parametrize("i", range(3))
def test_nothing_is_done_twice(demo: Llama, i: int) -> None:
    name, question = list(questions(demo).items())[i]
    question()
    seen = walk(question)
    assert seen.frames, f"{name} computed nothing"
    assert len(seen.frames) <= 9
    assert seen.counts["specs made"] == 1
    assert seen.counts["schemas read"] == seen.counts["grammars compiled"] == ("schema=" in name)
    assert seen.counts["template runs"] <= 2
