"""llm.fork(): the same weights and memory, and a way of its own."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llama_cffi import ContextOptions, ControlVector, Llama, LoraAdapter, Model, PromptCache
from llama_cffi.core.context import Context
from llama_cffi.core.state import State
from llama_cffi.engine.draft_model import DraftModel, ModelDrafts
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.engine.scheduler import Scheduler
from llama_cffi.errors import BusyError, ClosedError, ContextError, StateError
from tests.support.lora import random_pairs, write_lora
from tests.support.other_memories import write_recurrent_model, write_windowed_model
from tests.support.random_encoder import write_random_bert

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models", "tests.support.steady_clock"]

PROMPT = list(range(300, 340))
OTHER = [1, *range(400, 420)]


def run(llm: Llama, prompt: list[int], n: int = 12, **options: Any) -> Any:
    return llm.generate(prompt, max_tokens=n, temperature=0, **options)


def open_llama(path: Path, **options: Any) -> Llama:
    """One that owns its model."""
    return Llama(path, n_ctx=512, n_seq_max=4, n_threads=1, **options)


# -- what it begins with


def test_it_goes_on_where_the_original_is(llm: Llama, make_llama: MakeLlama) -> None:
    expected = [run(llm, PROMPT), run(llm, OTHER)]
    with llm.fork() as fork:
        assert type(fork) is Llama
        assert fork.model is llm.model
        assert fork.context is not llm.context
        for prompt, before in zip((PROMPT, OTHER), expected, strict=True):
            again = run(fork, prompt)
            assert again.tokens == before.tokens
            assert again.usage.cached_tokens == len(prompt) - 1
        more = [*OTHER, *expected[1].tokens]
        follow, same = run(fork, more), run(llm, more)
        assert follow.usage.cached_tokens == same.usage.cached_tokens == len(more) - 1
        assert follow.tokens == same.tokens == run(make_llama(), more).tokens


def test_each_goes_its_own_way(llm: Llama) -> None:
    run(llm, PROMPT)
    with llm.fork() as fork:
        run(fork, OTHER)
        assert run(llm, OTHER).usage.cached_tokens == 0
        fork.context.memory.clear()
        assert run(llm, PROMPT).usage.cached_tokens == len(PROMPT) - 1


def test_of_a_fork(llm: Llama) -> None:
    expected = run(llm, PROMPT)
    with llm.fork() as first:
        run(first, OTHER)
        with first.fork() as second:
            first.close()
            assert run(second, PROMPT).tokens == expected.tokens
            assert run(second, OTHER).usage.cached_tokens == len(OTHER) - 1


def test_of_an_empty_one(llm: Llama) -> None:
    with llm.fork() as fork:
        assert fork.context.memory.seq_pos_max(0) is None
        assert run(fork, PROMPT).tokens == run(llm, PROMPT).tokens


def test_the_options_are_the_same(make_llama: MakeLlama) -> None:
    options = ContextOptions(n_ctx=512, n_seq_max=4, type_k="f32", type_v="f32", flash_attn="disabled", n_batch=64)
    llm = make_llama(context_options=options, overflow="error", n_threads=2)
    llm.context.set_threads(1)
    expected = run(llm, PROMPT)
    with llm.fork() as fork:
        assert fork._runtime.overflow == "error"
        assert fork.context.n_threads == 1
        assert replace(fork.context.options, n_threads=2, n_threads_batch=None) == llm.context.options
        assert run(fork, PROMPT).tokens == expected.tokens


def test_after_a_context_shift_only_what_is_exact_is_kept(make_llama: MakeLlama) -> None:
    llm = make_llama(n_ctx=256, overflow="shift")
    run(llm, PROMPT, 300)
    with llm.fork() as fork:
        assert fork._runtime.overflow == "shift"
        again = run(fork, PROMPT)
        assert again.usage.cached_tokens == len(PROMPT) - 1
        assert again.tokens == run(make_llama(), PROMPT).tokens


def test_what_was_used_last_is_given_up_last(make_llama: MakeLlama) -> None:
    llm = make_llama(n_seq_max=2)
    run(llm, PROMPT)
    run(llm, OTHER)
    run(llm, PROMPT)
    with llm.fork() as fork:
        run(fork, [5, 6, 7])
        assert run(fork, PROMPT).usage.cached_tokens == len(PROMPT) - 1


@pytest.mark.parametrize("kind", ["recurrent", "window", "window, all kept"])
def test_memory_that_cannot_be_cut(make_llama: MakeLlama, tmp_path: Path, kind: str) -> None:
    write = write_recurrent_model if kind == "recurrent" else write_windowed_model
    with Model(write(tmp_path / "model.gguf")) as model:
        options = ContextOptions(n_ctx=512, swa_full=kind != "window")
        llm = make_llama(model, context_options=options)
        more = [*PROMPT, *run(llm, PROMPT).tokens]
        with llm.fork() as fork:
            done = run(fork, more)
            assert done.usage.cached_tokens == len(more) - 1
            assert done.tokens == run(llm, more).tokens


# -- what goes with it


def test_adapters_and_what_they_computed(llm: Llama, model: Model, model_path: Path, tmp_path: Path) -> None:
    paths = [write_lora(tmp_path / f"{i}.gguf", random_pairs(model_path, seed=i)) for i in (1, 2)]
    first, second = (LoraAdapter(model, path) for path in paths)
    plain = run(llm, PROMPT)
    llm.set_adapters({first: 2.0})
    changed = run(llm, PROMPT)
    assert changed.tokens != plain.tokens
    with llm.fork() as fork:
        assert fork.adapters == {first: 2.0}
        for adapters, expected in ((None, changed), ({}, plain)):
            again = run(fork, PROMPT, adapters=adapters)
            assert again.tokens == expected.tokens
            assert again.usage.cached_tokens == len(PROMPT) - 1
        fork.set_adapters({second: 1.0})
        assert llm.adapters == {first: 2.0}
        assert run(llm, PROMPT).tokens == changed.tokens
    second.close()
    llm.set_adapters({})
    first.close()


def test_a_control_vector(llm: Llama) -> None:
    rows = 5 * np.random.default_rng(1).standard_normal((2, 64), dtype=np.float32)
    rows[0] = 0
    llm.set_control_vector(ControlVector(rows))
    expected = run(llm, PROMPT)
    with llm.fork() as fork:
        again = run(fork, PROMPT)
        assert again.usage.cached_tokens == len(PROMPT) - 1
        assert again.tokens == expected.tokens
        fork.set_control_vector(None)
        assert run(fork, PROMPT).tokens != expected.tokens
        assert run(llm, PROMPT).tokens == expected.tokens


def test_the_prompt_cache(make_llama: MakeLlama, tmp_path: Path) -> None:
    llm = make_llama(prompt_cache=PromptCache(tmp_path / "cache", min_tokens=8))
    with llm.fork() as fork:
        run(fork, PROMPT)
    assert run(llm, PROMPT).usage.cached_tokens == len(PROMPT) - 1


@pytest.mark.usefixtures("steady_clock")
def test_drafts_of_a_lookup(make_llama: MakeLlama) -> None:
    llm = make_llama(draft=PromptLookup(min_ngram=1))
    with llm.fork() as fork:
        assert run(fork, PROMPT * 2).speculation == run(llm, PROMPT * 2).speculation


@pytest.mark.usefixtures("steady_clock")
@pytest.mark.parametrize("original_first", [True, False])
def test_drafts_of_a_model(model: Model, model_path: Path, make_llama: MakeLlama, original_first: bool) -> None:
    """The draft model is the Llama's own: it goes with the last."""
    llm = make_llama(draft=DraftModel(model=model_path, p_min=0.0))
    expected = run(llm, PROMPT)
    fork = llm.fork()
    one, other = (part._runtime.draft.source for part in (llm, fork))  # type: ignore[union-attr]
    assert isinstance(one, ModelDrafts)
    assert isinstance(other, ModelDrafts)
    assert one.context.model is other.context.model
    assert other.context._threads._pools == fork.context._threads._pools
    first, last = (llm, fork) if original_first else (fork, llm)
    first.close()
    done = run(last, PROMPT)
    assert done.tokens == expected.tokens
    assert done.speculation is not None
    assert done.speculation.accepted_tokens > 0
    drafting = one.context.model
    assert not drafting.closed
    last.close()
    assert drafting.closed
    assert not model.closed


def test_an_encoder_has_nothing_to_copy(llama_cpp_models: Path, tmp_path: Path) -> None:
    path = write_random_bert(tmp_path / "bert.gguf", llama_cpp_models / "ggml-vocab-bert-bge.gguf")
    llm = Llama(path, n_ctx=64, n_threads=1)
    expected = llm.embed("hello there")
    fork = llm.fork()
    llm.close()
    np.testing.assert_array_equal(fork.embed("hello there"), expected)
    fork.close()
    assert fork.model.closed


def test_scores_and_embeddings_have_contexts_of_their_own(llm: Llama) -> None:
    expected = llm.score("tana", [" nese"])[0].logprob, llm.embed("tana nese")
    with llm.fork() as fork:
        llm.close()
        assert fork.score("tana", [" nese"])[0].logprob == expected[0]
        np.testing.assert_array_equal(fork.embed("tana nese"), expected[1])
    with pytest.raises(ClosedError):
        fork.score("tana", [" nese"])


def test_a_subclass(model: Model) -> None:
    class Named(Llama):
        def __init__(self, name: str) -> None:
            super().__init__(model, n_ctx=128, n_threads=1)
            self.name = name

    with Named("one") as llm, llm.fork() as fork:
        assert isinstance(fork, Named)
        assert fork.name == "one"
        fork.name = "two"
        assert llm.name == "one"


# -- at the same time


def test_both_compute_at_the_same_time(llm: Llama, make_llama: MakeLlama) -> None:
    run(llm, PROMPT)
    prompts = [[*PROMPT, token] for token in range(350, 356)]
    expected = [run(make_llama(), prompt, 30).tokens for prompt in prompts]
    with llm.fork() as fork:
        found: dict[str, list[Any]] = {"llm": [], "fork": []}
        together = threading.Barrier(2, timeout=30)

        def work(name: str, one: Llama) -> None:
            together.wait()
            found[name] += [run(one, prompt, 30) for prompt in prompts]

        threads = [threading.Thread(target=work, args=pair) for pair in (("llm", llm), ("fork", fork))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for done in found.values():
        assert [one.tokens for one in done] == expected
        assert all(one.usage.cached_tokens == len(PROMPT) for one in done)


def test_it_needs_an_idle_original(llm: Llama) -> None:
    stream = llm.stream(PROMPT, max_tokens=50, temperature=0)
    next(stream)
    with pytest.raises(BusyError, match="requests are running"):
        llm.fork()
    del stream
    with llm.fork() as fork:
        # What the other one computes is none of its business.
        stream = llm.stream(PROMPT, max_tokens=50, temperature=0)
        next(stream)
        fork.fork().close()
        assert len(list(stream)) > 1


# -- lifetime


@pytest.mark.parametrize("original_first", [True, False])
def test_the_last_one_closes_the_model(model_path: Path, original_first: bool) -> None:
    llm = open_llama(model_path)
    expected = run(llm, PROMPT)
    fork = llm.fork()
    first, last = (llm, fork) if original_first else (fork, llm)
    first.close()
    first.close()
    assert (first.closed, last.closed, llm.model.closed) == (True, False, False)
    for use in (lambda: run(first, PROMPT), first.fork):
        with pytest.raises(ClosedError):
            use()
    again = run(last, PROMPT)
    assert again.tokens == expected.tokens
    assert again.usage.cached_tokens == len(PROMPT) - 1
    last.close()
    assert llm.model.closed


@pytest.mark.parametrize("original_first", [True, False])
def test_one_that_is_dropped_does_not_count(model_path: Path, original_first: bool) -> None:
    llm = open_llama(model_path)
    run(llm, PROMPT)
    pair = [llm, llm.fork()]
    model, context = llm.model, weakref.ref(pair[not original_first].context)
    del llm, pair[not original_first]
    gc.collect()
    assert context() is None
    assert run(pair[0], PROMPT).usage.cached_tokens == len(PROMPT) - 1
    pair[0].close()
    assert model.closed


def test_both_dropped(model_path: Path) -> None:
    llm = open_llama(model_path)
    fork = llm.fork()
    handle = weakref.ref(llm.model.handle)
    llm.other, fork.other = fork, llm  # type: ignore[attr-defined]
    del llm, fork
    gc.collect()
    assert handle() is None


def test_a_model_of_the_callers_stays_open(model: Model) -> None:
    with Llama(model, n_ctx=128, n_threads=1) as llm, llm.fork():
        pass
    assert not model.closed


def test_closing_the_model_closes_both(model_path: Path) -> None:
    llm = open_llama(model_path)
    fork = llm.fork()
    llm.model.close()
    assert llm.closed
    assert fork.closed
    fork.close()


@pytest.mark.parametrize(
    ("owner", "method", "error"),
    [(Context, "__init__", ContextError), (State, "set_data", StateError), (Scheduler, "inherit", KeyboardInterrupt)],
)
def test_a_fork_that_fails_changes_nothing(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, error: type[BaseException]
) -> None:
    llm = open_llama(model_path, draft=model_path)
    expected = run(llm, PROMPT)

    def fail(*args: object, **options: object) -> None:
        raise error("no room")

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, fail)
        with pytest.raises(error, match="no room"):
            llm.fork()
    again = run(llm, PROMPT)
    assert again.tokens == expected.tokens
    assert again.usage.cached_tokens == len(PROMPT) - 1
    gc.collect()
    models = llm.model, llm._runtime.draft.source.context.model  # type: ignore[union-attr]
    llm.close()
    assert [model.closed for model in models] == [True, True]
