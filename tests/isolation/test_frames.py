"""Frames and pickles between two processes."""

from __future__ import annotations

import pickle
import re
import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cffi import ControlVector, Model
from llama_cffi.core.sampler import PythonSampler
from llama_cffi.errors import UnsupportedError
from llama_cffi.grammar.guidance import GuidanceConstraint
from llama_cffi.grammar.native import NativeConstraint
from llama_cffi.isolation.codec import Codec, named
from llama_cffi.isolation.frames import Frame, Kind, Receiver, encode, plain

pytest_plugins = ["tests.support.models"]

FRAMES = st.lists(
    st.tuples(st.sampled_from(Kind), st.integers(0, 2**64 - 1), st.lists(st.binary(max_size=300), max_size=4)),
    max_size=6,
)


class Cut:
    """A socket that gives bytes in pieces of some sizes, and then ends."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes = data, sizes

    def recv(self, most: int) -> bytes:
        size = min(most, self.sizes.pop() if self.sizes else len(self.data))
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def recv_into(self, room: memoryview) -> int:
        taken = self.recv(len(room))
        room[: len(taken)] = taken
        return len(taken)


@settings(max_examples=40)
@given(FRAMES, st.lists(st.integers(1, 40), max_size=60))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    frames: list[tuple[Kind, int, list[bytes]]], sizes: list[int]
) -> None:
    data = b"".join(bytes(part) for frame in frames for part in encode(*frame))
    receiver = Receiver(Cut(data, sizes))  # type: ignore[arg-type]
    found: list[Frame] = []
    while (taken := receiver.take()) is not None:
        found += taken
    assert [(kind, number, [bytes(part) for part in parts]) for kind, number, parts in found] == frames


@pytest.mark.parametrize("sizes", [[], [7] * 9, [100_000] * 7])
def test_large_frames_are_read_into_their_room(sizes: list[int]) -> None:
    large = np.random.default_rng(1).bytes(600_000)
    frames = [(Kind.VALUE, 1, [b"a"]), (Kind.VALUE, 2, [b"", large, b"b"]), (Kind.LOG, 0, [b"c"])]
    data = b"".join(bytes(part) for frame in frames for part in encode(*frame))
    receiver = Receiver(Cut(data, sizes))  # type: ignore[arg-type]
    found: list[Frame] = []
    while (taken := receiver.take()) is not None:
        found += taken
    assert [(kind, number, [bytes(part) for part in parts]) for kind, number, parts in found] == frames


def test_a_large_part_is_not_copied_into_the_head() -> None:
    large = bytes(1 << 19)
    head, part = encode(Kind.VALUE, 7, [large])
    assert len(head) < 100
    assert part.obj is large
    ours, theirs = socket.socketpair()
    with ours, theirs:
        receiver = Receiver(theirs)
        ours.sendall(b"".join(plain(Kind.LOG, 1, "x")))
        (frame,) = receiver.take() or []
        assert pickle.loads(frame.parts[0]) == "x"


@pytest.fixture
def there_and_back(model: Model) -> Any:
    """Writes a value as for another process, and reads it as that one would."""

    def find(kind: str, *rest: Any) -> Any:
        if kind == "vector":
            return ControlVector(rest[1], model_hint=rest[2])
        return {"vocab": model.vocab}[kind]

    codec = Codec(find)
    return lambda value: codec.loads([bytearray(part) for part in codec.dumps(value)])


def test_arrays_are_parts_and_can_be_written(there_and_back: Any) -> None:
    array = np.arange(100_000, dtype=np.float32)
    found = there_and_back({"a": array})["a"]
    assert np.array_equal(found, array)
    found[0] = 5


def test_constraints_are_made_again_over_the_other_vocabulary(there_and_back: Any, model: Model) -> None:
    guidance = GuidanceConstraint(model.vocab, 'start: "a" | "b"')
    native = NativeConstraint(model.vocab, 'start ::= "a" | "b"', "start")
    for constraint in (guidance, native):
        again = there_and_back(constraint)
        assert type(again) is type(constraint)
        assert np.array_equal(again.start().mask(), constraint.start().mask())
    assert there_and_back(model.vocab) is model.vocab
    vector = ControlVector(np.eye(2, 4, k=2, dtype=np.float32)[::-1] * [[0], [1]])
    assert there_and_back(vector) == vector


def test_what_cannot_leave_is_refused_by_name(there_and_back: Any, model: Model) -> None:
    class Mine(PythonSampler):
        def apply(self, candidates: Any) -> None:
            """Nothing."""

    with pytest.raises(UnsupportedError, match="a sampler written in Python"):
        there_and_back([Mine()])
    with pytest.raises(UnsupportedError, match="a Model cannot leave this process"):
        there_and_back(model)
    with pytest.raises(UnsupportedError, match=re.escape("isolate=True: ")):
        there_and_back(lambda: None)
    with pytest.raises(pickle.UnpicklingError):
        named("vocab")
    gone = pickle.dumps(FRAMES.__class__).replace(b"hypothesis", b"hypothesiz")
    with pytest.raises(UnsupportedError, match="cannot import"):
        Codec(named).loads([gone])
