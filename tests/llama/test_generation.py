"""What a completion can be asked for beside its text: choices, biases, stops, echo, a deadline."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi import Completion, FinishReason, Llama, Model
from llama_cffi._native import helpers
from llama_cffi._util.seed import MAX_SEED
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.request import Request
from llama_cffi.errors import SamplerError, TokenError

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models"]


def greedy(llm: Llama, prompt: Any, **options: Any) -> Completion:
    completion = llm.generate(prompt, **{"temperature": 0, "max_tokens": 24} | options)
    assert isinstance(completion, Completion)
    return completion


# -- n and best_of


def test_n_completions_share_one_prefill(make_llama: MakeLlama) -> None:
    llm = make_llama()
    prompt = [1, *range(300, 340)]
    choices = llm.generate(prompt, n=4, seed=5, max_tokens=12)
    assert [choice.seed for choice in choices] == [5, 6, 7, 8]
    assert [choice.usage.cached_tokens for choice in choices] == [0, 40, 40, 40]
    for choice in choices:
        assert choice.tokens == make_llama().generate(prompt, seed=choice.seed, max_tokens=12).tokens
        assert choice.logprobs is None


def test_more_choices_than_sequences(make_llama: MakeLlama) -> None:
    choices = make_llama(n_seq_max=2).generate("tana nese sona lu ka mi de", n=7, seed=1, max_tokens=5)
    assert [choice.seed for choice in choices] == list(range(1, 8))
    assert sum(choice.usage.cached_tokens == 0 for choice in choices) == 1


def test_seeds_go_round(llm: Llama) -> None:
    choices = llm.generate("tana", n=3, seed=MAX_SEED - 1, max_tokens=1)
    assert [choice.seed for choice in choices] == [MAX_SEED - 1, MAX_SEED, 0]
    drawn = [choice.seed for choice in llm.generate("tana", n=2, max_tokens=1)]
    assert drawn[1] == (drawn[0] + 1) % (MAX_SEED + 1)


def test_the_best_is_the_likeliest(llm: Llama) -> None:
    options: dict[str, Any] = {"seed": 3, "max_tokens": 10, "temperature": 1.5}
    all_of_them = llm.generate("tana", n=6, logprobs=0, **options)
    ranked = sorted(all_of_them, key=lambda one: sum(e.logprob for e in one.logprobs or ()) / 10, reverse=True)
    best = llm.generate("tana", best_of=6, **options)
    assert (best.seed, best.tokens, best.logprobs) == (ranked[0].seed, ranked[0].tokens, None)
    two = llm.generate("tana", n=2, best_of=6, logprobs=1, **options)
    assert [one.seed for one in two] == [one.seed for one in ranked[:2]]
    assert two[0].mean_logprob is not None
    assert two[0].logprobs is not None
    assert two[0].mean_logprob == pytest.approx(math.fsum(e.logprob for e in two[0].logprobs) / 10)


def test_a_mean_of_nothing(llm: Llama) -> None:
    assert greedy(llm, "tana").mean_logprob is None
    assert greedy(llm, "tana", max_tokens=0, logprobs=0).mean_logprob is None
    assert len(llm.generate("tana", n=2, best_of=2, max_tokens=0)) == 2


def test_choices_that_cannot_be(llm: Llama) -> None:
    wrong: list[Any] = [(0, None), (3, 2), (None, 0), (2.5, None)]
    for n, best_of in wrong:
        with pytest.raises(ValueError, match="n must be at least 1"):
            llm.generate("tana", n=n, best_of=best_of)
    with pytest.raises(ValueError, match="for one prompt"):
        llm.generate(["tana", "nese"], n=2)  # type: ignore[list-item]


# -- going on from a completion


def test_two_texts_go_on_from_one(llm: Llama, make_llama: MakeLlama) -> None:
    done = greedy(llm, "tana nese sona")
    assert done.prompt == tuple(llm.tokenize("tana nese sona").tolist())
    so_far = [*done.prompt, *done.tokens]
    for choice in llm.generate(so_far, n=2, seed=1, max_tokens=8):
        assert choice.usage.cached_tokens >= len(so_far) - 1
        assert choice.tokens == make_llama().generate(so_far, seed=choice.seed, max_tokens=8).tokens
    assert len(greedy(llm, so_far).prompt) == len(so_far)


# -- logit bias


def test_bias_by_text(llm: Llama) -> None:
    vocab = llm.model.vocab
    best = greedy(llm, "tana").tokens
    token = next(one for one in best if vocab.piece(one).isascii())
    text = vocab.piece(token).decode()
    without = greedy(llm, "tana", logit_bias={text: "never"})
    assert text.encode() not in [vocab.piece(one) for one in without.tokens]
    assert without.tokens != best
    same = [one for one in range(512) if vocab.piece(one) == text.encode()]
    assert without.tokens == greedy(llm, "tana", logit_bias=dict.fromkeys(same, -math.inf)).tokens
    assert greedy(llm, "tana", logit_bias={" ta": 100.0, 300: -3.0}).text == " ta" * 24


def test_bias_by_the_name_of_a_control_token(llm: Llama) -> None:
    done = greedy(llm, "tana", logit_bias={"</s>": 1000.0})
    assert (done.tokens, done.finish_reason) == ((), FinishReason.STOP)


def test_a_text_of_several_tokens_is_no_bias(llm: Llama) -> None:
    n = len(llm.tokenize("tana nese sona", add_special=False))
    with pytest.raises(TokenError, match=f"is {n} tokens, not one"):
        llm.generate("tana", logit_bias={"tana nese sona": 1.0})
    with pytest.raises(TokenError, match="0 tokens"):
        llm.generate("tana", logit_bias={"": 1.0})
    with pytest.raises(TokenError, match="512"):
        llm.generate("tana", logit_bias={512: 1.0})
    twice: dict[int | str, float] = {" ta": 1.0, int(llm._runtime.formats.pieces.exact(b" ta")[0]): 2.0}
    with pytest.raises(SamplerError, match="given twice"):
        llm.generate("tana", logit_bias=twice)
    values: list[Any] = ["always", True, None]
    for value in values:
        with pytest.raises(SamplerError, match="must be a number"):
            llm.generate("tana", logit_bias={300: value})


# -- stops


def test_a_stop_token(llm: Llama) -> None:
    full = greedy(llm, "tana")
    stop = full.tokens[6]
    done = greedy(llm, "tana", stop=stop)
    n = full.tokens.index(stop)
    assert done.tokens == full.tokens[:n]
    assert (done.stop_sequence, done.finish_reason) == (stop, FinishReason.STOP)
    assert full.text.startswith(done.text)
    assert greedy(llm, "tana", stop=[stop, 5], speculative="lookup").tokens == done.tokens
    # Other requests' pieces are as before.
    assert greedy(llm, "tana").tokens == full.tokens


def test_a_stop_pattern(stories: Model, make_llama: MakeLlama) -> None:
    llm = make_llama(stories)
    full = greedy(llm, "Once upon a time", max_tokens=100).text
    for pattern in (r"\. [A-Z]", r"\bsh?e\b", r"(?i)LITTLE g.rl"):
        found = re.search(pattern, full)
        assert found is not None
        done = greedy(llm, "Once upon a time", max_tokens=100, stop=re.compile(pattern))
        assert full.startswith(done.text)
        assert len(done.text) <= found.start()
        assert isinstance(done.stop_sequence, str)
        assert re.search(pattern, done.stop_sequence)
        assert done.finish_reason is FinishReason.STOP
    mixed = [re.compile(r"never \d"), " girl", 9]
    assert greedy(llm, "Once upon a time", max_tokens=100, stop=mixed).stop_sequence in (" girl", 9)


def test_a_pattern_that_only_begins(llm: Llama) -> None:
    full = greedy(llm, "tana")
    pattern = re.compile(re.escape(full.text[-3:]) + r"\n\d")
    done = greedy(llm, "tana", stop=pattern)
    assert (done.text, done.stop_sequence, done.finish_reason) == (full.text, None, FinishReason.LENGTH)


@pytest.mark.parametrize("stop", ["", [""], True, [re.compile("a"), True], [None]])
def test_bad_stops(llm: Llama, stop: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        llm.generate("tana", stop=stop)
    assert llm._runtime.engine.idle


def test_bad_stop_tokens_and_patterns(llm: Llama) -> None:
    with pytest.raises(TokenError, match="512"):
        llm.generate("tana", stop=512)
    with pytest.raises(ValueError, match="empty text"):
        llm.generate("tana", stop=re.compile("x*"))


# -- echo


def test_echo(llm: Llama) -> None:
    plain = greedy(llm, "tana nese")
    done = greedy(llm, "tana nese", echo=True)
    assert done.text == "tana nese" + plain.text
    assert (done.tokens, done.usage.completion_tokens) == (plain.tokens, plain.usage.completion_tokens)
    chunks = list(llm.stream("tana nese", temperature=0, max_tokens=24, echo=True))
    assert chunks[0].text == "tana nese"
    assert "".join(chunk.text for chunk in chunks) == done.text
    assert greedy(llm, llm.tokenize("tana nese"), echo=True).text.strip() == done.text
    assert greedy(llm, "tana nese", echo=True, max_tokens=0).text == "tana nese"
    assert greedy(llm, "tana nese", echo=True, stop="nese").text.startswith("tana nese"), "stops are for what follows"


# -- deadlines


def test_a_deadline_ends_a_text(llm: Llama) -> None:
    done = llm.generate("tana", temperature=0, overflow="shift", max_seconds=0.15)
    assert done.finish_reason is FinishReason.DEADLINE
    assert len(done.tokens) > 3
    assert done.tokens == greedy(llm, "tana", overflow="shift", max_tokens=len(done.tokens)).tokens
    assert llm._runtime.engine.idle


def test_a_deadline_that_is_never_reached(llm: Llama) -> None:
    assert greedy(llm, "tana", max_seconds=60).tokens == greedy(llm, "tana").tokens
    assert not [one for one in llm._runtime.engine._loop.deadlines.watched if not one.done]


def test_a_deadline_in_a_prefill_leaves_others_alone(tmp_path: Path) -> None:
    """A prompt of many seconds beside a short text, in the same batches."""
    from tests.support.random_model import SHAPE_15M, write_random_model

    path = write_random_model(tmp_path / "15m.gguf", SHAPE_15M)
    with Llama(path, n_ctx=32768, n_batch=8192, n_ubatch=2048, n_threads=1) as llm:
        expected = greedy(llm, "tana nese", max_tokens=4).tokens
        start = time.monotonic()
        late = llm.stream([1] + [300] * 24000, max_seconds=0.4)
        other = llm.stream("tana nese", temperature=0, max_tokens=4)
        (chunk,) = list(late)
        seconds = time.monotonic() - start
        assert chunk.completion is not None
        assert (chunk.completion.tokens, chunk.completion.finish_reason) == ((), FinishReason.DEADLINE)
        assert tuple(token for chunk in other for token in chunk.tokens) == expected
    # Without the compiled helpers a deadline is looked at when the decode is over.
    assert helpers.KIND == "python" or seconds < 3.0


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_bad_deadlines(llm: Llama, seconds: float) -> None:
    with pytest.raises(ValueError, match="max_seconds"):
        llm.generate("tana", max_seconds=seconds)


def test_a_priority_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    submit = Engine.submit

    def note(self: Engine, request: Request, *more: Any) -> Any:
        seen.append(request.priority)
        return submit(self, request, *more)

    monkeypatch.setattr(Engine, "submit", note)
    with Llama.demo(n_ctx=256, n_threads=1) as demo:
        demo.generate("a", max_tokens=1)
        demo.generate(["a", "b"], max_tokens=1, priority=100)
        list(demo.stream("a", max_tokens=1, priority=-1))
        demo.chat("a", max_tokens=1, priority=-2)
        demo.session(priority=7).chat("a", max_tokens=1)
    assert seen == [0, 100, 100, -1, -2, 7]


def test_options_that_do_not_exist(llm: Llama) -> None:
    with pytest.raises(TypeError, match="unknown option: n"):
        llm.stream("tana", n=2)  # type: ignore[call-arg]
