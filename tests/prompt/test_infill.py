"""Fill-in-the-middle prompts, with the vocabularies of models that were trained for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Llama, Model, ModelOptions
from llama_cffi.errors import UnsupportedError
from llama_cffi.prompt.infill import InfillFormat
from tests.support.random_model import Shape, write_random_model

pytest_plugins = ["tests.support.models"]


@pytest.fixture(scope="module", params=["starcoder", "deepseek-coder", "refact"])
def coder(request: pytest.FixtureRequest, llama_cpp_models: Path) -> Iterator[Model]:
    path = llama_cpp_models / f"ggml-vocab-{request.param}.gguf"
    with Model(path, ModelOptions(vocab_only=True)) as model:
        yield model


@pytest.fixture(scope="module")
def llm(llama_cpp_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """Random weights, starcoder's vocabulary."""
    vocab = llama_cpp_models / "ggml-vocab-starcoder.gguf"
    path = write_random_model(tmp_path_factory.mktemp("models") / "coder.gguf", Shape(n_layer=1), vocab=vocab)
    with Llama(path, n_ctx=256, n_threads=1) as llm:
        yield llm


def written(model: Model, tokens: list[int]) -> str:
    return model.vocab.detokenize(tokens).decode()


PREFIX, SUFFIX = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"


def test_prefix_suffix_middle(coder: Model) -> None:
    vocab = coder.vocab
    before, after, middle = (vocab.text(token or 0) for token in (vocab.fim_pre, vocab.fim_suf, vocab.fim_mid))
    begin = vocab.text(vocab.bos or 0) if vocab.add_bos else ""
    build = InfillFormat(vocab).tokens
    assert written(coder, build(PREFIX, SUFFIX)) == f"{begin}{before}{PREFIX}{after}{SUFFIX}{middle}"
    assert written(coder, build(PREFIX, SUFFIX, order="spm")) == f"{begin}{after}{SUFFIX}{before}{PREFIX}{middle}"
    assert build("", "")[-3:] == [vocab.fim_pre, vocab.fim_suf, vocab.fim_mid]


def test_other_files_come_before(coder: Model) -> None:
    vocab = coder.vocab
    tokens = InfillFormat(vocab).tokens(
        PREFIX, SUFFIX, files={"a.py": "A = 1", "b.py": "B = 2\n"}, name="c.py", repository="things"
    )
    begin = vocab.text(vocab.bos or 0) if vocab.add_bos else ""
    repository = f"{vocab.text(vocab.fim_rep)}things\n" if vocab.fim_rep is not None else ""
    files = "--- a.py\nA = 1\n--- b.py\nB = 2\n--- c.py\n"
    expected = begin + repository + files + vocab.text(vocab.fim_pre or 0) + PREFIX
    assert written(coder, tokens).startswith(expected)


def test_a_token_before_file_names(llama_cpp_models: Path) -> None:
    """A vocabulary that says which token it is: as the metadata of newer models do."""
    override = {"tokenizer.ggml.fim_sep_token_id": 5}
    path = llama_cpp_models / "ggml-vocab-starcoder.gguf"
    with Model(path, ModelOptions(vocab_only=True, kv_overrides=override)) as model:
        assert model.vocab.fim_sep == 5
        separator = model.vocab.text(5)
        tokens = InfillFormat(model.vocab).tokens(PREFIX, SUFFIX, files={"a.py": "A = 1"})
        assert written(model, tokens).startswith(f"{separator}a.py\nA = 1\n{separator}\n<fim_prefix>")


def test_texts_write_no_control_tokens(coder: Model) -> None:
    middle = coder.vocab.fim_mid
    name = coder.vocab.text(middle or 0)
    tokens = InfillFormat(coder.vocab).tokens(f"x {name}", name, files={name: name}, name=name)
    assert tokens.count(middle or 0) == 1


def test_infill(llm: Llama) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    tokens = llm.tokenize_infill(PREFIX, SUFFIX).tolist()
    expected = llm.generate(tokens, **options)
    assert llm.infill(PREFIX, SUFFIX, **options).tokens == expected.tokens
    assert llm.generate(PREFIX, suffix=SUFFIX, **options).tokens == expected.tokens
    for stream in (llm.stream_infill(PREFIX, SUFFIX, **options), llm.stream(PREFIX, suffix=SUFFIX, **options)):
        assert "".join(chunk.text for chunk in stream) == expected.text
    assert llm.infill(PREFIX, SUFFIX, order="spm", **options).usage.prompt_tokens == len(tokens)


def test_what_is_refused(llm: Llama, model: Model) -> None:
    with pytest.raises(UnsupportedError, match="no fim_pre, fim_suf, fim_mid token"):
        InfillFormat(model.vocab)
    with (
        Llama(model, n_ctx=256, n_threads=1) as plain,
        pytest.raises(UnsupportedError, match="does not support fill-in-the-middle"),
    ):
        plain.infill("a", "b")
    with pytest.raises(ValueError, match="order must be"):
        llm.infill("a", "b", order="msp")  # type: ignore[arg-type]
    options: list[Any] = [{"echo": True}, {"heal": True}]
    for option in options:
        with pytest.raises(ValueError, match="cannot be used with fill-in-the-middle"):
            llm.infill("a", "b", **option)
        with pytest.raises(ValueError, match="cannot be used with fill-in-the-middle"):
            llm.generate("a", suffix="b", **option)
    with pytest.raises(TypeError, match="must be a text"):
        llm.generate([1, 2], suffix="b")
