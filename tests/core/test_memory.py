"""Memory: removing, copying, shifting, and what logits say about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import Batch, Context, ContextOptions, Llama, Memory, Model
from llama_cffi.errors import BusyError, ClosedError, UnsupportedError
from tests.support.random_model import Shape, write_random_model

if TYPE_CHECKING:
    from tests.support.models import MakeContext

pytest_plugins = ["tests.support.models"]

TEXT = [1, 300, 301, 305, 320, 411, 333, 260]


def feed(context: Context, tokens: list[int], pos: int = 0, seq_id: int = 0) -> NDArray[np.float32]:
    batch = Batch(len(tokens))
    batch.extend(tokens, pos, seq_id, output_last=True)
    context.decode(batch)
    return context.outputs.logits()


def positions(memory: Memory, seq_id: int = 0) -> tuple[int | None, int | None]:
    return memory.seq_pos_min(seq_id), memory.seq_pos_max(seq_id)


def test_positions(context: Context) -> None:
    memory = context.memory
    assert positions(memory) == (None, None)
    feed(context, TEXT)
    feed(context, TEXT[:3], 5, seq_id=2)
    assert positions(memory) == (0, 7)
    assert positions(memory, 1) == (None, None)
    assert positions(memory, 2) == (5, 7)


@pytest.mark.parametrize("data", [True, False])
def test_clear(context: Context, data: bool) -> None:
    expected = feed(context, TEXT)
    context.memory.clear(data=data)
    assert positions(context.memory) == (None, None)
    np.testing.assert_array_equal(feed(context, TEXT), expected)


def test_rm_cuts_the_end(context: Context) -> None:
    expected = feed(context, TEXT)
    assert context.memory.seq_rm(0, 3)
    assert positions(context.memory) == (0, 2)
    np.testing.assert_allclose(feed(context, TEXT[3:], 3), expected, atol=1e-2)


def test_rm_ranges(context: Context) -> None:
    memory = context.memory
    feed(context, TEXT)
    feed(context, TEXT, seq_id=1)
    assert memory.seq_rm(0, 0, 2)
    assert positions(memory) == (2, 7)
    assert memory.seq_rm(0, 6, None)
    assert positions(memory) == (2, 5)
    assert memory.seq_rm(None, 0, 3)
    assert positions(memory) == (3, 5)
    assert positions(memory, 1) == (3, 7)
    assert memory.seq_rm(0)
    assert positions(memory) == (None, None)
    assert positions(memory, 1) == (3, 7)
    assert memory.seq_rm(None)
    assert positions(memory, 1) == (None, None)


def test_cp_shares_a_prefix(context: Context) -> None:
    expected = feed(context, TEXT)
    context.memory.seq_cp(0, 3, 0, 5)
    assert positions(context.memory, 3) == (0, 4)
    np.testing.assert_allclose(feed(context, TEXT[5:], 5, seq_id=3), expected, atol=1e-2)
    context.memory.seq_rm(0)
    assert positions(context.memory, 3) == (0, 7)


def test_cp_in_separate_memories(make_context: MakeContext) -> None:
    context = make_context(n_ctx=512, n_seq_max=2, kv_unified=False)
    feed(context, TEXT)
    for p0, p1 in ((0, 3), (1, None), (None, 8)):
        with pytest.raises(UnsupportedError, match="kv_unified"):
            context.memory.seq_cp(0, 1, p0, p1)
    context.memory.seq_cp(0, 1)
    assert positions(context.memory, 1) == (0, 7)
    np.testing.assert_allclose(feed(context, [5], 8, seq_id=1), feed(context, [5], 8, seq_id=0), atol=1e-3)


def test_keep(context: Context) -> None:
    for seq_id in range(3):
        feed(context, TEXT, seq_id=seq_id)
    context.memory.seq_keep(1)
    assert [positions(context.memory, seq_id)[1] for seq_id in range(3)] == [None, 7, None]


def test_add_shifts(make_context: MakeContext) -> None:
    """Text moved by seq_add is what it would have been at its new place: RoPE turns with it."""
    exact = {"type_k": "f32", "type_v": "f32", "flash_attn": "disabled"}
    context = make_context(**exact)
    assert context.memory.can_shift
    feed(context, TEXT, 10)
    context.memory.seq_add(0, 10, None, -10)
    assert positions(context.memory) == (0, 7)
    shifted = feed(context, [5], 8)
    direct = make_context(**exact)
    feed(direct, TEXT)
    np.testing.assert_allclose(shifted, feed(direct, [5], 8), atol=1e-3)


@pytest.mark.parametrize(("n_head", "type_k"), [(2, "q8_0"), (4, "q8_0"), (4, "f16")])
def test_a_shift_that_would_end_the_process_is_refused(tmp_path: Path, n_head: int, type_k: Any) -> None:
    """Heads of 64 numbers, and of 32: with these llama.cpp follows a null pointer, if the keys are quantized."""
    shape = Shape(n_embd=128, n_head=n_head, n_head_kv=n_head, n_layer=1, n_ff=64, n_vocab=512)
    path = write_random_model(tmp_path / "model.gguf", shape, weights="f16")
    options = ContextOptions(n_ctx=256, n_batch=64, n_threads=1, type_k=type_k)
    with Model(path) as model, Context(model, options) as context:
        feed(context, [300, 301, 302, 303])
        memory = context.memory
        memory.seq_rm(0, 0, 2)
        if n_head == 4 and type_k == "q8_0":
            assert not memory.can_shift
            with pytest.raises(UnsupportedError, match=r'cannot shift quantized keys .* type_k="f16"'):
                memory.seq_add(0, 2, None, -2)
            with Llama(model, context_options=options) as llm, pytest.raises(UnsupportedError, match="cannot shift"):
                llm.generate([300], overflow="shift", max_tokens=2)
            return
        assert memory.can_shift
        memory.seq_add(0, 2, None, -2)
        feed(context, [304], 2)
        assert positions(memory) == (0, 2)


def test_add_moves_a_range_only(context: Context) -> None:
    feed(context, TEXT)
    context.memory.seq_add(0, 4, None, 10)
    assert positions(context.memory) == (0, 17)
    context.memory.seq_add(0, 0, 4, 3)
    assert positions(context.memory) == (3, 17)


def test_div(context: Context) -> None:
    feed(context, TEXT)
    context.memory.seq_div(0, None, None, 2)
    assert positions(context.memory) == (0, 3)


BAD: list[tuple[Callable[[Memory], object], str]] = [
    (lambda m: m.seq_rm(4), "seq_id must be 0 to 3"),
    (lambda m: m.seq_rm(-1), "seq_id must be 0 to 3"),
    (lambda m: m.seq_rm(2**40), "seq_id must be 0 to 3"),
    (lambda m: m.seq_rm(0, -1), "positions must be"),
    (lambda m: m.seq_rm(0, 0, 2**31), "positions must be"),
    (lambda m: m.seq_cp(0, 4), "seq_id must be 0 to 3"),
    (lambda m: m.seq_cp(4, 0), "seq_id must be 0 to 3"),
    (lambda m: m.seq_keep(4), "seq_id must be 0 to 3"),
    (lambda m: m.seq_add(4, 0, None, 1), "seq_id must be 0 to 3"),
    (lambda m: m.seq_add(0, 0, None, 2**31), "delta"),
    (lambda m: m.seq_div(0, 0, None, 0), "divisor must be at least 1"),
    (lambda m: m.seq_div(0, 0, None, -2), "divisor must be at least 1"),
    (lambda m: m.seq_pos_min(4), "seq_id must be 0 to 3"),
    (lambda m: m.seq_pos_max(-1), "seq_id must be 0 to 3"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_numbers_out_of_range(context: Context, call: Callable[[Memory], object], message: str) -> None:
    feed(context, TEXT)
    with pytest.raises(ValueError, match=message):
        call(context.memory)
    assert positions(context.memory) == (0, 7)


def test_a_view_of_a_closed_context(context: Context) -> None:
    memory = context.memory
    context.close()
    with pytest.raises(ClosedError, match="this Context is closed"):
        memory.ptr  # noqa: B018
    with pytest.raises(ClosedError):
        memory.clear()


def test_memory_belongs_to_one_thread_at_a_time(context: Context) -> None:
    import threading

    errors: list[Exception] = []

    def work() -> None:
        try:
            context.memory.clear()
        except BusyError as error:
            errors.append(error)

    with context.lock():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(errors) == 1
