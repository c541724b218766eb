"""``llama-cffi embed`` and ``llama-cffi tokenize``, as their users run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import llama_cffi
from tests.cli.test_commands import clean_environment, refused, run  # noqa: F401 - the first is a fixture

pytest_plugins = ["tests.support.models", "tests.support.encoders"]

TEXTS = ["One day, Lily", "a cat"]


@pytest.fixture(scope="module")
def llm() -> Iterator[llama_cffi.Llama]:
    with llama_cffi.Llama.demo(n_threads=1) as model:
        yield model


def rows(stdout: str) -> list[list[float]]:
    return [[float(number) for number in line.split()] for line in stdout.splitlines()]


def test_vectors_go_to_stdout_and_the_note_to_stderr(llm: llama_cffi.Llama) -> None:
    done = run("embed", *TEXTS)
    assert (done.returncode, "demo model" in done.stderr) == (0, True)
    np.testing.assert_allclose(rows(done.stdout), llm.embed(TEXTS).array, atol=1e-4)


def test_texts_from_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_bytes(b"One day, Lily\r\na cat\n")
    expected = run("embed", *TEXTS).stdout
    assert run("embed", "-f", file).stdout == expected
    assert run("embed", stdin="One day, Lily\na cat\n").stdout == expected
    assert run("embed", "-f", "-", stdin="One day, Lily\na cat").stdout == expected
    assert run("embed", "--whole", stdin="One day, Lily\na cat").stdout == run("embed", "One day, Lily\na cat").stdout


def test_json_of_an_encoder(bert_path: Path) -> None:
    report = json.loads(run("embed", "-m", bert_path, "--pooling", "cls", "--no-normalize", "--json", *TEXTS).stdout)
    with llama_cffi.Llama(bert_path, n_threads=1) as llm:
        expected = llm.embed(TEXTS, pooling="cls", normalize=False)
    assert [one["tokens"] for one in report["embeddings"]] == list(expected.n_tokens)
    found = [one["embedding"] for one in report["embeddings"]]
    np.testing.assert_allclose(found, expected.array, atol=1e-4)
    assert (report["pooling"], report["width"], report["tokens"]) == ("cls", 64, sum(expected.n_tokens))
    assert not any(one["truncated"] for one in report["embeddings"])


def test_vectors_of_tokens_and_a_prefix(bert_path: Path) -> None:
    plain = rows(run("embed", "-m", bert_path, "--pooling", "none", "query: cat").stdout)
    assert rows(run("embed", "-m", bert_path, "--pooling", "none", "--prefix", "query: ", "cat").stdout) == plain
    assert len(plain) == 5


def test_a_long_text_is_refused_or_cut(bert_path: Path) -> None:
    long = "word " * 200
    assert "text 0 has 202 tokens" in refused(1, "embed", "-m", bert_path, long)
    report = json.loads(run("embed", "-m", bert_path, "--truncate", "--json", long).stdout)
    assert report["embeddings"][0]["tokens"] == 128
    assert report["embeddings"][0]["truncated"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed"],
        ["embed", "a", "--whole"],
        ["embed", "a", "-f", "-"],
        ["embed", "a", "--pooling", "rank"],
        ["tokenize"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert refused(2, *arguments).strip()


def test_what_the_library_refuses(bert_path: Path) -> None:
    assert "texts[1] is an empty text" in refused(1, "embed", stdin="a\n\nb")
    assert "it generates no text" in refused(1, "generate", "-m", bert_path, "a")


def test_tokens(llm: llama_cffi.Llama) -> None:
    ids = llm.tokenize("One day, Lily").tolist()
    assert run("tokenize", "One day, Lily").stdout.split() == list(map(str, ids))
    assert run("tokenize", "--no-bos", "-p", "One day, Lily").stdout.split() == list(map(str, ids[1:]))
    report = json.loads(run("tokenize", "--json", stdin="One day, Lily\n").stdout)
    assert report["tokens"] == ids
    assert "".join(report["pieces"][1:]).strip() == "One day, Lily"


def test_pieces_are_quoted_and_bytes_shown_as_such(llm: llama_cffi.Llama) -> None:
    lines = run("tokenize", "--pieces", "\N{CLOUD WITH TORNADO}\x1b").stdout.splitlines()
    assert len(lines) == len(llm.tokenize("\N{CLOUD WITH TORNADO}\x1b"))
    assert lines[0].split()[0] == str(llm.model.vocab.bos)
    assert any("b'\\xf0'" in line for line in lines)
    assert any("'\\x1b'" in line for line in lines)


def test_control_tokens_are_read_when_asked_for(bert_path: Path) -> None:
    assert run("tokenize", "-m", bert_path, "--parse-special", "--no-bos", "[SEP]").stdout == "102\n"
    assert len(run("tokenize", "-m", bert_path, "--no-bos", "[SEP]").stdout.split()) > 1
