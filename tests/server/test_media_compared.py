"""Prompts with files in llama-server's own form, beside llama-server itself."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import ContextOptions, Image, Llama
from llama_cffi.core.vocab import TokenAttr
from llama_cffi.errors import UnsupportedError
from tests.support.llama_server import LlamaServer, find_server, running_server
from tests.support.media_kinds import FILES, Kind, open_llama, write_kind
from tests.support.served import Served, served

pytestmark = pytest.mark.skipif(find_server() is None, reason="no llama-server in build/libllama")

EXACT = ContextOptions(flash_attn="disabled", type_k="f32", type_v="f32")
PNG, OTHER = FILES["qwen2vl"]["gray"], FILES["qwen2vl"]["alpha"]
DATA, SECOND = b64encode(PNG).decode(), b64encode(OTHER).decode()


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Kind:
    return write_kind(tmp_path_factory.mktemp("media"), "qwen2vl", assets)


@pytest.fixture(scope="module")
def llm(kind: Kind) -> Iterator[Llama]:
    with open_llama(kind, context_options=EXACT) as llm:
        yield llm


@pytest.fixture(scope="module")
def ours(llm: Llama) -> Iterator[Served]:
    pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")
    from llama_cffi.server.settings import Settings

    with served(llm, Settings(pooling="last")) as server:
        yield server


@contextmanager
def llama_server(kind: Kind, folder: Path, *more: object) -> Iterator[LlamaServer]:
    program = find_server()
    assert program is not None
    options = ("-c", 2048, "-np", 1, "-fa", "off", "-ctk", "f32", "-ctv", "f32", "-t", 1, "--no-warmup")
    given = ("--mmproj", kind.projector, "--mtmd-batch-max-tokens", 1, *more)
    with running_server(program, kind.model, *options, *given, log=folder / "log") as server:
        yield server


def with_marker(prompt: Any, marker: str) -> Any:
    """A prompt whose markers are those of a server."""
    if isinstance(prompt, list):
        return [with_marker(one, marker) for one in prompt]
    return {key: one.replace("<__media__>", marker) if isinstance(one, str) else one for key, one in prompt.items()}


PROMPTS: list[Any] = [
    {"prompt_string": "What is <__media__> here?", "multimodal_data": [DATA]},
    {"prompt_string": "<__media__>", "multimodal_data": [SECOND]},
    {"prompt_string": "a<__media__>b<__media__> <|im_start|>c", "multimodal_data": [DATA, SECOND]},
    {"prompt_string": "nothing to see", "multimodal_data": []},
]


def test_completions_with_files(kind: Kind, llm: Llama, ours: Served, tmp_path: Path) -> None:
    vocab = llm.model.vocab
    never = [token for token in range(len(vocab)) if vocab.is_eog(token) or vocab.attr(token) & TokenAttr.BYTE]
    common = {
        "n_predict": 5, "temperature": 0, "n_probs": 2, "cache_prompt": False,
        "logit_bias": [[token, False] for token in never],
    }  # fmt: skip
    with llama_server(kind, tmp_path) as theirs:
        marker = theirs.get("/props")["media_marker"]
        for prompt in [*PROMPTS, PROMPTS[:2]]:
            expected = theirs.post("/completion", {**common, "prompt": with_marker(prompt, marker)})
            found = ours.ask("/completion", {**common, "prompt": prompt}).json()
            many = isinstance(prompt, list)
            for one, other in zip(found if many else [found], expected if many else [expected], strict=True):
                assert one["tokens_evaluated"] == other["tokens_evaluated"]
                rows = [[(p["id"], p["logprob"]) for p in each["completion_probabilities"]] for each in (one, other)]
                assert [token for token, _ in rows[0]] == [token for token, _ in rows[1]]
                assert np.allclose([p for _, p in rows[0]], [p for _, p in rows[1]], atol=1e-3)


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ({"prompt_string": "no marker", "multimodal_data": [DATA]}, "invalid_value"),
        ({"prompt_string": "<__media__><__media__>", "multimodal_data": [DATA]}, "invalid_value"),
        ({"prompt_string": "<__media__>", "multimodal_data": ["?"]}, "invalid_value"),
        ({"prompt_string": "<__media__>", "multimodal_data": [b64encode(b"no image").decode()]}, "invalid_media"),
        ({"prompt_string": "<__media__>", "multimodal_data": [5]}, "invalid_type"),
        ({"prompt_string": ["<__media__>"], "multimodal_data": [DATA]}, "invalid_type"),
    ],
)
def test_files_that_do_not_fit_a_prompt_are_refused_with_their_place(ours: Served, prompt: Any, code: str) -> None:
    for path, name in (("/completion", "prompt"), ("/embedding", "content")):
        answer = ours.ask(path, {name: prompt})
        assert answer.status_code == 400, answer.json()
        assert f"{name}." in answer.json()["error"]["message"]


@pytest.mark.conformance
def test_embeddings_with_files(kind: Kind, ours: Served, tmp_path: Path) -> None:
    with llama_server(kind, tmp_path, "--embeddings", "--pooling", "last") as theirs:
        marker = theirs.get("/props")["media_marker"]
        for prompt in PROMPTS[:3]:
            expected = theirs.post("/embeddings", {"content": with_marker(prompt, marker)})
            found = ours.ask("/embeddings", {"content": prompt}).json()
            assert np.allclose(found[0]["embedding"], expected[0]["embedding"], atol=1e-4)


def test_embeddings_of_images(llm: Llama, ours: Served) -> None:
    image, other = Image(PNG), Image(OTHER)
    found = llm.embed([image, "A cat", ["A ", image, "b"], other, image], pooling="last")
    assert found.array.shape == (5, llm.model.n_embd_out)
    assert np.allclose(np.linalg.norm(found.array, axis=1), 1, atol=1e-5)
    assert np.allclose(found[0], found[4], atol=1e-6)
    assert not np.allclose(found[0], found[3], atol=1e-3)
    assert found.n_tokens[0] == len(llm.make_prompt([image]))
    assert np.allclose(found[1], llm.embed("A cat", pooling="last").array, atol=1e-6)
    assert np.allclose(found[0], llm.embed(image, pooling="last").array, atol=1e-6)
    # What the image is computed into, the text behind it sees.
    assert not np.allclose(found[2], llm.embed(["A b"], pooling="last")[0], atol=1e-3)
    with pytest.raises(UnsupportedError, match='only pooling="last" makes one vector'):
        llm.embed(image, pooling="mean")
    asked = {"input": [{"image": DATA}, {"text": "A cat"}, {"image": f"data:image/png;base64,{DATA}"}]}
    rows = [one["embedding"] for one in ours.ask("/v1/embeddings", asked).json()["data"]]
    assert np.allclose(rows, found.array[[0, 1, 0]], atol=1e-5)
