"""What the model thinks of the prompt: against scores, which have a way of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llama_cffi import Llama
from llama_cffi.reply.completion import FinishReason

TEXT = "Once upon a time there was a little girl who had a big red ball and a small dog."


@pytest.fixture(scope="module", params=["inline", "thread"])
def llm(request: pytest.FixtureRequest) -> Iterator[Llama]:
    with Llama.demo(n_ctx=1024, n_batch=64, n_seq_max=4, driver=request.param) as llm:
        yield llm


def close(found: list[float], expected: list[float]) -> None:
    """Equal up to the rounding of batches of different sizes, which unlikely tokens feel most."""
    assert found == pytest.approx(expected, abs=0.5)
    assert sum(abs(a - b) for a, b in zip(found, expected, strict=True)) / len(expected) < 0.05


def test_they_are_the_scores_of_the_prompt(llm: Llama) -> None:
    tokens = [int(token) for token in llm.tokenize(TEXT * 12)]
    assert len(tokens) > 3 * 64
    (score,) = llm.score(tokens[:1], [tokens[1:]])
    for again in range(2):  # the second time everything is in memory
        done = llm.generate(tokens, max_tokens=0, prompt_logprobs=2)
        assert done.finish_reason is FinishReason.LENGTH
        assert done.usage.cached_tokens == 0, again
        found = done.prompt_logprobs
        assert found is not None
        assert len(found) == len(tokens)
        assert found[0] is None
        own = [one for one in found if one is not None]
        assert [one.token for one in own] == tokens[1:]
        close([one.logprob for one in own], [one.logprob for one in score.tokens])
        assert all(len(one.top) == 2 for one in own)
    usual = llm.generate(tokens, max_tokens=4, temperature=0)
    assert usual.usage.cached_tokens == len(tokens) - 1
    assert usual.prompt_logprobs is None


def test_beside_the_logprobs_of_what_follows(llm: Llama) -> None:
    done = llm.generate(TEXT, max_tokens=4, temperature=0, prompt_logprobs=0, logprobs=1)
    assert done.prompt_logprobs is not None
    assert done.logprobs is not None
    assert len(done.prompt_logprobs) == len(llm.tokenize(TEXT))
    assert len(done.logprobs) == 4
    assert done.tokens == llm.generate(TEXT, max_tokens=4, temperature=0).tokens
    (one,) = [llm.generate([5], max_tokens=0, prompt_logprobs=1)]
    assert one.prompt_logprobs == (None,)


def test_several_at_once(llm: Llama) -> None:
    texts = [TEXT[i:] * (i + 1) for i in range(4)]
    together = llm.generate(texts, max_tokens=0, prompt_logprobs=0)
    for text, done in zip(texts, together, strict=True):
        alone = llm.generate(text, max_tokens=0, prompt_logprobs=0)
        assert done.prompt_logprobs is not None
        assert alone.prompt_logprobs is not None
        close(*([one.logprob for one in found[1:] if one] for found in (done.prompt_logprobs, alone.prompt_logprobs)))


def test_wrong_numbers(llm: Llama) -> None:
    for wrong in (-1, "many", 1.5):
        with pytest.raises((TypeError, ValueError), match="prompt_logprobs"):
            llm.generate("x", prompt_logprobs=wrong)  # type: ignore[arg-type]
