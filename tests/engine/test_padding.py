"""Groups and padding on a real model: they change when a token comes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from llama_cffi import ContextOptions, Llama
from llama_cffi.engine.context_runner import ContextRunner
from llama_cffi.engine.row_groups import RowGroups
from llama_cffi.errors import AbortedError, MemoryFullError
from tests.support.other_memories import write_recurrent_model, write_windowed_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models"]

PROMPTS = [[1, *range(300 + i, 300 + 7 * i)] for i in range(1, 7)]
EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "disabled"}
"""Numbers that do not depend on what else is in a batch, as far as that goes."""


def texts(llm: Llama, **options: Any) -> list[tuple[int, ...]]:
    return [one.tokens for one in llm.generate(PROMPTS, temperature=0, max_tokens=30, **options)]


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes every choice of rows a random one; holds how many rows of padding each decode had."""
    random, found = Random(1), [0]

    def choose(self: RowGroups, n_rows: int, *, pad: bool = True) -> tuple[int, int]:
        if n_rows < 2:
            return n_rows, n_rows
        n = random.randint(1, n_rows)
        found.append(random.choice([0, 0, 1, 2, 5]) if pad and self._can_pad and n == n_rows else 0)
        return n, n + found[-1]

    monkeypatch.setattr(RowGroups, "choose", choose)
    return found


def positions(llm: Llama) -> list[int | None]:
    return [llm.context.memory.seq_pos_max(i) for i in range(llm.context.n_seq_max)]


@pytest.mark.parametrize("kind", ["", "windowed", "recurrent"])
def test_texts_are_the_same(kind: str, make_llama: MakeLlama, padded: list[int], tmp_path: Path) -> None:
    options = {"context_options": ContextOptions(**EXACT, swa_full=kind != "windowed")}  # type: ignore[arg-type]
    if kind:
        write = write_windowed_model if kind == "windowed" else write_recurrent_model
        llm = Llama(write(tmp_path / "model.gguf"), n_ctx=256, n_threads=1, **options)  # type: ignore[arg-type]
    else:
        llm = make_llama(n_ctx=256, n_seq_max=6, **options)
    with llm:
        alone = [llm.generate(prompt, temperature=0, max_tokens=30).tokens for prompt in PROMPTS]
        assert texts(llm) == alone
        # What cannot be taken out again is not put in.
        assert (sum(padded) > 10) == (not kind)
        again = [llm.generate(prompt, temperature=0, max_tokens=30) for prompt in PROMPTS]
        assert [one.tokens for one in again] == alone


def test_nothing_of_it_is_in_memory(make_llama: MakeLlama, padded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    llm = make_llama(n_ctx=256, n_seq_max=6)
    decode = ContextRunner.decode
    wrong: list[object] = []

    def check(self: ContextRunner, plan: Any, deadline: float | None = None) -> list[int]:
        rows = decode(self, plan, deadline)
        for work in plan:
            last = work.sequence.n_past + work.n_tokens + len(work.draft) - 1
            if self.context.memory.seq_pos_max(work.sequence.seq_id) != last:
                wrong.append(work)
        return rows

    monkeypatch.setattr(ContextRunner, "decode", check)
    texts(llm)
    assert sum(padded) > 10
    assert not wrong


def test_it_goes_where_there_is_no_room(make_llama: MakeLlama, padded: list[int]) -> None:
    options = ContextOptions(**EXACT)  # type: ignore[arg-type]
    llm = make_llama(n_ctx=256, n_cells=256, n_seq_max=6, context_options=options)
    expected = [llm.generate(prompt, temperature=0, max_tokens=30).tokens for prompt in PROMPTS]
    assert texts(llm) == expected
    assert sum(padded) > 10


@pytest.mark.parametrize("error", [MemoryFullError("no room", code=1), AbortedError("aborted"), KeyboardInterrupt()])
def test_a_padded_decode_that_fails(
    error: BaseException, make_llama: MakeLlama, padded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ContextOptions(**EXACT)  # type: ignore[arg-type]
    llm = make_llama(n_ctx=256, n_seq_max=6, context_options=options)
    expected = [llm.generate(prompt, temperature=0, max_tokens=30).tokens for prompt in PROMPTS]
    decode: Callable[..., None] = llm.context.decode
    failed: list[int] = []

    def fail(batch: Any, *, deadline: float | None = None) -> None:
        if padded[-1] and len(failed) < 3:
            failed.append(batch.n_tokens)
            if not isinstance(error, MemoryFullError):
                decode(batch, deadline=deadline)  # all of it is in memory
            raise error
        decode(batch, deadline=deadline)

    monkeypatch.setattr(llm.context, "decode", fail)
    streams = [llm.stream(prompt, temperature=0, max_tokens=30) for prompt in PROMPTS]
    found: list[list[int]] = [[] for _ in PROMPTS]
    for stream, tokens in zip(streams, found, strict=True):
        for _ in range(4):
            try:
                for chunk in stream:
                    tokens.extend(chunk.tokens)
                break
            except (KeyboardInterrupt, AbortedError):
                pass
    assert failed
    if isinstance(error, AbortedError):
        return  # an abort that nothing asked for ends what it met
    assert [tuple(tokens) for tokens in found] == expected
