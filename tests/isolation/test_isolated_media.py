"""Images and sound for a model in a process of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Image, Llama
from llama_cffi.errors import EngineCrashed, MediaError, ModelNotFoundError, UnsupportedError
from tests.support.media_kinds import TEMPLATE, Kind, open_llama, write_kind
from tests.support.pictures import scene

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}
CHAT: dict[str, Any] = {**GREEDY, "chat_template": TEMPLATE}
CAT, DOG = Image(scene(40, 30, 1)), Image(scene(30, 40, 2))
SECONDS = 30


@pytest.fixture(
    scope="module",
    params=["qwen2vl", *(pytest.param(name, marks=pytest.mark.conformance) for name in ("gemma3", "llama"))],
)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Kind:
    return write_kind(tmp_path_factory.mktemp("media"), request.param, assets)


@pytest.fixture(scope="module")
def here(kind: Kind) -> Iterator[Llama]:
    with open_llama(kind) as llm:
        yield llm


@pytest.fixture(scope="module")
def there(kind: Kind) -> Iterator[Llama]:
    with open_llama(kind, isolate=True) as llm:
        yield llm


def test_media_give_the_same_texts(kind: Kind, here: Llama, there: Llama) -> None:
    for medium in list(kind.media.values())[:3]:
        prompt = ["What is ", medium, " and where?"]
        expected, found = (llm.generate(prompt, **GREEDY, reuse=False) for llm in (here, there))
        assert found.tokens == expected.tokens
        assert found.prompt == expected.prompt
        assert found.prompt.media == expected.prompt.media
        message = [{"role": "user", "content": [medium, "What is it?"]}]
        assert there.chat(message, **CHAT).text == here.chat(message, **CHAT).text


def test_media_are_encoded_once(kind: Kind, there: Llama) -> None:
    medium = next(iter(kind.media.values()))

    def n_encoded() -> int:
        path: Any = ("runtime",), ("engine",), ("_runner",), ("encoder",), ("n_encoded",)
        found: int = there._runtime._supervisor.call(*path)  # type: ignore[attr-defined]
        return found

    first = there.generate(["Look: ", medium, " Which?"], **GREEDY)
    before = n_encoded()
    second = there.generate(["Look: ", medium, " Where?"], **GREEDY)
    assert n_encoded() == before
    assert second.usage.cached_tokens > first.prompt.media[-1].end - 1


def test_the_projector_shows_its_values(kind: Kind, here: Llama, there: Llama) -> None:
    mine, its = here.projector, there.projector
    assert mine is not None
    assert its is not None
    for name in ("path", "vision", "audio", "video", "sample_rate", "uses_mrope", "n_embd", "fingerprint"):
        assert getattr(its, name) == getattr(mine, name), name
    assert not its.closed
    with pytest.raises(UnsupportedError, match=r"isolate=True: projector\.encode is in the process of the model"):
        its.encode  # noqa: B018
    with pytest.raises(UnsupportedError, match="isolate=True: a Projector is in this process: give its path"):
        open_llama(kind, mmproj=mine, isolate=True)
    with pytest.raises(ModelNotFoundError):
        open_llama(kind, mmproj="nowhere.gguf", isolate=True)


def test_what_is_wrong_with_a_medium_is_said_here(kind: Kind, there: Llama) -> None:
    if kind.name == "llama":
        with pytest.raises(UnsupportedError, match="takes no images"):
            there.generate(["See ", CAT], **GREEDY)
        return
    cut = Image(CAT)
    object.__setattr__(cut, "data", cut.data[:50])
    object.__setattr__(cut, "format", "jpeg")
    object.__setattr__(cut, "digest", bytes(16))
    with pytest.raises(MediaError):
        there.generate(["See ", cut], **GREEDY)
    assert there.generate("See", **GREEDY).tokens


def test_after_a_crash_the_next_process_sees_too(kind: Kind, there: Llama) -> None:
    medium = next(iter(kind.media.values()))
    expected = there.generate(["A ", medium, "?"], **GREEDY).tokens
    stream = there.stream(["A ", medium, "?"], temperature=0, max_tokens=200)
    next(stream)
    pid = there._runtime.pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed):
        list(stream)
    end = time.monotonic() + SECONDS
    while there._runtime.pid == pid:  # type: ignore[attr-defined]
        assert time.monotonic() < end
        time.sleep(0.01)
    # Its cells are remembered here, and what they are encoded from goes with the request.
    assert there.generate(["A ", medium, "?"], **GREEDY).tokens == expected
