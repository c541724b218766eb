"""The models of a folder and of a preset, and what their processes are told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("uvicorn", reason="needs the extra llama-cffi[server]")

from llama_cffi.cli.app import app
from llama_cffi.cli.model_catalog import catalog, read_preset


def command() -> Any:
    return typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]


def entries(folder: Path | None, preset: Path | None, *given: str) -> tuple[dict[str, Any], list[str]]:
    """The models by name, and the notes, for a command with these arguments."""
    context = command().make_context("serve", list(given))
    found, notes = catalog(context, folder, preset, False)
    return {one.id: one for one in found}, notes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    for name in ("one.gguf", "two.GGUF", "mmproj-one.gguf", ".hidden.gguf", "notes.txt", "parted/mmproj-F16.gguf",
                 "parted/big-00001-of-00002.gguf", "parted/big-00002-of-00002.gguf", "both/x.gguf", "both/y.gguf",
                 "empty/readme"):  # fmt: skip
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(b"")
    (made / "gone.gguf").symlink_to(made / "nowhere")
    return made


def test_a_folder(folder: Path) -> None:
    found, notes = entries(folder, None)
    assert {name: one.arguments for name, one in found.items()} == {
        "one": ("--model", str(folder / "one.gguf")),
        "two": ("--model", str(folder / "two.GGUF")),
        "parted": ("--model", str(folder / "parted" / "big-00001-of-00002.gguf")),
        "both/x": ("--model", str(folder / "both" / "x.gguf")),
        "both/y": ("--model", str(folder / "both" / "y.gguf")),
    }
    assert {one.source for one in found.values()} == {"models_dir"}
    assert notes == []


def test_the_nearest_place_decides(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset, config = tmp_path / "x.ini", tmp_path / "serve.ini"
    preset.write_text(
        "version = 1\n; comment\n[*]\nc = 100\ntemp = 0.1\nnp = 2\nstop-timeout = 3\nLLAMA_ARG_CACHE_RAM = 0\n"
        f"[one]\nctx-size = 200\ntemp = 0.2\nhost = 1.2.3.4\nalias = uno, eins\ntags = small\nno-slots = true\n"
        f"load-on-startup = true\nLLAMA_ARG_TOP_K = 4\njinja = true\nmetrics = false\n"
        f"[own]\nmodel = {folder / 'two.GGUF'}\nload-on-startup = no\nstop-timeout = 0\n"
        "[org/repo:Q8_0]\nlora = a.gguf, b.gguf:0.5,x/one.gguf\n"
    )
    config.write_text("n-predict = 7\nmin-p = 0.5\nbatch-size = 9\n")
    monkeypatch.setenv("LLAMA_ARG_N_PARALLEL", "5")
    given = ("--config", str(config), "--temp", "0.3", "--port", "1", "-t", "1", "-b", "8")
    found, notes = entries(folder, preset, *given)
    assert found["one"].aliases == ("uno", "eins")
    assert (found["one"].tags, found["one"].load_on_startup, found["one"].stop_timeout) == (("small",), True, 3)
    assert (found["own"].load_on_startup, found["own"].stop_timeout, found["own"].source) == (False, 0, "preset")

    def told(name: str) -> dict[str, str]:
        given = found[name].arguments
        flags = [i for i, text in enumerate(given) if text.startswith("--")]
        return {given[i]: " ".join(given[i + 1 : j]) for i, j in zip(flags, [*flags[1:], len(given)], strict=True)}

    common = {"--threads": "1", "--batch-size": "8", "--n-predict": "7", "--min-p": "0.5", "--cache-ram": "0",
              "--temp": "0.3", "--parallel": "2"}  # fmt: skip
    model = {"--model": str(folder / "one.gguf")}
    more = {"--no-slots": "", "--top-k": "4", "--jinja": "", "--no-metrics": ""}
    assert told("one") == common | model | more | {"--ctx-size": "200"}
    assert told("own") == common | {"--model": str(folder / "two.GGUF"), "--ctx-size": "100"}
    assert found["org/repo:Q8_0"].arguments.count("--lora") == 3
    assert found["org/repo:Q8_0"].adapters == ("a", "b")  # one is a model
    assert told("org/repo:Q8_0")["--hf-repo"] == "org/repo:Q8_0"
    (note,) = notes
    assert note.endswith("[one]: host has no effect: it is the server's, and not a model's")
    # What a model is told is what the command takes.
    context = command().make_context("serve", list(found["one"].arguments))
    assert (context.params["ctx_size"], context.params["parallel"], context.params["tell_slots"]) == (200, 2, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("c = 3", "only version = 1 stands before the first section"),
        ("[one\nc = 3", "line 1: a section is [NAME]"),
        ("[]", "line 1: a section is [NAME]"),
        ("[one]\nc", "line 2: a setting is NAME = VALUE"),
        ("[one]\n[one]", "two sections [one]"),
        ("[one]\nc = 1\nc = 2", "c is set twice"),
        ("[one]\nctx-sise = 1", "did you mean ctx-size?"),
        ("[one]\nctx-size = many", "'--ctx-size'"),
        ("[one]\nmmproj-url = x", "--mmproj takes a file"),
        ("[one]\ntemp = hot", "'hot' is not a number"),
        ("[one]\nload-on-startup = perhaps", "must be true or false"),
        ("[one]\nstop-timeout = -1", "must be seconds"),
        ("[three]\nc = 1", "neither in --models-dir nor a name on the hub"),
        ("[three]\nmodel = /nowhere/x.gguf", "there is no model file /nowhere/x.gguf"),
        ("[one]\nalias = two", "'two' is a name of both"),
    ],
)
def test_what_a_preset_cannot_say(text: str, said: str, folder: Path, tmp_path: Path) -> None:
    preset = tmp_path / "x.ini"
    preset.write_text(text)
    with pytest.raises(typer.BadParameter) as caught:
        entries(folder, preset)
    assert said in caught.value.format_message()


def test_a_preset_that_is_not_there() -> None:
    with pytest.raises(typer.BadParameter, match="no such"):
        read_preset(Path("/nowhere/x.ini"))


def test_the_cache_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cffi import hub

    def model(name: str, missing: tuple[str, ...] = ()) -> hub.CachedModel:
        return hub.CachedModel(name, "0", (Path("/cache") / name,), 1, missing)

    names = ("org/one/x-Q4_K_M.gguf", "org/one/mmproj-F16.gguf", "org/two/a.gguf", "org/two/b.gguf")
    monkeypatch.setattr(hub, "cached", lambda: [*map(model, names), model("org/three/x.gguf", ("y.gguf",))])
    found, _ = catalog(command().make_context("serve", []), None, None, True)
    assert [(one.id, one.aliases, one.source) for one in found] == [
        ("org/one/x-Q4_K_M.gguf", ("org/one",), "hub"),
        ("org/two/a.gguf", (), "hub"),
        ("org/two/b.gguf", (), "hub"),
    ]
    assert found[0].arguments == ("--model", "/cache/org/one/x-Q4_K_M.gguf")


def test_parts_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "x-00001-of-00003.gguf").write_bytes(b"")
    (tmp_path / "x-00003-of-00003.gguf").write_bytes(b"")
    with pytest.raises(typer.BadParameter, match=re.escape("lacks x-00002-of-00003.gguf")):
        entries(tmp_path, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--models-dir", "{dir}", "-m", "x.gguf"], "a model beside these is a section of --models-preset"),
        (["--models-dir", "{dir}", "--alias", "x"], "each model has the name of its file or section"),
        (["--models-dir", "{dir}", "--lora", "x.gguf"], "an adapter is for one model"),
        (["--models-dir", "{dir}", "-md", "x.gguf"], "a draft model is for one model"),
        (["--models-dir", "/nowhere"], "there is no folder /nowhere"),
        (["--models-dir", "{dir}/empty"], "there is no model in"),
        (["--models-max", "2"], "there is one model"),
        (["--no-models-autoload"], "there is one model"),
        (["--memory-limit", "9"], "it is checked before the process of a model loads it"),
        (["--models-dir", "{dir}", "--memory-limit", "9", "-sm", "row"], "only known for --split-mode layer"),
    ],
)
def test_what_cannot_be_said_together(given: list[str], said: str, folder: Path) -> None:
    arguments = [one.replace("{dir}", str(folder)) for one in given]
    done = CliRunner().invoke(app, ["serve", "--port", "0", *arguments], env={"COLUMNS": "400", "TERM": "dumb"})
    assert done.exit_code == 2, done.output
    assert said in " ".join(re.sub(r"[^\x20-\x7e]", " ", done.output).split())
