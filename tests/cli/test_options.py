"""An option means the same in every command that has it, and has the same names there."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import typer

from llama_cffi.cli.app import app
from llama_cffi.cli.model_choice import ModelChoice
from llama_cffi.cli.sampling import Sampling

OWN: dict[str, set[str]] = {
    "rpc-server": {"--host", "--port", "--device", "--threads", "-c", "-p"},
    "bench": {"-n", "-p", "-r"},
    "info": {"--model"},
    "transcribe": {"-l", "--language"},
    "speak": {"-l", "--language", "--voice"},
    "serve": {"--voice", "--verbose"},
}
"""Options with the meaning, or the names, of one of llama.cpp's tools that differs from its others."""


def spelled() -> dict[str, dict[str, Any]]:
    """The options of the commands, by the spelling and the command."""
    command: Any = typer.main.get_command(app)
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, one in command.commands.items():
        for param in one.params:
            spellings = {text for text in (*param.opts, *param.secondary_opts) if text.startswith("-")}
            if not spellings & OWN.get(name, set()):
                for spelling in spellings:
                    found[spelling][name] = param
    return found


@pytest.mark.parametrize("what", ["opts", "secondary_opts", "envvar", "metavar", "nargs", "multiple"])
def test_an_option_has_the_same_names_and_form_everywhere(what: str) -> None:
    different = {
        spelling: kinds
        for spelling, uses in spelled().items()
        if len(kinds := {str(getattr(param, what, None)) for param in uses.values()}) > 1
    }
    assert different == {}


def test_commands_that_take_a_model_take_it_in_the_same_ways() -> None:
    found = spelled()
    takers = set(found["-m"])
    assert {"generate", "chat", "serve", "embed", "tokenize"} <= takers
    for name in ("-hf", "--hf-file", "--hf-token", "--offline"):
        assert takers <= set(found[name]), name


def test_generate_and_chat_choose_tokens_alike() -> None:
    found = spelled()
    names = {name for name, uses in found.items() if "generate" in uses}
    missing = {name for name in names if "chat" not in found[name]}
    assert missing == {
        *("--escape", "--no-escape", "-e"),
        *("--display-prompt", "--no-display-prompt", "--show-timings", "--no-show-timings"),
    }


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (ModelChoice(), None),
        (ModelChoice(model=Path("a.gguf")), "a.gguf"),
        (ModelChoice(hf_repo="me/one"), "hf:me/one"),
        (ModelChoice(hf_repo="hf:me/one:Q8_0"), "hf:me/one:Q8_0"),
        (ModelChoice(hf_repo="me/one:Q8_0", hf_file="b.gguf"), "hf:me/one/b.gguf"),
    ],
)
def test_the_name_of_a_model(choice: ModelChoice, name: str | None) -> None:
    assert choice.name() == (None if name is None else Path(name))


def test_what_names_no_model() -> None:
    with pytest.raises(typer.BadParameter, match="either --model or --hf-repo"):
        ModelChoice(model=Path("a.gguf"), hf_repo="me/one").name()
    with pytest.raises(typer.BadParameter, match="there is no --hf-repo for it"):
        ModelChoice(hf_file="a.gguf").name()


def test_a_token_and_the_cache_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "old")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    ModelChoice(hf_token="new", offline=True).name()
    assert (os.environ["HF_TOKEN"], os.environ["HF_HUB_OFFLINE"]) == ("new", "1")


def test_what_is_given_are_parameters_of_the_library() -> None:
    assert "seed" not in Sampling(seed=2**32 - 1).given()
    given = Sampling(temperature=-1.0, seed=3, typical=0.5, mirostat_ent=4.0, samplers="top-k;temperature").given()
    assert (given["temperature"], given["seed"], given["typical_p"], given["mirostat_tau"]) == (0.0, 3, 0.5, 4.0)
    assert given["sampler_order"] == ("top_k", "temperature")
