"""Prompts kept in a folder: found by their beginning, bounded, shared, and never in the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi import Llama, Model, PromptCache
from llama_cffi.core.prompt import Prompt
from llama_cffi.core.saved_state import read_header
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.prompt_cache import SUFFIX
from llama_cffi.engine.request import Request
from llama_cffi.reply.completion import Completion
from tests.support.children import run_child
from tests.support.other_memories import write_recurrent_model

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models"]

PROMPT = [1, *range(300, 340)]
OTHER = [1, *range(400, 440)]

MakeCached = Callable[..., Llama]


def run(llm: Llama, prompt: list[int], n: int = 6) -> Completion:
    return llm.generate(prompt, max_tokens=n, temperature=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cached(make_llama: MakeLlama, folder: Path) -> MakeCached:
    """Makes Llamas that share the folder, each with a cache of its own."""

    def make(base: Model | None = None, *, min_tokens: int = 8, max_bytes: int = 2**30, **options: Any) -> Llama:
        cache = PromptCache(folder, min_tokens=min_tokens, max_bytes=max_bytes)
        return make_llama(*([base] if base else []), prompt_cache=cache, **options)

    return make


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_found_by_another(cached: MakeCached, make_llama: MakeLlama, folder: Path) -> None:
    first = run(cached(), PROMPT)
    assert first.usage.cached_tokens == 0
    assert len(names(folder)) == 1
    other = cached()
    again = run(other, PROMPT)
    assert (again.usage.cached_tokens, again.tokens) == (len(PROMPT) - 1, first.tokens)
    # The beginning is enough, and the end of the reply is kept too.
    branch = [*PROMPT[:30], 500, 501]
    done = run(cached(), branch)
    assert (done.usage.cached_tokens, done.tokens) == (30, run(make_llama(), branch).tokens)
    follow = [*PROMPT, *first.tokens, 450]
    done = run(cached(), follow)
    assert done.usage.cached_tokens == len(PROMPT) + len(first.tokens) - 1
    assert done.tokens == run(make_llama(), follow).tokens


def test_in_another_process(cached: MakeCached, model_path: Path, folder: Path) -> None:
    first = run(cached(), PROMPT)
    program = """
        import sys
        from llama_cffi import Llama, PromptCache
        cache = PromptCache(sys.argv[2], min_tokens=8)
        with Llama(sys.argv[1], n_ctx=512, n_seq_max=4, n_threads=1, prompt_cache=cache) as llm:
            done = llm.generate([1, *range(300, 340)], max_tokens=6, temperature=0)
            print(done.usage.cached_tokens, *done.tokens)
    """
    said = [int(word) for word in run_child(program, model_path, folder).split()]
    assert said == [len(PROMPT) - 1, *first.tokens]


def test_memory_comes_first(cached: MakeCached, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi import SavedState

    llm = cached()
    run(llm, PROMPT)

    def read(*arguments: object) -> SavedState:
        raise AssertionError("memory had as much")

    monkeypatch.setattr(SavedState, "read", read)
    assert run(llm, PROMPT).usage.cached_tokens == len(PROMPT) - 1
    assert len(names(folder)) == 1


def test_what_is_covered_is_not_kept_twice(cached: MakeCached, folder: Path) -> None:
    run(cached(), PROMPT, 12)
    before = names(folder)
    run(cached(), PROMPT, 6)
    run(cached(), PROMPT[:20], 1)
    assert names(folder) == before
    # A longer text with the same beginning takes the place of the shorter one.
    longer = run(cached(), [*PROMPT, 350, 351])
    assert len(longer.tokens) == 6
    assert len(names(folder)) == 2
    llm = cached()
    run(llm, [*PROMPT, *run(llm, PROMPT, 12).tokens, 370])
    assert len(names(folder)) == 2
    assert before.isdisjoint(names(folder))


def test_short_ones_are_not_worth_it(cached: MakeCached, folder: Path) -> None:
    run(cached(min_tokens=100), PROMPT)
    assert names(folder) == set()
    run(cached(), PROMPT)
    assert run(cached(min_tokens=len(PROMPT)), PROMPT).usage.cached_tokens == 0


def test_the_oldest_go_first(cached: MakeCached, folder: Path) -> None:
    run(cached(), PROMPT)
    (first,) = folder.iterdir()
    size = first.stat().st_size
    run(cached(), OTHER)
    (second,) = (path for path in folder.iterdir() if path != first)
    now = time.time()
    os.utime(first, (now - 200, now - 200))
    os.utime(second, (now - 100, now - 100))
    run(cached(), PROMPT)  # used again: now the second one is older
    run(cached(max_bytes=5 * size // 2), [1, *range(340, 380)])
    assert first.exists()
    assert not second.exists()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5 * size // 2
    run(cached(max_bytes=size // 2), [1, *range(440, 480)])
    assert first.exists()


def test_damaged_files_are_removed(
    cached: MakeCached, make_llama: MakeLlama, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(cached(), PROMPT)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:30], whole[:200], whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), whole[::-1]):
        path.write_bytes(damaged)
        caplog.clear()
        done = run(cached(), PROMPT)
        assert (done.usage.cached_tokens, done.tokens) == (0, expected.tokens)
        assert "damaged file of the prompt cache" in caplog.text
        # It was computed and kept again.
        assert path.read_bytes() == whole
    foreign = folder / f"{path.name.partition('-')[0]}-0{SUFFIX}"
    from llama_cffi import SavedState

    llm = make_llama()
    run(llm, PROMPT)
    SavedState.take(llm.context).write(foreign)
    assert run(cached(), PROMPT).usage.cached_tokens == len(PROMPT) - 1


def test_files_that_vanish(cached: MakeCached, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi import SavedState

    run(cached(), PROMPT)
    llm = cached()
    read = SavedState.read

    def late(path: Path, *more: Any) -> SavedState:
        path.unlink()  # another process was faster
        return read(path, *more)

    monkeypatch.setattr(SavedState, "read", late)
    assert run(llm, PROMPT).usage.cached_tokens == 0
    assert len(names(folder)) == 1


def test_other_models_and_other_memory_have_files_of_their_own(
    cached: MakeCached, stories: Model, folder: Path
) -> None:
    run(cached(), PROMPT)
    assert run(cached(stories), PROMPT).usage.cached_tokens == 0
    assert len(names(folder)) == 2
    # Room is no part of the name: a smaller context finds what fits into it.
    assert run(cached(n_ctx=256, n_seq_max=1), PROMPT).usage.cached_tokens == len(PROMPT) - 1
    long = [1, *[300] * 300]
    run(cached(), long)
    done = run(cached(n_ctx=256, n_seq_max=1), [1, *[300] * 200])
    assert done.usage.cached_tokens == 0


def test_room_is_made_for_what_is_recalled(cached: MakeCached, make_llama: MakeLlama) -> None:
    long = [1, *[300, 301] * 80]
    run(cached(), long)
    llm = cached(n_ctx=256)
    for start in (300, 350, 400):
        run(llm, [1, *range(start, start + 45)])
    done = run(llm, long)
    assert done.usage.cached_tokens == len(long) - 1
    assert done.tokens == run(make_llama(), long).tokens


def test_many_at_once(cached: MakeCached, make_llama: MakeLlama) -> None:
    prompts = [PROMPT, OTHER, [*PROMPT[:25], 500], [1, *range(340, 380)]]
    expected = [run(make_llama(), prompt).tokens for prompt in prompts]
    for _ in range(2):
        llm = cached()
        done = llm.generate(prompts, max_tokens=6, temperature=0)
        assert [one.tokens for one in done] == expected
    assert done[0].usage.cached_tokens == len(PROMPT) - 1


def test_after_a_context_shift_only_what_is_exact_is_kept(cached: MakeCached, folder: Path) -> None:
    llm = cached(n_ctx=256, overflow="shift")
    assert len(run(llm, PROMPT, 300).tokens) == 300
    (path,) = folder.iterdir()
    assert read_header(path).sequences[0].prompt == tuple(PROMPT)
    assert run(cached(n_ctx=256), PROMPT).usage.cached_tokens == len(PROMPT) - 1


def test_recurrent_models_find_what_they_go_on_from(
    cached: MakeCached, make_llama: MakeLlama, folder: Path, tmp_path: Path
) -> None:
    with Model(write_recurrent_model(tmp_path / "recurrent.gguf")) as model:
        first = run(cached(model), PROMPT)
        again = run(cached(model), PROMPT)
        assert (again.usage.cached_tokens, again.tokens) == (0, first.tokens)
        assert len(names(folder)) == 1
        follow = [*PROMPT, *first.tokens, 450, 451]
        done = run(cached(model), follow)
        assert done.usage.cached_tokens == len(PROMPT) + len(first.tokens) - 1
        assert done.tokens == run(make_llama(model), follow).tokens
        # Shorter ones stay: what is longer cannot serve in their place.
        assert len(names(folder)) == 2


def test_the_folder(tmp_path: Path, cached: MakeCached, folder: Path) -> None:
    run(cached(), PROMPT)
    cache = PromptCache(folder)
    assert 0 < cache.nbytes == sum(path.stat().st_size for path in folder.iterdir())
    assert str(cache.nbytes) in repr(cache)
    (folder / "notes.txt").write_text("mine")
    left, new = folder / f".x{SUFFIX}.abc.part", folder / f".y{SUFFIX}.abc.part"
    left.write_text("half"), new.write_text("half")
    os.utime(left, (0, 0))
    cache.clear()
    assert names(folder) == {"notes.txt", new.name}
    assert cache.nbytes == 0
    bad: dict[str, Any]
    for bad in ({"max_bytes": 0}, {"min_tokens": 0}, {"max_bytes": "1"}, {"min_tokens": 8.5}, {"min_tokens": True}):
        with pytest.raises(ValueError, match="at least 1"):
            PromptCache(folder, **bad)
    with pytest.raises(OSError, match="notes"):
        PromptCache(folder / "notes.txt")


def test_a_folder_that_is_gone(cached: MakeCached, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    llm = cached()
    folder.rmdir()
    assert len(run(llm, PROMPT).tokens) == 6
    assert "cannot keep a prompt" in caplog.text


@given(
    st.lists(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(10, 40),
    st.integers(1, 3),
)
def test_texts_do_not_depend_on_what_is_remembered(prompts: list[list[int]], n_cells: int, n_slots: int) -> None:
    runner = FakeRunner(n_ctx=20, n_cells=max(n_cells, 20), n_seq_max=n_slots)
    runner.stored = []
    engine = Engine(runner)
    sequences = [engine.submit(Request(prompt=Prompt(prompt), max_tokens=5)) for prompt in prompts]
    for sequence, prompt in zip(sequences, prompts, strict=True):
        while (chunk := engine.next_chunk(sequence)) is not None:
            last = chunk
        assert last.completion is not None
        assert list(last.completion.tokens) == runner.expected(prompt, 5, runner.n_ctx)
