"""What type checkers know of results: the calls of ``assert_type`` are checked by mypy, and by pyright if installed."""

from __future__ import annotations

import enum
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
from pydantic import BaseModel, Field
from typing_extensions import assert_type

from llama_cffi import (
    AsyncLlama,
    AsyncStream,
    Chunk,
    Completion,
    Image,
    JsonSchema,
    Llama,
    Regex,
    Reply,
    ReplyChunk,
    SamplingParams,
    ToolResult,
    ToolRun,
)
from llama_cffi.options import ChatOptions
from llama_cffi.stream import Stream

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "{{ messages[-1].content }}"


@dataclass
class Pet:
    kind: Literal["cat", "dog"]


class Place(TypedDict):
    city: str


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Weight(BaseModel):
    grams: Annotated[int, Field(ge=0, le=9)]


@pytest.fixture(scope="module")
def demo() -> Iterator[Llama]:
    with Llama.demo(n_threads=1) as llm:
        yield llm


def test_a_type_gives_its_instance(demo: Llama) -> None:
    options = ChatOptions(max_tokens=60, seed=1, chat_template=TEMPLATE)
    completion = demo.generate("A pet: ", schema=Pet, max_tokens=60, seed=1)
    assert_type(completion, Completion[Pet])
    assert completion.parsed.kind in ("cat", "dog")
    reply = demo.chat("A pet?", schema=Weight, max_tokens=60, seed=1, chat_template=TEMPLATE)
    assert_type(reply, Reply[Weight])
    assert 0 <= reply.parsed.grams <= 9
    many = demo.generate(["A", "B"], schema=Size, seed=1)
    assert_type(many, list[Completion[Size]])
    assert [isinstance(one.parsed, Size) for one in many] == [True, True]
    several = demo.generate("A", schema=tuple[bool, int], n=2, seed=1, max_tokens=90)
    assert_type(several[0].parsed, tuple[bool, int])
    for chunk in demo.stream_chat("A pet?", schema=Pet, max_tokens=60, seed=1, chat_template=TEMPLATE):
        assert_type(chunk, ReplyChunk[Pet])
        if chunk.reply is not None:
            assert_type(chunk.reply.parsed, Pet)
    session = demo.session(chat_template=TEMPLATE)
    assert_type(session.chat("A pet?", schema=Size, max_tokens=20, seed=1), Reply[Size])
    assert_type(demo.chat("Hello", **options), Reply[Any])


def test_what_is_no_type_gives_anything(demo: Llama) -> None:
    def known(schema: Any) -> None:
        assert_type(demo.generate("A", schema=schema, seed=1, max_tokens=400), Completion[Any])

    known(Pet)
    assert_type(demo.generate("A", seed=1, max_tokens=1), Completion)
    assert_type(demo.generate("A", schema=Regex("[ab]"), seed=1).parsed, Any)
    assert_type(demo.generate("A", schema=["a", "b"], seed=1).parsed, Any)
    assert_type(demo.generate("A", schema={"enum": [1]}, seed=1).parsed, Any)
    # Pyright knows the types of these.
    union = demo.generate("A", schema=bool | None, seed=1).parsed
    assert_type(union, Any)  # pyright: ignore[reportAssertTypeFailure]
    literal = demo.generate("A", schema=Literal["a"], seed=1).parsed
    assert_type(literal, Any)  # pyright: ignore[reportAssertTypeFailure]
    annotated = demo.generate("A", schema=Annotated[int, Field(ge=1, le=3)], seed=1).parsed
    assert_type(annotated, Any)  # pyright: ignore[reportAssertTypeFailure]


def only_checked(llm: Llama) -> None:
    """Calls that no test needs to run."""
    assert_type(llm.generate("A", schema=Place), Completion[Place])
    assert_type(llm.generate("A", schema=list[Pet]), Completion[list[Pet]])
    assert_type(llm.generate("A", schema=None), Completion)  # pyright: ignore[reportAssertTypeFailure]
    assert_type(llm.generate("A", schema={"type": "object"}), Completion[Any])
    assert_type(llm.generate("A", schema=JsonSchema({})), Completion[Any])
    assert_type(llm.generate(("a", "b")), list[Completion])
    assert_type(llm.generate([np.array([1], np.int32)]), list[Completion])
    assert_type(llm.generate([1, 2], n=2), list[Completion])
    assert_type(llm.generate(["a", "b"], schema=Weight), list[Completion[Weight]])
    assert_type(llm.generate([[1, 2], [3]], schema=Place), list[Completion[Place]])
    assert_type(llm.generate(["a", "b"], schema={}), list[Completion])
    assert_type(llm.generate(["a", Image("cat.jpg")], schema=Pet), Completion[Pet])
    assert_type(llm.generate([["a", Image("cat.jpg")], "b"], schema=Pet), list[Completion[Pet]])
    assert_type(llm.generate("a", n=2, progress=True, schema=Pet), list[Completion[Pet]])
    assert_type(llm.map(["a"], schema=Pet), Iterator[tuple[int, Completion[Pet]]])
    assert_type(llm.map(["a"]), Iterator[tuple[int, Completion]])
    assert_type(llm.stream("A", schema=Pet), Stream[Chunk[Pet]])
    assert_type(llm.stream("A"), Stream[Chunk])
    assert_type(llm.stream("A", schema=Pet).result(), Completion[Pet])
    assert_type(llm.infill("a", "b", schema=Pet), Completion[Pet])
    assert_type(llm.infill("a", "b"), Completion)
    assert_type(llm.stream_infill("a", "b", schema=Pet), Stream[Chunk[Pet]])
    assert_type(llm.chat("a", schema=Place), Reply[Place])
    assert_type(llm.chat("a", schema={"type": "object"}), Reply)
    assert_type(llm.stream_chat("a", schema=Place), Stream[ReplyChunk[Place]])
    assert_type(llm.stream_chat("a", schema=Place).result(), Reply[Place])
    assert_type(llm.run_tools("a", schema=Pet), ToolRun[Pet])
    assert_type(llm.run_tools("a", schema=Pet).reply.parsed, Pet)
    assert_type(llm.run_tools("a"), ToolRun)
    assert_type(llm.stream_tools("a", schema=Pet), Iterator[ReplyChunk[Pet] | ToolResult])
    session = llm.session()
    assert_type(session.chat("A", schema=Place), Reply[Place])
    assert_type(session.chat("A"), Reply)
    assert_type(session.stream_chat("A", schema=Pet), Iterator[ReplyChunk[Pet]])
    assert_type(session.run_tools("A", schema=Pet), ToolRun[Pet])
    assert_type(session.stream_tools("A", schema=Pet), Iterator[ReplyChunk[Pet] | ToolResult])
    llm.chat("A", schema=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    llm.chat("A", max_tokens="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    llm.chat("A", max_tokns=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def only_checked_of_coroutines(llm: AsyncLlama) -> None:
    """The same for :class:`AsyncLlama`."""
    assert_type(await llm.generate("A", schema=Pet), Completion[Pet])
    assert_type(await llm.generate("A", schema=Place), Completion[Place])
    assert_type(await llm.generate("A", schema=Weight, n=3), list[Completion[Weight]])
    assert_type(await llm.generate("A"), Completion)
    assert_type(await llm.generate("A", schema={"type": "object"}), Completion)
    assert_type(await llm.generate(["A"], schema=Pet), list[Completion[Pet]])
    assert_type(await llm.generate(["A"]), list[Completion])
    assert_type(await llm.generate(["a", Image("cat.jpg")], schema=Pet), Completion[Pet])
    assert_type(await llm.generate([["a", Image("cat.jpg")], "b"], schema=Pet), list[Completion[Pet]])
    assert_type(llm.map(["a"], schema=Pet), AsyncIterator[tuple[int, Completion[Pet]]])
    assert_type(llm.map(["a"]), AsyncIterator[tuple[int, Completion]])
    assert_type(llm.stream("A", schema=Pet), AsyncStream[Chunk[Pet]])
    assert_type(await llm.stream("A", schema=Pet).result(), Completion[Pet])
    assert_type(await llm.infill("a", "b", schema=Pet), Completion[Pet])
    assert_type(llm.stream_infill("a", "b", schema=Pet), AsyncStream[Chunk[Pet]])
    assert_type(await llm.chat("A", schema=Pet), Reply[Pet])
    assert_type(await llm.chat("A"), Reply)
    assert_type(await llm.chat("A", schema={"type": "object"}), Reply)
    assert_type(await llm.stream_chat("A", schema=Pet).result(), Reply[Pet])
    async for chunk in llm.stream_chat("A", schema=Pet):
        assert_type(chunk, ReplyChunk[Pet])
    assert_type((await llm.run_tools("a", schema=Pet)).reply.parsed, Pet)
    assert_type(llm.stream_tools("a", schema=Pet), AsyncIterator[ReplyChunk[Pet] | ToolResult])
    session = llm.session()
    assert_type(await session.chat("A", schema=Pet), Reply[Pet])
    assert_type(await session.chat("A"), Reply)
    async for one in session.stream_chat("A", schema=Pet):
        assert_type(one, ReplyChunk[Pet])
    assert_type(await session.run_tools("A", schema=Pet), ToolRun[Pet])
    assert_type(session.stream_tools("A", schema=Pet), AsyncIterator[ReplyChunk[Pet] | ToolResult])
    assert_type(await llm.similarity("a", "b"), float)
    await llm.chat("A", schema=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_options_may_be_lists(demo: Llama) -> None:
    as_lists = demo.generate(
        "A", sampler_order=["top_k", "temperature"], dry_sequence_breakers=["\n"], stop=["x", 3], max_tokens=4, seed=1
    )
    as_tuples = demo.generate(
        "A", sampler_order=("top_k", "temperature"), dry_sequence_breakers=("\n",), stop=("x", 3), max_tokens=4, seed=1
    )
    assert as_lists.tokens == as_tuples.tokens
    params: Any = SamplingParams
    assert params(sampler_order=["top_k"]) == SamplingParams(sampler_order=("top_k",))


@pytest.mark.npm
def test_pyright_knows_the_same() -> None:
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    done = subprocess.run(
        [pyright, "--pythonpath", sys.executable, "--outputjson", __file__], cwd=ROOT, capture_output=True, text=True
    )
    errors = [one for one in json.loads(done.stdout)["generalDiagnostics"] if one["severity"] == "error"]
    assert [(one["range"]["start"]["line"] + 1, one["message"]) for one in errors] == []
