"""Texts of any length are tokenized or refused: none ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cffi import Model, ModelOptions
from llama_cffi.core import long_text
from llama_cffi.errors import TokenizeError
from tests.support.children import ROOT
from tests.support.long_texts import pre_tokenizers

pytest_plugins = ["tests.support.models"]

RECURSIVE = ["deepseek-llm", "deepseek-coder", "tekken", "superbpe", "falcon", "default", "exaone-moe"]
"""One pre-tokenizer of each kind that overflows a stack of 8 MB below the length tested here."""


def compare(vocab: Path, lengths: list[int], pres: list[str], *, helpers: str = "") -> str:
    command = [sys.executable, "-m", "tests.support.long_texts", str(vocab), *map(str, lengths), "--", *pres]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "LLAMA_CFFI_HELPERS": helpers},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_a_long_run_gives_the_tokens_of_llama_cpp(llama_cpp_models: Path) -> None:
    vocab = llama_cpp_models / "ggml-vocab-gpt-2.gguf"
    assert compare(vocab, [28_000], ["deepseek-llm", "tekken"]) == "23 equal, 1 refused\n"


def test_a_long_run_without_the_compiled_helpers(llama_cpp_models: Path) -> None:
    vocab = llama_cpp_models / "ggml-vocab-gpt-2.gguf"
    assert compare(vocab, [28_000], ["tekken"], helpers="none") == "12 equal, 0 refused\n"


def test_no_more_than_a_bound_without_a_line_break(llama_cpp_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "MAX_RUN", 20_000)
    options = ModelOptions(vocab_only=True, kv_overrides={"tokenizer.ggml.pre": "tekken"})
    with Model(llama_cpp_models / "ggml-vocab-gpt-2.gguf", options) as model:
        for text in ("a" * 20_001, b"\n/" * 10_001, "x\n" + "\n" * 20_000):
            with pytest.raises(TokenizeError, match="without a line break, from index"):
                model.vocab.tokenize(text)
        lines = ("漢" * 19_000 + "\n") * 3
        assert model.vocab.detokenize(model.vocab.tokenize(lines, add_special=False)) == lines.encode()
        assert model.vocab.detokenize(model.vocab.tokenize(lines.encode(), add_special=False)) == lines.encode()


def test_what_no_stack_is_found_for_is_an_exception(llama_cpp_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "_PER_CHARACTER", 1 << 40)
    options = ModelOptions(vocab_only=True, kv_overrides={"tokenizer.ggml.pre": "tekken"})
    with Model(llama_cpp_models / "ggml-vocab-gpt-2.gguf", options) as model:
        with pytest.raises(TokenizeError, match="no thread with a stack of"):
            model.vocab.tokenize("abc" * 1000)
        monkeypatch.undo()
        assert len(model.vocab.tokenize("abc" * 1000)) > 0


@pytest.mark.fuzz
@pytest.mark.parametrize("helpers", ["", "none"])
def test_every_pre_tokenizer(llama_cpp_models: Path, helpers: str) -> None:
    pres = pre_tokenizers(llama_cpp_models.parent)
    assert len(pres) > 80
    lengths = [10, 1_000, 7_900, 30_000, 100_000] if not helpers else [10, 30_000]
    for pre in pres:
        if pre == "whitespace" and helpers:
            continue  # llama.cpp throws for it, and nothing catches that without the compiled helpers
        *differences, total = compare(
            llama_cpp_models / "ggml-vocab-gpt-2.gguf", lengths, [pre], helpers=helpers
        ).splitlines()
        print(f"{pre}: {total}")
        assert differences == []


@pytest.mark.fuzz
def test_a_million_characters(llama_cpp_models: Path) -> None:
    for pre in RECURSIVE:
        output = compare(llama_cpp_models / "ggml-vocab-gpt-2.gguf", [1_000_000], [pre])
        print(f"{pre}: {output}")
        assert output.count("\n") == 1
