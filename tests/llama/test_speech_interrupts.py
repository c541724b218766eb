"""An exception from a signal handler, wherever one can come in a speech: nothing native is left, and no lock stays."""

from __future__ import annotations

from pathlib import Path

from tests.support.children import run_child
from tests.support.speech_models import write_speaking_model

PROGRAM = """
import gc, sys
from llama_cffi import Llama
from llama_cffi._native import handle
from tests.support.interrupts import Interrupted, interrupt_at

llm = Llama(sys.argv[1], mmproj=sys.argv[2], n_ctx=256, n_threads=1)
options = {"max_frames": 2, "seed": 1}
expected = llm.speak("Hi", **options)
stride = int(sys.argv[3])
gc.collect()
owners, position = len(handle._owners), 1
while True:
    reached, result = interrupt_at(position, lambda: llm.speak("Hi", **options))
    if not reached:
        break
    assert isinstance(result, Interrupted), (position, result)
    result = None
    # Frames that the exception keeps, in a cycle, hold what they have until they are collected.
    gc.collect()
    assert len(handle._owners) == owners, (position, handle._owners)
    assert llm.speak("Hi", **options) == expected, position
    position += stride
print(position)
llm.close()
"""
EXIT = """
import sys, threading
from llama_cffi import Llama

kept = Llama(sys.argv[1], mmproj=sys.argv[2], n_ctx=256, n_threads=1)
began = threading.Event()

def work():
    while True:
        for piece in kept.stream_speech("Hello there"):
            began.set()

threading.Thread(target=work, daemon=True).start()
began.wait()
print("ends")
"""


def test_interrupts_leave_nothing_behind(tmp_path: Path) -> None:
    made = write_speaking_model(tmp_path, "pockettts")
    assert int(run_child(PROGRAM, made.model, made.projector, 131)) > 500


def test_an_interpreter_may_end_in_the_middle_of_a_speech(tmp_path: Path) -> None:
    made = write_speaking_model(tmp_path, "pockettts")
    assert run_child(EXIT, made.model, made.projector) == "ends\n"
