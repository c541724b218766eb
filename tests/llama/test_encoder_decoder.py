"""Encoder-decoder models generate: the encoder reads the prompt, and the decoder writes what comes of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import AsyncLlama, Batch, Context, ContextOptions, Llama, Model, PromptLookup
from llama_cffi.errors import ContextOverflowError, UnsupportedError
from tests.support.served import events, served

pytest_plugins = ["tests.support.models", "tests.support.encoders"]

PROMPTS = ["tana nelu soki", "ra", "so be it " * 9, "lo mi na ke"]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def llm(t5_path: Path) -> Iterator[Llama]:
    with Llama(t5_path, n_threads=1) as llm:
        yield llm


def expected(model: Model, text: str, n: int = 12) -> tuple[list[int], list[float]]:
    """The greedy text and its log-probabilities, by llama.cpp's own calls."""
    tokens, logprobs = [model.decoder_start_token or 0], []
    with Context(model, ContextOptions(n_ctx=64, n_threads=1)) as context:
        prompt = model.vocab.tokenize(text)
        batch = Batch(len(prompt))
        batch.extend(prompt, 0)
        context.encode(batch)
        for pos in range(n):
            batch.clear()
            batch.add(tokens[-1], pos, output=True)
            context.decode(batch)
            row = context.outputs.logits().astype(np.float64)
            tokens.append(int(row.argmax()))
            logprobs.append(float(row.max() - np.logaddexp.reduce(row)))
    return tokens[1:], logprobs


def test_the_text_is_that_of_encode_and_decode(llm: Llama) -> None:
    texts = []
    for prompt in PROMPTS:
        tokens, logprobs = expected(llm.model, prompt)
        done = llm.generate(prompt, **GREEDY, logprobs=1)
        assert list(done.tokens) == tokens
        assert [one.logprob for one in done.logprobs or ()] == pytest.approx(logprobs, abs=1e-3)
        assert done.usage.prompt_tokens == len(llm.tokenize(prompt))
        assert (done.usage.cached_tokens, done.usage.completion_tokens) == (0, 12)
        assert done.timings.prefill_tokens == done.usage.prompt_tokens
        texts.append(done.text)
    assert len(set(texts)) == len(texts), "the text depends on what the encoder has read"


def test_several_at_once_take_turns(llm: Llama) -> None:
    alone = [llm.generate(one, **GREEDY).tokens for one in PROMPTS]
    assert [one.tokens for one in llm.generate(PROMPTS, **GREEDY)] == alone
    assert {one.tokens for one in llm.generate(PROMPTS[0], n=3, **GREEDY)} == {alone[0]}
    streams = [llm.stream(one, **GREEDY) for one in PROMPTS]
    found: list[list[int]] = [[] for _ in streams]
    running = list(range(len(streams)))
    while running:
        for i in tuple(running):
            chunk = next(streams[i], None)
            if chunk is None:
                running.remove(i)
            else:
                found[i].extend(chunk.tokens)
    assert [tuple(one) for one in found] == alone
    assert len(llm.slots()) == 1


def test_completions_of_one_prompt_read_it_once(llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    encode = Context.encode

    def counted(self: Context, batch: Batch, **options: Any) -> None:
        lengths.append(batch.n_tokens)
        encode(self, batch, **options)

    monkeypatch.setattr(Context, "encode", counted)
    llm.generate(PROMPTS[1], **GREEDY)
    llm.generate(PROMPTS[0], n=3, **GREEDY)
    llm.generate(PROMPTS[1], **GREEDY)
    assert lengths == [len(llm.tokenize(PROMPTS[i])) for i in (1, 0, 1)]


def test_a_text_that_is_given_up_leaves_nothing(llm: Llama) -> None:
    plain = llm.generate(PROMPTS[0], **GREEDY)
    with closing(llm.stream(PROMPTS[1], **GREEDY)) as stream:
        next(stream)
        llm.embed("tana")
    assert llm.generate(PROMPTS[0], **GREEDY).tokens == plain.tokens
    assert llm.slots()[0].n_held == 0, "what the decoder wrote depends on another prompt"


def test_stops_schemas_drafts_and_limits(llm: Llama) -> None:
    plain = llm.generate(PROMPTS[0], **GREEDY)
    stopped = llm.generate(PROMPTS[0], **GREEDY, stop=[int(plain.tokens[4])])
    assert stopped.tokens == plain.tokens[: plain.tokens.index(plain.tokens[4])]
    assert llm.generate(PROMPTS[0], temperature=0, schema=["soki", "nelu"]).parsed in ("soki", "nelu")
    assert isinstance(llm.generate(PROMPTS[1], temperature=0, schema=bool).parsed, bool)
    drafted = llm.generate(PROMPTS[0], **{**GREEDY, "max_tokens": 60}, speculative=PromptLookup(min_ngram=1))
    longer = llm.generate(PROMPTS[0], **{**GREEDY, "max_tokens": 60})
    assert drafted.tokens == longer.tokens
    assert llm.generate(PROMPTS[0], max_tokens=0).tokens == ()
    full = llm.generate(PROMPTS[0], temperature=0, max_tokens=None)
    assert full.context_full
    assert len(full.tokens) == llm.n_ctx
    shifted = llm.generate(PROMPTS[0], temperature=0, max_tokens=llm.n_ctx + 20, overflow="shift")
    assert len(shifted.tokens) == llm.n_ctx + 20
    penalized = llm.generate([5, 6, 7], **GREEDY, frequency_penalty=0.0, logit_bias={5: 3.0}).tokens
    assert penalized == llm.generate([5, 6, 7], **GREEDY, logit_bias={5: 3.0}).tokens
    # Penalties are for what the decoder wrote, and the prompt is none of that.
    first = llm.generate(PROMPTS[0], temperature=0, max_tokens=1).tokens[0]
    again = [first] * 3
    chosen = llm.generate(again, temperature=0, max_tokens=1).tokens
    assert llm.generate(again, temperature=0, max_tokens=1, presence_penalty=50.0).tokens == chosen


def test_what_an_encoder_cannot(llm: Llama, t5_path: Path, tmp_path: Path, model_path: Path) -> None:
    with pytest.raises(ContextOverflowError, match="600 tokens; the encoder reads at most n_ubatch=128"):
        llm.generate([5] * 600)
    with pytest.raises(UnsupportedError, match="prompt_logprobs"):
        llm.generate("tana", prompt_logprobs=1)
    with pytest.raises(UnsupportedError, match="heal"):
        llm.generate("tana nel", heal=True)
    for call in (llm.state_bytes, lambda: llm.save_prompt("tana", tmp_path / "prompt"), lambda: llm.save_slot(0, "x")):
        with pytest.raises(UnsupportedError, match="has an encoder"):
            call()
    with pytest.raises(UnsupportedError, match="this model has an encoder"):
        llm.score("tana", [" nelu"])
    with pytest.raises(UnsupportedError, match="it has an encoder"):
        Llama(model_path, draft=t5_path, n_threads=1)


def test_a_fork_and_a_longer_prompt(llm: Llama, t5_path: Path) -> None:
    alone = llm.generate(PROMPTS[0], **GREEDY).tokens
    with llm.fork() as fork:
        assert fork.generate(PROMPTS[0], **GREEDY).tokens == alone
    with Llama(t5_path, n_threads=1, n_ctx=300) as longer:
        assert longer.context.n_ubatch >= 290
        assert len(longer.generate([5] * 290, **GREEDY).tokens) == 12


def test_asynchronous_callers(llm: Llama) -> None:
    alone = [llm.generate(one, **GREEDY).text for one in PROMPTS]

    async def ask() -> list[str]:
        async with AsyncLlama(llm) as one:
            done = await asyncio.gather(*(one.generate(prompt, **GREEDY) for prompt in PROMPTS))
            chunks = [chunk.text async for chunk in one.stream(PROMPTS[0], **GREEDY)]
            return [*(each.text for each in done), "".join(chunks)]

    assert asyncio.run(ask()) == [*alone, alone[0]]


def test_a_server(t5_path: Path) -> None:
    with Llama(t5_path, n_threads=1) as llm, served(llm) as server:
        alone = llm.generate(PROMPTS[0], **GREEDY)
        n_prompt = len(llm.tokenize(PROMPTS[0]))
        body = {"prompt": PROMPTS[0], "temperature": 0, "max_tokens": 12}
        found = server.ask("/v1/completions", body).json()
        assert found["choices"][0]["text"] == alone.text
        assert found["usage"]["prompt_tokens"] == n_prompt
        streamed = events(server.ask("/completion", {**body, "n_predict": 12, "stream": True}))
        assert "".join(one["content"] for one in streamed) == alone.text
        assert streamed[-1]["tokens_evaluated"] == n_prompt
        assert len(server.ask("/slots").json()) == 1


def test_the_command(t5_path: Path, llm: Llama, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    command: Sequence[str] = [
        "generate",
        "-m",
        str(t5_path),
        PROMPTS[0],
        "--temp",
        "0",
        "-n",
        "12",
        "--json",
        "-t",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "llama_cffi", *command], capture_output=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert json.loads(done.stdout)["tokens"] == list(llm.generate(PROMPTS[0], **GREEDY).tokens), done.stderr


def test_a_process_of_its_own(t5_path: Path, llm: Llama) -> None:
    alone = [llm.generate(one, **GREEDY).tokens for one in PROMPTS]
    with Llama(t5_path, n_threads=1, isolate=True) as remote:
        assert [one.tokens for one in remote.generate(PROMPTS, **GREEDY)] == alone
        with pytest.raises(ContextOverflowError, match="the encoder reads"):
            remote.generate([5] * 600)


def test_a_divided_memory_is_for_one_sequence(t5_path: Path, llm: Llama) -> None:
    options = ContextOptions(kv_unified=False)
    with Llama(t5_path, n_threads=1, n_seq_max=1, context_options=options) as other:
        assert other.generate(PROMPTS[1], **GREEDY).tokens == llm.generate(PROMPTS[1], **GREEDY).tokens
    with pytest.raises(UnsupportedError, match="kv_unified=False needs n_seq_max=1"):
        Llama(t5_path, n_threads=1, n_seq_max=2, context_options=options)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "rank"])
def test_the_pooling_of_the_context_changes_no_text(t5_path: Path, llm: Llama, pooling: Any) -> None:
    options = ContextOptions(pooling=pooling)
    with Llama(t5_path, n_threads=1, context_options=options) as other, other.fork() as twin:
        for prompt in PROMPTS[:2]:
            expected = llm.generate(prompt, **GREEDY).tokens
            assert other.generate(prompt, **GREEDY).tokens == twin.generate(prompt, **GREEDY).tokens == expected
        np.testing.assert_allclose(other.embed("tana").array, llm.embed("tana").array, atol=1e-5)
