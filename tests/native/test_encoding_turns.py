"""Encodings and decodes in turns: a decode waits for the end of a piece, and the encoding for the decode."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from llama_cffi._native import guard, helpers
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.encoding_turns import EncodingTurns
from llama_cffi._native.helpers import ffi, lib
from llama_cffi._native.turn import STOPPED, Turn
from llama_cffi.errors import BusyError

PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""
DONE = 7
"""What a computation returns."""

pytestmark = pytest.mark.skipif(helpers.KIND != "compiled", reason="without the helpers an encoding is one piece")


class Encoding:
    """What ggml's scheduler does: it asks after which nodes to pause, and after each pause whether to go on."""

    def __init__(self, *turns: Turn) -> None:
        self.flag = AbortFlag()
        self.turns = EncodingTurns(self.flag)
        for turn in turns:
            self.turns.add(turn)
        kind = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
        self._check: Any = kind(int(ffi.cast("intptr_t", self.turns.callback)))
        self._data = int(ffi.cast("intptr_t", self.turns.data))
        self.failures: list[BaseException] = []

    def asks_to_pause(self) -> bool:
        return bool(self._check(None, True, self._data))

    def pause(self) -> bool:
        """Whether the computation goes on."""
        return bool(self._check(None, False, self._data))

    def run(self, body: Callable[[], object]) -> int:
        """Have a function of libmtmd computed that does what the body does."""

        def function(*_: int) -> int:
            try:
                body()
            except BaseException as error:
                self.failures.append(error)
            return DONE

        words = ", ".join(["int64_t"] * 8)
        native = ffi.callback(f"int64_t({words})", function)
        with pytest.MonkeyPatch.context() as patch:
            call = (ffi.cast("void *", native), lib.LCH_INT64, *[0] * 8)
            patch.setattr(guard, "words", lambda name, args: call)
            result = self.turns.compute("mtmd_encode_chunk")
        assert not self.failures
        return result


class Decodes:
    """What contexts do with a turn."""

    def __init__(self) -> None:
        self.turn = Turn()

    def take(self) -> None:
        assert lib.lch_turn_take(self.turn.native, AbortFlag().native) == 0

    def give(self) -> None:
        lib.lch_turn_give(self.turn.native)

    def wait(self, n: int = 1) -> None:
        """Return when so many wait for the turn."""
        end = time.monotonic() + PATIENCE
        while self.turn.n_waiting != n:
            assert time.monotonic() < end
            time.sleep(0.001)


def start(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_nothing_waits_for_turns_that_are_not_its_own() -> None:
    decodes, encoding = Decodes(), Encoding()

    def body() -> None:
        decodes.take()
        assert encoding.pause()
        decodes.give()
        encoding.flag.set()
        assert not encoding.pause()

    assert encoding.run(body) == DONE


def test_pieces_become_shorter_where_a_decode_has_waited_long() -> None:
    decodes = Decodes()
    encoding = Encoding(decodes.turn)

    def size() -> int:
        n = 1
        while not encoding.asks_to_pause():
            n += 1
        return n

    def decode() -> None:
        decodes.take()
        decodes.give()

    def body() -> None:
        assert size() == 8
        time.sleep(0.02)
        assert encoding.pause()
        assert size() == 8  # nothing has waited
        waiting = start(decode)
        decodes.wait()
        time.sleep(0.02)
        assert encoding.pause()
        join(waiting)
        assert size() == 4
        assert encoding.pause()
        assert size() == 8

    encoding.run(body)


def test_a_decode_waits_for_a_piece_and_the_encoding_for_the_decode() -> None:
    decodes, order = Decodes(), list[str]()
    encoding, may_end = Encoding(decodes.turn), threading.Event()

    def decode() -> None:
        decodes.take()
        order.append("decode begins")
        assert may_end.wait(PATIENCE)
        order.append("decode ends")
        decodes.give()

    def body() -> None:
        threads.append(start(decode))
        decodes.wait()
        order.append("piece ends")
        assert encoding.pause()
        order.append("piece begins")

    threads: list[threading.Thread] = []
    encoder = start(lambda: encoding.run(body))
    # Now the encoding waits for its next piece.
    end = time.monotonic() + PATIENCE
    while len(order) < 2 or not decodes.turn.n_waiting:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert order == ["piece ends", "decode begins"]
    may_end.set()
    join(encoder, *threads)
    assert order == ["piece ends", "decode begins", "decode ends", "piece begins"]
    assert not encoding.failures


def test_an_encoding_waits_for_a_decode_that_has_begun() -> None:
    decodes, begun = Decodes(), threading.Event()
    encoding = Encoding(decodes.turn)
    decodes.take()
    thread = start(lambda: encoding.run(begun.set))
    decodes.wait()
    assert not begun.wait(0.05)
    decodes.give()
    join(thread)
    assert begun.is_set()
    # It has given its turn back.
    decodes.take()


def test_neither_starves() -> None:
    decodes = Decodes()
    encoding = Encoding(decodes.turn)
    running, over, n_decoded = list[str](), threading.Event(), 0

    def decode() -> None:
        nonlocal n_decoded
        while not over.is_set():
            decodes.take()
            running.append("decode")
            assert running == ["decode"]
            n_decoded += 1
            running.pop()
            decodes.give()

    def body() -> None:
        for _ in range(50):
            running.append("piece")
            decodes.wait()
            assert running == ["piece"]
            running.pop()
            assert encoding.pause()

    thread = start(decode)
    join(start(lambda: encoding.run(body)))
    over.set()
    join(thread)
    assert not running
    assert not encoding.failures
    # Behind each piece comes the decode that has waited, and behind that the next piece.
    assert n_decoded >= 50


def test_what_waits_for_a_decode_can_be_stopped() -> None:
    decodes = Decodes()
    encoding = Encoding(decodes.turn)
    waiting = threading.Event()

    def body() -> None:
        decode = start(decodes.take)
        decodes.wait()
        # The decode has its turn and does not give it back.
        waiting.set()
        assert not encoding.pause()
        assert not encoding.pause()
        join(decode)

    thread = start(lambda: encoding.run(body))
    assert waiting.wait(PATIENCE)
    encoding.flag.set()
    join(thread)
    assert not encoding.failures
    assert decodes.turn.n_waiting == 0
    decodes.give()
    decodes.take()


def test_it_can_be_stopped_before_it_has_begun() -> None:
    first, second = Decodes(), Decodes()
    encoding, results = Encoding(first.turn, second.turn), list[int]()
    second.take()
    thread = start(lambda: results.append(encoding.run(lambda: pytest.fail("it has begun"))))
    second.wait()
    encoding.flag.set()
    join(thread)
    assert results == [STOPPED]
    # It keeps no turn that it had.
    first.take()


def test_it_is_refused_in_the_middle_of_a_decode_of_its_thread() -> None:
    decodes = Decodes()
    encoding = Encoding(decodes.turn)
    decodes.take()
    with pytest.raises(BusyError, match="in the middle of a computation"):
        encoding.run(lambda: pytest.fail("it has begun"))
    decodes.give()
    assert encoding.run(encoding.pause) == DONE


def test_two_encodings_do_not_wait_for_each_other() -> None:
    """Each would keep one turn and wait for the other one, if they took them in different orders."""
    one, other = Decodes(), Decodes()
    encodings = [Encoding(one.turn, other.turn), Encoding(other.turn, one.turn)]
    assert encodings[0].turns.found == encodings[1].turns.found

    def work(encoding: Encoding) -> None:
        encoding.run(lambda: [encoding.pause() for _ in range(300)])

    join(*[start(lambda one=one: work(one)) for one in encodings])  # type: ignore[misc]


def test_turns_are_taken_once_and_forgotten_with_their_contexts() -> None:
    decodes, gone = Decodes(), Turn()
    encoding = Encoding(decodes.turn, gone, decodes.turn)
    assert set(encoding.turns.found) == {decodes.turn, gone}
    del gone
    assert encoding.turns.found == [decodes.turn]
    decodes.turn.pid += 1  # as a forked child sees it
    assert encoding.turns.found == []


class Pool:
    """What looks like the handle of a thread pool."""

    ptr = ffi.cast("void *", 5)


def test_threads_sleep_while_an_encoding_has_their_turn() -> None:
    decodes, paused = Decodes(), list[int]()
    encoding = Encoding(decodes.turn)
    pause = ffi.callback("void(void *)", lambda pool: paused.append(int(ffi.cast("intptr_t", pool))))
    decodes.turn.add(Pool(), int(ffi.cast("intptr_t", pause)))  # type: ignore[arg-type]

    def body() -> None:
        assert paused == [5]
        encoding.pause()
        assert paused == [5, 5]

    encoding.run(body)
    lib.lch_turn_remove(decodes.turn.native, ffi.cast("void *", 5))
    encoding.run(lambda: None)
    assert paused == [5, 5]
