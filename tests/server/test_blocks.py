"""Replies cut into chunks in every way: the blocks begin and end in order, and say the same."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llama_cffi.reply.completion import FinishReason
from llama_cffi.reply.reply import ReplyChunk, ToolCallDelta
from tests.support.canned import ended, everything

pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")


def walk(chunks: list[ReplyChunk]) -> list[tuple[str, str]]:
    """The kinds and texts of the blocks, after the order of the steps was checked."""
    from llama_cffi.server.blocks import Blocks

    blocks = Blocks(None)  # type: ignore[arg-type]  # its vocabulary is for log-probabilities
    opened: list[Any] = []
    open_ = None
    said: dict[int, str] = {}
    for chunk in chunks:
        for step in blocks.add(chunk):
            if step.what == "begin":
                assert open_ is None
                open_ = step.block
                assert step.block.index == len(opened)
                opened.append(step.block)
                said[step.block.index] = ""
            else:
                assert step.block is open_
                said[step.block.index] += step.text
            if step.what == "more":
                assert step.text
            elif step.what == "end":
                open_ = None
    assert open_ is None
    assert opened == blocks.blocks
    assert [said[one.index] for one in opened] == [one.text for one in opened]
    return [(one.kind, one.text) for one in opened]


def test_each_kind_is_a_block() -> None:
    expected = [("reasoning", "Let me think."), ("text", "I will look."), ("call", '{"city": "Rome"}'), ("call", "{}")]
    assert walk(everything()) == expected


def test_any_cut_says_the_same() -> None:
    for seed in range(500):
        chunks, parts = cut(random.Random(seed))
        assert walk(chunks) == parts, seed


def cut(chance: random.Random) -> tuple[list[ReplyChunk], list[tuple[str, str]]]:
    """The chunks of a reply, and what they come to."""
    parts: list[tuple[str, int, str]] = []
    n_calls = 0
    for _ in range(chance.randrange(1, 6)):
        kind = chance.choice(("reasoning", "text", "call"))
        if parts and kind == parts[-1][0] != "call":
            continue
        text = "".join(chance.choice("abc") for _ in range(chance.randrange(1, 6)))
        parts.append((kind, n_calls, text))
        n_calls += kind == "call"
    pieces = [(i, kind, index, letter) for i, (kind, index, text) in enumerate(parts) for letter in text]
    ranks = {"reasoning": 0, "text": 1, "call": 2}
    chunks: list[ReplyChunk] = []
    at = 0
    while at < len(pieces):
        chunk = ReplyChunk("", (1,))
        # What a step of the engine gives: more of one part, or the end of one and the beginning of the next.
        end = min(len(pieces), at + chance.randrange(1, 4))
        while pieces[end - 1][0] > pieces[at][0] + 1:
            end -= 1
        begins = at == 0 or pieces[at - 1][0] != pieces[at][0]
        opened = pieces[at - 1][1] if at else ""
        # A chunk does not say which of two new parts came first, or that another one stands between two of a kind.
        while begins and pieces[end - 1][0] != pieces[at][0]:
            if ranks[pieces[end - 1][1]] >= ranks[pieces[at][1]] and pieces[end - 1][1] != opened:
                break
            end -= 1
        for _, kind, index, letter in pieces[at:end]:
            if kind == "reasoning":
                chunk.reasoning += letter
            elif kind == "text":
                chunk.text += letter
            else:
                chunk.tool_calls += (ToolCallDelta(index, f"id{index}", "f", letter),)
        chunks.append(chunk)
        at = end
    return ended(chunks, FinishReason.STOP), [(kind, text) for kind, _, text in parts]
