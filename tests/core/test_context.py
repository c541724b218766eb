"""Context: decoding, logits, threads, aborting."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import Batch, Context, ContextOptions, Model
from llama_cffi.core.threads import default_thread_count
from llama_cffi.errors import AbortedError, ClosedError, StaleViewError

if TYPE_CHECKING:
    from tests.support.models import MakeContext

pytest_plugins = ["tests.support.models"]

TEXT = [1, 300, 301, 305, 320, 411, 333, 260]


def batch_of(tokens: list[int], pos: int = 0, seq_id: int = 0, *, every: bool = False) -> Batch:
    batch = Batch(len(tokens))
    batch.extend(tokens, pos, seq_id, output_last=True)
    if every:
        batch.output[:] = 1
    return batch


def rows_of(context: Context, tokens: list[int]) -> NDArray[np.float32]:
    """The logits at every token, computed at once."""
    context.memory.clear()
    context.decode(batch_of(tokens, every=True))
    return np.stack([context.outputs.logits(i) for i in range(len(tokens))])


def test_one_batch_is_many_steps(context: Context, make_context: MakeContext) -> None:
    together = rows_of(context, TEXT)
    other = make_context(n_ubatch=3)
    for pos, token in enumerate(TEXT):
        other.decode(batch_of([token], pos))
        np.testing.assert_allclose(other.outputs.logits(), together[pos], atol=1e-2)
        assert other.outputs.logits().argmax() == together[pos].argmax()


def test_logits_are_copies(context: Context) -> None:
    context.decode(batch_of(TEXT))
    row = context.outputs.logits()
    assert (row.dtype.name, row.shape) == ("float32", (512,))
    kept = row.copy()
    context.decode(batch_of([5], len(TEXT)))
    np.testing.assert_array_equal(row, kept)
    assert not np.array_equal(context.outputs.logits(), kept)
    row[:] = 0
    assert context.outputs.logits().any()


def test_rows_count_from_both_ends(context: Context) -> None:
    rows = rows_of(context, TEXT)
    for i in range(len(TEXT)):
        np.testing.assert_array_equal(context.outputs.logits(i - len(TEXT)), rows[i])


def test_a_view_is_good_until_the_next_decode(context: Context) -> None:
    context.decode(batch_of(TEXT))
    view = context.outputs.logits_view()
    np.testing.assert_array_equal(view.array, context.outputs.logits())
    context.decode(batch_of([5], len(TEXT)))
    with pytest.raises(StaleViewError, match="last decode"):
        view.array  # noqa: B018
    fresh = context.outputs.logits_view()
    context.close()
    with pytest.raises(ClosedError):
        fresh.array  # noqa: B018


def test_sequences_do_not_see_each_other(context: Context) -> None:
    alone = rows_of(context, TEXT)[-1]
    context.memory.clear()
    batch = Batch(2 * len(TEXT))
    last = batch.extend(TEXT, 0, 0, output_last=True)
    batch.extend(TEXT[::-1], 0, 1, output_last=True)
    context.decode(batch)
    np.testing.assert_allclose(context.outputs.logits(last), alone, atol=1e-2)
    assert np.abs(context.outputs.logits(-1) - alone).max() > 0.5


def test_one_token_of_two_sequences(make_context: MakeContext) -> None:
    context = make_context()
    batch = Batch(len(TEXT), n_seq_max=2)
    for pos, token in enumerate(TEXT):
        batch.add(token, pos, [0, 1], output=pos == len(TEXT) - 1)
    context.decode(batch)
    assert context.memory.seq_pos_max(0) == context.memory.seq_pos_max(1) == len(TEXT) - 1
    follow = Batch(2)
    follow.add(5, len(TEXT), 0, output=True)
    follow.add(5, len(TEXT), 1, output=True)
    context.decode(follow)
    np.testing.assert_allclose(context.outputs.logits(0), context.outputs.logits(1), atol=1e-4)


def test_options(make_context: MakeContext) -> None:
    context = make_context(n_ctx=512, n_batch=100, n_ubatch=40, n_seq_max=2, kv_unified=False)
    assert (context.n_ctx, context.n_ctx_seq, context.n_batch, context.n_ubatch) == (512, 256, 100, 40)
    assert (context.n_seq_max, context.n_vocab, context.n_threads, context.n_threads_batch) == (2, 512, 1, 1)
    assert repr(context) == "<Context n_ctx=512 n_seq_max=2 n_threads=1>"


def test_a_context_as_long_as_the_training(make_context: MakeContext) -> None:
    assert make_context(n_ctx=0).n_ctx == 2048


@pytest.mark.parametrize(
    "options",
    [
        {"type_k": "f32", "type_v": "f32"},
        {"type_k": "bf16", "type_v": "bf16"},
        {"type_k": "f16", "type_v": "f16", "flash_attn": "disabled"},
        {"kv_unified": False, "n_seq_max": 1},
        {"n_threads": 2},
        {"offload_kqv": False, "op_offload": False, "swa_full": False},
    ],
)
def test_options_that_change_little(context: Context, make_context: MakeContext, options: dict[str, object]) -> None:
    np.testing.assert_allclose(rows_of(make_context(**options), TEXT), rows_of(context, TEXT), atol=0.1)


@pytest.mark.parametrize(
    "options",
    [{"rope_freq_base": 100.0}, {"rope_freq_scale": 0.25}, {"rope_scaling": "linear", "rope_freq_scale": 0.1}],
)
def test_options_that_change_much(context: Context, make_context: MakeContext, options: dict[str, object]) -> None:
    difference = np.abs(rows_of(make_context(**options), TEXT) - rows_of(context, TEXT)).max(axis=1)
    assert difference[0] < 0.1, "the first token has nothing to attend to but itself"
    assert difference[-1] > 0.1


# -- threads


def test_default_threads(model: Model) -> None:
    with Context(model, ContextOptions(n_ctx=32)) as context:
        assert context.n_threads == context.n_threads_batch == default_thread_count()


def test_set_threads(context: Context) -> None:
    before = rows_of(context, TEXT)
    for n_threads, n_threads_batch in ((2, None), (1, 3), (2, 1), (1, 1)):
        context.set_threads(n_threads, n_threads_batch)
        assert (context.n_threads, context.n_threads_batch) == (n_threads, n_threads_batch or n_threads)
        np.testing.assert_allclose(rows_of(context, TEXT), before, atol=1e-3)
        context.decode(batch_of([5], len(TEXT)))
    with pytest.raises(ValueError, match="n_threads must be 1 to 512"):
        context.set_threads(0)
    assert context.n_threads == 1


# -- aborting


def test_abort_stops_the_next_decode(context: Context) -> None:
    before = rows_of(context, TEXT)
    context.memory.clear()
    context.abort()
    with pytest.raises(AbortedError, match="aborted"):
        context.decode(batch_of(TEXT))
    np.testing.assert_array_equal(rows_of(context, TEXT), before)


def test_a_deadline_that_has_passed(context: Context) -> None:
    before = rows_of(context, TEXT)
    context.memory.clear()
    with pytest.raises(AbortedError, match="deadline has passed"):
        context.decode(batch_of(TEXT), deadline=time.monotonic() - 1)
    context.memory.clear()
    context.decode(batch_of(TEXT, every=True), deadline=time.monotonic() + 100)
    np.testing.assert_array_equal(context.outputs.logits(-1), before[-1])
    np.testing.assert_array_equal(rows_of(context, TEXT), before)


def test_abort_from_another_thread(make_context: MakeContext) -> None:
    context = make_context(n_ctx=16384, n_batch=16384, n_ubatch=16384)
    before = rows_of(context, TEXT)
    context.memory.clear()
    timer = threading.Timer(0.05, context.abort)
    timer.start()
    with pytest.raises(AbortedError):
        context.decode(batch_of([5] * 16384))
    timer.join()
    assert (context.memory.seq_pos_max(0) or 0) < 16384
    np.testing.assert_array_equal(rows_of(context, TEXT), before)


# -- the rest


def test_perf(make_context: MakeContext) -> None:
    context = make_context(no_perf=False)
    for batch in (batch_of(TEXT), batch_of([5], len(TEXT))):
        context.decode(batch)
        context.synchronize()  # llama.cpp counts what was queued until here as one
    perf = context.perf
    assert (perf.n_prefill, perf.n_decode) == (len(TEXT), 1)
    assert perf.prefill_ms > 0
    context.perf_reset()
    assert context.perf.prefill_ms == 0


def test_dropping_frees_without_a_collection(model: Model) -> None:
    """The memory of a context is large: it must not wait for the garbage collector."""
    gc.disable()
    try:
        context = Context(model, ContextOptions(n_ctx=32, n_threads=1))
        context.decode(batch_of([1]))
        context.memory.seq_pos_max(0)
        handles = len(model.handle._children)
        del context
        assert len(model.handle._children) == handles - 1
    finally:
        gc.enable()


def test_holding_the_lock(context: Context) -> None:
    with context.lock(), context.lock():
        context.decode(batch_of(TEXT))
        context.memory.seq_rm(0, 4)
        assert context.memory.seq_pos_max(0) == 3


def test_a_context_that_gave_out_views_is_freed_as_soon_as_it_is_dropped(model: Model) -> None:
    context = Context(model, ContextOptions(n_ctx=64, n_threads=1))
    context.decode(batch_of(TEXT))
    assert context.memory.seq_pos_max(0) == len(TEXT) - 1
    assert context.state.size > 0
    context.outputs.logits_view().array  # noqa: B018
    handle = weakref.ref(context.handle)
    gc.disable()
    try:
        del context
        assert handle() is None
    finally:
        gc.enable()


def test_a_view_keeps_what_it_shows(model: Model) -> None:
    context = Context(model, ContextOptions(n_ctx=64, n_threads=1))
    context.decode(batch_of(TEXT))
    expected = context.outputs.logits()
    memory, outputs, state, row = context.memory, context.outputs, context.state, context.outputs.logits_view()
    handle = context.handle
    del context
    gc.collect()
    assert memory.seq_pos_max(0) == len(TEXT) - 1
    np.testing.assert_array_equal(outputs.logits(), expected)
    np.testing.assert_array_equal(row.array, expected)
    state.set_data(state.data())
    with pytest.raises(StaleViewError):
        row.array  # noqa: B018
    handle.close()
    for ask in (lambda: memory.seq_pos_max(0), outputs.logits, state.data, lambda: row.array):
        with pytest.raises(ClosedError):
            ask()
