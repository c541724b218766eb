"""What a new user tries, and what is said then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llama_cffi import AsyncLlama, Llama
from llama_cffi.errors import BusyError, ClosedError, ContextOverflowError, ModelNotFoundError, SchemaError, TokenError


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama.demo(n_ctx=256, n_threads=1) as llm:
        yield llm


def test_a_turn_during_another_one_is_refused(llm: Llama) -> None:
    session = llm.session(max_tokens=4)
    stream = session.stream_chat("tell me")
    next(iter(stream))
    session.chat("interleaved")
    with pytest.raises(BusyError, match="one turn at a time"):
        list(stream)
    assert session.messages[0]["content"] == "interleaved"

    async def both() -> list[Any]:
        talk = AsyncLlama(llm).session(max_tokens=4)
        found = await asyncio.gather(talk.chat("hi"), talk.chat("ho"), return_exceptions=True)
        assert len(talk) == 2
        return list(found)

    found = asyncio.run(both())
    assert sum(isinstance(one, BusyError) for one in found) == 1


def test_a_text_is_not_a_list_of_prompts(llm: Llama) -> None:
    for wrong in ("abc", None, 5):
        with pytest.raises(TypeError, match="prompts must be a list"):
            llm.map(wrong)  # type: ignore[arg-type]


def test_a_function_is_not_a_schema(llm: Llama) -> None:
    called = []
    for wrong in (lambda x: called.append(x), print, llm.generate):
        with pytest.raises(SchemaError, match="a function is not a schema"):
            llm.generate("a", schema=wrong)  # type: ignore[call-overload]
    assert not called


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("response_format", "schema"),
        ("temp", "temperature"),
        ("n_predict", "max_tokens"),
        ("stream", "a method"),
        ("ignore_eos", "logit_bias"),
    ],
)
def test_names_of_other_libraries(llm: Llama, name: str, here: str) -> None:
    wrong: dict[str, Any] = {name: 1}
    with pytest.raises(TypeError, match=f"unknown option: {name}; did you mean {here}"):
        llm.generate("a", **wrong)


def test_a_list_says_which_prompt_is_wrong(llm: Llama) -> None:
    with pytest.raises(ContextOverflowError, match="prompt 1 of the list: "):
        llm.generate(["a", "word " * 400, "b"])
    with pytest.raises(TokenError, match="prompt 2 of the list: "):
        llm.generate([[1], [2], [10**6]])
    with pytest.raises(ContextOverflowError) as caught:
        llm.generate("word " * 400)
    assert "of the list" not in str(caught.value)


def test_the_hub_name_of_the_command_line() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Llama\.from_hub\('owner/repo:Q4_K_M'\)"):
        Llama("hf:owner/repo:Q4_K_M")


def test_what_is_closed_says_so() -> None:
    llm = Llama.demo(n_ctx=64, n_cells=128, n_threads=1)
    assert "n_ctx=64 n_cells=" in repr(llm)
    llm.close()
    assert repr(llm).endswith(": closed>")
    with pytest.raises(ClosedError):
        llm.session()


@pytest.mark.parametrize(
    "sizes", [{"n_ctx": 1}, {"n_ctx": 4, "n_cells": 4}, {"n_cells": 16, "n_ctx": 16, "n_seq_max": 64}]
)
def test_a_context_with_fewer_cells_than_sequences(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="n_seq_max"):
        Llama.demo(**sizes)  # type: ignore[arg-type]
