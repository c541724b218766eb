"""What one text may use, and the memory that all texts share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi import Context, ContextOptions, Llama, Model, PromptCache, estimate_memory
from llama_cffi.core import cell_size
from llama_cffi.core.cell_size import cell_bytes, shared_cells
from llama_cffi.errors import ContextError, ContextOverflowError, StateMismatchError
from llama_cffi.runtime import demo_path
from tests.support.other_memories import write_recurrent_model, write_windowed_model

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models"]


def sizes(llm: Llama) -> tuple[int, int]:
    return llm.n_ctx, llm.context.n_ctx


def test_the_default_is_room_for_four_texts(make_llama: MakeLlama) -> None:
    assert [sizes(make_llama(n_ctx=256, n_seq_max=n)) for n in (1, 2, 4, 9)] == [
        (256, 256),
        (256, 512),
        (256, 1024),
        (256, 1024),
    ]
    assert sizes(make_llama(n_ctx=0)) == (2048, 8192)
    assert sizes(make_llama(n_ctx=6000)) == (6000, 16_384), "what is long is often alone"
    assert sizes(make_llama(n_ctx=20_000)) == (20_000, 20_224), "llama.cpp rounds up to 256"
    assert sizes(make_llama(n_ctx=256, n_cells=768)) == (256, 768)
    assert sizes(make_llama(n_ctx=200, n_cells=256)) == (200, 256), "what one text may use is what was said"


def test_a_context_of_ones_own(make_llama: MakeLlama, model: Model) -> None:
    own = ContextOptions(n_ctx=512)
    with Llama(model, n_threads=1, context_options=own) as llm:
        assert sizes(llm) == (512, 512), "as llama.h says it: one text may use all"
    with Llama(model, n_threads=1, context_options=own, n_cells=1024) as llm:
        assert sizes(llm) == (1024, 1024)
    with Llama(model, n_threads=1, context_options=ContextOptions(n_ctx=1024, n_ctx_seq=256)) as llm:
        assert sizes(llm) == (256, 1024)
    parts = ContextOptions(kv_unified=False)
    assert sizes(make_llama(n_ctx=256, context_options=parts, n_seq_max=3)) == (256, 768)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ctx": 512, "n_cells": 511}, "n_cells must be at least n_ctx=512, got 511"),
        ({"n_cells": 0}, "n_cells must be a positive int, got 0"),
        ({"n_cells": 2**31}, "n_cells must be a positive int"),
        ({"n_cells": 1.5}, "n_cells must be an int"),
        (
            {"n_ctx": 256, "n_cells": 767, "n_seq_max": 3, "context_options": ContextOptions(kv_unified=False)},
            "n_cells must be at least n_ctx=256 for each of 3 texts, got 767",
        ),
        ({"context_options": ContextOptions(n_ctx_seq=0)}, "n_ctx_seq must be None or a positive int, got 0"),
    ],
)
def test_sizes_that_cannot_be(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Llama(model, **options)


def test_memory_that_is_scarce(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ContextOptions(n_seq_max=8)
    one = cell_bytes(model, options) * 256
    for free, texts in ((0, 1), (one * 3, 1), (one * 4, 2), (one * 11, 3), (one * 12, 4), (one * 1000, 4)):
        monkeypatch.setattr(cell_size, "_free", lambda *_, free=free: free)
        assert shared_cells(model, options, 256, 4) == 256 * texts


def test_there_is_no_room_for_what_was_guessed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Context.__init__

    def refuse(self: Context, model: Model, options: ContextOptions, **more: Any) -> None:
        if options.n_ctx > 256:
            raise ContextError("no room")
        made(self, model, options, **more)

    monkeypatch.setattr(Context, "__init__", refuse)
    with Llama(model, n_ctx=256, n_threads=1) as llm:
        assert sizes(llm) == (256, 256)
    with pytest.raises(ContextError, match="no room"):
        Llama(model, n_ctx=256, n_cells=512)


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("tiny", ("f16", "f16")),
        ("tiny", ("f32", "bf16")),
        ("windowed", ("f16", "f16")),
        ("demo", ("q8_0", "q4_0")),
        ("demo", ("q5_1", "iq4_nl")),
        ("demo", ("q4_1", "q5_0")),
    ],
)
def test_a_cell_takes_what_llama_cpp_says(kind: str, types: tuple[Any, Any], model_path: Path, tmp_path: Path) -> None:
    if kind == "windowed":
        path = write_windowed_model(tmp_path / "model.gguf")
    else:
        path = model_path if kind == "tiny" else Path(demo_path())
    options = ContextOptions(n_ctx=4096, type_k=types[0], type_v=types[1], flash_attn="enabled")
    with Model(path) as model:
        assert cell_bytes(model, options) * 4096 == pytest.approx(estimate_memory(path, None, options).kv, rel=0.02)


def test_a_recurrent_text_takes_no_cells(tmp_path: Path) -> None:
    with Llama(write_recurrent_model(tmp_path / "model.gguf"), n_ctx=256, n_threads=1) as llm:
        assert sizes(llm) == (256, 256)


# -- one text keeps to its limit, whatever room there is


def test_the_limit_is_that_of_each_text(make_llama: MakeLlama) -> None:
    llm = make_llama(n_ctx=100, n_cells=1024)
    assert len(llm.generate([5] * 90, temperature=0, max_tokens=None).tokens) == 11
    texts = llm.generate([[i] * 60 for i in range(5, 9)], temperature=0)
    assert {(len(one.tokens), one.finish_reason) for one in texts} == {(41, "length")}
    with pytest.raises(ContextOverflowError, match="the prompt has 101 tokens; the context has room for 100"):
        llm.generate([5] * 101)
    with pytest.raises(ContextOverflowError, match="filled the context of 100"):
        llm.generate([5] * 90, temperature=0, overflow="error")
    shifted = llm.generate([1, *[5] * 50], temperature=0, overflow="shift", max_tokens=200)
    assert len(shifted.tokens) == 200


def test_the_pool_does_not_change_a_text(make_llama: MakeLlama) -> None:
    prompts = [[1, *range(300 + i, 340 + i)] for i in range(6)]
    small, large = make_llama(n_ctx=128, n_cells=256), make_llama(n_ctx=128, n_cells=1024)
    for llm in (small, large):
        texts = llm.generate(prompts, temperature=0, max_tokens=60)
        alone = [make_llama(n_ctx=128).generate(prompt, temperature=0, max_tokens=60) for prompt in prompts]
        assert [one.tokens for one in texts] == [one.tokens for one in alone]


def test_states_and_forks_keep_the_limit(make_llama: MakeLlama, tmp_path: Path) -> None:
    prompt = [1, *range(300, 400)]
    source = make_llama(n_ctx=256)
    source.save_prompt(prompt, tmp_path / "prompt")
    source.save_state(tmp_path / "state")
    other = make_llama(n_ctx=128, n_cells=512)
    assert other.load_prompt(tmp_path / "prompt") == tuple(prompt)
    done = other.generate(prompt, max_tokens=2, temperature=0)
    assert done.usage.cached_tokens == len(prompt) - 1
    small = make_llama(n_ctx=64, n_cells=512)
    for load, name in ((small.load_prompt, "prompt"), (small.load_state, "state")):
        with pytest.raises(StateMismatchError, match="the context has room for 64"):
            load(tmp_path / name)
    with other.fork() as twin:
        assert sizes(twin) == (128, 512)
        again = twin.generate(prompt, max_tokens=2, temperature=0)
        assert (again.tokens, again.usage.cached_tokens) == (done.tokens, len(prompt) - 1)


def test_a_prompt_cache_serves_any_pool(make_llama: MakeLlama, tmp_path: Path) -> None:
    prompt = [1, *range(300, 400)]
    cache = PromptCache(tmp_path)
    make_llama(n_ctx=256, prompt_cache=cache).generate(prompt, max_tokens=2)
    done = make_llama(n_ctx=128, n_cells=256, prompt_cache=cache).generate(prompt, max_tokens=2)
    assert done.usage.cached_tokens == len(prompt) - 1


def test_contexts_beside_it_are_as_large_as_one_text(make_llama: MakeLlama, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = make_llama(n_ctx=256, n_seq_max=8)
    made: list[int] = []
    init = Context.__init__

    def note(self: Context, model: Model, options: ContextOptions, **more: Any) -> None:
        made.append(options.n_ctx)
        init(self, model, options, **more)

    monkeypatch.setattr(Context, "__init__", note)
    llm.embed("tana nese")
    llm.score("tana", ["nese", "sona"])
    assert made == [256, 256]
