"""Perplexity and scores: those of llama.cpp's tool, of numpy over whole rows, and of generation."""

from __future__ import annotations

import gc
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llama_cffi import Batch, Context, ContextOptions, Llama, Model
from llama_cffi.core import scorer as scorer_module
from llama_cffi.core.scorer import Scorer
from llama_cffi.engine import scoring as scoring_module
from llama_cffi.engine.side_context import SideContext
from llama_cffi.errors import BusyError, ClosedError, ContextOverflowError, PromptError, TokenError
from llama_cffi.reply.scores import Score

if TYPE_CHECKING:
    from tests.support.models import MakeLlama
    from tests.support.tools import Measure

pytest_plugins = ["tests.support.models", "tests.support.tools"]

STORY = (
    "Once upon a time there was a little girl called Lily. She had a red ball and a dog named Spot. One day the dog "
    "ran away into the forest, and Lily cried. Then a big bear came out and said: I can help you find him. "
)


def logprobs(model: Model, tokens: list[int]) -> NDArray[np.float64]:
    """Log-softmax of the rows after every token, float64 of shape (n, n_vocab), from one plain decode."""
    with Context(model, ContextOptions(n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=1)) as context:
        batch = Batch(len(tokens))
        for i, token in enumerate(tokens):
            batch.add(token, i, output=True)
        context.decode(batch)
        rows = np.stack([context.outputs.logits(i) for i in range(len(tokens))]).astype(np.float64)
    result: NDArray[np.float64] = rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)
    return result


def expected(model: Model, tokens: list[int], first: int) -> list[float]:
    """Log-probabilities of the tokens from ``first`` on."""
    rows = logprobs(model, tokens)
    return [float(rows[i - 1, tokens[i]]) for i in range(first, len(tokens))]


# -- perplexity


@pytest.mark.parametrize("n_ctx", [64, 127, 512])
def test_it_is_the_number_of_llama_perplexity(
    stories: Model, tmp_path: Path, llama_perplexity: Measure, n_ctx: int
) -> None:
    text = STORY * 14
    (tmp_path / "story.txt").write_text(text)
    value, error = llama_perplexity("-m", stories.path, "-f", tmp_path / "story.txt", "-c", str(n_ctx))
    with Llama(stories, n_ctx=2048, n_threads=1) as llm:
        result = llm.perplexity(text, n_ctx=n_ctx)
    assert result.value == pytest.approx(value, rel=1e-3)
    assert result.stderr == pytest.approx(error, rel=1e-2)
    assert result.value == pytest.approx(math.exp(result.nll))


def test_it_is_numpys_log_softmax(llm: Llama) -> None:
    text = "tana nese roki mupo " * 20
    tokens = llm.tokenize(text).tolist()
    values = []
    for start in range(0, len(tokens) - 31, 32):
        values += expected(llm.model, [1, *tokens[start + 1 : start + 32]], 17)
    result = llm.perplexity(text, n_ctx=32)
    assert (result.n_tokens, result.n_chunks) == (len(values), len(tokens) // 32)
    assert result.nll == pytest.approx(-np.mean(values), abs=1e-3)
    assert result.stderr == pytest.approx(result.value * np.std(values) / math.sqrt(len(values) - 1), rel=1e-2)


def test_with_a_stride_every_token_has_its_context(llm: Llama) -> None:
    tokens = llm.tokenize("tana nese roki mupo seli " * 12).tolist()
    values = []
    for start in range(0, len(tokens) - 31, 8):
        values += expected(llm.model, [1, *tokens[start + 1 : start + 32]], 24)
    result = llm.perplexity(tokens, n_ctx=32, stride=8)
    assert result.n_tokens == len(values)
    assert result.nll == pytest.approx(-np.mean(values), abs=1e-3)


def test_the_number_of_rows_at_once_changes_nothing(make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "tana nese roki mupo " * 40
    whole = make_llama().perplexity(text, n_ctx=64)
    monkeypatch.setattr(scorer_module, "_OUTPUT_BYTES", 3 * 4 * 512)
    assert make_llama(n_batch=48).perplexity(text, n_ctx=64).nll == pytest.approx(whole.nll, abs=1e-3)


def test_a_short_text_is_one_chunk(llm: Llama) -> None:
    tokens = llm.tokenize("tana nese").tolist()
    result = llm.perplexity("tana nese")
    assert (result.n_chunks, result.n_tokens) == (1, len(tokens) - len(tokens) // 2 - 1)
    least = llm.perplexity(tokens[:3])
    assert least.n_tokens == 1
    assert math.isnan(least.stderr)


def test_progress_and_what_it_raises(llm: Llama) -> None:
    seen: list[float] = []
    llm.perplexity("tana nese " * 200, n_ctx=16, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 2

    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm.perplexity("tana nese " * 200, n_ctx=16, progress=stop)
    assert llm.score("tana", [" nese"])[0].n_tokens


def test_a_score_in_the_middle_of_a_score_is_refused(llm: Llama) -> None:
    found: list[BaseException] = []

    def outer() -> None:
        try:
            llm.perplexity("tana nese " * 200, n_ctx=16, progress=lambda _: llm.score("tana", [" nese"]) and None)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=outer, daemon=True)
    thread.start()
    thread.join(60)
    assert [type(error) for error in found] == [BusyError], "it waits for itself"
    assert llm.score("tana", [" nese"])[0].n_tokens


def test_what_perplexity_refuses(llm: Llama) -> None:
    with pytest.raises(PromptError, match="too short"):
        llm.perplexity("")
    with pytest.raises(PromptError, match="less than one chunk"):
        llm.perplexity("tana", n_ctx=64)
    with pytest.raises(ContextOverflowError, match="513"):
        llm.perplexity("tana", n_ctx=513)
    for bad in (0, 64, -1):
        with pytest.raises(ValueError, match="stride"):
            llm.perplexity("tana " * 100, n_ctx=64, stride=bad)
    with pytest.raises(ValueError, match="at least 3"):
        llm.perplexity("tana", n_ctx=2)
    with pytest.raises(TokenError):
        llm.perplexity([1, 2, 512, 4])


# -- score


def check(llm: Llama, prefix: str, continuations: list[str], scores: list[Score]) -> None:
    for continuation, score in zip(continuations, scores, strict=True):
        whole = llm.tokenize(prefix + continuation).tolist()
        first = len(whole) - score.n_tokens
        assert [one.token for one in score.tokens] == whole[first:]
        rows = logprobs(llm.model, whole)[first - 1 : -1]
        assert [one.logprob for one in score.tokens] == pytest.approx(
            [rows[i, token] for i, token in enumerate(whole[first:])], abs=1e-2
        )
        assert score.logprob == pytest.approx(sum(one.logprob for one in score.tokens))
        assert score.is_greedy == (rows.argmax(axis=1).tolist() == whole[first:])
        assert [one.top[0][0] for one in score.tokens] == rows.argmax(axis=1).tolist()


def test_scores_are_numpys_log_softmax(llm: Llama) -> None:
    texts = [" roki", " mupo seli", "x", " roki tana tana tana nese", " ", "ra"]
    check(llm, "tana nese", texts, llm.score("tana nese", texts))


def test_a_greedy_text_is_greedy_and_has_the_log_probabilities_of_its_generation(stories: Model) -> None:
    with Llama(stories, n_ctx=256, n_threads=1) as llm:
        prompt = "Once upon a time"
        done = llm.generate(prompt, temperature=0.0, max_tokens=20, logprobs=0)
        assert done.logprobs is not None
        prefix = llm.tokenize(prompt).tolist()
        worse = [*done.tokens[:-1], (done.tokens[-1] + 1) % 512]
        greedy, other = llm.score(prefix, [list(done.tokens), worse])
        assert (greedy.is_greedy, other.is_greedy) == (True, False)
        found = [one.logprob for one in greedy.tokens]
        assert found == pytest.approx([one.logprob for one in done.logprobs], abs=1e-2)
        assert greedy.logprob > other.logprob


def test_many_continuations_share_one_prefill(make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = Context.decode

    def decode(self: Context, batch: Batch, **options: Any) -> None:
        decoded.append(batch.n_tokens)
        original(self, batch, **options)

    monkeypatch.setattr(Context, "decode", decode)
    llm = make_llama()
    prefix = llm.tokenize("tana nese roki mupo " * 8).tolist()
    continuations = [[300 + i, 310 + i, 320 + i] for i in range(40)]
    scores = llm.score(prefix, continuations)
    assert sum(decoded) == len(prefix) + 2 * 40
    assert len(decoded) == 1 + math.ceil(40 / 16)
    decoded.clear()
    again = llm.score([*prefix, 300], [[310, 320]])  # and the next call finds it
    assert sum(decoded) == 1 + 1
    assert [one.logprob for one in again[0].tokens] == pytest.approx(
        [one.logprob for one in scores[0].tokens[1:]], abs=1e-2
    )
    for i in (0, 17, 39):
        whole = [*prefix, *continuations[i]]
        assert [one.logprob for one in scores[i].tokens] == pytest.approx(
            expected(llm.model, whole, len(prefix)), abs=1e-2
        )


def test_more_continuations_than_fit_the_memory(make_llama: MakeLlama) -> None:
    llm = make_llama(n_ctx=256)
    prefix = [1] + [300 + i % 50 for i in range(150)]
    continuations = [[310 + i, *[320 + j for j in range(70)]] for i in range(6)]
    for continuation, score in zip(continuations, llm.score(prefix, continuations), strict=True):
        assert score.logprob == pytest.approx(sum(expected(llm.model, [*prefix, *continuation], 151)), abs=0.1)


tails = st.tuples(st.lists(st.integers(3, 511), min_size=1, max_size=9), st.integers(1, 9))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(tails, min_size=1, max_size=9), st.lists(st.integers(3, 511), min_size=1, max_size=6))
def test_any_texts_that_begin_alike(model: Model, ends: list[tuple[list[int], int]], head: list[int]) -> None:
    texts = [([*head, *tail], min(first, len(head) + len(tail) - 1)) for tail, first in ends]
    options = ContextOptions(n_ctx=256, n_batch=7, n_ubatch=7, n_seq_max=3, n_threads=1)
    with Context(model, options) as context:
        found = Scorer(context).continuations(texts)
    for (tokens, first), one in zip(texts, found, strict=True):
        assert [value for value, _ in one] == pytest.approx(expected(model, tokens, first), abs=2e-2)


def test_the_boundary_between_prefix_and_continuation(stories: Model) -> None:
    with Llama(stories, n_ctx=256, n_threads=1) as llm:
        # The space before a word is part of its token: given at the end of the prefix, it belongs to the word.
        (one,), (other,) = llm.score("Once upon a", [" time"]), llm.score("Once upon a ", ["time"])
        assert [token.token for token in one.tokens] == [token.token for token in other.tokens]
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        # "ti" + "me" are the token of " time", which the continuation began to change.
        merged = llm.score("Once upon a ti", ["me"])[0]
        whole = llm.tokenize("Once upon a time").tolist()
        assert [token.token for token in merged.tokens] == whole[len(whole) - merged.n_tokens :]
        # Every part of a text scored in turn is the text scored at once.
        parts = ["Once", " upon", " a time", ", there"]
        total = sum(llm.score("".join(parts[:i]), [part])[0].logprob for i, part in enumerate(parts))
        assert total == pytest.approx(llm.score("", ["".join(parts)])[0].logprob, abs=2e-2)


def test_what_score_refuses(llm: Llama) -> None:
    with pytest.raises(PromptError, match="no continuations"):
        llm.score("tana", [])
    with pytest.raises(PromptError, match="continuation 1 has no tokens"):
        llm.score("tana", [" nese", ""])
    with pytest.raises(PromptError, match="must be tokens too"):
        llm.score([1, 300], [" nese"])
    with pytest.raises(ContextOverflowError, match="continuation 0 have 601 tokens"):
        llm.score([300], [[301] * 600])
    with pytest.raises(TokenError):
        llm.score([300], [[512]])


# -- beside everything else


def test_generation_keeps_its_prompts_and_its_place(llm: Llama) -> None:
    stream = llm.stream("tana nese", temperature=0.0, max_tokens=20)
    begun = next(stream).text
    llm.score("roki", [" mupo", " seli"])
    llm.perplexity("tana nese " * 40, n_ctx=32)
    text = begun + "".join(chunk.text for chunk in stream)
    again = llm.generate("tana nese", temperature=0.0, max_tokens=20)
    assert (again.text, again.usage.cached_tokens > 0) == (text, True)


def test_threads_score_one_after_the_other(llm: Llama) -> None:
    alone = llm.score("tana", [" nese", " roki mupo"])
    found: list[list[Score]] = []
    threads = [
        threading.Thread(target=lambda: found.append(llm.score("tana", [" nese", " roki mupo"]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in found:
        assert [score.logprob for score in one] == pytest.approx([score.logprob for score in alone], abs=1e-3)
    assert len(found) == 4


def test_a_closed_llama_scores_nothing_and_keeps_nothing(model: Model) -> None:
    llm = Llama(model, n_ctx=64, n_threads=1)
    llm.score("tana", [" nese"])
    context = llm._runtime.scoring._scorer.context  # type: ignore[union-attr]
    llm.close()
    llm.close()
    assert context.closed
    for question in (lambda: llm.score("tana", [" nese"]), lambda: llm.perplexity("tana nese")):
        with pytest.raises(ClosedError):
            question()
    gc.collect()


def test_a_llama_that_closes_while_the_context_of_scores_opens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, opened = Llama(model, n_ctx=64, n_threads=1), list[SideContext]()

    def closing(*args: Any, **options: Any) -> SideContext:
        llm.close()
        opened.append(SideContext(*args, **options))
        return opened[-1]

    monkeypatch.setattr(scoring_module, "SideContext", closing)
    with pytest.raises(ClosedError):
        llm.score("tana", [" nese"])
    assert opened[0].context.closed


@pytest.mark.parametrize(
    "options",
    [{"n_batch": 16}, {"n_batch": 3, "n_seq_max": 2}, {"n_batch": 1, "n_seq_max": 1}, {"n_ctx": 12, "n_seq_max": 1}],
)
def test_small_batches_and_contexts(model: Model, llm: Llama, options: dict[str, Any]) -> None:
    continuations = ["nese", "roki mupo", "tara", "mi"] * 6
    expected, whole = llm.score("tana", continuations), llm.perplexity("tana nese roki mupo", n_ctx=4)
    vectors = llm.embed(["tana", "nese roki"], pooling="last").array
    with Llama(model, n_threads=1, **{"n_ctx": 64, **options}) as small:
        found = small.score("tana", continuations)
        assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], abs=1e-3)
        assert small.perplexity("tana nese roki mupo", n_ctx=4).value == pytest.approx(whole.value, rel=1e-3)
        np.testing.assert_allclose(small.embed(["tana", "nese roki"], pooling="last").array, vectors, atol=1e-3)
