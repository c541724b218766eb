"""Checkpoints in saved states: beginnings of a text, for memory that cannot be cut back to them."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llama_cffi import Context, SavedState
from llama_cffi.core.prompt import Media, Prompt
from llama_cffi.core.state_header import SavedCheckpoint, SavedSequence, StateHeader
from llama_cffi.errors import StateFormatError
from tests.support.states import OTHER, TEXT, decode

if TYPE_CHECKING:
    from tests.support.models import MakeContext

pytest_plugins = ["tests.support.models"]


@pytest.fixture
def saved(context: Context) -> SavedState:
    decode(context, TEXT)
    decode(context, OTHER, seq_id=2)
    checkpoints: dict[int, list[tuple[int, Any, bool]]] = {
        0: [(2, b"two", True), (3, np.arange(5, dtype=np.uint8), False)],
        2: [(1, bytearray(b"one"), True)],
    }
    return SavedState.take(context, {0: TEXT, 2: OTHER}, checkpoints=checkpoints)


def test_they_follow_the_memory(saved: SavedState, context: Context, make_context: MakeContext) -> None:
    plain = SavedState.take(context, {0: TEXT, 2: OTHER})
    for one in (saved, SavedState.from_bytes(saved.to_bytes())):
        assert one.memory.tobytes() == plain.payload.tobytes()
        assert [(n, bytes(data), partial) for n, data, partial in one.checkpoints(0)] == [
            (2, b"two", True),
            (3, bytes(range(5)), False),
        ]
        assert [(n, bytes(data), partial) for n, data, partial in one.checkpoints(2)] == [(1, b"one", True)]
    other = make_context()
    assert saved.restore(other) == plain.restore(make_context())
    assert (plain.checkpoints(0), plain.header.n_checkpoint_bytes) == ([], 0)
    assert b"checkpoints" not in plain.header.to_json()


@pytest.mark.parametrize(
    "wrong",
    [[[0, 3, True]], [[2, 0, True]], [[99, 3, True]], [[2, 3]], [[2, 3, 1]], [["2", 3, True]], {}, [[2, -3, True]]],
)
def test_wrong_ones_are_refused(saved: SavedState, wrong: Any) -> None:
    header = json.loads(saved.header.to_json())
    header["sequences"]["0"]["checkpoints"] = wrong
    with pytest.raises(StateFormatError, match="does not make sense"):
        StateHeader.from_json(json.dumps(header).encode())


def test_ones_that_cut_media_are_refused(saved: SavedState) -> None:
    prompt = Prompt([1, Media(b"m" * 16, 4, 2), 5])
    for n, fits in ((1, True), (3, False), (5, True)):
        sequence = SavedSequence(n_past=prompt.n_positions, prompt=prompt, checkpoints=(SavedCheckpoint(n, 3, True),))
        header = json.loads(saved.header.to_json())
        header["sequences"] = {"0": sequence.to_json()}
        if fits:
            assert StateHeader.from_json(json.dumps(header).encode()).sequences == {0: sequence}
        else:
            with pytest.raises(StateFormatError, match="in the middle of media"):
                StateHeader.from_json(json.dumps(header).encode())


def test_more_bytes_than_there_are_are_refused(saved: SavedState) -> None:
    data = bytearray(saved.to_bytes())
    n_header = struct.unpack_from("<8sIQ", data)[2]
    header = json.loads(data[60 : 60 + n_header])
    header["sequences"]["0"]["checkpoints"] = [[2, len(data), True]]
    lying = SavedState(StateHeader.from_json(json.dumps(header).encode()), saved.payload)
    with pytest.raises(StateFormatError, match="empty"):
        SavedState.from_bytes(lying.to_bytes())
