"""Beginnings of texts in the host's memory, for each kind of memory that models have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Llama
from tests.support.other_memories import write_recurrent_model, write_windowed_model
from tests.support.ties import same_but_for_ties

STORY = "Once upon a time there was a little girl who had a big red ball and a small dog. They went to the park. "


def chats(n: int) -> dict[int, list[int]]:
    with Llama.demo(n_ctx=64) as llm:
        return {i: [int(t) for t in llm.tokenize(f"{i} " + STORY * 4)] for i in range(n)}


def grow(llm: Llama, histories: dict[int, list[int]], turns: int = 3) -> tuple[list[list[int]], int, int]:
    """What each turn wrote; prompt tokens after the first turn, and those of them that were computed before."""
    texts, n_prompt, n_cached = [], 0, 0
    for turn in range(turns):
        for i, history in histories.items():
            done = llm.generate(history, max_tokens=6, temperature=0)
            texts.append(list(done.tokens))
            histories[i] = [*history, *done.tokens, *range(50 + turn, 60 + turn)]
            if turn:
                n_prompt += done.usage.prompt_tokens
                n_cached += done.usage.cached_tokens
    return texts, n_prompt, n_cached


def test_more_chats_than_slots_find_their_history() -> None:
    with Llama.demo(n_ctx=256, n_cells=600, n_seq_max=2) as llm:
        histories = chats(6)
        texts, n_prompt, n_cached = grow(llm, histories)
        assert n_cached > 0.85 * n_prompt
        assert llm._runtime.engine.snapshot().prompt_tokens["host"] > 0
    with Llama.demo(n_ctx=256, n_cells=600, n_seq_max=2, host_bytes=0) as llm:
        expected, n_prompt, n_cached = grow(llm, chats(6))
        assert n_cached < 0.2 * n_prompt
        for found, one in zip(texts[:6], expected[:6], strict=True):
            assert same_but_for_ties(llm, "", found, one) or found == one


@pytest.mark.parametrize("write", [write_recurrent_model, write_windowed_model])
def test_memories_that_cannot_be_cut_have_checkpoints(write: Any, tmp_path: Path) -> None:
    prompt = [3 + i % 20 for i in range(200)]
    with Llama(write(tmp_path / "m.gguf"), n_ctx=512, n_seq_max=2) as llm:
        first = llm.generate(prompt, max_tokens=8, temperature=0)
        again = llm.generate(prompt, max_tokens=8, temperature=0)
        assert again.usage.cached_tokens == len(prompt) - 1
        assert again.tokens == first.tokens
        other = llm.generate([*prompt, 5, 6, 7], max_tokens=4, temperature=0)
        assert other.usage.cached_tokens >= len(prompt) - 1
    with Llama(write(tmp_path / "m.gguf"), n_ctx=512, n_seq_max=2, host_bytes=0) as llm:
        assert llm.generate([*prompt, 5, 6, 7], max_tokens=4, temperature=0).tokens == other.tokens


def test_wrong_budgets() -> None:
    for wrong in (-1, 1.5, "many"):
        with pytest.raises((TypeError, ValueError), match="host_bytes"):
            Llama.demo(host_bytes=wrong)  # type: ignore[arg-type]
