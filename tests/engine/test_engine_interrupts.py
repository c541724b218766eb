"""A signal handler that raises, at every place of a step: afterwards every request goes on or has ended."""

from __future__ import annotations

import os

import pytest

from llama_cffi.core.prompt import Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.engine.request import Request
from llama_cffi.errors import AbortedError, DecodeError
from tests.support.faulty_runner import FaultyRunner
from tests.support.interrupts import Interrupted, interrupt_at

# Within a callback of the garbage collector nobody hears of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(
        os.environ.get("LLAMA_CFFI_HELPERS") == "none", reason="the runner is a fake one, for which helpers do nothing"
    ),
]


def outcome(n: int, first: int) -> bool:
    """Interrupt at the n-th place; False when the work has fewer."""
    runner = FaultyRunner(n_batch=5, n_ctx=40, n_seq_max=2, n_cells=60)
    engine = Engine(runner)
    prompts = [[first, 0, 0], [1, 1, 2, 2, 1, 2, 1], [2], [3, 3]]
    sequences = [
        engine.submit(
            Request(prompt=Prompt(prompt), max_tokens=6, speculative=PromptLookup(min_ngram=1) if i == 1 else None)
        )
        for i, prompt in enumerate(prompts)
    ]

    def work() -> None:
        for _ in range(4):
            engine.step()
        engine.cancel(sequences[2])
        while engine.step():
            pass

    interrupted, result = interrupt_at(n, work)
    assert result is None or isinstance(result, Interrupted), result
    for _ in range(200):
        if not engine.step():
            break
    assert engine.idle, "what is left does not go on"
    n_torn = 0
    for prompt, sequence in zip(prompts, sequences, strict=True):
        assert sequence.done
        text, completion = "", None
        try:
            while (chunk := engine.next_chunk(sequence)) is not None:
                assert completion is None
                text, completion = text + chunk.text, chunk.completion
        except AbortedError:
            n_torn += 1
            continue
        expected = runner.expected(prompt, 6, 40)
        assert sequence.output == expected[: len(sequence.output) if sequence is sequences[2] else None]
        assert completion is not None
        assert completion.text == text == "".join(map(chr, sequence.output))
    assert n_torn <= 1, "only the text that a token was added to may end"
    with engine.at_rest() as slots:
        for slot in slots:
            assert runner.memory[slot.seq_id] == list(slot.held)
    return interrupted


def test_an_interrupt_at_some_places() -> None:
    for n in range(1, 8000, 61):
        if not outcome(n, 9):
            return
    raise AssertionError("the work does not come to its end")


@pytest.mark.fuzz
@pytest.mark.parametrize("first", [0, 9])
def test_an_interrupt_anywhere(first: int) -> None:
    n = 1
    while outcome(n, first):
        n += 1
    print(f"{n} places")


def test_a_sampler_that_raises_on_the_main_thread_is_asked_again() -> None:
    """What a signal handler may have raised leaves the request where it was, with a token still to be chosen."""
    runner = FaultyRunner(n_batch=5, n_ctx=40, n_seq_max=2)
    engine = Engine(runner)
    for submitted in range(2):  # with and without the step of a lone stream
        request = Request(prompt=Prompt([1 + submitted, 2]), max_tokens=6)
        sequence = engine.submit(request)
        engine.step()
        runner.broken[id(request)] = RuntimeError("terminated")
        with pytest.raises(RuntimeError, match="terminated"):
            engine.next_chunk(sequence) and engine.next_chunk(sequence)
        runner.broken.clear()
        while engine.step():
            pass
        assert sequence.output == runner.expected([1 + submitted, 2], 6, 40)


def test_an_interrupt_while_a_failed_decode_is_repeated_in_halves() -> None:
    runner = FaultyRunner(n_batch=8, n_ctx=40, n_seq_max=4)
    engine = Engine(runner)
    prompts = [[n, n] for n in range(4)]
    sequences = [engine.submit(Request(prompt=Prompt(prompt), max_tokens=6)) for prompt in prompts]
    runner.next_errors = [DecodeError("broken", code=-3), KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    while engine.step():
        pass
    assert [sequence.output for sequence in sequences] == [runner.expected(prompt, 6, 40) for prompt in prompts]
