"""Every flag of llama-server is known, and does what the table says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from llama_cffi.cli.app import app
from llama_cffi.cli.server_arguments import ServeCommand, taken_by
from llama_cffi.cli.server_flags import BY_NAME, FLAGS
from tests.support.flag_table import DOCUMENT, options, tables, written

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build" / "libllama" / "bin" / "llama-server"


def flags_of_llama_server() -> dict[str, int]:
    """The flags that its help begins lines with, and how many values follow each."""
    done = subprocess.run([BINARY, "--help"], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, int] = {}
    names: list[str] = []
    for line in done.stdout.splitlines():
        if not (names or line.startswith("-")):
            continue
        head = re.match(r"\s*(?:--?[A-Za-z][\w.-]*(?:,\s*|(?=\s|$)))+", line)
        if head is None:
            names = []
            continue
        names += re.findall(r"--?[A-Za-z][\w.-]*", head[0])
        if head[0].rstrip().endswith(","):
            continue
        # The description is two blanks away from the values, or on the next line.
        values = re.sub(r"<[^>]*>", "X", line[head.end() :]).partition("  ")[0].split()
        found.update(dict.fromkeys(names, len(values)))
        names = []
    return found


@pytest.mark.skipif(not BINARY.is_file(), reason="llama-server was not built")
def test_the_flags_are_those_of_llama_server() -> None:
    theirs = flags_of_llama_server()
    assert len(theirs) > 300
    assert sorted(theirs.keys() - BY_NAME.keys()) == []
    assert sorted(BY_NAME.keys() - theirs.keys()) == []
    assert {name: n for name, n in theirs.items() if BY_NAME[name].n_values != n} == {}


def test_no_flag_is_there_twice() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))
    ours = {name for spellings, _, _ in options().values() for name in spellings}
    help_names = {"-h", "--help", "--usage"}
    assert sorted({name for flag in FLAGS if flag.kind == "own" for name in flag.names} - ours - help_names) == []
    assert sorted({name for flag in FLAGS if flag.kind != "own" for name in flag.names} & ours) == []
    assert all(flag.word for flag in FLAGS if flag.kind != "own")


def test_the_fields_are_there() -> None:
    pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")
    from llama_cffi.server.openai.chat_request import CHAT_FIELDS
    from llama_cffi.server.openai.completions import TEXT_FIELDS
    from llama_cffi.server.openai.embeddings import EMBEDDING_FIELDS

    known = {name for one in (*TEXT_FIELDS, *CHAT_FIELDS, *EMBEDDING_FIELDS) for name in one.names}
    assert {flag.word for flag in FLAGS if flag.kind == "field"} - known == {"reasoning"}


def test_the_page_is_up_to_date() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    for name, table in tables().items():
        assert written(document, name) == table, "run python -m tests.support.flag_table"


# -- arguments


def read(*given: str) -> tuple[dict[str, Any], Any]:
    """The values that a command gets, and what was taken of llama-server's flags."""
    found: list[Any] = []
    small = typer.Typer()

    @small.command(cls=ServeCommand)
    def command(
        ctx: typer.Context,
        port: Annotated[int, typer.Option("--port", envvar="LLAMA_ARG_PORT")] = 8080,
        alias: Annotated[str, typer.Option("-a", "--alias")] = "",
        api_key: Annotated[list[str] | None, typer.Option("--api-key")] = None,
        metrics: Annotated[bool, typer.Option("--metrics/--no-metrics")] = True,
        config: Annotated[Path | None, typer.Option("--config")] = None,
    ) -> None:
        values = {"port": port, "alias": alias, "api_key": api_key, "metrics": metrics}
        found.extend((values, taken_by(ctx)))

    done = CliRunner().invoke(small, list(given), env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    if done.exit_code:
        raise ValueError(" ".join(re.sub(r"[^\x20-\x7e]", " ", done.output).split()))
    return found[0], found[1]


def test_flags_of_both_kinds_may_be_mixed() -> None:
    given = ["--temp", "0.5", "--port", "1", "-cb", "--top-k=7", "-a", "x", "--samplers", "top_k;temp", "--ignore-eos"]
    given += ["-l", "5+1", "-l", "6-inf", "-r", "a", "--reverse-prompt", "b", "--reasoning", "off"]
    given += ["--chat-template-kwargs", '{"a": 1}', "--dry-sequence-breaker", "\\n", "-j", '{"type": "object"}']
    values, taken = read(*given)
    assert (values["port"], values["alias"]) == (1, "x")
    assert taken.fields == {
        "temperature": 0.5,
        "top_k": 7,
        "samplers": ["top_k", "temp"],
        "ignore_eos": True,
        "logit_bias": [[5, 1.0], [6, False]],
        "stop": ["a", "b"],
        "chat_template_kwargs": {"enable_thinking": False, "a": 1},
        "dry_sequence_breakers": ["\n"],
        "json_schema": {"type": "object"},
    }
    (note,) = taken.notes
    assert note.startswith("-cb has no effect")


def test_values_come_from_the_nearest_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "x.ini"
    config.write_text("# mine\nport = 3\nno-metrics = true\napi-key = k\ntemp = 0.1\ntop-k = 1\ntop_p = 0.3\ncb = on\n")
    values, taken = read("--config", str(config))
    assert values == {"port": 3, "alias": "", "api_key": ["k"], "metrics": False}
    assert taken.fields == {"temperature": 0.1, "top_k": 1, "top_p": 0.3}
    assert len(taken.notes) == 1
    monkeypatch.setenv("LLAMA_ARG_PORT", "4")
    monkeypatch.setenv("LLAMA_ARG_TEMPERATURE", "0.2")
    monkeypatch.setenv("LLAMA_ARG_TOP_K", "2")
    monkeypatch.setenv("LLAMA_CFFI_CONFIG", str(config))
    values, taken = read("--temp", "0.3")
    assert values["port"] == 4
    assert taken.fields == {"temperature": 0.3, "top_k": 2, "top_p": 0.3}
    assert read("--port", "5")[0]["port"] == 5


def test_a_file_of_toml(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    config = tmp_path / "x.toml"
    config.write_text('port = 3\napi-key = ["a", "b"]\nmetrics = false\ntemp = 0.5\nreverse-prompt = ["x", "y"]\n'
                      '[chat-template-kwargs]\nthinking = true\n')  # fmt: skip
    values, taken = read("--config", str(config))
    assert values == {"port": 3, "alias": "", "api_key": ["a", "b"], "metrics": False}
    assert taken.fields == {"temperature": 0.5, "stop": ["x", "y"], "chat_template_kwargs": {"thinking": True}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--mmproj-url", "x"], "--mmproj takes a file"),
        (["--version"], "llama-cffi --version"),
        (["--temp"], "needs a value"),
        (["--temp", "hot"], "'hot' is not a number"),
        (["-j", "{"], "not JSON"),
        (["-j", "3"], "must be a JSON object"),
        (["--reasoning", "some"], "on, off or auto"),
        (["--unknown"], "No such option"),
        (["--grammar-file", "/nowhere/x"], "no such folder: /nowhere"),
        (["--config", "/nowhere/x"], "no such folder: /nowhere"),
        (["--config", "{ini}"], "did you mean port"),
        (["--config", "{bad}"], "metrics must be true or false"),
    ],
)
def test_what_cannot_be(given: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "x.ini").write_text("prot = 3\n")
    (tmp_path / "y.ini").write_text("metrics = perhaps\n")
    places = {"{ini}": str(tmp_path / "x.ini"), "{bad}": str(tmp_path / "y.ini")}
    with pytest.raises(ValueError, match=re.escape(said)):
        read(*(places.get(one, one) for one in given))


def test_a_default_that_no_request_could_have_is_said_at_the_start() -> None:
    pytest.importorskip("uvicorn", reason="needs the extra llama-cffi[server]")
    for given, said in ((["--top-p", "2"], "top_p: must be 0 to 1"), (["--samplers", "magic"], "samplers[0]"),
                        (["--reasoning-format", "none"], "not supported")):  # fmt: skip
        done = CliRunner().invoke(app, ["serve", *given], env={"COLUMNS": "200", "TERM": "dumb"})
        assert done.exit_code == 2
        assert said in " ".join(done.output.split())
