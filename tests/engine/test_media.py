"""Media in the engine: encoded once, beside the decodes of others, and shared like tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llama_cffi.core.prompt import Media, Prompt
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.engine_options import EngineOptions
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.media_encoder import MediaEncoder
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.engine.request import Request
from llama_cffi.engine.running_sequence import RunningSequence
from llama_cffi.errors import ClosedError, LlamaCffiError, MediaError
from llama_cffi.reply.completion import Completion, FinishReason

PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""


def medium(name: int, n: int = 4, n_positions: int | None = None) -> Media:
    return Media(bytes([name]) * 16, n, n if n_positions is None else n_positions)


class Projector:
    """Encodes when it may, and counts what it was given."""

    def __init__(self) -> None:
        self.encoded: list[bytes] = []
        self.broken: set[bytes] = set()
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()

    def encode(self, media: Media) -> NDArray[np.float32]:
        self.begun.set()
        assert self.open.wait(PATIENCE)
        self.encoded.append(media.digest)
        if media.digest in self.broken:
            raise MediaError("this image is broken")
        return np.zeros((media.n_cells, 4), dtype=np.float32)


@contextmanager
def engine_of(
    projector: Projector, *, max_bytes: int = 1 << 20, driver: str = "inline", **fields: int
) -> Iterator[Engine]:
    encoder = MediaEncoder(projector.encode, max_bytes)
    runner = FakeRunner(encoder=encoder, **{"n_batch": 8, "n_ctx": 64, **fields})  # type: ignore[arg-type]
    engine = Engine(runner, EngineOptions(driver=driver))  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        projector.open.set()
        engine.close()
        encoder.close()


def read(engine: Engine, sequence: RunningSequence) -> Completion:
    while True:
        chunk = engine.next_chunk(sequence)
        assert chunk is not None
        if chunk.completion is not None:
            return chunk.completion


def run(engine: Engine, prompt: Prompt, max_tokens: int = 2) -> Completion:
    return read(engine, engine.submit(Request(prompt=prompt, max_tokens=max_tokens)))


def within(call: Callable[[], object]) -> None:
    """Run a call on a thread, which must end soon."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


media = st.builds(
    lambda name, n, less: Media(bytes([name, n, less]) + b"x" * 13, n, max(1, n - less)),
    st.integers(0, 2),
    st.integers(1, 9),
    st.integers(0, 4),
)
mixed = st.lists(st.one_of(st.integers(0, 3), media), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(mixed, st.integers(0, 12), st.booleans()), min_size=1, max_size=6),
    st.integers(5, 12),
    st.integers(1, 4),
    st.integers(60, 160),
)
def test_each_medium_is_encoded_once_and_every_text_is_what_it_is_alone(
    wanted: list[tuple[list[int | Media], int, bool]], n_batch: int, n_slots: int, n_cells: int
) -> None:
    projector = Projector()
    with engine_of(projector, n_batch=n_batch, n_ctx=60, n_seq_max=n_slots, n_cells=n_cells) as engine:
        for _ in range(2):
            jobs = [
                engine.submit(
                    Request(
                        prompt=Prompt(parts),
                        max_tokens=n,
                        speculative=PromptLookup(min_ngram=1) if drafts else None,
                    )
                )
                for parts, n, drafts in wanted
            ]
            for job, (parts, n, _) in zip(jobs, wanted, strict=True):
                assert list(read(engine, job).tokens) == FakeRunner.expected(Prompt(parts), n, 60)
        every = {part.digest for parts, _, _ in wanted for part in parts if isinstance(part, Media)}
        assert sorted(projector.encoded) == sorted(every)


@pytest.mark.parametrize("driver", ["inline", "thread"])
def test_others_are_computed_while_a_medium_is_encoded(driver: str) -> None:
    projector = Projector()
    with engine_of(projector, driver=driver) as engine:
        projector.open.clear()
        seeing = engine.submit(Request(prompt=Prompt([1, medium(1), 2]), max_tokens=3))
        assert projector.begun.wait(PATIENCE)
        within(lambda: [run(engine, Prompt([5, 6, 7]), 20) for _ in range(3)])
        # What comes before the image is computed meanwhile, and nothing behind it.
        assert seeing.n_past <= 1
        projector.open.set()
        assert list(read(engine, seeing).tokens) == FakeRunner.expected(Prompt([1, medium(1), 2]), 3, 64)


def test_a_second_question_costs_neither_an_encoding_nor_a_prefill() -> None:
    projector = Projector()
    with engine_of(projector) as engine:
        image = medium(1, 6, 2)
        run(engine, Prompt([1, image, 3, 4]))
        found = run(engine, Prompt([1, image, 3, 5]))
        assert (found.usage.cached_tokens, projector.encoded) == (8, [image.digest])
        # In another place it is prefilled again, but not encoded.
        assert run(engine, Prompt([2, image, 3])).usage.cached_tokens == 0
        assert projector.encoded == [image.digest]


def test_what_is_in_memory_is_not_encoded_however_small_the_budget() -> None:
    projector = Projector()
    with engine_of(projector, max_bytes=0) as engine:
        run(engine, Prompt([1, medium(1), 3]))
        run(engine, Prompt([1, medium(1), 4, 5]))
        assert len(projector.encoded) == 1
        run(engine, Prompt([2, medium(1), 4, 5]))
        assert len(projector.encoded) == 2


def test_embeddings_are_kept_up_to_a_budget_and_those_used_last_longest() -> None:
    projector = Projector()
    size = 4 * 4 * 4
    with engine_of(projector, max_bytes=2 * size) as engine:
        encoder = engine._runner.encoder
        assert encoder is not None
        for i, name in enumerate((1, 2, 1, 3)):
            run(engine, Prompt([20 + i, 9, medium(name), 7]))
            assert encoder.nbytes <= 2 * size
        assert [one[0] for one in projector.encoded] == [1, 2, 3]
        run(engine, Prompt([8, medium(1), 1]))
        assert [one[0] for one in projector.encoded] == [1, 2, 3]
        run(engine, Prompt([8, medium(2), 1]))
        assert [one[0] for one in projector.encoded] == [1, 2, 3, 2]


def test_a_medium_that_cannot_be_encoded_ends_its_own_requests_only() -> None:
    projector = Projector()
    projector.broken.add(medium(1).digest)
    with engine_of(projector) as engine:
        jobs = [engine.submit(Request(prompt=Prompt([i, medium(1), 3]), max_tokens=2)) for i in range(2)]
        other = engine.submit(Request(prompt=Prompt([7, medium(2), 3]), max_tokens=2))
        for job in jobs:
            with pytest.raises(MediaError, match="this image is broken"):
                read(engine, job)
        assert list(read(engine, other).tokens) == FakeRunner.expected(Prompt([7, medium(2), 3]), 2, 64)
        # The next request tries again.
        projector.broken.clear()
        assert run(engine, Prompt([1, medium(1), 3])).tokens
        assert engine.idle


def test_another_exception_is_one_of_the_package() -> None:
    def encode(media: Media) -> NDArray[np.float32]:
        raise RuntimeError("oops")

    engine = Engine(FakeRunner(encoder=MediaEncoder(encode, 0)))
    with pytest.raises(LlamaCffiError, match="cannot be encoded: RuntimeError"):
        run(engine, Prompt([1, medium(1), 3]))


@pytest.mark.parametrize("driver", ["inline", "thread"])
def test_a_request_that_waits_for_its_image_can_be_cancelled_and_can_be_late(driver: str) -> None:
    projector = Projector()
    with engine_of(projector, driver=driver) as engine:
        projector.open.clear()
        first = engine.submit(Request(prompt=Prompt([1, medium(1), 3]), max_tokens=2))
        late = engine.submit(Request(prompt=Prompt([2, medium(2), 3]), max_tokens=2, max_seconds=0.01))
        found: list[FinishReason] = []
        within(lambda: found.append(read(engine, late).finish_reason))
        threading.Timer(0.02, partial(engine.cancel, first)).start()
        within(lambda: found.append(read(engine, first).finish_reason))
        assert found == [FinishReason.DEADLINE, FinishReason.CANCELLED]
        assert engine.idle
        projector.open.set()
        # What nobody waits for any more is not encoded.
        run(engine, Prompt([3, medium(3), 3]))
        assert medium(2).digest not in projector.encoded


def test_texts_go_on_between_the_media_of_a_prompt() -> None:
    projector = Projector()
    with engine_of(projector, n_seq_max=2) as engine:
        text = engine.submit(Request(prompt=Prompt([1, 2]), max_tokens=40))
        for _ in range(3):
            engine.next_chunk(text)
        prompt = Prompt([medium(1), medium(2), medium(3), medium(4), 5])
        encoder = engine._runner.encoder
        assert encoder is not None
        kept = [encoder.request(span.media) for span in prompt.media]
        encoder.rest(kept[-1:], PATIENCE)
        runner = engine._runner
        assert isinstance(runner, FakeRunner)
        before = len(runner.decoded)
        read(engine, engine.submit(Request(prompt=prompt, max_tokens=1)))
        mine = [[seq_id for seq_id, n in step if seq_id != text.seq_id] for step in runner.decoded[before:]]
        # Never two decodes after another that have no token for the text.
        assert len([1 for step in mine if step]) == 5
        for one, other in zip(runner.decoded[before:], runner.decoded[before + 1 :], strict=False):
            assert any(seq_id == text.seq_id for seq_id, _ in (*one, *other))
        engine.cancel(text)


def test_closing_ends_a_request_that_waits_for_its_image() -> None:
    projector = Projector()
    with engine_of(projector, driver="thread") as engine:
        projector.open.clear()
        job = engine.submit(Request(prompt=Prompt([1, medium(1), 3]), max_tokens=2))
        assert projector.begun.wait(PATIENCE)
        engine.close()
        with pytest.raises(ClosedError):
            read(engine, job)


def test_what_slots_keep_does_not_hold_the_media_themselves() -> None:
    content = object()
    engine = Engine(FakeRunner(encoder=MediaEncoder(Projector().encode, 0)))
    run(engine, Prompt([1, Media(b"m" * 16, 3, 3, content), 3]))
    held = [slot.held for slot in engine._scheduler.slots if slot.held]
    assert [span.media.content for prompt in held for span in prompt.media] == [None]
