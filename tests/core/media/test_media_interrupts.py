"""An exception from a signal handler, wherever one can come: nothing native is left, and no lock stays."""

from __future__ import annotations

from pathlib import Path

from tests.support.children import run_child
from tests.support.media_models import QWEN2VL_SHAPE, write_text_model, write_vision_projector
from tests.support.pictures import scene

PROGRAM = """
import gc, sys
import numpy as np
from llama_cffi import Image, MediaChunk, Model, Projector
from llama_cffi._native import handle
from tests.support.interrupts import Interrupted, interrupt_at

model = Model(sys.argv[1])
def load():
    return Projector(model, sys.argv[2], n_threads=1, warmup=False)
projector = load()
image = Image(np.zeros((16, 16, 3), dtype=np.uint8))
file = Image(sys.argv[3])
(_, chunk, _) = projector.tokenize(image)
expected = projector.encode(chunk)

calls = {
    "load": lambda: load().close(),
    "tokenize": lambda: [one.close() for one in projector.tokenize(image) if isinstance(one, MediaChunk)],
    "tokenize a file": lambda: [one.close() for one in projector.tokenize(file) if isinstance(one, MediaChunk)],
    "encode": lambda: projector.encode(chunk),
    "encode many": lambda: projector.encode_many([chunk]),
}
for name, stride in zip(sys.argv[4::2], map(int, sys.argv[5::2])):
    call = calls[name]
    call()
    gc.collect()
    owners = len(handle._owners)
    position = 1
    while True:
        reached, result = interrupt_at(position, call)
        if not reached:
            break
        assert isinstance(result, Interrupted), (name, position, result)
        result = None
        # Frames that the exception keeps, in a cycle, hold what they have until they are collected.
        if len(handle._owners) != owners or projector._lock.locked():
            gc.collect()
        assert len(handle._owners) == owners, (name, position, handle._owners)
        assert not projector.gate._inside and not projector._lock.locked(), (name, position)
        assert not projector.gate._lock._is_owned(), (name, position)
        position += stride
    assert np.array_equal(projector.encode(chunk), expected), name
    print(name, position)
model.close()
assert projector.closed
"""
EXIT = """
import sys, threading
import numpy as np
from llama_cffi import Image, MediaChunk, Model, Projector

class Holder:
    pass

def make(seed):
    model = Model(sys.argv[1])
    projector = Projector(model, sys.argv[2], n_threads=1, warmup=False)
    image = Image(np.full((160, 160, 3), seed, dtype=np.uint8))
    (_, chunk, _) = projector.tokenize(image)
    return model, projector, chunk

holder = Holder()
holder.itself, holder.made = holder, make(1)
del holder
kept = make(2)
began = threading.Event()

def work():
    while True:
        began.set()
        kept[1].encode(kept[2])

threading.Thread(target=work, daemon=True).start()
began.wait()
print("ends")
"""
STRIDES = {"load": 331, "tokenize": 11, "tokenize a file": 13, "encode": 3, "encode many": 5}


def test_interrupts_leave_nothing_behind(tmp_path: Path) -> None:
    scene(12, 12).save(tmp_path / "picture.png")
    model = write_text_model(tmp_path / "text.gguf", "qwen2vl", QWEN2VL_SHAPE)
    projector = write_vision_projector(tmp_path / "mmproj.gguf")
    strides = [text for pair in STRIDES.items() for text in pair]
    said = run_child(PROGRAM, model, projector, tmp_path / "picture.png", *strides)
    assert [line.rpartition(" ")[0] for line in said.splitlines()] == list(STRIDES)


def test_an_interpreter_may_end_in_the_middle_of_an_encoding(tmp_path: Path) -> None:
    model = write_text_model(tmp_path / "text.gguf", "qwen2vl", QWEN2VL_SHAPE)
    projector = write_vision_projector(tmp_path / "mmproj.gguf")
    assert run_child(EXIT, model, projector) == "ends\n"
