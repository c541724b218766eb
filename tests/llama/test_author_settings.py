"""What the author of a model wrote into its file about sampling: the defaults of calls, and tokens that never come."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Llama, Model, SamplingParams
from llama_cffi._native import ffi, lib
from llama_cffi.core.sampler import Greedy
from llama_cffi.engine.author_sampling import _FIELDS, PREFIX, author_sampling, with_author
from llama_cffi.errors import SamplerError
from tests.support.random_model import write_random_model
from tests.support.served import served

AUTHOR = {"temp": 0.55, "top_k": 17, "top_p": 0.5, "min_p": 0.25, "penalty_last_n": 99, "penalty_repeat": 1.25}
FIELDS: dict[str, Any] = {
    "temperature": 0.55, "top_k": 17, "top_p": 0.5, "min_p": 0.25, "repeat_last_n": 99, "repeat_penalty": 1.25
}  # fmt: skip
SUPPRESSED = [300, 301, 310]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("author")
    likely = write_random_model(folder / "plain.gguf", seed=3)
    with Llama(likely, n_ctx=128, n_seq_max=1, n_threads=1) as llm:
        # What a model of these weights writes first, it must not write here.
        first = list(dict.fromkeys(llm.generate([5], max_tokens=20, temperature=0).tokens))[:3]
    metadata: dict[str, Any] = {f"{PREFIX}{name}": value for name, value in AUTHOR.items()}
    metadata["tokenizer.ggml.suppress_tokens"] = [*SUPPRESSED, *first]
    return write_random_model(folder / "author.gguf", seed=3, metadata=metadata)


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[Llama]:
    with Llama(path, n_ctx=256, n_seq_max=2, n_threads=1) as llm:
        yield llm


def test_every_key_of_llama_cpp_is_known() -> None:
    numbers = ffi.typeof("enum llama_model_meta_key").relements.values()
    keys = {ffi.string(lib.llama_model_meta_key_str(number)).decode() for number in numbers}
    assert keys == {f"{PREFIX}{name}" for name in _FIELDS}


def test_they_are_the_defaults_of_calls(llm: Llama) -> None:
    assert llm.default_sampling == SamplingParams(**FIELDS)
    sampling = llm.generate("a", max_tokens=2).sampling
    assert FIELDS.items() <= sampling.items()
    sampling = llm.generate("a", max_tokens=2, temperature=0, top_p=0.9).sampling
    assert sampling["temperature"] == 0
    assert sampling["top_p"] == 0.9
    assert sampling["top_k"] == 17
    # One value for all of them says everything.
    sampling = llm.generate("a", max_tokens=2, sampling=SamplingParams(temperature=0)).sampling
    assert (sampling["top_k"], sampling["repeat_penalty"]) == (40, 1.0)
    completion = llm.generate("a", max_tokens=2, samplers=[Greedy()])
    assert completion.sampling["samplers"] == (Greedy(),)
    with llm.fork() as twin:
        assert twin.default_sampling == llm.default_sampling


def test_they_decide_the_text(llm: Llama) -> None:
    given: dict[str, Any] = {**FIELDS, "seed": 7, "max_tokens": 12}
    assert llm.generate("a", **given).tokens == llm.generate("a", seed=7, max_tokens=12).tokens
    assert llm.generate("a", seed=7, max_tokens=12, min_p=0.0, top_p=1.0, top_k=0, temperature=2.0).tokens != (
        llm.generate("a", seed=7, max_tokens=12).tokens
    )


def test_they_can_be_turned_off(path: Path) -> None:
    with Llama(path, n_ctx=128, n_seq_max=1, n_threads=1, model_sampling=False) as llm:
        assert llm.default_sampling == SamplingParams()
        completion = llm.generate("a", max_tokens=2)
        assert completion.sampling["top_k"] == 40
        assert completion.sampling["seed"] == completion.seed


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "logprobs": 3},
        {"temperature": 1.0, "seed": 1, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0},
        {"mirostat": 2, "seed": 1},
        {"samplers": [Greedy()]},
        {"temperature": 0, "post_sampling_logprobs": True, "logprobs": 0},
        {"temperature": 0, "logit_bias": {300: 100.0, 301: 1000.0}},
        {"temperature": 0, "schema": ["ma", "to", "su", "ne ne"]},
        {"temperature": 0, "speculative": "lookup"},
    ],
    ids=str,
)
@pytest.mark.parametrize("model_sampling", [True, False])
def test_suppressed_tokens_never_come(path: Path, llm: Llama, options: dict[str, Any], model_sampling: bool) -> None:
    with llm.fork() as twin:
        twin._runtime.model_sampling = model_sampling
        suppressed = set(twin.model.vocab.suppress_tokens)
        assert len(suppressed) > 3
        for prompt in ([5], [300, 301, 310, 5, 300, 301, 310, 5, 300]):
            assert suppressed.isdisjoint(twin.generate(prompt, max_tokens=12, **options).tokens)
            assert suppressed.isdisjoint(
                token for chunk in twin.stream(prompt, max_tokens=5, **options) for token in chunk.tokens
            )


def test_they_are_shown(path: Path) -> None:
    command = [sys.executable, "-m", "llama_cffi", "info", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "temperature 0.55, repeat_last_n 99" in text
    assert "6 tokens are never sampled" in text
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert found["sampling"]["top_k"] == 17
    assert found["suppressed_tokens"] == 6


def test_a_server_has_them_too(path: Path) -> None:
    pytest.importorskip("starlette")
    with Llama(path, n_ctx=128, n_seq_max=1, n_threads=1) as llm, served(llm) as server:
        props = server.ask("/props").json()
        assert props["default_generation_settings"]["params"]["top_k"] == 17
        assert props["suppress_tokens"] == list(llm.model.vocab.suppress_tokens)
        answer = server.ask("/completion", {"prompt": "a", "n_predict": 2, "top_p": 0.75}).json()
        settings = answer["generation_settings"]
        assert (settings["top_k"], settings["top_p"], settings["repeat_last_n"]) == (17, 0.75, 99)


def test_a_model_in_another_process_has_them(path: Path) -> None:
    with Llama(path, n_ctx=128, n_seq_max=1, n_threads=1, isolate=True) as llm:
        assert llm.default_sampling == SamplingParams(**FIELDS)
        assert llm.generate("a", max_tokens=2).sampling["top_k"] == 17


# -- reading


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("top_k", "40.9xyz", {"top_k": 40}),
        ("top_k", 12, {"top_k": 12}),
        ("temp", "1e-1", {"temperature": 0.1}),
        ("penalty_last_n", "-1", {"repeat_last_n": 2**24}),
        ("sequence", "top_k;typ_p;nonsense; temperature", {"sampler_order": ("top_k", "typical_p", "temperature")}),
        ("sequence", "nonsense", {}),
        ("mirostat", "2", {"mirostat": 2}),
        ("mirostat", "7", {}),
        ("top_p", "1.5", {}),
        ("top_p", "nan", {}),
        ("temp", "warm", {}),
        ("penalty_repeat", 0.0, {}),
        ("xtc_probability", True, {"xtc_probability": 1.0}),
    ],
)
def test_values_are_read_as_llama_cpp_does(
    key: str, value: Any, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "llama_cffi"):
        assert author_sampling({PREFIX + key: value, "general.name": "x"}) == expected
    assert bool(caplog.records) == (not expected)


def test_fields_that_exclude_each_other() -> None:
    mirostat = {"mirostat": 2, "mirostat_tau": 4.0, "repeat_penalty": 1.2, "top_k": 5}
    assert with_author({}, mirostat) == {"mirostat": 2, "mirostat_tau": 4.0, "top_k": 5}
    assert with_author({"typical_p": 0.5}, mirostat) == {
        "mirostat_tau": 4.0, "repeat_penalty": 1.2, "top_k": 5, "typical_p": 0.5
    }  # fmt: skip
    assert with_author({"mirostat": 0}, mirostat) == {**mirostat, "mirostat": 0}
    assert with_author({"mirostat": 1}, {"xtc_probability": 0.5}) == {"mirostat": 1}
    assert with_author({"samplers": [Greedy()]}, mirostat) == {"samplers": [Greedy()]}
    for given in ({}, {"typical_p": 0.5}, {"mirostat": 0}, {"mirostat": 1}):
        SamplingParams(**with_author(given, mirostat))
    with pytest.raises(SamplerError, match="mirostat replaces"):
        SamplingParams(**with_author({"mirostat": 2, "typical_p": 0.5}, mirostat))


def test_a_model_that_recommends_nothing(tmp_path: Path) -> None:
    with Model(write_random_model(tmp_path / "plain.gguf")) as model:
        assert author_sampling(model.metadata) == {}
        assert model.vocab.suppress_tokens == ()
