"""Memories of every kind that models have: texts that branch, go back, move and are drafted are those of fresh ones."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Batch, Context, Llama, Model, PromptLookup
from llama_cffi.engine.draft_model import DraftModel
from tests.support.memory_models import ARCHITECTURES, write_memory_model
from tests.support.memory_walk import EXACT, MemoryWalk, Wrong

PROMPT = [1, *range(300, 330), *range(300, 310)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Model]]:
    """Opens a model of an architecture at its first use."""
    folder = tmp_path_factory.mktemp("memories")

    class Opened(dict[str, Model]):
        def __missing__(self, name: str) -> Model:
            path, seed = folder / f"{name}.gguf", 1 if name.endswith("-draft") else 0
            self[name] = model = Model(write_memory_model(path, name.removesuffix("-draft"), seed=seed))
            return model

    opened = Opened()
    yield opened
    for model in opened.values():
        model.close()


def walk(models: dict[str, Model], name: str, seed: int, n: int, folder: Path, **options: Any) -> MemoryWalk:
    walk = MemoryWalk(models[name], seed, folder, **options)
    try:
        walk.run(n)
    except BaseException:
        print(f"{name}, seed {seed}, after {sum(walk.seen[one] for one in walk._steps)} steps: {dict(walk.seen)}")
        raise
    finally:
        walk.close()
    return walk


@pytest.mark.parametrize("name", ["mamba", "rwkv7", "jamba", "qwen35", "gemma3"])
def test_a_random_walk(models: dict[str, Model], name: str, tmp_path: Path) -> None:
    options = {"context_options": replace(EXACT, swa_full=False)}
    found = walk(models, name, 1, 8, tmp_path, draft=models["mamba"], **options)
    assert found.seen["texts"] > 5


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_long_random_walks(models: dict[str, Model], name: str, tmp_path: Path) -> None:
    """``LLAMA_CFFI_WALK_SEED`` is the first seed, ``LLAMA_CFFI_WALK_SECONDS`` what each architecture takes."""
    seed = int(os.environ.get("LLAMA_CFFI_WALK_SEED", "1000"))
    end = time.monotonic() + float(os.environ.get("LLAMA_CFFI_WALK_SECONDS", "20"))
    totals: dict[str, float] = {}
    while time.monotonic() < end:
        draft = models[("mamba", "lfm2", "gemma3", name)[seed % 4]]
        options: dict[str, Any] = {}
        if seed // 4 % 4:
            options = ({"n_cells": 400, "n_seq_max": 2}, {"host_bytes": 0}, {"n_ubatch": 16})[seed // 4 % 4 - 1]
        options["context_options"] = replace(EXACT, swa_full=seed % 3 == 0)
        found = walk(models, name, seed, 60, tmp_path, draft=draft, **options)
        for key, n in found.seen.items():
            totals[key] = totals.get(key, 0) + n
        totals["moved"] = max(totals.get("moved", 0), found.moved)
        seed += 1
    print(f"{name}: seeds up to {seed - 1}, {totals}")
    assert totals["texts"] > 0


def test_no_row_of_a_batch_misses_a_part_of_its_window(models: dict[str, Model]) -> None:
    """Sequences grow together and are cut: in batches as large as the context takes, and in pieces of one micro-batch.

    llama.cpp forgets what later micro-batches overwrite before it computes the first one.
    """
    rng, n_ubatch, n_seq = random.Random(0), 16, 8
    options = replace(EXACT, n_ctx=512, n_batch=64, n_ubatch=n_ubatch, n_seq_max=n_seq, n_threads=1)
    with Context(models["gemma3"], options) as context, Context(models["gemma3"], options) as pieces:
        held = [0] * n_seq
        for _ in range(80):
            for seq_id in range(n_seq):
                if held[seq_id] > 40 or rng.random() < 0.2:
                    held[seq_id] = 0
                    context.memory.seq_rm(seq_id)
                    pieces.memory.seq_rm(seq_id)
            rows: list[tuple[int, int, int]] = []
            for seq_id in rng.sample(range(n_seq), 4):
                for _ in range(min(rng.choice((1, 5, 8, 20)), context.n_batch - len(rows))):
                    rows.append((rng.randrange(3, 400), held[seq_id], seq_id))
                    held[seq_id] += 1
            context.decode(batch_of(rows))
            for start in range(0, len(rows), n_ubatch):
                pieces.decode(batch := batch_of(rows[start : start + n_ubatch]))
                for i in range(batch.n_tokens):
                    found, expected = context.outputs.logits(start + i), pieces.outputs.logits(i)
                    assert np.abs(found - expected).max() < 5e-3


def batch_of(rows: list[tuple[int, int, int]]) -> Batch:
    batch = Batch(len(rows))
    for token, pos, seq_id in rows:
        batch.add(token, pos, seq_id, output=True)
    return batch


@pytest.mark.parametrize("name", ["mamba2", "rwkv6", "granitehybrid", "lfm2"])
def test_drafts_by_lookup_and_by_a_model(models: dict[str, Model], name: str) -> None:
    options: dict[str, Any] = {"n_ctx": 256, "n_seq_max": 2, "n_threads": 1, "reproducible": True}
    with Llama(models[name], **options) as llm:
        plain = llm.generate(PROMPT, max_tokens=20, temperature=0)
        looked_up = llm.generate(PROMPT, max_tokens=20, temperature=0, speculative=PromptLookup(min_ngram=1))
        wrong = llm.generate(PROMPT, max_tokens=20, temperature=0, speculative=Wrong())
        assert llm.context.n_rs_seq == 0
    with Llama(models[name], draft=DraftModel(model=models[name], p_min=0.0, n_draft=5), **options) as llm:
        same = llm.generate(PROMPT, max_tokens=20, temperature=0)
        assert llm.context.n_rs_seq == (5 if name == "lfm2" else 0)
    with Llama(models[name], draft=DraftModel(model=models[f"{name}-draft"], p_min=0.0, n_draft=5), **options) as llm:
        other = llm.generate(PROMPT, max_tokens=20, temperature=0)
    assert plain.tokens == looked_up.tokens == wrong.tokens == same.tokens == other.tokens
    assert same.speculation is not None
    assert other.speculation is not None
    assert wrong.speculation is not None
    assert same.speculation.acceptance > 0.9, "a model drafts for itself"
    assert 0 < other.speculation.drafted_tokens > other.speculation.accepted_tokens
    assert wrong.speculation.drafted_tokens > wrong.speculation.accepted_tokens


def test_more_states_than_memory_are_not_kept(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi.engine import context_choice

    monkeypatch.setattr(context_choice, "_MOST_STATES", 1000)
    with Llama(models["lfm2"], draft="lookup", n_ctx=64, n_threads=1) as llm:
        assert llm.context.n_rs_seq == 0


@pytest.mark.parametrize("name", ["jamba", "gemma3"])
def test_one_copy_of_the_attention_serves_all_checkpoints(models: dict[str, Model], name: str) -> None:
    """Messages end after 80 and 160 cells, and the prompt after 400."""
    prompt = [3 + 7 * i % 400 for i in range(400)]
    prompt[79] = prompt[159] = models[name].vocab.eos or 2
    options: dict[str, Any] = {"n_ctx": 450, "n_ubatch": 64, "n_seq_max": 1, "n_threads": 1}
    options["context_options"] = replace(EXACT, swa_full=False)
    with Llama(models[name], **options) as llm, Llama(models[name], **options, host_bytes=0) as fresh:
        llm.generate(prompt, max_tokens=3, temperature=0)
        host = llm._runtime.engine._loop.outside.host
        assert sorted((len(one.prompt), one.data is None) for one in host._kept) == [
            (80, True),
            (160, True),
            (399, False),
        ]
        whole = max(one.nbytes for one in host._kept)
        assert host.nbytes < 1.7 * whole
        for n in (80, 160, 80, 399):
            more = [*prompt[:n], *range(300, 310)]
            done = llm.generate(more, max_tokens=6, temperature=0, logprobs=0)
            assert done.usage.host_tokens == n
            fresh.clear_slot(0)
            expected = fresh.generate(more, max_tokens=6, temperature=0, logprobs=0)
            assert expected.usage.cached_tokens == 0
            assert done.tokens == expected.tokens
            for one, other in zip(done.logprobs or (), expected.logprobs or (), strict=True):
                assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_prompts_that_begin_alike_wait_for_a_checkpoint(models: dict[str, Model]) -> None:
    prompt = [3 + 7 * i % 400 for i in range(200)]
    with Llama(models["mamba2"], n_ctx=256, n_seq_max=4, n_threads=1) as llm:
        one, *others = llm.generate(prompt, n=4, max_tokens=4, temperature=0)
        assert one.usage.cached_tokens == 0
        assert [other.usage.host_tokens for other in others] == [199] * 3
        assert {other.tokens for other in others} == {one.tokens}


def test_sessions_branch_and_go_back(models: dict[str, Model]) -> None:
    common: dict[str, Any] = {"n_ctx": 1024, "n_threads": 1, "context_options": EXACT}
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}a:"
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "chat_template": template}
    with (
        Llama(models["qwen35"], draft="lookup", n_seq_max=2, reproducible=True, **common) as llm,
        Llama(models["qwen35"], n_seq_max=1, host_bytes=0, **common) as fresh,
    ):
        assert llm.context.n_rs_seq == 8
        session = llm.session(**options)
        session.chat("tana nelu soki " * 8)
        session.chat("ra mi lo " * 8)
        branch = session.fork()
        session.rewind()
        for conversation, text in ((branch, "so be it"), (session, "lo mi"), (branch, "tana"), (session, "ra")):
            asked = [*conversation.messages, {"role": "user", "content": text}]
            reply = conversation.chat(text)
            fresh.clear_slot(0)
            assert reply.text == fresh.chat(asked, **options).text
        assert branch.chat("so", schema=["nelu", "soki"]).parsed in ("nelu", "soki")
