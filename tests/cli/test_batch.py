"""``llama-cffi batch``: a file of requests becomes a file of answers, also in several runs; and ``bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llama_cffi import Llama
from llama_cffi.cli.app import app

pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")

MESSAGES = [{"role": "user", "content": "Hi"}]


def run(*given: Any, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, given)], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == code, done.output
    return done.stdout if "--json" in given else done.output


def line(custom_id: str, url: str = "/v1/completions", **body: Any) -> str:
    given = {"prompt": "Once", "max_tokens": 4, "temperature": 0} if url == "/v1/completions" else {}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {**given, **body}})


def answers(path: Path) -> dict[str, Any]:
    lines = [json.loads(one) for one in path.read_text().splitlines()]
    assert all(set(one) == {"id", "custom_id", "response", "error"} for one in lines)
    assert len({one["id"] for one in lines}) == len(lines)
    return {one["custom_id"]: one["response"] for one in lines}


def test_all_kinds_of_requests(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [line(f"text-{i}", prompt=prompt) for i, prompt in enumerate(["Once", "The cat", ["A", "B"]])]
    lines.append(line("chat", "/v1/chat/completions", messages=MESSAGES, max_tokens=3))
    lines.append(line("vector", "/v1/embeddings", input=["a", "b"]))
    lines += [line("wrong", temperature=-1), line("stream", stream=True), line("nowhere", "/v1/nothing")]
    source.write_text("\n".join([*lines, ""]))
    found = json.loads(run("batch", source, target, "--json", "-t", 1, "-c", 256).splitlines()[-1])
    assert (found["total"], found["done"], found["answered"], found["failed"]) == (8, 8, 8, 3)
    by_id = answers(target)
    assert {name: one["status_code"] for name, one in by_id.items()} == {
        **dict.fromkeys(("text-0", "text-1", "text-2", "chat", "vector"), 200),
        **dict.fromkeys(("wrong", "stream"), 400),
        "nowhere": 404,
    }
    assert by_id["wrong"]["body"]["error"]["param"] == "temperature"
    assert len(by_id["text-2"]["body"]["choices"]) == len(by_id["vector"]["body"]["data"]) == 2
    with Llama.demo(n_threads=1) as llm:
        text = llm.generate("The cat", max_tokens=4, temperature=0).text
    assert by_id["text-1"]["body"]["choices"][0]["text"] == text
    assert found["completion_tokens"] == 4 * 4 + 3


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f"{line(str(i))}\n\n" for i in range(6)))
    run("batch", source, target, "-t", 1, "-c", 256)
    kept = target.read_text().splitlines(keepends=True)
    target.write_text(kept[0] + kept[1] + kept[2][:20])  # as an end in the middle of a line leaves it
    output = run("batch", source, target, "-t", 1, "-c", 256)
    assert "2 of 6 are answered already" in output
    assert target.read_text().startswith(kept[0] + kept[1])
    assert sorted(answers(target)) == [str(i) for i in range(6)]
    before = target.read_text()
    assert "0 answered" in run("batch", source, target)
    assert target.read_text() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", ":1: not JSON"),
        ("\n[]", ":2: must be a JSON object"),
        ("{}", "custom_id must be a text"),
        ('{"custom_id": "a"}', "url must be a text"),
        ('{"custom_id": "a", "url": "/x", "method": "GET"}', "method must be POST"),
        (f"{line('a')}\n{line('a')}", ":2: custom_id 'a' stands on line 1, too"),
    ],
)
def test_a_file_that_is_no_batch(tmp_path: Path, text: str, said: str) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(text)
    assert said in run("batch", source, target, code=1)
    assert not target.exists()


def test_another_file_is_not_written_to(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    target.write_text("my diary\n")
    assert "not an answer of a batch" in run("batch", source, target, code=1)
    assert target.read_text() == "my diary\n"


def test_bench() -> None:
    given = ("-p", 16, "-n", 4, "--callers", "1,2", "-r", 2, "-t", 1)
    found = json.loads(run("bench", *given, "--json").splitlines()[-1])
    assert [one["what"] for one in found["results"]] == ["prefill", "decode", "1 caller", "2 callers"]
    assert [one["tokens"] for one in found["results"]] == [16, 4, 4, 8]
    assert all(one["tokens_per_second"] > 0 for one in found["results"])
    assert found["repetitions"] == 2
    table = run("bench", "-p", 0, "-n", 2, "--callers", "1", "-r", 1, "-t", 1)
    assert "tokens/s" in table
    assert "prefill" not in table
    assert "at least one caller" in run("bench", "--callers", "0", code=2)
