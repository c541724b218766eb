"""``--model-draft`` and ``--spec-type``: the same text, and what came of the drafts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_cffi.runtime import demo_path
from tests.cli.test_commands import clean_environment, refused, run
from tests.support.headed_models import Headed, write_headed_model
from tests.support.random_model import write_random_model

__all__ = ["clean_environment"]  # a fixture of every test here, too

GREEDY = ("generate", "Once upon a time", "--temp", "0", "-n", "40", "--json")


@pytest.mark.parametrize("options", [("-md", demo_path()), ("--spec-type", "ngram-simple")], ids=["model", "lookup"])
def test_the_same_text_with_statistics(options: tuple[str, str]) -> None:
    plain, drafted = (json.loads(run(*GREEDY, *more).stdout) for more in ((), options))
    assert drafted["tokens"] == plain["tokens"]
    assert plain["speculation"] is None
    counts = drafted["speculation"]
    assert counts["target_decodes"] + counts["accepted_tokens"] == 40
    assert 0 <= counts["accepted_tokens"] <= counts["drafted_tokens"]


def test_the_model_itself_is_always_right() -> None:
    counts = json.loads(run(*GREEDY, "--model-draft", demo_path()).stdout)["speculation"]
    assert counts["accepted_tokens"] > 0
    assert counts["acceptance"] == 1.0


def test_the_variables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_SPEC_DRAFT_MODEL", demo_path())
    assert json.loads(run(*GREEDY).stdout)["speculation"] is not None
    assert json.loads(run(*GREEDY, "--spec-type", "none").stdout)["speculation"] is None


def test_an_answer_and_its_line() -> None:
    answer = json.loads(run("chat", "Tell me a story", "--temp", "0", "-n", "20", "--json", "-md", demo_path()).stdout)
    assert answer["speculation"]["drafted_tokens"] > 0
    line = run("generate", "Once", "--temp", "0", "-n", "20", "--show-timings", "-md", demo_path()).stderr
    assert "100% of " in line
    assert " drafted; " in line


def test_the_layers_of_the_model(tmp_path: Path) -> None:
    model = write_headed_model(tmp_path / "model.gguf", Headed(head="right", n_layer=1))
    heads = write_headed_model(tmp_path / "heads.gguf", Headed(head="right", n_layer=1), trunk=False)
    greedy = ("generate", "tana nese", "-m", str(model), "--temp", "0", "-n", "6", "--json", "-t", "1")
    plain = json.loads(run(*greedy).stdout)
    for options in (("--spec-type", "draft-mtp"), ("-md", str(heads))):
        drafted = json.loads(run(*greedy, *options).stdout)
        assert drafted["tokens"] == plain["tokens"]
        assert drafted["speculation"] is not None
    assert "does not compute heads" in refused(1, "generate", "Hi", "--spec-type", "draft-mtp")


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_wrong_usage(command: str) -> None:
    assert "there is no --model-draft" in refused(2, command, "Hi", "--spec-type", "draft-simple")
    assert "the text itself drafts" in refused(2, command, "Hi", "--spec-type", "ngram-simple", "-md", demo_path())
    assert "none" in refused(2, command, "Hi", "--spec-type", "eagle")
    assert "there is no --model-draft" in refused(2, command, "Hi", "--spec-type", "draft-eagle3")
    assert "is an llama model" in refused(2, command, "Hi", "--spec-type", "draft-eagle3", "-md", demo_path())


def test_files_that_cannot_draft(tmp_path: Path) -> None:
    assert "no such file" in refused(1, "generate", "Hi", "-md", str(tmp_path / "none.gguf"))
    (tmp_path / "text").write_text("no model at all, but long enough to be looked at")
    assert "is not a GGUF file" in refused(1, "generate", "Hi", "-md", str(tmp_path / "text"))
    other = write_random_model(tmp_path / "other.gguf")
    assert "draft model" in refused(1, "generate", "Hi", "-md", str(other))
