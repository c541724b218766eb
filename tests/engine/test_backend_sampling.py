"""``backend_sampling``: the same texts from the candidates that the device finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llama_cffi import ContextOptions, Llama, Model
from llama_cffi._native import binding
from llama_cffi.engine.sequence_samplers import DeviceSampler
from llama_cffi.errors import UnsupportedError

pytest_plugins = ["tests.support.models"]
pytestmark = pytest.mark.skipif(
    not binding.has("llama_context_params.n_outputs_max_per_seq"), reason="this libllama cannot sample on a device"
)

PROMPTS = ["Once upon a time", "Lily and Ben", "One day, a big dog"]


@pytest.fixture(scope="module")
def both(stories: Model) -> Iterator[tuple[Llama, Llama]]:
    """The same model, with candidates from all logits and from the device."""
    made = [
        Llama(stories, context_options=ContextOptions(n_ctx=1024, backend_sampling=on), n_seq_max=3, n_threads=1,
              reproducible=True)
        for on in (False, True)
    ]  # fmt: skip
    yield made[0], made[1]
    for llm in made:
        llm.close()


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that were chosen from candidates of the device."""
    rows: list[int] = []
    choose = DeviceSampler.choose

    def counted(self: DeviceSampler, row: int) -> int:
        rows.append(row)
        return choose(self, row)

    monkeypatch.setattr(DeviceSampler, "choose", counted)
    return rows


def texts(llm: Llama, **options: Any) -> list[Any]:
    return [done.tokens for done in llm.generate(PROMPTS, max_tokens=16, **options)]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"seed": 1},
        {"seed": 2, "temperature": 1.5, "top_k": 63, "top_p": 1.0, "min_p": 0.0},
        {"seed": 3, "top_k": 1},
        {"seed": 4, "top_k": 5, "top_p": 0.5},
    ],
    ids=str,
)
def test_the_same_texts(both: tuple[Llama, Llama], chosen: list[int], options: dict[str, Any]) -> None:
    plain, device = both
    expected = texts(plain, **options)
    assert not chosen
    assert texts(device, **options) == expected
    assert len(chosen) == sum(map(len, expected))
    alone = [llm.generate("The sun", max_tokens=20, **options).tokens for llm in both]
    assert alone[0] == alone[1]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "logprobs": 2},
        {"temperature": 0, "grammar": "root ::= [a-z ]+"},
        {"temperature": 0, "schema": {"enum": ["a", "b"]}},
        {"temperature": 0, "logit_bias": {300: 2.0}},
        {"temperature": 0, "repeat_penalty": 1.2},
        {"seed": 1, "top_k": 0},
        {"seed": 1, "top_k": 64},
        {"temperature": 0, "speculative": "lookup"},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_needs_all_logits_gets_them(both: tuple[Llama, Llama], chosen: list[int], options: dict[str, Any]) -> None:
    plain, device = both
    # Sequences of both kinds, one after the other and side by side.
    greedy = device.generate(PROMPTS[0], temperature=0, max_tokens=16).tokens
    del chosen[:]
    expected = texts(plain, **options)
    assert texts(device, **options) == expected
    assert not chosen
    stream = device.stream(PROMPTS[0], temperature=0, max_tokens=16)
    next(stream)
    assert texts(device, **options) == expected
    last = list(stream)[-1].completion
    assert last is not None
    assert last.tokens == greedy


def test_logits_that_stayed_on_the_device_are_not_shown(both: tuple[Llama, Llama]) -> None:
    device = both[1]
    device.generate("The sun", temperature=0, max_tokens=4)
    with pytest.raises(UnsupportedError, match="stayed on the device"):
        device.context.outputs.logits(0)


def test_a_device_that_cannot(stories: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark of a sampler that its device cannot compute."""
    from llama_cffi.core import device_candidates

    with Llama(stories, context_options=ContextOptions(n_ctx=256, backend_sampling=True), n_threads=1) as llm:
        monkeypatch.setattr(device_candidates, "to_text", lambda text: "-top-k")
        with pytest.raises(UnsupportedError, match="cannot find the largest logits"):
            llm.generate("The sun", temperature=0, max_tokens=4)
        monkeypatch.undo()
        assert len(llm.generate("The sun", temperature=0, max_tokens=4).tokens) == 4


def test_closing_in_any_order(stories: Model) -> None:
    llm = Llama(stories, context_options=ContextOptions(n_ctx=256, backend_sampling=True), n_threads=1)
    llm.generate("The sun", temperature=0, max_tokens=4)
    with llm.fork() as twin:
        twin.generate("The sun", temperature=0, max_tokens=4)
        llm.close()
        assert len(twin.generate("The moon", temperature=0, max_tokens=4).tokens) == 4
