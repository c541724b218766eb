"""Slots of a Llama: chosen by a request, saved, restored and emptied while others compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi import Llama
from llama_cffi.core.saved_state import SavedState
from llama_cffi.errors import BusyError, MemoryFullError, PromptError, StateError

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models"]

PROMPT, OTHER = list(range(300, 340)), [1, *range(400, 420)]


def run(llm: Llama, prompt: list[int], **options: Any) -> Any:
    return llm.generate(prompt, temperature=0, **{"max_tokens": 4, **options})


def held(llm: Llama) -> list[int]:
    return [slot.n_held for slot in llm.slots()]


def test_a_text_is_where_it_was_asked_for(make_llama: MakeLlama) -> None:
    llm = make_llama()
    for slot in (2, 0, 2):
        assert run(llm, [slot + 5, *PROMPT], slot=slot).slot == slot
    again = run(llm, [7, *PROMPT], slot=1)
    assert (again.slot, again.usage.cached_tokens) == (1, len(PROMPT))
    assert run(llm, [7, *PROMPT]).slot in (1, 2)
    with pytest.raises(ValueError, match="slot must be 0 to"):
        run(llm, PROMPT, slot=99)
    wrong: Any = -1
    with pytest.raises(ValueError, match="slot"):
        run(llm, PROMPT, slot=wrong)


def test_a_slot_in_use_is_not_waited_for(make_llama: MakeLlama) -> None:
    llm = make_llama()
    with llm.stream(PROMPT, slot=0, max_tokens=40, temperature=0) as stream:
        next(stream)
        (busy,) = [slot for slot in llm.slots() if slot.request is not None]
        assert (busy.id, busy.number) == (0, 1)
        assert busy.progress is not None
        assert busy.progress.computed_tokens == busy.progress.prompt_tokens == len(PROMPT)
        assert run(llm, OTHER, slot=0).slot != 0


def test_nothing_is_reused(make_llama: MakeLlama) -> None:
    llm = make_llama()
    first = run(llm, PROMPT)
    fresh = run(llm, PROMPT, reuse=False)
    assert (fresh.text, fresh.usage.cached_tokens) == (first.text, 0)
    assert sum(held(llm)) == held(llm)[first.slot]
    llm.clear_slot(first.slot)
    run(llm, PROMPT, reuse=False)
    assert (sum(held(llm)), run(llm, PROMPT).usage.cached_tokens) == (0, 0)
    assert llm.context.memory.seq_pos_max(fresh.slot) is None or fresh.slot == first.slot
    stream = llm.stream(OTHER, reuse=False, max_tokens=40)
    next(stream)
    stream.close()
    assert run(llm, OTHER).usage.cached_tokens == 0


def test_a_slot_is_saved_while_others_compute(make_llama: MakeLlama, tmp_path: Path) -> None:
    llm = make_llama()
    first = run(llm, PROMPT, slot=0)
    expected = llm.generate(OTHER, max_tokens=30, temperature=0, slot=1).text
    with llm.stream(OTHER, max_tokens=30, temperature=0, slot=1, reuse=False) as stream:
        text = next(stream).text
        n = llm.save_slot(0, tmp_path / "state")
        assert n == held(llm)[0] == len(PROMPT) + 3
        assert llm.clear_slot(0) == n
        assert llm.context.memory.seq_pos_max(0) is None
        for action in (lambda: llm.save_slot(1, tmp_path / "x"), lambda: llm.clear_slot(1),
                       lambda: llm.load_slot(1, tmp_path / "state")):  # fmt: skip
            with pytest.raises(BusyError):
                action()
        restored = llm.load_slot(2, tmp_path / "state")
        assert restored == first.prompt + first.tokens[:-1]
        text += "".join(chunk.text for chunk in stream)
    assert text == expected
    again = run(llm, PROMPT, slot=2)
    assert (again.text, again.usage.cached_tokens) == (first.text, len(PROMPT) - 1)


def test_what_cannot_be_saved(make_llama: MakeLlama, tmp_path: Path) -> None:
    llm = make_llama()
    with pytest.raises(PromptError, match="slot 1 holds nothing"):
        llm.save_slot(1, tmp_path / "x")
    wrong: list[Any] = [-1, 99, "0", True, None]
    for slot in wrong:
        with pytest.raises(ValueError, match="slot must be 0 to"):
            llm.clear_slot(slot)
    assert llm.clear_slot(0) == 0
    assert not (tmp_path / "x").exists()


def test_a_slot_without_room_keeps_what_it_held(make_llama: MakeLlama, tmp_path: Path) -> None:
    llm = make_llama(n_ctx=256, n_cells=256)
    run(llm, [5] * 200, slot=0)
    llm.save_slot(0, tmp_path / "long")
    llm.clear_slot(0)
    run(llm, PROMPT, slot=0)
    before = held(llm)
    with llm.stream([6] * 100, max_tokens=20, temperature=0, slot=1) as stream:
        next(stream)
        with pytest.raises(MemoryFullError):
            llm.load_slot(0, tmp_path / "long")
        assert held(llm)[0] == before[0]
    assert run(llm, PROMPT, slot=0).usage.cached_tokens == len(PROMPT) - 1


def test_a_damaged_file_changes_nothing(make_llama: MakeLlama, tmp_path: Path) -> None:
    llm = make_llama()
    run(llm, PROMPT, slot=0)
    llm.save_slot(0, tmp_path / "state")
    data = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(data[:-1])
    before = held(llm)
    with pytest.raises(StateError):
        llm.load_slot(0, tmp_path / "state")
    assert held(llm) == before
    SavedState.from_bytes(data)
