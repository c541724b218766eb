"""Videos as values."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from llama_cffi import Image, Video
from llama_cffi.errors import MediaError
from tests.support.pictures import pictures, scene

FRAMES = [Image(np.asarray(scene(8, 6, i))) for i in range(4)]


def test_a_value_is_frozen_and_travels() -> None:
    video = Video(FRAMES, [0, 0.5, 5.25, 65])
    assert video == Video([np.asarray(scene(8, 6, i)) for i in range(4)], np.array([0, 0.5, 5.25, 65]))
    assert video != Video(FRAMES, [0, 0.5, 5.25, 66])
    assert video != Video(FRAMES[::-1], video.times)
    assert len({video, pickle.loads(pickle.dumps(video)), copy.copy(video), copy.deepcopy(video)}) == 1
    with pytest.raises(AttributeError, match="cannot be changed"):
        video.times = ()
    with pytest.raises(AttributeError, match="cannot be changed"):
        del video.frames
    assert repr(video) == "<Video 4 frames 8x6, 65.0 s>"


def test_times_come_between_the_frames() -> None:
    parts = list(Video(FRAMES, [0, 0.5, 5.25, 65]).parts())
    assert parts == ["Video:", FRAMES[0], "[0m0.00s]", FRAMES[1], FRAMES[2], "[0m5.25s]", FRAMES[3], "[1m5.00s]"]


@pytest.mark.parametrize(
    ("frames", "times"),
    [
        ([], []), (FRAMES, [0, 1, 2]), (FRAMES, [0, 2, 1, 3]), (FRAMES, [0, 1, 2, float("nan")]),
        (FRAMES, [-1, 1, 2, 3]), (FRAMES, [0, 1, 2, "x"]), ([FRAMES[0], Image(pictures()["gray"])], [0, 1]),
        ([b"no image"], [0]), ([Image(np.broadcast_to(np.uint8(0), (3000, 3000, 3)))] * 8, range(8)),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_video_is_refused(frames: list[object], times: list[float]) -> None:
    with pytest.raises(MediaError):
        Video(frames, times)


def test_what_no_video_can_come_from_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="frames must be a list"):
        Video("video.mp4", [0])
