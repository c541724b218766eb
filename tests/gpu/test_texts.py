"""The same texts, wherever the model is: with numbers of 32 bits, which every device rounds alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import ContextOptions, Llama, ModelOptions
from tests.gpu.conftest import DENSE, EXPERTS, Gpus
from tests.support.random_model import write_random_model

pytestmark = pytest.mark.gpu

PROMPT = list(range(300, 340))
TOLERANCE = 1e-2


EXACT = ContextOptions(type_k="f32", type_v="f32", flash_attn="disabled", n_ubatch=128, n_threads=1)


def generate(path: Path, options: ModelOptions, context: ContextOptions = EXACT) -> list[tuple[int, float, float]]:
    """Tokens with their log-probabilities, and the distance to the second best."""
    with Llama(path, n_ctx=512, n_seq_max=1, model_options=options, context_options=context) as llm:
        done = llm.generate(PROMPT, max_tokens=10, temperature=0, logprobs=2, stop=())
    assert done.logprobs is not None
    return [(one.token, one.logprob, one.top[0][1] - one.top[1][1]) for one in done.logprobs]


def check_same(found: list[tuple[int, float, float]], expected: list[tuple[int, float, float]]) -> None:
    for (token, logprob, _), (wanted, likely, margin) in zip(found, expected, strict=True):
        if token != wanted:
            assert margin <= 2 * TOLERANCE, f"{token} for {wanted}, which was ahead by {margin}"
            return  # what follows another token is another text
        assert logprob == pytest.approx(likely, abs=TOLERANCE)


@pytest.fixture(scope="module", params=[DENSE, EXPERTS], ids=["dense", "experts"])
def path(gpus: Gpus, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param is EXPERTS and not gpus.servers:
        pytest.skip("a software device compiles for minutes what experts are computed with")
    return write_random_model(tmp_path_factory.mktemp("texts") / "f32.gguf", request.param, weights="f32")


@pytest.fixture(scope="module")
def expected(gpus: Gpus, path: Path) -> list[tuple[int, float, float]]:
    return generate(path, ModelOptions(n_gpu_layers=0, devices=[]))


def placements(name: str, others: list[str]) -> list[dict[str, Any]]:
    spread: list[dict[str, Any]] = [{"n_gpu_layers": "all", "tensor_split": [1, 2]}, {"n_gpu_layers": 5}]
    return [
        {"n_gpu_layers": "all", "devices": [name]},
        {"n_gpu_layers": 3, "devices": [name]},
        {"n_gpu_layers": "all", "devices": [name], "tensor_overrides": {r"blk\.[13]\.": "CPU"}},
        *(spread if others else []),
    ]


def test_every_placement_gives_the_same(gpus: Gpus, path: Path, expected: list[tuple[int, float, float]]) -> None:
    for options in placements(gpus.names[0], gpus.names[1:]):
        check_same(generate(path, ModelOptions(**options)), expected)


def test_with_the_memory_on_the_host(gpus: Gpus, path: Path, expected: list[tuple[int, float, float]]) -> None:
    context = replace(EXACT, offload_kqv=False)
    check_same(generate(path, ModelOptions(n_gpu_layers="all", devices=gpus.names[:1]), context), expected)
