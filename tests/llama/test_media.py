"""Images and sound in prompts and conversations, compared with llama-server over the same files."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from llama_cffi import Audio, ContextOptions, Image, Llama
from llama_cffi.reply.completion import Completion
from tests.support.llama_server import LlamaServer, find_server, running_server
from tests.support.media_kinds import FILES, TEMPLATE, Kind, open_llama, write_kind
from tests.support.media_server import forbidden, greedy, of_server, same

needs_server = pytest.mark.skipif(find_server() is None, reason="no llama-server in build/libllama")
# Values of 16 bits are added up in an order that depends on what else is in memory and in a decode.
EXACT = ContextOptions(flash_attn="disabled", type_k="f32", type_v="f32")


@pytest.fixture(
    scope="module",
    params=["qwen2vl", *(pytest.param(one, marks=pytest.mark.conformance) for one in ("gemma3", "llama"))],
)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Kind:
    return write_kind(tmp_path_factory.mktemp("media"), request.param, assets)


@pytest.fixture(scope="module")
def server(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    program = find_server()
    assert program is not None
    folder = tmp_path_factory.mktemp("server")
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    options = (
        "-c",
        4096,
        "-np",
        1,
        *("-fa", "off", "-ctk", "f32", "-ctv", "f32"),
        "-t",
        1,
        "--mmproj",
        kind.projector,
        "--no-warmup",
        *("--mtmd-batch-max-tokens", 1),
        "--jinja",
    )
    with running_server(
        program, kind.model, *options, "--chat-template-file", template, log=folder / "log.txt"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def llm(kind: Kind) -> Iterator[Llama]:
    with open_llama(kind, context_options=EXACT) as llm:
        yield llm


# -- what llama-server says


@needs_server
@pytest.mark.parametrize("n", [4, pytest.param(None, marks=pytest.mark.conformance)])
def test_media_are_answered_as_llama_server_answers_them(
    kind: Kind, server: LlamaServer, llm: Llama, n: int | None
) -> None:
    files = dict(list(FILES[kind.name].items())[:n])
    media = {name: kind.media[name] for name in files}
    expected = {name: of_server(server, llm, ["Describe ", data, " briefly"]) for name, data in files.items()}
    for name, medium in media.items():
        prompt = ["Describe ", medium, " briefly"]
        alone = llm.generate(prompt, **greedy(llm))
        same(alone, expected[name][0])
        assert alone.usage.prompt_tokens == expected[name][1]
        *_, last = llm.stream(prompt, **greedy(llm))
        assert last.completion is not None
        same(last.completion, expected[name][0])
        assert last.completion.usage.cached_tokens == alone.usage.prompt_tokens - 1
    # Eight at once, and nothing in memory.
    with open_llama(kind, n_cells=8 * 512, context_options=EXACT) as other, ThreadPoolExecutor(8) as pool:
        names, generate = list(media)[:8], cast("Callable[..., Completion]", other.generate)
        jobs = {
            name: pool.submit(generate, ["Describe ", media[name], " briefly"], reuse=False, **greedy(llm))
            for name in names
        }
        for name, job in jobs.items():
            same(job.result(60), expected[name][0])


@needs_server
def test_several_media_and_texts_around_them(kind: Kind, server: LlamaServer, llm: Llama) -> None:
    (_, a), (_, b), *_ = FILES[kind.name].items()
    (_, first), (_, second), *_ = kind.media.items()
    cases: list[tuple[list[str | bytes], list[str | Image | Audio]]] = [
        ([a, "Which?"], [first, "Which?"]),
        (["One ", a, b, " two"], ["One ", first, second, " two"]),
        (["One ", a, " and ", b, " and ", a, "?"], ["One ", first, " and ", second, " and ", first, "?"]),
    ]
    for given, prompt in cases:
        expected, n = of_server(server, llm, given)
        found = llm.generate(prompt, **greedy(llm))
        same(found, expected)
        assert found.usage.prompt_tokens == n


@needs_server
def test_conversations_are_rendered_and_answered_as_by_llama_server(
    kind: Kind, server: LlamaServer, llm: Llama
) -> None:
    data = next(iter(FILES[kind.name].values()))
    encoded = b64encode(data).decode()
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
    if kind.name == "llama":
        part = {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}
    text = {"type": "text", "text": "What is it?"}
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": [text, part, {"type": "text", "text": "Say"}, {"type": "text", "text": "more"}]},
        {"role": "assistant", "content": "Well"},
        {"role": "user", "content": [part, part, text]},
    ]
    body: dict[str, Any] = {"messages": conversation, "max_tokens": 6, "temperature": 0}
    body |= {"logprobs": True, "top_logprobs": 3, "logit_bias": [[token, False] for token in forbidden(llm)]}
    answer = server.post("/v1/chat/completions", body)
    expected = [(one["id"], one["logprob"]) for one in answer["choices"][0]["logprobs"]["content"]]
    reply = llm.chat(conversation, chat_template=TEMPLATE, **greedy(llm))
    same(reply, expected)
    assert reply.usage.prompt_tokens == answer["usage"]["prompt_tokens"]
    assert len(llm.tokenize_chat(conversation, chat_template=TEMPLATE)) == reply.usage.prompt_tokens
    marker = server.get("/props")["media_marker"]
    rendered = server.post("/apply-template", {"messages": conversation})["prompt"]
    assert llm.render_chat(conversation, chat_template=TEMPLATE) == rendered.replace(marker, "<__media__>")
