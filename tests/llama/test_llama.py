"""The facade: what comes out of generate and stream, with a real engine and a real context under it."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    Chunk,
    Completion,
    ContextOptions,
    FinishReason,
    Llama,
    Model,
    ModelOptions,
    SamplingParams,
)
from llama_cffi._native import helpers
from llama_cffi.engine.scheduler import Scheduler
from llama_cffi.errors import ContextOverflowError
from tests.support.children import run_child

if TYPE_CHECKING:
    from tests.support.models import MakeContext, MakeLlama

pytest_plugins = ["tests.support.models"]

PROMPTS = [
    "tana nese sona lu",
    "tana nese",
    "ro",
    "tana nese sona lu ka mi de bu pa go hi fo wu ve yi ja ca xo zi " * 3,
    "",
    "tana nese sona mi",
    "de bu pa",
]


def greedy(llm: Llama, prompt: Any, **options: Any) -> Completion:
    completion = llm.generate(prompt, **{"temperature": 0, "max_tokens": 24} | options)
    assert isinstance(completion, Completion)
    return completion


# -- completions


def test_a_completion(llm: Llama) -> None:
    completion = llm.generate("tana nese", max_tokens=10, seed=5)
    assert len(completion.tokens) == completion.usage.completion_tokens == 10
    assert completion.usage.prompt_tokens == len(llm.tokenize("tana nese"))
    assert completion.usage.cached_tokens == 0
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.stop_sequence is None
    assert completion.logprobs is None
    assert completion.seed == 5
    assert str(completion) == completion.text
    assert completion.timings.prefill_seconds > 0
    assert completion.timings.decode_seconds > 0
    assert completion.timings.prefill_tokens == completion.usage.prompt_tokens
    assert completion.timings.decode_tokens == 9
    assert completion.timings.decode_tokens_per_second > 0


def test_text_is_the_tokens_text(llm: Llama) -> None:
    completion = llm.generate("tana", max_tokens=60, seed=3)
    pieces = b"".join(llm.model.vocab.piece(token) for token in completion.tokens)
    assert completion.text == pieces.decode("utf-8", "replace")


def test_the_stream_is_the_completion(llm: Llama) -> None:
    alone = llm.generate("tana", max_tokens=30, seed=3, logprobs=1)
    chunks = list(llm.stream("tana", max_tokens=30, seed=3, logprobs=1))
    last = chunks[-1].completion
    assert last is not None
    assert all(chunk.completion is None for chunk in chunks[:-1])
    assert last.text == alone.text == "".join(chunk.text for chunk in chunks)
    assert last.tokens == alone.tokens == tuple(token for chunk in chunks for token in chunk.tokens)
    assert [entry for chunk in chunks for entry in chunk.logprobs or ()] == list(last.logprobs or ())
    assert len(chunks) == 30


def test_tokens_as_a_prompt(llm: Llama) -> None:
    tokens = llm.tokenize("tana nese")
    expected = greedy(llm, "tana nese").tokens
    assert greedy(llm, tokens).tokens == expected
    assert greedy(llm, tokens.tolist()).tokens == expected
    assert [c.tokens for c in llm.generate([tokens.tolist()], temperature=0, max_tokens=24)] == [expected]


def test_max_tokens_zero(llm: Llama) -> None:
    completion = llm.generate("tana", max_tokens=0)
    assert (completion.text, completion.tokens, completion.finish_reason) == ("", (), "length")
    (chunk,) = llm.stream("tana", max_tokens=0)
    assert chunk.completion is not None
    assert chunk.completion.usage.prompt_tokens == len(llm.tokenize("tana"))


def test_end_of_generation(model_path: Path, llm: Llama, make_llama: MakeLlama) -> None:
    tokens = greedy(llm, "tana").tokens
    eog = tokens[7]
    with Model(model_path, ModelOptions(kv_overrides={"tokenizer.ggml.eos_token_id": eog})) as model:
        completion = greedy(make_llama(model), "tana")
    assert completion.finish_reason is FinishReason.STOP
    assert completion.stop_sequence is None
    assert completion.tokens == tokens[: tokens.index(eog)]


# -- seeds


def test_the_same_seed_gives_the_same_text(llm: Llama, make_llama: MakeLlama) -> None:
    texts = [llm.generate("tana", max_tokens=30, seed=7).text for _ in range(3)]
    texts.append(make_llama().generate("tana", max_tokens=30, seed=7).text)
    assert len(set(texts)) == 1
    assert llm.generate("tana", max_tokens=30, seed=8).text != texts[0]


def test_the_seed_that_was_drawn_gives_the_text_again(llm: Llama) -> None:
    first = llm.generate("tana", max_tokens=30)
    other = llm.generate("tana", max_tokens=30)
    assert first.seed != other.seed
    assert llm.generate("tana", max_tokens=30, seed=first.seed).tokens == first.tokens


@pytest.mark.parametrize(
    "options", [{"repeat_penalty": 1.2}, {"logit_bias": {300: 1.0}}, {"grammar": "root ::= [a-z ]+"}]
)
def test_the_same_seed_through_llama_cpps_samplers(llm: Llama, options: dict[str, Any]) -> None:
    texts = {llm.generate("tana", max_tokens=20, seed=7, **options).text for _ in range(3)}
    assert len(texts) == 1


def test_sampling_params_or_fields(llm: Llama) -> None:
    params = SamplingParams(temperature=0)
    assert llm.generate("tana", max_tokens=9, sampling=params).tokens == greedy(llm, "tana", max_tokens=9).tokens
    with pytest.raises(TypeError, match="not both: top_k"):
        llm.generate("tana", sampling=params, top_k=5)


# -- many at once


def test_a_list_gives_what_each_gives_alone(make_llama: MakeLlama) -> None:
    """Seven prompts through four slots and small batches, some of them with common beginnings."""
    together = make_llama(n_batch=32, n_ubatch=32).generate(PROMPTS, temperature=0, max_tokens=24)
    assert [c.tokens for c in together] == [greedy(make_llama(), prompt).tokens for prompt in PROMPTS]


def test_a_list_of_stories(stories: Model, make_llama: MakeLlama) -> None:
    prompts = [
        "Once upon a time",
        "Lily and Ben",
        "One day, a big dog",
        "The sun",
        "Once upon a time, there was a frog",
    ]
    together = make_llama(stories).generate(prompts, temperature=0, max_tokens=40)
    assert [c.text for c in together] == [greedy(make_llama(stories), prompt, max_tokens=40).text for prompt in prompts]


def test_a_memory_too_small_for_all(make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four texts of 110 tokens want 440 cells of 256: some are put off and computed again."""
    made = []
    make_room = Scheduler.make_room

    def count(self: Scheduler) -> int | None:
        made.append(make_room(self))
        return made[-1]

    monkeypatch.setattr(Scheduler, "make_room", count)
    prompts = [[1, *range(300 + i, 350 + i)] for i in range(8)]
    together = make_llama(n_ctx=256, n_cells=256).generate(prompts, temperature=0, max_tokens=60)
    assert made
    assert None not in made
    assert [c.tokens for c in together] == [greedy(make_llama(), prompt, max_tokens=60).tokens for prompt in prompts]
    assert {c.finish_reason for c in together} == {"length"}
    assert {len(c.tokens) for c in together} == {60}


def test_interleaved_streams(llm: Llama) -> None:
    expected = [greedy(llm, prompt).tokens for prompt in PROMPTS]
    streams = [llm.stream(prompt, temperature=0, max_tokens=24) for prompt in PROMPTS]
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    open_streams = dict(enumerate(streams))
    while open_streams:
        for i, stream in list(open_streams.items()):
            chunk = next(stream, None)
            if chunk is None:
                del open_streams[i]
            else:
                tokens[i] += chunk.tokens
    assert [tuple(each) for each in tokens] == expected


def test_generate_between_the_chunks_of_a_stream(llm: Llama) -> None:
    expected = greedy(llm, "tana").tokens
    tokens: list[int] = []
    for chunk in llm.stream("tana", temperature=0, max_tokens=24):
        tokens += chunk.tokens
        assert greedy(llm, "ro", max_tokens=2).usage.completion_tokens == 2
    assert tuple(tokens) == expected


def test_many_threads(llm: Llama) -> None:
    expected = {prompt: greedy(llm, prompt).tokens for prompt in PROMPTS}
    results: list[bool] = []

    def work(number: int) -> None:
        for i in range(5):
            prompt = PROMPTS[(number + i) % len(PROMPTS)]
            if i % 2:
                tokens = greedy(llm, prompt).tokens
            else:
                tokens = tuple(t for c in llm.stream(prompt, temperature=0, max_tokens=24) for t in c.tokens)
            results.append(tokens == expected[prompt])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 30


# -- memory


def test_a_following_prompt_reuses_the_memory(llm: Llama, make_llama: MakeLlama) -> None:
    first = greedy(llm, "tana nese sona")
    prompt = [*llm.tokenize("tana nese sona").tolist(), *first.tokens, 300, 301]
    second = greedy(llm, prompt)
    # The last token chosen was never computed.
    assert second.usage.cached_tokens == len(prompt) - 3
    assert second.timings.prefill_tokens == 3
    assert second.tokens == greedy(make_llama(), prompt).tokens


def test_the_same_prompt_again(llm: Llama) -> None:
    first, second = greedy(llm, "tana nese sona"), greedy(llm, "tana nese sona")
    assert second.usage.cached_tokens == second.usage.prompt_tokens - 1
    assert second.tokens == first.tokens


def test_a_shorter_common_beginning(llm: Llama, make_llama: MakeLlama) -> None:
    greedy(llm, [1, 300, 301, 302, 303, 304])
    second = greedy(llm, [1, 300, 301, 400, 401])
    assert second.usage.cached_tokens == 3
    assert second.tokens == greedy(make_llama(), [1, 300, 301, 400, 401]).tokens


def test_nothing_in_common(llm: Llama) -> None:
    greedy(llm, [5, 6, 7])
    assert greedy(llm, [8, 6, 7]).usage.cached_tokens == 0


def test_prefixes_without_a_shared_memory(make_llama: MakeLlama) -> None:
    llm = make_llama(n_ctx=256, context_options=ContextOptions(kv_unified=False))
    assert llm.context.n_ctx_seq == 256
    first, second = greedy(llm, "tana nese sona"), greedy(llm, "tana nese sona lu")
    assert second.usage.cached_tokens >= first.usage.prompt_tokens - 1
    assert second.tokens == greedy(make_llama(), "tana nese sona lu").tokens
    assert [c.tokens for c in llm.generate(PROMPTS, temperature=0, max_tokens=24)] == [
        greedy(make_llama(), prompt).tokens for prompt in PROMPTS
    ]


# -- a full context


def test_overflow_stop(make_llama: MakeLlama) -> None:
    completion = make_llama(n_ctx=256).generate([5] * 250, temperature=0)
    assert completion.finish_reason is FinishReason.LENGTH
    assert len(completion.tokens) == 7, "the last token needs no cell"


def test_a_prompt_that_fills_the_context(make_llama: MakeLlama) -> None:
    completion = make_llama(n_ctx=256).generate([5] * 256, temperature=0)
    assert (len(completion.tokens), completion.finish_reason) == (1, "length")


def test_overflow_error(make_llama: MakeLlama) -> None:
    llm = make_llama(n_ctx=256, overflow="error")
    with pytest.raises(ContextOverflowError, match="do not fit a context of 256"):
        llm.generate([5] * 250, max_tokens=7)
    with pytest.raises(ContextOverflowError, match="filled the context of 256"):
        llm.generate([5] * 250, temperature=0)
    assert len(llm.generate([5] * 250, max_tokens=6).tokens) == 6
    assert llm.generate([5] * 250, overflow="stop").finish_reason == "length"


def test_overflow_shift(make_llama: MakeLlama) -> None:
    llm = make_llama(n_ctx=256)
    before = llm.generate([1, *[5] * 100], temperature=0)
    shifted = llm.generate([1, *[5] * 100], temperature=0, overflow="shift", max_tokens=600)
    assert len(shifted.tokens) == 600
    assert shifted.finish_reason is FinishReason.LENGTH
    assert shifted.tokens[: len(before.tokens)] == before.tokens
    again = llm.generate([1, *[5] * 100], temperature=0, overflow="shift", max_tokens=600)
    assert again.tokens == shifted.tokens


def test_many_shifts_at_once(make_llama: MakeLlama) -> None:
    llm = make_llama(n_ctx=256, context_options=ContextOptions(kv_unified=False), n_seq_max=2)
    assert llm.context.n_ctx_seq == 256
    completions = llm.generate([[5] * 200, [6] * 100], temperature=0, overflow="shift", max_tokens=400)
    assert [len(c.tokens) for c in completions] == [400, 400]


# -- stop strings


def test_a_stop_string(llm: Llama) -> None:
    full = greedy(llm, "tana", max_tokens=40)
    for start, length in ((4, 1), (9, 3), (15, 8)):
        stop = full.text[start : start + length]
        completion = greedy(llm, "tana", max_tokens=40, stop=stop)
        assert completion.text == full.text[: full.text.index(stop)]
        assert (completion.finish_reason, completion.stop_sequence) == ("stop", stop)
        assert completion.tokens == full.tokens[: len(completion.tokens)]
        chunks = list(llm.stream("tana", temperature=0, max_tokens=40, stop=[stop, "never"]))
        assert "".join(chunk.text for chunk in chunks) == completion.text


def test_a_stop_string_that_only_begins(llm: Llama) -> None:
    full = greedy(llm, "tana", max_tokens=40)
    completion = greedy(llm, "tana", max_tokens=40, stop=full.text[-3:] + "\n\n\n")
    assert completion.text == full.text
    assert (completion.finish_reason, completion.stop_sequence) == ("length", None)


# -- log-probabilities


def test_logprobs_are_the_models(llm: Llama, make_context: MakeContext) -> None:
    prompt = llm.tokenize("tana nese").tolist()
    completion = llm.generate(prompt, max_tokens=20, seed=3, temperature=1.5, logprobs=4)
    assert completion.logprobs is not None
    assert [entry.token for entry in completion.logprobs] == list(completion.tokens)
    context = make_context()
    batch = Batch(64)
    for pos, token in enumerate([*prompt, *completion.tokens]):
        batch.add(token, pos, output=True)
    context.decode(batch)
    for i, entry in enumerate(completion.logprobs):
        row = context.outputs.logits(len(prompt) - 1 + i).astype(np.float64)
        expected = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert entry.logprob == pytest.approx(expected[entry.token], abs=1e-3)
        assert entry.piece == llm.model.vocab.piece(entry.token)
        assert [value for _, value in entry.top] == pytest.approx(np.sort(expected)[::-1][:4], abs=1e-3)
        assert [value for _, value in entry.top] == pytest.approx([expected[token] for token, _ in entry.top], abs=1e-3)


def test_logprobs_without_alternatives(llm: Llama) -> None:
    completion = greedy(llm, "tana", logprobs=0)
    assert completion.logprobs is not None
    assert all(entry.top == () and entry.logprob < 0 for entry in completion.logprobs)
    best = greedy(llm, "tana", logprobs=1).logprobs
    assert best is not None
    assert [entry.top[0][0] for entry in best] == [entry.token for entry in best]


# -- constraints


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('root ::= "yes" | "no"', r"yes|no"),
        ('root ::= [a-f]{3,5} "-" [0-9]{2}', r"[a-f]{3,5}-[0-9]{2}"),
        ('root ::= item ("," item){2}\nitem ::= "ta" | "nese"', r"(ta|nese)(,(ta|nese)){2}"),
        ('root ::= "\\"" [^"]{4} "\\""', r'(?s)"[^"]{4}"'),
        ('root ::= "日本" "é"', "日本é"),
    ],
)
@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 3}, {"seed": 3, "repeat_penalty": 1.1}])
def test_a_grammar_derives_the_text(llm: Llama, grammar: str, pattern: str, options: dict[str, Any]) -> None:
    completion = llm.generate("tana", grammar=grammar, max_tokens=60, **options)
    assert re.fullmatch(pattern, completion.text)
    assert completion.finish_reason is FinishReason.STOP


def test_a_grammar_that_the_tokens_end_within(llm: Llama) -> None:
    completion = llm.generate("tana", grammar="root ::= [a-z]+", max_tokens=10, seed=1)
    assert re.fullmatch("[a-z]+", completion.text)
    assert completion.finish_reason is FinishReason.LENGTH


def test_a_grammars_root(llm: Llama) -> None:
    grammar = 'root ::= "a"\nother ::= "bbb"'
    assert llm.generate("tana", grammar=grammar, grammar_root="other", max_tokens=9).text == "bbb"


def test_each_request_has_its_own_grammar_state(llm: Llama) -> None:
    completions = llm.generate(PROMPTS, grammar='root ::= "ta" "nese" "mi"', max_tokens=20)
    assert [c.text for c in completions] == ["tanesemi"] * len(PROMPTS)


def test_penalties_reach_the_prompt_and_the_text(llm: Llama) -> None:
    prompt = greedy(llm, "tana", max_tokens=20).tokens
    assert len(set(prompt[1:] + greedy(llm, list(prompt)).tokens)) < 43, "without a penalty something repeats"
    completion = greedy(llm, list(prompt), presence_penalty=1000.0, max_tokens=40)
    assert len(set(completion.tokens)) == 40
    assert not set(completion.tokens) & set(prompt)


def test_penalties_look_no_further_than_asked(llm: Llama) -> None:
    free = greedy(llm, "tana").tokens
    assert greedy(llm, "tana", presence_penalty=1000.0, repeat_last_n=0).tokens == free
    windowed = greedy(llm, "tana", presence_penalty=1000.0, repeat_last_n=3, max_tokens=60).tokens
    for i, token in enumerate(windowed):
        assert token not in windowed[max(0, i - 3) : i]
    assert len(set(windowed)) < 60


def test_logit_bias(llm: Llama) -> None:
    best = greedy(llm, "tana").tokens
    assert greedy(llm, "tana", logit_bias={300: 1000.0}).tokens == (300,) * 24
    without = greedy(llm, "tana", logit_bias={best[0]: -float("inf")})
    assert best[0] not in without.tokens


def test_top_k_one_is_greedy(llm: Llama) -> None:
    best = greedy(llm, "tana").tokens
    assert llm.generate("tana", max_tokens=24, top_k=1, temperature=5.0).tokens == best
    assert llm.generate("tana", max_tokens=24, top_k=0, top_p=0.0, temperature=5.0).tokens == best
    assert llm.generate("tana", max_tokens=24, min_p=1.0, temperature=5.0).tokens == best


def test_both_ways_of_choosing_agree(llm: Llama) -> None:
    """A bias of nothing takes llama.cpp's chain instead of our selection: greedy must not notice."""
    for prompt in PROMPTS:
        assert greedy(llm, prompt, logit_bias={300: 0.0}).tokens == greedy(llm, prompt).tokens


# -- cancelling


def test_closing_a_stream_cancels(llm: Llama) -> None:
    stream: Any = llm.stream("tana", max_tokens=400)
    next(stream)
    stream.close()
    chunks: list[Chunk] = list(stream)
    assert [chunk.completion.finish_reason for chunk in chunks if chunk.completion] == ["cancelled"]
    stream.close()
    assert llm._runtime.engine.idle
    assert greedy(llm, "tana").usage.completion_tokens == 24


def test_a_dropped_stream_is_cancelled(llm: Llama) -> None:
    stream = llm.stream("tana", max_tokens=400)
    next(stream)
    del stream
    gc.collect()
    greedy(llm, "ro", max_tokens=1)
    assert llm._runtime.engine.idle


def test_closing_during_a_stream(model: Model) -> None:
    llm = Llama(model, n_ctx=256, n_threads=1)
    stream = llm.stream("tana")
    next(stream)
    llm.close()
    assert llm.closed
    assert "closed" in repr(llm)


def test_ctrl_c_in_a_long_prefill(tmp_path: Path) -> None:
    """The signal comes in the middle of a prefill of many seconds; the same object then computes the right text."""
    from tests.support.random_model import SHAPE_15M, write_random_model

    path = write_random_model(tmp_path / "15m.gguf", SHAPE_15M)
    out = run_child(
        """
        import os, signal, sys, threading, time
        from llama_cffi import Llama
        llm = Llama(sys.argv[1], n_ctx=32768, n_batch=8192, n_ubatch=2048, n_threads=1)
        before = llm.generate("tana nese", temperature=0, max_tokens=5).tokens
        sent = []
        def interrupt():
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.7, interrupt).start()
        try:
            llm.generate([1] + [300] * 32000, max_tokens=1)
            print("finished", 0)
        except KeyboardInterrupt:
            print("interrupted", time.perf_counter() - sent[0])
        print(llm.generate("tana nese", temperature=0, max_tokens=5).tokens == before)
        """,
        path,
    )
    how, seconds, same = out.split()
    assert (how, same) == ("interrupted", "True")
    # Without the compiled helpers a signal waits for the end of llama_decode.
    assert helpers.KIND == "python" or float(seconds) < 0.3


# -- construction


def test_tokenize_and_detokenize(llm: Llama) -> None:
    tokens = llm.tokenize("tana nese")
    assert tokens[0] == llm.model.vocab.bos
    assert llm.tokenize("tana nese", add_special=False).tolist() == tokens[1:].tolist()
    assert llm.detokenize(tokens, remove_special=True).strip() == "tana nese"
    assert llm.detokenize([3 + 0xFF]) == "\ufffd"


def test_what_is_loaded_here_is_closed_here(model_path: Path, model: Model) -> None:
    with Llama(model_path, n_ctx=256, n_threads=1) as own:
        assert not own.model.closed
    assert own.closed
    assert own.model.closed
    with Llama(model, n_ctx=256, n_threads=1) as shared:
        assert shared.model is model
    assert shared.closed
    assert not model.closed


def test_a_failed_context_closes_the_model(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Model] = []
    close = Model.close

    def record(self: Model) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Model, "close", record)
    with pytest.raises(ValueError, match="n_threads"):
        Llama(model_path, n_threads=0)
    assert [model.closed for model in closed] == [True]


def test_sizes(make_llama: MakeLlama, model: Model) -> None:
    llm = make_llama(n_ctx=512, n_cells=512, n_batch=100, n_ubatch=50, n_seq_max=3, n_threads=1, n_threads_batch=2)
    context = llm.context
    assert (context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max) == (512, 100, 50, 3)
    assert (context.n_threads, context.n_threads_batch) == (1, 2)
    assert Llama(model, n_threads=1).n_ctx == model.n_ctx_train == 2048


def test_arguments_that_contradict(model: Model, model_path: Path) -> None:
    with pytest.raises(ValueError, match="already loaded"):
        Llama(model, model_options=ModelOptions())
    with pytest.raises(ValueError, match="not both"):
        Llama(model_path, n_gpu_layers=1, model_options=ModelOptions())
    with pytest.raises(ValueError, match="overflow must be one of"):
        Llama(model, overflow="wrap")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def demo() -> Iterator[Llama]:
    with Llama.demo(n_ctx=512, n_threads=1) as llm:
        yield llm


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.8, "seed": 1}])
def test_the_demo_model_writes_sentences(demo: Llama, options: dict[str, Any]) -> None:
    text = demo.generate("Once upon a time", max_tokens=120, **options).text
    sentences = [sentence for sentence in re.split(r"[.!?]", text) if sentence.strip()]
    assert len(sentences) >= 3
    words = re.findall(r"[A-Za-z]+", text)
    assert len(words) > 40
    assert len(set(words)) > 20, "not the same words again and again"
