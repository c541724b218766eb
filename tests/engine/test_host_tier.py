"""Beginnings that leave the context's memory and come back from the host's: the same texts, and less to compute."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi.core.conditioning import PLAIN, Conditioning
from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.request import Request
from llama_cffi.reply.completion import Completion

OTHER = Conditioning((("a", 1.0),))  # type: ignore[arg-type]


def run(engine: Engine, prompt: list[int], **fields: Any) -> Completion:
    sequence = engine.submit(Request(prompt=Prompt(prompt), **fields))
    while (chunk := engine.next_chunk(sequence)) is not None:
        if chunk.completion is not None:
            return chunk.completion
    raise AssertionError("no completion")


def chat(first: int, n: int) -> list[int]:
    return [first, *[i % 251 for i in range(n - 1)]]


def test_more_chats_than_slots_find_their_history() -> None:
    runner = FakeRunner(n_batch=64, n_ctx=600, n_seq_max=2, n_cells=700)
    engine = Engine(runner, EngineOptions(host_bytes=100_000))
    histories = {first: chat(first, 100) for first in range(8)}
    n_prompt = n_cached = 0
    for turn in range(4):
        for first, history in histories.items():
            done = run(engine, history, max_tokens=10)
            assert list(done.tokens) == runner.expected(history, 10, 600)
            histories[first] = [*history, *done.tokens, *chat(turn, 20)]
            if turn:
                n_prompt += done.usage.prompt_tokens
                n_cached += done.usage.cached_tokens
                # All but the last token of the text, which was never computed, and what is new.
                assert done.usage.cached_tokens in (len(history) - 21, len(history) - 20)
    assert n_cached / n_prompt > 0.8
    snapshot = engine.snapshot()
    assert snapshot.prompt_tokens["host"] > snapshot.prompt_tokens["memory"]
    without = Engine(FakeRunner(n_batch=64, n_ctx=600, n_seq_max=2, n_cells=700))
    for first in (1, 2, 3, 1):
        assert run(without, chat(first, 100), max_tokens=3).usage.cached_tokens == 0


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(60, 140), st.integers(1, 12), st.sampled_from([PLAIN, OTHER])),
        min_size=2,
        max_size=14,
    ),
    st.integers(1, 3),
    st.integers(160, 400),
    st.integers(0, 3000),
)
def test_texts_do_not_depend_on_what_is_kept(
    wanted: list[tuple[int, int, int, Conditioning]], n_slots: int, n_cells: int, host_bytes: int
) -> None:
    runner = FakeRunner(n_batch=32, n_ctx=160, n_seq_max=n_slots, n_cells=n_cells)
    engine = Engine(runner, EngineOptions(host_bytes=host_bytes))
    for batch in (wanted[::2], wanted[1::2]):
        sequences = [
            engine.submit(Request(prompt=Prompt(chat(first, n)), max_tokens=most, conditioning=one))
            for first, n, most, one in batch
        ]
        for sequence, (first, n, most, one) in zip(sequences, batch, strict=True):
            while engine.next_chunk(sequence) is not None:
                pass
            assert sequence.output == runner.expected(chat(first, n), most, 160, one)
    assert engine.idle
    assert engine._loop.outside.host.nbytes <= host_bytes


def test_a_memory_that_cannot_be_cut_has_checkpoints() -> None:
    runner = FakeRunner(n_batch=32, n_ctx=600, n_seq_max=2)
    runner.can_cut = runner.can_cut_saved = runner.can_copy = runner.can_pad = False
    engine = Engine(runner, EngineOptions(host_bytes=100_000))
    history = chat(1, 200)
    first = run(engine, history, max_tokens=10)
    # The next turn goes on otherwise than the text did: its thoughts are left out.
    again = run(engine, [*history, 5, 6, 7], max_tokens=10)
    assert again.usage.cached_tokens == 192  # the last checkpoint of the fake runner
    assert again.usage.host_tokens == 192
    assert list(again.tokens) == runner.expected([*history, 5, 6, 7], 10, 600)
    same = run(engine, history, max_tokens=10)
    assert same.tokens == first.tokens
    assert same.usage.host_tokens == 192


def test_the_log_says_why_not_more_was_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(FakeRunner(n_ctx=64, n_seq_max=1))
    with caplog.at_level(logging.DEBUG, "llama_cffi.engine"):
        run(engine, [1, 2, 3, 4], max_tokens=2)
        run(engine, [1, 2, 9, 4], max_tokens=2)
    assert "2 of 4 prompt tokens are in memory: token 2 is 9, and 3 in memory" in caplog.text
