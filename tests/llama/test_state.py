"""llm.save_state() and its like: what was computed once is found again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi import ContextOptions, Llama, Model
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.fake import FakeMemory, FakeRunner
from llama_cffi.engine.request import Request
from llama_cffi.errors import (
    BusyError,
    ClosedError,
    MemoryFullError,
    StateError,
    StateFormatError,
    StateMismatchError,
    StateWriteError,
)
from tests.support.children import run_child
from tests.support.other_memories import WINDOW, write_recurrent_model, write_windowed_model

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models"]

PROMPT = list(range(300, 340))
OTHER = [1, *range(400, 420)]


def run(llm: Llama, prompt: list[int], n: int = 12) -> Any:
    return llm.generate(prompt, max_tokens=n, temperature=0)


@pytest.fixture(params=["file", "bytes"])
def carry(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Llama, Llama], int]:
    """Brings the state of one Llama to another, in a file or as bytes."""

    def through_file(source: Llama, target: Llama) -> int:
        source.save_state(tmp_path / "state")
        return target.load_state(tmp_path / "state")

    def through_bytes(source: Llama, target: Llama) -> int:
        return target.load_state_bytes(source.state_bytes())

    return through_file if request.param == "file" else through_bytes


def test_prompts_are_not_computed_again(llm: Llama, make_llama: MakeLlama, carry: Any) -> None:
    expected = [run(llm, PROMPT), run(llm, OTHER)]
    more = [*OTHER, *expected[1].tokens]
    other = make_llama()
    run(other, [1, 5, 6])
    # The last token of each was chosen, never computed.
    assert carry(llm, other) == len(PROMPT) + len(OTHER) + 2 * 11
    again = [run(other, PROMPT), run(other, OTHER)]
    assert [one.tokens for one in again] == [one.tokens for one in expected]
    assert [one.usage.cached_tokens for one in again] == [len(PROMPT) - 1, len(OTHER) - 1]
    follow = run(other, more)
    assert follow.usage.cached_tokens == len(more) - 1
    assert follow.tokens == run(make_llama(), more).tokens


def test_an_empty_state(make_llama: MakeLlama, carry: Any) -> None:
    llm = make_llama()
    run(llm, PROMPT)
    assert carry(make_llama(), llm) == 0
    assert run(llm, PROMPT).usage.cached_tokens == 0


def test_in_another_process(llm: Llama, model_path: Path, tmp_path: Path) -> None:
    expected = run(llm, PROMPT)
    llm.save_state(tmp_path / "state")
    program = """
        import sys
        from llama_cffi import Llama
        with Llama(sys.argv[1], n_ctx=512, n_seq_max=4, n_threads=1) as llm:
            llm.load_state(sys.argv[2])
            done = llm.generate(list(range(300, 340)), max_tokens=12, temperature=0)
            print(done.usage.cached_tokens, *done.tokens)
    """
    said = [int(word) for word in run_child(program, model_path, tmp_path / "state").split()]
    assert said == [len(PROMPT) - 1, *expected.tokens]


def test_after_a_context_shift_only_what_is_exact_is_kept(make_llama: MakeLlama, carry: Any) -> None:
    llm, other = make_llama(n_ctx=256, overflow="shift"), make_llama(n_ctx=256)
    run(llm, PROMPT, 300)
    assert carry(llm, other) == len(PROMPT)
    assert run(other, PROMPT).tokens == run(make_llama(), PROMPT).tokens


def test_it_needs_an_idle_model(llm: Llama, tmp_path: Path) -> None:
    data = llm.state_bytes()
    stream = llm.stream(PROMPT, max_tokens=50, temperature=0)
    next(stream)
    for use in (
        llm.state_bytes,
        lambda: llm.save_state(tmp_path / "state"),
        lambda: llm.load_state_bytes(data),
    ):
        with pytest.raises(BusyError, match="requests are running"):
            use()
    assert list(tmp_path.iterdir()) == []
    del stream
    llm.state_bytes()
    llm.close()
    for use in (llm.state_bytes, lambda: llm.load_state_bytes(data)):
        with pytest.raises(ClosedError):
            use()


def test_what_does_not_fit_leaves_everything_as_it_was(
    llm: Llama, stories: Model, make_llama: MakeLlama, tmp_path: Path
) -> None:
    run(llm, PROMPT)
    foreign = make_llama(stories)
    run(foreign, [1, 5, 6])
    foreign.save_state(tmp_path / "foreign")
    foreign.save_prompt("Once", tmp_path / "prompt")
    data = llm.state_bytes()
    large = make_llama(n_ctx=1024)
    run(large, PROMPT * 13)
    for use in (
        lambda: llm.load_state(tmp_path / "foreign"),
        lambda: llm.load_prompt(tmp_path / "prompt"),
        lambda: llm.load_state(tmp_path / "prompt"),
        lambda: llm.load_state_bytes(large.state_bytes()),
    ):
        with pytest.raises(StateMismatchError):
            use()
    for damaged in (b"", data[:-1], data[:100], bytes(1000)):
        with pytest.raises(StateFormatError):
            llm.load_state_bytes(damaged)
    with pytest.raises(FileNotFoundError):
        llm.load_state(tmp_path / "none")
    with pytest.raises(StateWriteError):
        llm.save_state(tmp_path / "none" / "state")
    assert run(llm, PROMPT).usage.cached_tokens == len(PROMPT) - 1


def test_what_llama_cpp_refuses_leaves_nothing(make_llama: MakeLlama) -> None:
    # Only llama.cpp knows that "auto" and "disabled" are not the same here.
    source = make_llama(context_options=ContextOptions(n_ctx=512, flash_attn="disabled"))
    run(source, PROMPT)
    llm = make_llama()
    expected = run(llm, PROMPT)
    with pytest.raises(StateError, match="refuses"):
        llm.load_state_bytes(source.state_bytes())
    again = run(llm, PROMPT)
    assert again.usage.cached_tokens == 0
    assert again.tokens == expected.tokens


def test_sequences_that_nobody_knows_are_cleared(llm: Llama, make_llama: MakeLlama) -> None:
    from llama_cffi import SavedState

    run(llm, PROMPT)
    other = make_llama()
    assert other.load_state_bytes(SavedState.take(llm.context).to_bytes()) == 0
    assert other.context.memory.seq_pos_max(0) is None


# -- one prompt


def test_a_prompt(llm: Llama, make_llama: MakeLlama, tmp_path: Path) -> None:
    path = tmp_path / "prompt"
    assert llm.save_prompt(PROMPT, path) == len(PROMPT)
    assert llm.save_prompt(PROMPT, path) == len(PROMPT)
    expected = run(llm, [*PROMPT, 350, 351])
    other = make_llama()
    run(other, OTHER)
    assert other.load_prompt(path) == tuple(PROMPT)
    done = run(other, [*PROMPT, 350, 351])
    assert done.usage.cached_tokens == len(PROMPT)
    assert done.tokens == expected.tokens
    assert run(other, OTHER).usage.cached_tokens == len(OTHER) - 1
    with pytest.raises(StateMismatchError, match=r"load_prompt\(\) reads it"):
        other.load_state(path)
    other.save_state(path)
    with pytest.raises(StateMismatchError, match=r"load_state\(\) reads"):
        other.load_prompt(path)


def test_a_prompt_of_text(llm: Llama, tmp_path: Path) -> None:
    n = llm.save_prompt("hello there", tmp_path / "prompt")
    assert n == len(llm.tokenize("hello there"))
    assert llm.load_prompt(tmp_path / "prompt") == tuple(llm.tokenize("hello there").tolist())


def test_a_prompt_takes_the_place_of_old_ones(llm: Llama, make_llama: MakeLlama, tmp_path: Path) -> None:
    long = PROMPT * 5
    llm.save_prompt(long, tmp_path / "prompt")
    other = make_llama(n_ctx=256)
    for start in (260, 360, 460):
        run(other, [1, *range(start, start + 40)])
    other.load_prompt(tmp_path / "prompt")
    done = run(other, long, 3)
    assert done.usage.cached_tokens == len(long) - 1
    assert done.tokens == run(make_llama(), long, 3).tokens


# -- memory that cannot be cut


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(write_recurrent_model(tmp_path_factory.mktemp("models") / "recurrent.gguf")) as model:
        yield model


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(write_windowed_model(tmp_path_factory.mktemp("models") / "windowed.gguf")) as model:
        yield model


@pytest.fixture(params=["recurrent", "window", "window, all kept"])
def uncut(request: pytest.FixtureRequest, make_llama: MakeLlama) -> Callable[..., Llama]:
    """Makes Llamas whose saved states serve only what goes on where they end."""
    name = request.param.split(",")[0]
    model = request.getfixturevalue("recurrent" if name == "recurrent" else "windowed")
    assert model.is_recurrent == (name == "recurrent")
    assert model.n_swa == (0 if name == "recurrent" else WINDOW)
    options = ContextOptions(n_ctx=512, swa_full=request.param != "window")
    return lambda **more: make_llama(model, context_options=options, **more)


def test_a_state_that_cannot_be_cut(uncut: Callable[..., Llama], carry: Any) -> None:
    llm, other = uncut(), uncut()
    first = run(llm, PROMPT)
    more = [*PROMPT, *first.tokens]
    expected = run(uncut(), more)
    assert carry(llm, other) == len(more) - 1
    done = run(other, more)
    assert done.usage.cached_tokens == len(more) - 1
    assert done.tokens == expected.tokens
    # From the middle of what is kept nothing can go on, and what is computed anew is right.
    assert run(other, PROMPT).tokens == first.tokens


def test_a_prompt_that_cannot_be_cut(uncut: Callable[..., Llama], tmp_path: Path) -> None:
    uncut().save_prompt(PROMPT, tmp_path / "prompt")
    more = [*PROMPT, 350, 351, 352]
    other = uncut()
    other.load_prompt(tmp_path / "prompt")
    done = run(other, more)
    assert done.usage.cached_tokens == len(PROMPT)
    assert done.tokens == run(uncut(), more).tokens
    other.load_prompt(tmp_path / "prompt")
    same, shorter = run(other, PROMPT), run(other, PROMPT[:20])
    assert same.tokens == run(uncut(), PROMPT).tokens
    assert shorter.tokens == run(uncut(), PROMPT[:20]).tokens


# -- the engine's part, without a model


def test_adopting_needs_room() -> None:
    runner = FakeRunner(n_ctx=20, n_seq_max=2, n_cells=20)
    engine = Engine(runner)
    engine.adopt(FakeMemory(Prompt(range(15))))
    engine.adopt(FakeMemory(Prompt(range(100, 112))))
    assert sorted(map(len, runner.memory.values())) == [0, 12]
    with pytest.raises(MemoryFullError, match="21 tokens"):
        engine.adopt(FakeMemory(Prompt(range(21))))
    assert list(map(len, runner.memory.values())) == [0, 0]


def test_nothing_can_run_while_the_engine_rests() -> None:
    engine = Engine(FakeRunner())
    with engine.at_rest() as slots:
        assert [slot.held for slot in slots] == [()] * 4
        with pytest.raises(BusyError):
            engine.step()
        with pytest.raises(BusyError), engine.at_rest():
            pass
    sequence = engine.submit(Request(prompt=Prompt((1, 2)), max_tokens=3))
    with pytest.raises(BusyError), engine.at_rest():
        pass
    engine.cancel(sequence)
    with engine.at_rest():
        pass
