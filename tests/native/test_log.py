"""The ring of llama.cpp's log lines, fed by hand and by llama.cpp."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_cffi import _native
from llama_cffi._native import guard, log
from llama_cffi._native.helpers import ffi, lib

DEBUG, INFO, WARN, ERROR, CONT = 1, 2, 3, 4, 5
RING = 1024


def say(level: int, text: str) -> None:
    lib.lch_log(level, text.encode(), ffi.NULL)


@pytest.fixture(autouse=True)
def drained() -> Iterator[None]:
    log.pump()
    yield
    log.pump()


def test_lines_reach_logging_with_their_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="llama_cffi.native")
    say(INFO, "loaded\n")
    say(WARN, "odd\n")
    say(ERROR, "broken\n")
    assert caplog.record_tuples == []
    log.pump()
    log.pump()
    name = "llama_cffi.native"
    assert caplog.record_tuples == [
        (name, logging.INFO, "loaded"),
        (name, logging.WARNING, "odd"),
        (name, logging.ERROR, "broken"),
    ]


def test_pieces_of_a_line_are_joined() -> None:
    mark = log.mark()
    say(ERROR, "one ")
    say(CONT, "two ")
    say(CONT, "three\nfour\n\nfive")
    say(ERROR, "six\n")
    assert log.lines_since(mark) == ("one two three", "four", "five", "six")


def test_an_unfinished_line_is_not_lost() -> None:
    mark = log.mark()
    say(WARN, "no newline")
    assert log.lines_since(mark) == ("no newline",)


def test_a_long_line_takes_several_places() -> None:
    mark = log.mark()
    text = "abcdefghij" * 200
    say(ERROR, text + "\n")
    lines = log.lines_since(mark)
    assert "".join(lines) == text
    assert len(lines) == 5


def test_bytes_that_are_no_text_are_replaced() -> None:
    mark = log.mark()
    lib.lch_log(ERROR, b"caf\xc3\xa9 \xff\n", ffi.NULL)
    assert log.lines_since(mark) == ("café \ufffd",)


def test_percent_signs_are_not_formats(caplog: pytest.LogCaptureFixture) -> None:
    say(ERROR, "100 %s done\n")
    log.pump()
    assert caplog.messages == ["100 %s done"]


def test_lines_since_filters_by_level() -> None:
    mark = log.mark()
    say(INFO, "info\n")
    say(WARN, "warn\n")
    assert log.lines_since(mark) == ("warn",)
    assert log.lines_since(mark, logging.INFO) == ("info", "warn")
    assert log.lines_since(log.mark(), logging.INFO) == ()


def test_lines_since_are_those_of_this_thread() -> None:
    mark = log.mark()
    thread = threading.Thread(target=say, args=(ERROR, "elsewhere\n"))
    thread.start()
    thread.join()
    say(ERROR, "here\n")
    assert log.lines_since(mark) == ("here",)


def test_lost_lines_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    for i in range(RING + 100):
        say(ERROR, f"line {i}\n")
    log.pump()
    assert caplog.messages[0] == "100 lines of llama.cpp's log were lost"
    assert caplog.messages[1:] == [f"line {i}" for i in range(100, RING + 100)]


def test_debug_lines_are_kept_only_when_wanted(caplog: pytest.LogCaptureFixture) -> None:
    mark = log.mark()
    say(DEBUG, "dropped ")
    say(CONT, "with its end\n")
    with caplog.at_level(logging.DEBUG, logger="llama_cffi.native"):
        log.pump()
        say(DEBUG, "kept\n")
        log.pump()
    log.pump()
    say(DEBUG, "dropped again\n")
    assert log.lines_since(mark, logging.DEBUG) == ("kept",)
    assert caplog.messages == ["kept"]


def test_a_handler_that_pumps_does_not_hang(caplog: pytest.LogCaptureFixture) -> None:
    class Pumping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(ERROR, "from the handler\n") if record.getMessage() == "first" else None
            log.pump()

    handler = Pumping()
    log.logger.addHandler(handler)
    try:
        say(ERROR, "first\n")
        log.pump()
    finally:
        log.logger.removeHandler(handler)
    assert caplog.messages == ["first", "from the handler"]


def test_threads_may_log_and_pump_at_once(caplog: pytest.LogCaptureFixture) -> None:
    def work(name: int) -> None:
        for i in range(200):
            say(ERROR, f"{name} {i}\n")
            log.pump()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.pump()
    for name in range(4):
        assert [m for m in caplog.messages if m.startswith(f"{name} ")] == [f"{name} {i}" for i in range(200)]


def test_llama_cpp_logs_here(assets: Path) -> None:
    mark = log.mark()
    params = _native.lib.llama_model_default_params()
    assert not guard.model_load_from_file(str(assets / "models/dummy.gguf").encode(), params)
    assert any("failed to load model" in line for line in log.lines_since(mark))
    assert log.lines_since(log.call_mark()) == log.lines_since(mark)


def test_silent_until_configured(assets: Path) -> None:
    code = (
        "import sys, logging\n"
        "from llama_cffi import _native\n"
        "from llama_cffi._native import guard, log\n"
        "if sys.argv[2] == 'loud': logging.basicConfig(level=logging.ERROR)\n"
        "guard.model_load_from_file(sys.argv[1].encode(), _native.lib.llama_model_default_params())\n"
        "log.pump()\n"
    )
    model = str(assets / "models/dummy.gguf")
    for mode in ("silent", "loud"):
        done = subprocess.run([sys.executable, "-c", code, model, mode], capture_output=True, text=True, check=True)
        assert done.stdout == ""
        assert ("failed to load model" in done.stderr) == (mode == "loud")
        assert bool(done.stderr) == (mode == "loud")
