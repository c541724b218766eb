"""``llama-cffi rerank``, as its users run it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from llama_cffi import Llama
from llama_cffi.reply.vectors import Ranked
from tests.cli.test_commands import Terminal, clean_environment, plain, refused, run
from tests.support.random_encoder import write_random_bert

__all__ = ["clean_environment"]  # a fixture of every test here, too

pytest_plugins = ["tests.support.models", "tests.support.encoders"]

QUERY = "what jumps over dogs"
DOCUMENTS = ["a cat", "The quick brown fox jumps over the lazy dog.", "Zoë \\n\U0001f999", "  spaces   and\ttabs "]


@pytest.fixture(scope="module")
def ranker_path(bert_vocab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_bert(tmp_path_factory.mktemp("bert") / "rank.gguf", bert_vocab, pooling="rank", n_classes=1)


@pytest.fixture(scope="module")
def expected(ranker_path: Path) -> list[Ranked]:
    with Llama(ranker_path, n_threads=1) as llm:
        return llm.rerank(QUERY, DOCUMENTS)


def lines(ranked: list[Ranked]) -> str:
    return "".join(f"{one.score:.7g}\t{one.index}\t{one.document}\n" for one in ranked)


def test_the_best_first_a_line_for_each(ranker_path: Path, expected: list[Ranked]) -> None:
    done = run("rerank", QUERY, *DOCUMENTS, "-m", ranker_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == lines(expected)
    assert [one.index for one in expected] != list(range(len(DOCUMENTS)))


def test_documents_from_everywhere(ranker_path: Path, expected: list[Ranked], tmp_path: Path) -> None:
    file = tmp_path / "documents"
    file.write_bytes("\r\n".join([*DOCUMENTS, ""]).encode())
    text = "\n".join(DOCUMENTS)
    assert run("rerank", QUERY, "-m", ranker_path, "-f", file).stdout == lines(expected)
    assert run("rerank", QUERY, "-m", ranker_path, stdin=f"{text}\n").stdout == lines(expected)
    assert run("rerank", QUERY, "-m", ranker_path, "-f", "-", "--top-n", "2", stdin=text).stdout == lines(expected[:2])


def test_json(ranker_path: Path, expected: list[Ranked]) -> None:
    report = json.loads(run("rerank", QUERY, *DOCUMENTS, "-m", ranker_path, "--json", "--top-n", "3").stdout)
    assert [list(one) for one in report["results"]] == [["index", "score", "document"]] * 3
    assert [(one["index"], one["document"]) for one in report["results"]] == [
        (one.index, one.document) for one in expected[:3]
    ]
    assert [one["score"] for one in report["results"]] == pytest.approx([one.score for one in expected[:3]], abs=1e-5)
    assert report["model"]["path"] == str(ranker_path)


def test_a_document_of_several_lines(ranker_path: Path) -> None:
    text = "a cat\nand\u2028a dog"
    report = json.loads(run("rerank", QUERY, "-m", ranker_path, "--whole", "--json", stdin=text).stdout)
    assert [one["document"] for one in report["results"]] == [text]
    shown = run("rerank", QUERY, text, "-m", ranker_path).stdout
    assert shown.partition("\t")[2] == "0\ta cat and a dog\n"


def test_a_long_document_is_refused_or_cut(ranker_path: Path) -> None:
    long = "word " * 200
    assert "query and document 1 has" in refused(1, "rerank", QUERY, "short", long, "-m", ranker_path)
    done = run("rerank", QUERY, long, "-m", ranker_path, "--truncate")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "QUERY"),
        ([QUERY], "no document: none given"),
        ([QUERY, "a", "-f", "-"], "give documents as arguments"),
        ([QUERY, "a", "--top-n", "0"], "--top-n"),
    ],
)
def test_wrong_usage(arguments: list[str], reason: str) -> None:
    assert reason in refused(2, "rerank", *arguments)


def test_what_the_library_refuses(ranker_path: Path, bert_path: Path) -> None:
    assert "error: documents[1] is an empty text" in refused(1, "rerank", QUERY, "-m", ranker_path, stdin="a\n\nb")
    assert "no classifier head" in refused(1, "rerank", QUERY, "a", "-m", bert_path)
    assert "not valid UTF-8 at byte 1" in refused(1, "rerank", QUERY, "-m", ranker_path, stdin=b"a\xff")


def test_a_bar_in_a_terminal_and_ctrl_c(ranker_path: Path, bert_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "documents"
    file.write_text("a cat and a dog\n" * 20000)
    for command, label in ((("rerank", QUERY, "-m", str(ranker_path)), "ranking"),
                           (("embed", "-m", str(bert_path)), "embedding")):  # fmt: skip
        terminal = Terminal(*command, "-f", str(file))
        terminal.read(until=f"{label} [".encode())
        os.write(terminal.fd, b"\x03")
        shown = terminal.read()
        assert terminal.close() == 130
        assert re.search(rf"{label} \[#* +\] +\d+ %", shown)
        assert "Traceback" not in shown


def test_a_document_steers_no_terminal(ranker_path: Path) -> None:
    terminal = Terminal("rerank", QUERY, "a \x1b[31mred\x07 cat", "-m", str(ranker_path))
    shown = terminal.read()
    assert terminal.close() == 0
    assert "\t0\ta \N{SYMBOL FOR ESCAPE}[31mred\N{SYMBOL FOR BELL} cat" in plain(shown)
    assert "\x1b[31m" not in shown
