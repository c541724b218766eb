"""What streams of OpenAI's dialect tell of a text while it grows: how far its prompt is, and its times."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

Ask = Callable[..., Any]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "word " * 200}]},
    "/v1/completions": {"prompt": "word " * 200},
}


def events(ask: Ask, path: str, **fields: Any) -> list[Any]:
    body = {**BODIES[path], "stream": True, "max_tokens": 4, "temperature": 0, **fields}
    response = ask(path, body)
    assert response.status_code == 200, response.text
    *lines, last = [line for line in response.text.split("\n\n") if line and line != ":"]
    assert last == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines]


@pytest.mark.parametrize("path", BODIES)
def test_progress_is_told_before_the_first_token(ask: Ask, path: str) -> None:
    plain = events(ask, path)
    found = events(ask, path, return_progress=True, cache_prompt=False, stream_options={"include_usage": True})
    places = [i for i, one in enumerate(found) if "prompt_progress" in one]
    total = found[-1]["usage"]["prompt_tokens"]
    told = [found[i]["prompt_progress"] for i in places]
    assert told[-1] == {"total": total, "cache": 0, "processed": total, "time_ms": told[-1]["time_ms"]}
    processed = [one["processed"] for one in told]
    assert processed == sorted(set(processed))
    # Nothing comes between them but what begins a message, and without them it is the same stream.
    chat = "chat" in path
    assert places == list(range(chat, chat + len(places)))
    for i in places:
        (choice,) = found[i]["choices"]
        assert choice == (
            {"index": 0, "delta": {}, "finish_reason": None}
            if chat
            else {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
        )
    left = [one["choices"] for one in found[:-1] if "prompt_progress" not in one]
    assert left == [one["choices"] for one in plain]


@pytest.mark.parametrize("path", BODIES)
def test_progress_of_several_texts(ask: Ask, path: str) -> None:
    found = events(ask, path, return_progress=True, n=3)
    for i in range(3):
        own = [one for one in found if one["choices"][0]["index"] == i]
        last = [one["prompt_progress"] for one in own if "prompt_progress" in one][-1]
        assert last["processed"] == last["total"]
        if "chat" in path:
            assert own[0]["choices"][0]["delta"] == {"role": "assistant", "content": None}
            assert sum("role" in one["choices"][0]["delta"] for one in own) == 1


@pytest.mark.parametrize("path", BODIES)
def test_times_of_each_token(ask: Ask, path: str) -> None:
    found = events(ask, path, timings_per_token=True)
    timed = [one["timings"] for one in found if "timings" in one]
    assert len(timed) == len(found) - ("chat" in path)  # all but the one that begins a message
    n = [one["predicted_n"] for one in timed]
    assert n == sorted(n)
    assert len({one["cache_n"] + one["prompt_n"] for one in timed}) == 1
    plain = events(ask, path)
    assert ["timings" in one for one in plain] == [False] * (len(plain) - 1) + [True]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("field", ["return_progress", "timings_per_token"])
def test_both_are_flags_and_known(ask: Ask, path: str, field: str) -> None:
    body = {**BODIES[path], "max_tokens": 1}
    assert ask(path, {**body, field: "yes"}).json()["error"]["param"] == field
    found = ask(path, {**body, field: True})
    assert found.status_code == 200
    assert field not in found.headers.get("x-llama-cffi-ignored", "")


class Growing:
    """A text whose progress is set."""

    def __init__(self) -> None:
        self.progress: Any = None

    def at(self, computed: int, made: int = 0) -> None:
        from llama_cffi.reply.completion import TextProgress, Timings

        self.progress = TextProgress(10, 2, computed, made, Timings(0, 0, 0, 0))


def test_what_was_told_is_not_told_again() -> None:
    from llama_cffi.server.progress import PromptProgress

    texts = [Growing(), Growing()]
    progress = PromptProgress(texts, wanted=True)
    assert progress.news() == []
    texts[0].at(0)
    assert progress.news() == []  # it waits for a slot
    texts[0].at(4)
    texts[1].at(2)
    assert [(i, told["processed"]) for i, told in progress.news()] == [(0, 4), (1, 2)]
    assert progress.news() == []
    texts[0].at(10, made=1)
    told = progress.end(0)
    assert told is not None
    assert (told["processed"], told["total"], told["cache"]) == (10, 10, 2)
    assert progress.end(0) is None
    texts[1].at(6)
    assert [(i, told["processed"]) for i, told in progress.news()] == [(1, 6)]
    cut = progress.end(1)  # it ended before its first token, and nothing more was computed
    assert cut is None


def test_a_slow_source_has_pauses_until_all_texts_have_begun() -> None:
    from llama_cffi.server.progress import PromptProgress

    async def main(wanted: bool) -> list[Any]:
        release = asyncio.Event()

        async def source() -> Any:
            await release.wait()
            yield 1
            yield 2

        progress = PromptProgress([Growing()], wanted=wanted)
        found = []
        if not wanted:
            release.set()
        async for item in progress.with_pauses(source()):
            found.append(item)
            release.set()
            if item == 1:
                progress.end(0)
        return found

    assert asyncio.run(main(True)) == [None, 1, 2]
    assert asyncio.run(main(False)) == [1, 2]
