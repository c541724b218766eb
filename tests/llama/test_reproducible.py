"""What is computed together, by a clock that says anything."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi.engine import context_runner

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models"]

PROMPTS = [[1, *range(300, 300 + 9 * i)] for i in range(1, 8)]


def shapes(make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch, seed: int, **options: Any) -> list[int]:
    """Tokens of every decode, with decodes that take anything between 0 and 1 s."""
    random, now = Random(seed), [0.0]

    def clock() -> float:
        now[0] += random.random()
        return now[0]

    found: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(context_runner, "perf_counter", clock)
        llm = make_llama(n_ctx=256, **options)
        decode = llm.context.decode

        def note(batch: Any, **more: Any) -> None:
            found.append(batch.n_tokens)
            decode(batch, **more)

        patch.setattr(llm.context, "decode", note)
        llm.generate(PROMPTS, temperature=0, max_tokens=40)
    return found


def test_it_does_not_depend_on_the_clock(make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [shapes(make_llama, monkeypatch, seed, reproducible=True) for seed in range(3)]
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) > 3


def test_otherwise_it_does(make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({tuple(shapes(make_llama, monkeypatch, seed, reproducible=False)) for seed in range(3)}) > 1


def test_a_prompt_alone_never_depends_on_it(make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[int]] = []
    for seconds in (0.001, 100.0):
        monkeypatch.setattr(context_runner, "perf_counter", iter(float(i) * seconds for i in range(10_000)).__next__)
        llm = make_llama(n_ctx=512, n_batch=128, n_ubatch=64, reproducible=False)
        decode = llm.context.decode
        found.append([])

        def note(batch: Any, decode: Any = decode, **more: Any) -> None:
            found[-1].append(batch.n_tokens)
            decode(batch, **more)

        monkeypatch.setattr(llm.context, "decode", note)
        for n in (300, 200):
            llm.generate([n, *range(1, n)], temperature=0, max_tokens=2)
    assert found[0] == found[1]
    assert found[0][:5] == [64, 64, 64, 64, 44]
