"""Lists of prompts: how far they are, and completions when they are done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from llama_cffi import Llama
from llama_cffi.errors import IncompleteOutput, PromptError

PROMPTS = ["Once upon a time", "The cat", "A big red ball", "Tom and Sue went to the park", "It was", "One day"]


@pytest.fixture(scope="module", params=["inline", "thread"])
def llm(request: pytest.FixtureRequest) -> Iterator[Llama]:
    with Llama.demo(n_ctx=512, n_seq_max=2, driver=request.param, max_waiting=2) as llm:
        yield llm


def test_map_takes_any_number_of_prompts_and_gives_each_once(llm: Llama) -> None:
    taken = 0

    def prompts() -> Iterator[str]:
        nonlocal taken
        for i in range(40):
            taken += 1
            yield PROMPTS[i % len(PROMPTS)]

    found: dict[int, int] = {}
    ahead = 0
    for i, done in llm.map(prompts(), max_tokens=5):
        assert i not in found
        found[i] = done.usage.completion_tokens
        ahead = max(ahead, taken - len(found))
    assert sorted(found) == list(range(40))
    assert ahead <= 5  # it does not run away from its reader
    assert llm._runtime.engine.idle


def test_short_ones_come_before_long_ones(llm: Llama) -> None:
    ends = [{"stop": ["a"]}, {}]
    order = [i for i, _ in llm.map(["x", *PROMPTS], max_tokens=60, temperature=0, **ends[1])]  # type: ignore[arg-type]
    assert sorted(order) == list(range(len(PROMPTS) + 1))


def test_schemas(llm: Llama) -> None:
    class Pet(BaseModel):
        name: str

    found = dict(llm.map(PROMPTS[:3], schema=Pet, max_tokens=200, seed=1))
    assert all(isinstance(done.parsed, Pet) for done in found.values())
    with pytest.raises(IncompleteOutput):
        list(llm.map(PROMPTS[:3], schema={"type": "array", "minItems": 90}, max_tokens=5))
    kept = dict(llm.map(PROMPTS[:3], schema={"type": "array", "minItems": 90}, max_tokens=5, on_incomplete="return"))
    assert all(done.incomplete and done.parsed is None for done in kept.values())
    assert llm._runtime.engine.idle


def test_leaving_and_failing_cancel_what_runs(llm: Llama) -> None:
    for _ in llm.map(PROMPTS * 3, max_tokens=3):
        break
    with pytest.raises(PromptError):
        list(llm.map([PROMPTS[0], []], max_tokens=200))
    with pytest.raises(TypeError):
        list(llm.map([PROMPTS[0], 5], max_tokens=200))  # type: ignore[list-item]
    with pytest.raises(TypeError, match="max_tokns"):
        llm.map(PROMPTS, max_tokns=3)  # type: ignore[call-arg]
    with llm._runtime.engine.at_rest():
        pass


@pytest.mark.parametrize("n", [1, 6])
def test_progress(llm: Llama, n: int) -> None:
    parts: list[float] = []
    texts = [done.text for done in llm.generate(PROMPTS[:n] * 1, max_tokens=4, temperature=0)] if n <= 2 else []
    done = Llama.generate(llm, PROMPTS[: min(n, 2)], max_tokens=4, temperature=0, progress=parts.append)
    assert parts == [(i + 1) / len(done) for i in range(len(done))]
    if texts:
        assert [one.text for one in done] == texts
    parts.clear()
    found = list(llm.map(PROMPTS[:n], max_tokens=2, progress=parts.append))
    assert parts == [(i + 1) / n for i in range(n)]
    assert len(found) == n
    parts.clear()
    llm.score("Once", [" upon", " more", " again"] * n, progress=parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_what_progress_raises_ends_the_call(llm: Llama) -> None:
    def stop(part: float) -> None:
        raise KeyError("enough")

    calls: list[Any] = [
        lambda: llm.generate(PROMPTS[:2], max_tokens=200, progress=stop),
        lambda: list(llm.map(PROMPTS, max_tokens=2, progress=stop)),
        lambda: llm.score("Once", [" upon"], progress=stop),
        lambda: llm.embed(PROMPTS, progress=stop),
    ]
    for call in calls:
        with pytest.raises(KeyError, match="enough"):
            call()
    with llm._runtime.engine.at_rest():
        pass


def test_a_bar_needs_a_terminal(llm: Llama, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(PROMPTS[:2], max_tokens=2, progress=True)
    assert capsys.readouterr().err == ""
    with pytest.raises(TypeError, match="progress"):
        llm.generate(PROMPTS[:2], max_tokens=2, progress="yes")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="number of prompts"):
        llm.map(iter(PROMPTS), progress=True)
