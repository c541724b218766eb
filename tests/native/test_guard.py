"""Guarded calls: failures of llama.cpp that end the process elsewhere are exceptions here."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi._native import ffi, guard, helpers, lib, log
from llama_cffi.errors import NativeError

N_BATCH = 32

catches = pytest.mark.skipif(helpers.KIND == "python", reason="only C++ can catch a failed assertion")


@pytest.fixture(scope="module")
def model(assets: Path) -> Iterator[Any]:
    path = str(assets / "models/stories260K.gguf").encode()
    pointer = guard.model_load_from_file(path, lib.llama_model_default_params())
    assert pointer
    yield pointer
    lib.llama_model_free(pointer)


@pytest.fixture
def context(model: Any) -> Iterator[Any]:
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads, params.n_threads_batch = 256, N_BATCH, 32, 2, 2
    pointer = guard.init_from_model(model, params)
    assert pointer
    yield pointer
    lib.llama_free(pointer)


@pytest.fixture
def chain() -> Iterator[Any]:
    pointer = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    yield pointer
    lib.llama_sampler_free(pointer)


def decode(context: Any, n: int) -> int:
    """Decode so many times the same token."""
    tokens = ffi.new("int32_t[]", [5] * n)
    return guard.decode(context, ffi.new("struct llama_batch *", lib.llama_batch_get_one(tokens, n)))


def test_a_batch_decodes(context: Any) -> None:
    assert decode(context, 4) == 0
    assert guard.call_int("llama_memory_seq_pos_max", lib.llama_get_memory(context), 0) == 3


@catches
def test_an_oversized_batch_is_an_error_and_the_context_goes_on(
    context: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        with pytest.raises(NativeError, match=r"^llama_decode: llama-context.cpp:\d+: GGML_ASSERT\(n_tokens_all <= "):
            decode(context, lib.llama_n_batch(context) + 1)
    assert decode(context, N_BATCH) == 0
    assert capfd.readouterr() == ("", "")


def test_sampling_errors_carry_the_log(context: Any, chain: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert decode(context, 4) == 0
    with pytest.raises(NativeError, match=r"cur_p\.selected >= 0"):
        guard.sampler_sample(chain, context, -1)
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
    with pytest.raises(NativeError, match="logits != nullptr") as caught:
        guard.sampler_sample(chain, context, 2)
    assert any("invalid logits id 2" in line for line in caught.value.log)
    assert "invalid logits id 2" in str(caught.value)
    assert guard.sampler_sample(chain, context, -1) >= 0
    assert capfd.readouterr() == ("", "")


def test_an_exception_through_the_c_interface_is_an_error(model: Any, chain: Any) -> None:
    vocab = lib.llama_model_get_vocab(model)
    grammar = guard.call_ptr("llama_sampler_init_grammar", vocab, b'root ::= "yes" | "no"', b"root")
    lib.llama_sampler_chain_add(chain, grammar)
    with pytest.raises(NativeError, match="empty grammar stack"):
        guard.sampler_accept(chain, 7)
    guard.sampler_reset(chain)
    cell: list[Any] = []
    copy = guard.sampler_clone(chain, cell)
    with pytest.raises(NativeError, match="empty grammar stack"):
        guard.sampler_accept(copy, 7)
    guard.free("llama_sampler_free", cell)
    assert cell == []


def test_apply_fills_the_candidates(chain: Any) -> None:
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
    data = ffi.new("llama_token_data[]", [(3, 1.0, 0.0), (4, 2.0, 0.0)])
    array = ffi.new("llama_token_data_array *", {"data": data, "size": 2, "selected": -1})
    guard.sampler_apply(chain, array)
    assert array.selected == 1


def test_a_failed_load_returns_null(assets: Path) -> None:
    path = str(assets / "models/dummy.gguf").encode()
    params = ffi.new("struct llama_model_params *", lib.llama_model_default_params())
    assert guard.model_load_from_file(path, params) == ffi.NULL
    assert guard.model_load_from_splits([path, path], params) == ffi.NULL


def test_params_arrive_whole(model: Any, assets: Path) -> None:
    """The last fields of a struct that is passed by value matter as much as the first."""
    path = str(assets / "models/stories260K.gguf").encode()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    mark = log.mark()
    vocab_only = guard.model_load_from_splits([path], params)
    assert any("vocab only" in line for line in log.lines_since(mark, logging.INFO))
    lib.llama_model_free(vocab_only)
    with_abort = lib.llama_context_default_params()
    with_abort.n_ctx = 64
    with_abort.abort_callback = ffi.cast("ggml_abort_callback", helpers.address("lch_abort_check"))
    state = helpers.new("lch_abort")
    helpers.lib.lch_abort_set(state, 1)
    with_abort.abort_callback_data = helpers.pointer(state)
    context = guard.init_from_model(model, with_abort)
    assert lib.llama_n_ctx(context) >= 64
    assert decode(context, 2) == 2
    lib.llama_free(context)


def test_words_of_every_width(model: Any) -> None:
    vocab = lib.llama_model_get_vocab(model)
    assert guard.call_int("llama_model_n_params", model) == lib.llama_model_n_params(model) > 200_000
    assert guard.call_int("llama_vocab_is_eog", vocab, 2) == 1
    assert guard.call_int("llama_vocab_is_eog", vocab, 5) == 0
    assert guard.call_int("llama_vocab_get_attr", vocab, 5) == int(lib.llama_vocab_get_attr(vocab, 5))
    tokens = ffi.new("int32_t[]", 32)
    text = b"Once upon a time"
    n = guard.call_int("llama_tokenize", vocab, text, len(text), tokens, 32, True, False)
    assert n > 1
    assert guard.call_int("llama_tokenize", vocab, text, len(text), tokens, 1, True, False) == -n
    assert guard.call_int("llama_tokenize", vocab, text, len(text), None, 0, False, False) == 1 - n
    back = ffi.new("char[]", 64)
    size = guard.call_int("llama_detokenize", vocab, tokens, n, back, 64, True, False)
    assert bytes(ffi.buffer(back, size)).strip() == text


def test_calls_with_a_wrong_shape_are_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="takes 1 arguments, not 2"):
        guard.call_int("llama_model_n_params", model, 1)
    with pytest.raises(TypeError, match="cannot be called"):
        guard.call_int("llama_sampler_init_temp", 1)
    with pytest.raises(TypeError, match="cannot be called"):
        guard.call_int("llama_decode", model, 1)
    with pytest.raises((TypeError, AttributeError)):
        guard.call_int("llama_model_n_params", 1.5)
    with pytest.raises(AttributeError):
        guard.call_int("llama_no_such_function")


@catches
def test_nested_and_parallel_calls_keep_their_own_failures() -> None:
    """The guard belongs to a thread: an assertion here is not thrown in another one, nor is its message seen there."""
    on_abort = helpers.ffi.cast("void *", helpers.ffi.addressof(helpers.lib, "lch_on_abort"))
    seen: dict[int, set[str]] = {}

    def fail(name: int) -> None:
        seen[name] = set()
        for i in range(200):
            message = helpers.ffi.new("char[]", f"/some where/file.c:{i}: thread {name}".encode())
            word = int(helpers.ffi.cast("intptr_t", message))
            assert helpers.lib.lch_call(on_abort, 0, word, 0, 0, 0, 0, 0, 0, 0) == helpers.lib.LCH_FAILED
            seen[name].add(helpers.ffi.string(helpers.lib.lch_failure()).decode().rpartition(": ")[2])

    threads = [threading.Thread(target=fail, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {name: {f"thread {name}"} for name in range(4)}


CHILD = """
import sys, threading
from llama_cffi import _native
from llama_cffi._native import guard, helpers
from llama_cffi._native import ffi, lib

def on_a_thread_without_guard():
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    array = ffi.new("llama_token_data_array *")
    lib.llama_sampler_apply(chain, array)
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(1))
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_p(0.5, 1))
    lib.llama_sampler_apply(chain, array)

def inside_a_graph():
    message = helpers.ffi.new("char[]", b"/src/ggml/src/ggml-cpu/ops.cpp:7: GGML_ASSERT(i01 >= 0) failed")
    address = helpers.address("lch_on_abort")
    if helpers.KIND == "compiled":
        address = helpers.ffi.cast("void *", address)
    word = int(helpers.ffi.cast("intptr_t", message))
    assert helpers.lib.lch_call(address, 0, word, *[0] * 7) == 0

helpers.lib.lch_log(4, b"the last thing said\\n", helpers.ffi.NULL)
thread = threading.Thread(target=globals()[sys.argv[1]])
thread.start()
thread.join()
print("alive")
"""


@pytest.mark.parametrize(
    ("case", "reason"),
    [("on_a_thread_without_guard", "llama-sampler.cpp"), ("inside_a_graph", "ggml-cpu/ops.cpp:7")],
)
def test_what_cannot_be_caught_says_why(case: str, reason: str) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, case], capture_output=True, text=True, timeout=60)
    assert "llama_cffi: llama.cpp failed an assertion that no Python call can report: " in done.stderr
    assert reason in done.stderr
    assert "  the last thing said\n" in done.stderr
    assert f" in {case}\n" in done.stderr
    assert "most recent call first" in done.stderr
    # The callback only reports; it is llama.cpp that ends the process, which the second case leaves out.
    assert ("alive" in done.stdout) == (case == "inside_a_graph")
    assert (done.returncode == 0) == (case == "inside_a_graph")
