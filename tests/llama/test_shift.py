"""A text that forgets its older half must not move what other texts share with it."""

from __future__ import annotations

from typing import Any

import pytest

from llama_cffi import Batch, Llama

STORY = "Once upon a time there was a little girl who had a big red ball and a small dog. They went to the park. "
ENDLESS: Any = dict.fromkeys((2, 4), "never")


def test_a_shift_moves_nothing_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with Llama.demo(n_ctx=160, n_cells=640, n_seq_max=2) as llm:
        prompt = [int(token) for token in llm.tokenize(STORY * 4)][:120]
        options: dict[str, Any] = {"temperature": 0.0, "logit_bias": ENDLESS, "max_tokens": 38, "logprobs": 0}
        alone = llm.generate([*prompt, 100], **options)
        runner, moved = llm._runtime.engine._runner, list[int]()
        monkeypatch.setattr(runner, "shift", lambda seq_id, start, count: moved.append(seq_id))
        first = llm.stream([*prompt, *range(200, 220)], overflow="shift", temperature=0, logit_bias=ENDLESS)
        next(first)
        second = llm.stream([*prompt, 100], **options)
        next(second)
        chunks = []
        for chunk in second:
            chunks.append(chunk)
            next(first)  # which reaches the end of its context meanwhile
        assert chunks[-1].completion is not None
        assert chunks[-1].completion.usage.cached_tokens > 100
        first.close()
        assert alone.logprobs is not None
        assert chunks[-1].completion.logprobs is not None
        pairs = zip(chunks[-1].completion.logprobs, alone.logprobs, strict=True)
        assert max(abs(a.logprob - b.logprob) for a, b in pairs) < 0.3
    assert not moved


def test_what_is_shared_has_one_position_for_all() -> None:
    """Why it must not: the library moves a cell for every sequence that has it."""
    with Llama.demo(n_ctx=160, n_cells=640, n_seq_max=2) as llm:
        context = llm.context
        batch = Batch(64)
        batch.extend(list(range(10, 50)), 0, 0, output_last=True)
        context.decode(batch)
        context.memory.seq_cp(0, 1)
        context.memory.seq_rm(0, 10, 20)
        context.memory.seq_add(0, 20, None, -10)
        assert context.memory.seq_pos_max(1) != 39
