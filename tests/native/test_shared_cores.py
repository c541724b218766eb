"""SharedCores of encodings and decodes: a decode waits for the end of a piece, and the encoding for the decode."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from llama_cffi._native import helpers
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.shared_cores import SharedCores

PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""

pytestmark = pytest.mark.skipif(helpers.KIND != "compiled", reason="without the helpers an encoding is one piece")


class Encoding:
    """What ggml's scheduler does: it asks after which nodes to pause, and after each pause whether to go on."""

    def __init__(self) -> None:
        self.flag = AbortFlag()
        self.turns = SharedCores(self.flag)
        kind = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
        self._check: Any = kind(int(helpers.ffi.cast("intptr_t", self.turns.callback)))
        self._data = int(helpers.ffi.cast("intptr_t", self.turns.data))

    def asks_to_pause(self) -> bool:
        return bool(self._check(None, True, self._data))

    def pause(self) -> bool:
        """Whether the computation goes on."""
        return bool(self._check(None, False, self._data))


def start(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_nothing_waits_for_turns_that_are_not_shared() -> None:
    encoding = Encoding()
    encoding.turns.begin()
    encoding.turns.take()
    assert encoding.pause()
    encoding.turns.give()
    encoding.turns.end()
    assert not encoding.turns.shared
    encoding.flag.set()
    assert not encoding.pause()


def test_pieces_become_shorter_where_a_decode_has_waited_long() -> None:
    encoding = Encoding()
    turns = encoding.turns
    turns.share()
    turns.begin()

    def size() -> int:
        n = 1
        while not encoding.asks_to_pause():
            n += 1
        return n

    assert size() == 8
    time.sleep(0.02)
    assert encoding.pause()
    assert size() == 8  # nothing has waited
    waiting = start(turns.take)
    while not turns.n_waiting:
        time.sleep(0.001)
    time.sleep(0.02)
    pausing = start(encoding.pause)
    join(waiting)
    turns.give()
    join(pausing)
    assert size() == 4
    assert encoding.pause()
    assert size() == 8
    turns.end()


def test_a_decode_waits_for_a_piece_and_the_encoding_for_the_decode() -> None:
    encoding, order = Encoding(), list[str]()
    turns = encoding.turns
    turns.share()
    turns.begin()
    asked, may_end = threading.Event(), threading.Event()

    def decode() -> None:
        asked.set()
        turns.take()
        order.append("decode begins")
        assert may_end.wait(PATIENCE)
        order.append("decode ends")
        turns.give()

    def pause() -> None:
        assert encoding.pause()
        order.append("piece begins")

    decoding = start(decode)
    assert asked.wait(PATIENCE)
    order.append("piece ends")
    while not turns.n_waiting:
        time.sleep(0.001)
    pausing = start(pause)
    while len(order) < 2:
        assert pausing.is_alive()
        time.sleep(0.001)
    assert order == ["piece ends", "decode begins"]
    may_end.set()
    join(decoding)
    join(pausing)
    assert order == ["piece ends", "decode begins", "decode ends", "piece begins"]
    turns.end()


def test_an_encoding_waits_for_a_decode_that_has_begun() -> None:
    encoding = Encoding()
    turns = encoding.turns
    turns.share()
    turns.take()
    begun = threading.Event()

    def begin() -> None:
        turns.begin()
        begun.set()

    thread = start(begin)
    assert not begun.wait(0.05)
    turns.give()
    join(thread)
    turns.end()


def test_neither_starves() -> None:
    encoding = Encoding()
    turns = encoding.turns
    turns.share()
    running, over, n_decoded = list[str](), threading.Event(), 0

    def decode() -> None:
        nonlocal n_decoded
        while not over.is_set():
            turns.take()
            running.append("decode")
            assert running == ["decode"]
            n_decoded += 1
            running.pop()
            turns.give()

    thread = start(decode)

    def encode() -> None:
        turns.begin()
        for _ in range(200):
            running.append("piece")
            assert running == ["piece"]
            running.pop()
            assert encoding.pause()
        turns.end()

    join(start(encode))
    over.set()
    join(thread)
    assert not running
    # The encoding waited for each decode that did; those that came too late for one pause had the next one.
    assert n_decoded > 20


def test_what_waits_for_a_decode_can_be_stopped() -> None:
    encoding = Encoding()
    turns = encoding.turns
    turns.share()
    turns.begin()
    waiting = start(turns.take)
    while not turns.n_waiting:
        time.sleep(0.001)
    pausing = start(encoding.pause)
    join(waiting)
    # The decode has its turn and never gives it back.
    encoding.flag.set()
    join(pausing)
    assert not encoding.pause()
    turns.end()
