"""The commands that judge and shrink models, as their users run them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from llama_cffi import Llama
from llama_cffi.core.quantize import QuantizeOptions, quantize
from tests.cli.test_commands import COMMAND, Terminal, clean_environment, plain, refused, run
from tests.support.random_model import Shape, write_random_model

__all__ = ["clean_environment"]

TEXT = "Once upon a time there was a little girl called Lily. She had a red ball. " * 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "source.gguf", weights="f16")


# -- perplexity


def test_perplexity_of_standard_input_and_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    with Llama.demo(n_threads=1) as llm:
        expected = llm.perplexity(TEXT, n_ctx=128)
    report = json.loads(run("perplexity", "-c", "128", "--json", stdin=TEXT).stdout)
    assert report["value"] == pytest.approx(expected.value, rel=1e-3)
    assert (report["n_tokens"], report["n_chunks"]) == (expected.n_tokens, expected.n_chunks)
    assert "description" in report["model"]
    done = run("perplexity", "-c", "128", "-f", tmp_path / "text")
    assert done.returncode == 0
    found = re.fullmatch(r"perplexity +([\d.]+) \+/- [\d.]+\ntokens scored +([\d,]+) in (\d+) chunks\n", done.stdout)
    assert found
    assert float(found[1]) == pytest.approx(expected.value, rel=1e-3)


def test_perplexity_with_a_stride_and_with_the_training_length(source: Path) -> None:
    text = "tana nese roki mupo " * 30
    strided = json.loads(run("perplexity", text, "-m", source, "-c", "64", "--ppl-stride", "16", "--json").stdout)
    with Llama(source, n_ctx=256, n_threads=1) as llm:
        assert strided["n_tokens"] == llm.perplexity(text, n_ctx=64, stride=16).n_tokens
    assert "less than one chunk of 2048" in refused(1, "perplexity", text, "-m", source, "-c", "0")


def test_perplexity_of_nothing_and_of_too_little(source: Path) -> None:
    assert "no text" in refused(2, "perplexity", "-m", source)
    assert "too short" in refused(1, "perplexity", "-m", source, "")
    assert "less than one chunk" in refused(1, "perplexity", "-m", source, "tana", "-c", "64")
    assert "stride" in refused(1, "perplexity", "-m", source, TEXT, "-c", "64", "--stride", "64")


# -- quantize


def test_quantize(source: Path, tmp_path: Path) -> None:
    done = run("quantize", source, tmp_path / "q.gguf", "q8_0")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^type +Q8_0$", done.stdout, re.MULTILINE)
    assert re.search(r"^size +.* KiB, from .* KiB$", done.stdout, re.MULTILINE)
    assert "exists already" in refused(1, "quantize", source, tmp_path / "q.gguf", "q8_0")
    report = json.loads(run("quantize", source, tmp_path / "q.gguf", "Q8_0", "--force", "--json").stdout)
    assert report["target_bytes"] == (tmp_path / "q.gguf").stat().st_size
    assert "requantizing" in refused(1, "quantize", tmp_path / "q.gguf", tmp_path / "r.gguf", "Q4_0")
    assert run("quantize", tmp_path / "q.gguf", tmp_path / "r.gguf", "Q4_0", "--allow-requantize").returncode == 0


def test_quantize_with_options(source: Path, tmp_path: Path) -> None:
    options = ("--tensor-type", "attn_q=f16", "--token-embedding-type", "q8_0", "--override-kv", "x.y=int:4", "--pure")
    assert run("quantize", source, tmp_path / "q.gguf", "Q4_0", *options, "--prune-layers", "1").returncode == 0
    settings = QuantizeOptions(
        tensor_types={"attn_q": "f16"},
        token_embedding_type="q8_0",
        kv_overrides={"x.y": 4},
        pure=True,
        prune_layers=[1],
    )
    expected = quantize(source, tmp_path / "expected.gguf", "Q4_0", settings)
    assert (tmp_path / "q.gguf").read_bytes() == expected.read_bytes()


def test_quantize_standard_input(source: Path, tmp_path: Path) -> None:
    data = source.read_bytes()
    report = json.loads(run("quantize", "-", tmp_path / "q.gguf", "q8_0", "--json", stdin=data).stdout)
    assert (report["source"], report["source_bytes"]) == ("-", len(data))
    expected = quantize(source, tmp_path / "expected.gguf", "Q8_0")
    assert (tmp_path / "q.gguf").read_bytes() == expected.read_bytes()
    target = tmp_path / "r.gguf"
    message = refused(1, "quantize", "-", target, "q8_0", stdin=data[:100])
    assert re.search(r"standard-input\.\w+\.part is a damaged GGUF file", message)
    assert "exists already" in refused(1, "quantize", "-", expected, "q8_0", stdin=b"")
    assert "'Q4_K_M'" in refused(1, "quantize", "-", target, "Q9", stdin=b"")
    assert "the result is a file" in refused(2, "quantize", source, "-", "q8_0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.gguf", "q.gguf"]


def test_quantize_what_cannot_be(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "q.gguf"
    assert "'Q4_K_M'" in refused(1, "quantize", source, target, "Q9")
    assert "no such file" in refused(1, "quantize", tmp_path / "nothing", target, "Q8_0")
    assert "exists already and is not a file" in refused(1, "quantize", source, os.devnull, "Q8_0")
    assert "NAME=TYPE" in refused(2, "quantize", source, target, "Q8_0", "--tensor-type", "attn_q")
    assert "whole numbers" in refused(2, "quantize", source, target, "Q8_0", "--prune-layers", "one")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes seconds to quantize."""
    path = tmp_path_factory.mktemp("models") / "large.gguf"
    return write_random_model(path, Shape(n_layer=6, n_embd=512, n_ff=2048), weights="f16")


def size_of(path: Path) -> int:
    """The size of a file that may be made anew at this moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_from_outside_leaves_nothing(large: Path, tmp_path: Path, number: signal.Signals) -> None:
    child = subprocess.Popen(
        [*COMMAND, "quantize", str(large), str(tmp_path / "q.gguf"), "IQ3_S", "-t", "1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(size_of(path) for path in tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(number)
    out, said = child.communicate(timeout=30)
    assert (child.returncode, out, said) == ({signal.SIGINT: 130, signal.SIGTERM: 143}[number], b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_bar_in_a_terminal_and_ctrl_c(large: Path, tmp_path: Path) -> None:
    terminal = Terminal("quantize", str(large), str(tmp_path / "q.gguf"), "IQ3_S", "-t", "1")
    terminal.read(until=b" %")
    os.write(terminal.fd, b"\x03")
    shown = terminal.read()
    assert terminal.close() == 130
    assert re.search(r"quantizing \[#* +\] +\d+ %", shown)
    assert "Traceback" not in plain(shown)
    assert list(tmp_path.iterdir()) == []
