"""The probabilities that a token was drawn with, against numpy's idea of the same sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from llama_cffi import Llama
from llama_cffi.reply.completion import Completion

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama.demo(n_ctx=512) as llm:
        yield llm


def model_logprobs(llm: Llama, n_top: int) -> dict[int, float]:
    done = llm.generate(PROMPT, max_tokens=1, temperature=0, logprobs=n_top)
    assert done.logprobs is not None
    return dict(done.logprobs[0].top)


def first(done: Completion) -> Any:
    assert done.logprobs is not None
    return done.logprobs[0]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "top_k": 5, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 1.3, "top_k": 40, "top_p": 0.6, "min_p": 0.0},
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.1},
    ],
)
def test_they_are_those_of_the_sampling(llm: Llama, options: dict[str, Any]) -> None:
    model = model_logprobs(llm, 400)
    logprobs = np.array(sorted(model.values(), reverse=True))
    if options["top_k"]:
        logprobs = logprobs[: options["top_k"]]
    p = np.exp(logprobs - np.log(np.exp(logprobs).sum()))
    if options["top_p"] < 1:
        logprobs = logprobs[: int(np.searchsorted(np.cumsum(p), options["top_p"])) + 1]
    if options["min_p"]:
        logprobs = logprobs[logprobs >= logprobs[0] + np.log(options["min_p"])]
    scaled = logprobs / options["temperature"]
    expected = scaled - np.log(np.exp(scaled).sum())
    for seed in range(5):
        done = llm.generate(PROMPT, max_tokens=3, seed=seed, logprobs=50, post_sampling_logprobs=True, **options)
        entry = first(done)
        found = np.array([value for _, value in entry.top])
        np.testing.assert_allclose(found[:20], expected[: len(found)][:20], atol=0.02)
        assert len(found) == min(50, len(expected))
        assert entry.logprob == dict(entry.top)[entry.token]
        again = llm.generate(PROMPT, max_tokens=3, seed=seed, logprobs=0, post_sampling_logprobs=True, **options)
        assert again.tokens == done.tokens


def test_greedy_is_certain(llm: Llama) -> None:
    done = llm.generate(PROMPT, max_tokens=4, temperature=0, logprobs=2, post_sampling_logprobs=True)
    assert done.tokens == llm.generate(PROMPT, max_tokens=4, temperature=0).tokens
    assert done.logprobs is not None
    for entry in done.logprobs:
        assert (entry.logprob, entry.top) == (0.0, ((entry.token, 0.0),))


def test_a_schema_counts(llm: Llama) -> None:
    options: dict[str, Any] = {"schema": ["red", "blue"], "max_tokens": 20, "logprobs": 5, "temperature": 1.0}
    done = llm.generate(PROMPT, seed=1, post_sampling_logprobs=True, **options)
    assert done.parsed in ("red", "blue")
    assert done.logprobs is not None
    for entry in done.logprobs:
        total = sum(np.exp(value) for _, value in entry.top if value > -np.inf)
        assert total == pytest.approx(1, abs=0.01) or len(entry.top) == 5


def test_it_needs_logprobs(llm: Llama) -> None:
    with pytest.raises(ValueError, match="post_sampling_logprobs"):
        llm.generate(PROMPT, post_sampling_logprobs=True)
