"""``--lora`` and ``--control-vector`` of the commands that compute, beside the library with the same files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer

from llama_cffi import ControlVector, Llama
from llama_cffi.cli import arguments
from llama_cffi.cli.adapters import Additions, additions
from llama_cffi.errors import AdapterError, ModelNotFoundError
from tests.cli.test_commands import clean_environment, refused, run
from tests.support.lora import ATTENTION, random_pairs, write_lora
from tests.support.random_model import write_random_model

pytest_plugins = ["tests.support.models", "tests.support.encoders"]

__all__ = ["clean_environment"]  # a fixture of every test here, too

PROMPT = "Once upon a time"
GREEDY = ("--temp", "0", "-n", "12")
TEXT = "One day, Lily went to the park with her mom. They saw a big dog. " * 12


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama.demo(n_seq_max=1, n_threads=1) as model:
        yield model


@pytest.fixture(autouse=True)
def nothing_added(llm: Llama) -> Iterator[None]:
    yield
    llm.set_adapters({})
    llm.set_control_vector(None)


@pytest.fixture(scope="module")
def loras(llm: Llama, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters for the demo model; the name of the second one ends as a scale does."""
    folder = tmp_path_factory.mktemp("adapters")
    first = write_lora(folder / "first.gguf", random_pairs(llm.model.path, ATTENTION, seed=1), alpha=2.0)
    return first, write_lora(folder / "second:7", random_pairs(llm.model.path, seed=2), alpha=2.0)


@pytest.fixture(scope="module")
def vectors(llm: Llama, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two control vectors for the demo model, strong enough for other words."""
    folder = tmp_path_factory.mktemp("vectors")
    paths = folder / "first.gguf", folder / "second.gguf"
    for seed, path in enumerate(paths):
        data = 5 * np.random.default_rng(seed).standard_normal((llm.model.n_layer, llm.model.n_embd))
        data[0] = 0
        ControlVector(data).save(path)
    return paths


# -- beside the library


def test_generate_with_adapters(llm: Llama, loras: tuple[Path, Path]) -> None:
    first, second = (llm.load_adapter(path) for path in loras)
    plain = llm.generate(PROMPT, temperature=0, max_tokens=12).text
    alone = llm.generate(PROMPT, temperature=0, max_tokens=12, adapters={first: 1.0}).text
    both = llm.generate(PROMPT, temperature=0, max_tokens=12, adapters={first: -0.5, second: 0.75}).text
    assert len({plain, alone, both}) == 3
    assert run("generate", PROMPT, *GREEDY, "--lora", loras[0]).stdout == alone
    scaled = ("--lora", f"{loras[0]}:-0.5", "--lora", f"{loras[1]}:.75")
    assert run("generate", PROMPT, *GREEDY, *scaled).stdout == both


def test_generate_with_control_vectors(llm: Llama, vectors: tuple[Path, Path]) -> None:
    plain = llm.generate(PROMPT, temperature=0, max_tokens=12).text
    first, second = (ControlVector.from_gguf(path) for path in vectors)
    llm.set_control_vector(first - 0.5 * second)
    whole = llm.generate(PROMPT, temperature=0, max_tokens=12).text
    llm.set_control_vector(first - 0.5 * second, layers=range(2, 3))
    part = llm.generate(PROMPT, temperature=0, max_tokens=12).text
    assert len({plain, whole, part}) == 3
    given = ("--control-vector", vectors[0], "--control-vector", f"{vectors[1]}:-0.5")
    assert run("generate", PROMPT, *GREEDY, *given).stdout == whole
    assert run("generate", PROMPT, *GREEDY, *given, "--control-vector-layer-range", "2", "2").stdout == part


def test_chat_with_both(llm: Llama, loras: tuple[Path, Path], vectors: tuple[Path, Path]) -> None:
    plain = llm.chat(PROMPT, temperature=0, max_tokens=12).text
    llm.set_adapters({llm.load_adapter(loras[0]): 0.5})
    llm.set_control_vector(ControlVector.from_gguf(vectors[0]))
    expected = llm.chat(PROMPT, temperature=0, max_tokens=12).text
    assert expected != plain
    given = ("--lora", f"{loras[0]}:0.5", "--control-vector", vectors[0])
    assert run("chat", PROMPT, *GREEDY, *given).stdout == expected


def test_perplexity_with_both(llm: Llama, loras: tuple[Path, Path], vectors: tuple[Path, Path]) -> None:
    plain = llm.perplexity(TEXT, n_ctx=64).value
    llm.set_adapters({llm.load_adapter(loras[0]): 0.5})
    llm.set_control_vector(ControlVector.from_gguf(vectors[0]))
    expected = llm.perplexity(TEXT, n_ctx=64).value
    assert expected > 1.1 * plain
    given = ("--lora", f"{loras[0]}:0.5", "--control-vector", vectors[0])
    report = json.loads(run("perplexity", "-c", "64", "--json", *given, stdin=TEXT).stdout)
    assert report["value"] == pytest.approx(expected, rel=1e-3)


# -- reading the options


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("a.gguf", "a.gguf", 1.0),
        ("a.gguf:0.5", "a.gguf", 0.5),
        ("a.gguf:-2", "a.gguf", -2.0),
        ("a.gguf:1e-3", "a.gguf", 1e-3),
        ("C:/a.gguf", "C:/a.gguf", 1.0),
        ("C:/a.gguf:.5", "C:/a.gguf", 0.5),
        ("a:b", "a:b", 1.0),
        ("a:b:", "a:b:", 1.0),
        ("a:2:1", "a:2", 1.0),
        ("7", "7", 1.0),
    ],
)
def test_a_number_after_the_last_colon_is_a_scale(text: str, path: str, scale: float) -> None:
    assert arguments.scaled_file(text, "--lora") == (Path(path), scale)


@pytest.mark.parametrize("text", ["a:nan", "a:inf", "a:-inf", "a:1e300", "a:-4e38", ":1"])
def test_no_scale_for_a_file(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="FILE:SCALE"):
        arguments.scaled_file(text, "--lora")


def test_layers() -> None:
    assert additions(None, None, None) == Additions((), None, None)
    for layers in ((0, 3), (3, 2), (-1, -1)):
        with pytest.raises(typer.BadParameter, match="not a range of layers"):
            additions(None, ["v.gguf"], layers)
    with pytest.raises(typer.BadParameter, match="no --control-vector"):
        additions(["a.gguf"], None, (1, 2))
    for lora, vector in ((["a.gguf"], None), (None, ["a.gguf:0.5"])):
        with pytest.raises(ModelNotFoundError, match=r"no such file: a\.gguf"):
            additions(lora, vector, None)


def test_what_was_made_for_another_model(llm: Llama, vectors: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_random_model(tmp_path / "other.gguf")
    lora = write_lora(tmp_path / "lora.gguf", random_pairs(other))
    data = np.ones((2, 64), dtype=np.float32)
    data[0] = 0
    ControlVector(data).save(tmp_path / "vector.gguf")
    with pytest.raises(AdapterError, match="does not fit"):
        additions([str(lora)], None, None).apply(llm)
    with pytest.raises(AdapterError, match="width 64 does not fit a model of width 192"):
        additions(None, [str(tmp_path / "vector.gguf")], None).apply(llm)
    with pytest.raises(ValueError, match="its layers 1 to 3"):
        additions(None, [str(vectors[0])], (2, 4)).apply(llm)
    before_a_word = refused(1, "generate", PROMPT, "--lora", lora)
    assert "error: " in before_a_word
    assert "does not fit" in before_a_word


def test_what_is_wrong_is_said_before_the_model_is_loaded(loras: tuple[Path, Path]) -> None:
    missing = ("-m", "missing-model.gguf")
    assert "no such file: missing.gguf" in refused(1, "chat", "Hello", *missing, "--lora", "missing.gguf:0.5")
    assert "is not FILE or FILE:SCALE" in refused(2, "perplexity", TEXT, *missing, "--lora", f"{loras[0]}:inf")


@pytest.mark.conformance
def test_adapters_of_encoders(bert_path: Path, classifier_path: Path, tmp_path: Path) -> None:
    texts = ["a cat", "two dogs and a bird"]
    for command, path in (("embed", bert_path), ("rerank", classifier_path)):
        pairs = random_pairs(path, ("attn_q", "attn_v", "attn_output", "ffn_up", "ffn_down"))
        lora = write_lora(tmp_path / f"{command}.gguf", pairs, architecture="bert")
        query = ["what barks"] if command == "rerank" else []
        printed = [json.loads(run(command, "-m", path, "--json", *extra, *query, *texts).stdout)
                   for extra in ([], ["--lora", f"{lora}:0.5"])]  # fmt: skip
        with Llama(path, n_threads=1) as llm:
            llm.set_adapters({llm.load_adapter(lora): 0.5})
            if query:
                found = [[one["score"] for one in report["results"]] for report in printed]
                expected = [one.score for one in llm.rerank(query[0], texts)]
            else:
                found = [[one["embedding"] for one in report["embeddings"]] for report in printed]
                expected = llm.embed(texts).array.tolist()
        np.testing.assert_allclose(found[1], expected, atol=1e-3)
        assert np.abs(np.array(found[1]) - found[0]).max() > 0.01
