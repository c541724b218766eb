"""Slots that are looked at, saved, restored and erased; LoRA adapters; what --compat llama-server changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Llama
from llama_cffi.runtime import demo_path
from tests.support.lora import random_pairs, write_lora
from tests.support.served import Served, served

pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="needs the extra llama-cffi[server]")

OPTIONS: Any = {"n_ctx": 256, "n_seq_max": 2, "n_threads": 1, "host_bytes": 0}
PROMPT = "Once upon a time there was a little girl who liked to play with her red ball"
GREEDY: dict[str, Any] = {"prompt": PROMPT, "temperature": 0, "n_predict": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    with Llama(demo_path(), **OPTIONS) as llama:
        yield llama


@pytest.fixture(scope="module")
def server(llama: Llama, folder: Path) -> Iterator[Served]:
    from llama_cffi.server.settings import Settings

    with served(llama, Settings(slot_save_path=folder, slot_action_timeout=0.05)) as made:
        yield made


def error(response: Any) -> tuple[int, Any]:
    found = response.json()["error"]
    assert isinstance(found["code"], int)
    return response.status_code, found["param"]


def test_idle_slots(server: Served) -> None:
    found = server.ask("/slots").json()
    assert [one["id"] for one in found] == [0, 1]
    for one in found:
        assert (one["is_processing"], one["id_task"], one["n_ctx"]) == (False, -1, 256)
        assert set(one["next_token"][0]) == {"has_next_token", "has_new_line", "n_remain", "n_decoded"}
        assert "temperature" in one["params"]
    assert server.ask("/slots?fail_on_no_slot=1").status_code == 200


def test_busy_slots(server: Served) -> None:
    """Two texts without an end hold both slots."""
    llama = server.llm.llama
    no_end: Any = dict.fromkeys(llama.model.vocab.eog_tokens, "never")
    options: Any = {"overflow": "shift", "logit_bias": no_end, "temperature": 0.5, "seed": 1, "max_tokens": 10**6}
    with llama.stream(f"Tom {PROMPT}", **options) as one, llama.stream(f"Sue {PROMPT}", **options) as other:
        next(one)
        next(other)
        found = server.ask("/slots").json()
        full = server.ask("/slots?fail_on_no_slot=1")
    assert sorted(one["id_task"] for one in found)[0] > 0
    for busy in found:
        assert (busy["is_processing"], busy["params"]["temperature"]) == (True, 0.5)
        assert busy["params"]["n_predict"] == 10**6
        left, made = (busy["next_token"][0][name] for name in ("n_remain", "n_decoded"))
        assert left + made == 10**6
        assert busy["n_prompt_tokens"] > made > 0 or busy["n_prompt_tokens"] > 100
        assert "Tom" not in str(busy)
    assert full.status_code == 503


def test_saved_and_restored(server: Served, folder: Path) -> None:
    whole = server.ask("/completion", {**GREEDY, "id_slot": 0}).json()
    saved = server.ask("/slots/0?action=save", {"filename": "girl.bin"}).json()
    assert (saved["id_slot"], saved["filename"], saved["n_saved"]) == (0, "girl.bin", whole["tokens_cached"])
    assert saved["n_written"] == (folder / "girl.bin").stat().st_size
    assert set(saved["timings"]) == {"save_ms"}
    for slot in (0, 1):
        server.ask(f"/slots/{slot}?action=erase", method="POST")
    assert server.ask("/completion", {**GREEDY, "id_slot": 1, "cache_prompt": False}).json()["timings"]["cache_n"] == 0
    restored = server.ask("/slots/1?action=restore", {"filename": "girl.bin"}).json()
    assert (restored["n_restored"], restored["n_read"]) == (saved["n_saved"], saved["n_written"])
    assert set(restored["timings"]) == {"restore_ms"}
    again = server.ask("/completion", {**GREEDY, "id_slot": 1}).json()
    assert again["timings"]["cache_n"] == whole["tokens_evaluated"] - 1
    assert (again["content"], again["id_slot"]) == (whole["content"], 1)


def test_erased(server: Served) -> None:
    found = server.ask("/completion", {**GREEDY, "id_slot": 0}).json()
    assert server.ask("/slots/0?action=erase", method="POST").json() == {
        "id_slot": 0, "n_erased": found["tokens_cached"],
    }  # fmt: skip
    assert server.ask("/slots/0?action=erase", {}).json() == {"id_slot": 0, "n_erased": 0}
    assert error(server.ask("/slots/0?action=save", {"filename": "nothing"})) == (400, None)


def test_a_file_that_does_not_fit_leaves_the_slot(server: Served, folder: Path) -> None:
    held = server.ask("/completion", {**GREEDY, "id_slot": 0}).json()["tokens_cached"]
    server.ask("/slots/0?action=save", {"filename": "good"})
    damaged = bytearray((folder / "good").read_bytes())
    damaged[-1] ^= 1
    (folder / "damaged").write_bytes(damaged)
    (folder / "other").write_bytes(b"something else")
    for name in ("damaged", "other"):
        answer = server.ask("/slots/0?action=restore", {"filename": name})
        assert error(answer) == (400, "filename")
        assert str(folder) not in answer.text
        assert server.ask("/slots").json()[0]["n_prompt_tokens"] == held
    assert server.ask("/completion", GREEDY).json()["timings"]["cache_n"] > 0


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../x", "a/b", "/etc/passwd", "a\\b", "a\0", "é", "a" * 129,
                                  "a b", "-\n"])  # fmt: skip
def test_a_name_is_one_of_plain_characters(server: Served, folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    for action in ("save", "restore"):
        assert error(server.ask(f"/slots/0?action={action}", {"filename": name})) == (400, "filename")
    assert sorted(folder.parent.rglob("*")) == before


def test_a_link_is_no_saved_slot(server: Served, folder: Path, tmp_path: Path) -> None:
    server.ask("/completion", {**GREEDY, "id_slot": 0})
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "link").symlink_to(secret)
    assert error(server.ask("/slots/0?action=restore", {"filename": "link"})) == (404, "filename")
    assert server.ask("/slots/0?action=save", {"filename": "link"}).status_code == 200
    assert secret.read_bytes() == b"secret"
    assert not (folder / "link").is_symlink()
    (folder / "directory").mkdir()
    assert error(server.ask("/slots/0?action=restore", {"filename": "directory"})) == (404, "filename")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/slots/2?action=erase", {}, 400), ("/slots/-1?action=erase", {}, 400), ("/slots/x?action=erase", {}, 400),
     ("/slots/0", {}, 400), ("/slots/0?action=burn", {}, 400), ("/slots/0?action=restore", {"filename": "gone"}, 404),
     ("/slots/0?action=save", {"filename": 3}, 400), ("/slots/9999999999999?action=erase", {}, 400)],
)  # fmt: skip
def test_what_is_refused(server: Served, path: str, body: Any, status: int) -> None:
    assert error(server.ask(path, body))[0] == status


def test_a_busy_slot(server: Served, llama: Llama) -> None:
    for slot in (0, 1):
        server.ask(f"/slots/{slot}?action=erase", {})
    no_end: Any = dict.fromkeys(llama.model.vocab.eog_tokens, "never")
    with llama.stream(PROMPT, slot=1, overflow="shift", logit_bias=no_end) as stream:  # it has no end
        next(stream)
        assert server.ask("/slots/0?action=erase", {}).status_code == 200
        assert error(server.ask("/slots/1?action=erase", {})) == (409, None)


def test_it_must_be_allowed(llama: Llama) -> None:
    from llama_cffi.server.settings import Settings

    with served(llama, Settings(slots=False)) as plain:
        assert plain.ask("/slots").status_code == 501
        assert plain.ask("/slots/0?action=erase", {}).status_code == 501
        props = plain.ask("/props").json()
        assert props["endpoint_slots"] is False
        assert props["default_generation_settings"]["params"]["top_k"] == 40


def test_a_form_of_a_web_page_changes_nothing(server: Served) -> None:
    headers = {"content-type": "text/plain"}
    assert server.ask("/slots/0?action=erase", {}, headers=headers).status_code == 415
    assert server.ask("/lora-adapters", [], headers=headers).status_code == 415


# -- adapters


@pytest.fixture(scope="module")
def tuned(llama: Llama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, model = tmp_path_factory.mktemp("lora"), Path(demo_path())
    adapters = []
    for i, name in enumerate(("first", "second")):
        path = folder / f"{name}.gguf"
        write_lora(path, random_pairs(model, seed=i), architecture=llama.model.architecture)
        adapters.append(llama.load_adapter(path))
    with served(llama, adapters=adapters) as made:
        yield made
    llama.set_adapters({})


def text(server: Served, **fields: Any) -> str:
    found = server.ask("/completion", {**GREEDY, **fields})
    assert found.status_code == 200, found.text
    content: str = found.json()["content"]
    return content


def test_adapters_of_one_request(tuned: Served) -> None:
    llama, (first, second) = tuned.llm.llama, tuned.service.adapters
    plain = text(tuned)
    for asked, scales in (
        ([{"id": 0, "scale": 1}], {first: 1.0}),
        ([{"id": 0, "scale": 0.5}, {"name": "second", "scale": 1}], {first: 0.5, second: 1.0}),
        ([{"id": 1, "scale": 0}], {}),
    ):
        expected = llama.generate(PROMPT, temperature=0, max_tokens=4, adapters=scales).text
        assert text(tuned, lora=asked) == expected
        assert (expected == plain) == (not scales)
    lora = [{"id": 1, "scale": 0.25}]
    assert tuned.ask("/completion", {**GREEDY, "lora": lora}).json()["generation_settings"]["lora"] == lora
    no_end: Any = dict.fromkeys(llama.model.vocab.eog_tokens, "never")
    with llama.stream(PROMPT, adapters={second: 0.25}, overflow="shift", logit_bias=no_end) as stream:
        next(stream)
        told = [one["params"]["lora"] for one in tuned.ask("/slots").json() if one["is_processing"]]
    assert told == [lora]
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 4, "lora": [{"id": 0, "scale": 1}]}
    found = tuned.ask("/v1/completions", body).json()["choices"][0]["text"]
    assert found == text(tuned, lora=[{"id": 0, "scale": 1}]) != plain
    assert text(tuned, lora=[]) == plain


def test_an_adapter_is_a_model(tuned: Served) -> None:
    listed = tuned.ask("/v1/models").json()["data"]
    base = listed[0]["id"]
    assert [(one["id"], one.get("parent")) for one in listed] == [(base, None), ("first", base), ("second", base)]
    assert tuned.ask("/v1/models/second").json() == listed[2]
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 4}
    for name, lora in (("first", [{"id": 0, "scale": 1}]), ("second.gguf", [{"id": 1, "scale": 1}]), (base, [])):
        found = tuned.ask("/v1/completions", {**body, "model": name}).json()
        assert found["choices"][0]["text"] == text(tuned, lora=lora)
        assert found["model"] == name.removesuffix(".gguf")
    both = {"model": "first", "lora": [{"id": 1, "scale": 1}]}
    assert text(tuned, **both) == text(tuned, lora=both["lora"])
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "model": "first"}
    for path in ("/v1/chat/completions", "/v1/messages"):
        assert tuned.ask(path, chat).json()["model"] == "first"
    refused = tuned.ask("/v1/embeddings", {"model": "first", "input": "a"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_adapters_of_all_others(tuned: Served) -> None:
    plain = text(tuned)
    found = tuned.ask("/lora-adapters").json()
    assert found == [
        {"id": i, "path": name, "scale": 0.0, "task_name": "", "prompt_prefix": ""}
        for i, name in enumerate(("first.gguf", "second.gguf"))
    ]
    assert tuned.ask("/lora-adapters", [{"id": 1, "scale": 0.5}]).json() == {"success": True}
    assert [one["scale"] for one in tuned.ask("/lora-adapters").json()] == [0.0, 0.5]
    assert text(tuned) == text(tuned, lora=[{"id": 1, "scale": 0.5}]) != plain
    assert tuned.ask("/lora-adapters", []).json() == {"success": True}
    assert text(tuned) == plain


@pytest.mark.parametrize(
    "entries",
    [[{"id": 2, "scale": 1}], [{"id": -1}], [{"scale": 1}], [{"name": "x", "scale": 1}], [{"id": 0, "scale": "1"}],
     ["a"], [{"id": 0, "scale": 1}] * 33],
)  # fmt: skip
def test_adapters_that_there_are_not(tuned: Served, entries: Any) -> None:
    assert tuned.ask("/completion", {**GREEDY, "lora": entries}).status_code == 400
    assert tuned.ask("/lora-adapters", entries).status_code == 400
    assert tuned.ask("/lora-adapters", "first").status_code == 400


def test_without_adapters(server: Served) -> None:
    assert server.ask("/lora-adapters").json() == []
    assert error(server.ask("/completion", {**GREEDY, "lora": [{"id": 0, "scale": 1}]})) == (400, "lora")


# -- as llama-server


@pytest.fixture(scope="module")
def lenient(llama: Llama, folder: Path) -> Iterator[Served]:
    from llama_cffi.server.settings import Settings

    with served(llama, Settings(compat=True, slot_save_path=folder)) as made:
        yield made


@pytest.mark.parametrize(
    ("given", "shown"),
    [({"top_k": 7.9}, {"top_k": 7}), ({"top_k": True}, {"top_k": 1}), ({"top_k": "many"}, {"top_k": 40}),
     ({"top_p": 5}, {"top_p": 1.0}), ({"min_p": -3}, {"min_p": 0.0}), ({"top_p": [1]}, {"top_p": 0.95}),
     ({"mirostat": 7}, {"mirostat": 2}), ({"samplers": ["top_k", "magic", 3, "temperature"]},
                                           {"samplers": ["top_k", "temperature"]}),
     ({"stop": 5}, {"stop": []}), ({"ignore_eos": 1}, {"ignore_eos": False})],
)  # fmt: skip
def test_wrong_values_are_taken(lenient: Served, server: Served, given: Any, shown: Any) -> None:
    found = lenient.ask("/completion", {**GREEDY, "n_predict": 1, **given})
    assert found.status_code == 200, found.text
    settings = found.json()["generation_settings"]
    assert {name: settings[name] for name in shown} == shown
    assert server.ask("/completion", {**GREEDY, "n_predict": 1, **given}).status_code == 400


def test_wrong_values_are_taken_as_none_everywhere(lenient: Served) -> None:
    said = {"input": "tana", "max_output_tokens": 2, "text": "long", "reasoning": 3, "metadata": []}
    found = lenient.ask("/v1/responses", said)
    assert found.status_code == 200, found.text
    assert found.json()["text"] == {"format": {"type": "text"}}
    streamed = lenient.ask("/completion", {**GREEDY, "n_predict": 1, "stream": True, "sse_ping_interval": "often"})
    assert streamed.status_code == 200, streamed.text


def test_slots_go_round(lenient: Served) -> None:
    assert lenient.ask("/completion", {**GREEDY, "id_slot": 5}).json()["id_slot"] == 1
    assert lenient.ask("/slots/7?action=erase", {}).json()["id_slot"] == 1


def test_what_is_still_wrong(lenient: Served) -> None:
    assert lenient.ask("/completion", {**GREEDY, "grammar": "root ::= ("}).status_code == 400
    assert lenient.ask("/completion", {"prompt": {}}).status_code == 400


def test_more_is_told(lenient: Served, server: Served) -> None:
    found = lenient.ask("/completion", GREEDY).json()["prompt"]
    assert found.endswith(PROMPT)
    assert server.ask("/completion", GREEDY).json()["prompt"] == ""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "logprobs": True, "seed": 1}
    for one, n in ((lenient, 20), (server, 0)):
        entries = one.ask("/v1/chat/completions", body).json()["choices"][0]["logprobs"]["content"]
        assert all(len(entry["top_logprobs"]) == n for entry in entries)


def test_pages_from_anywhere_may_ask(lenient: Served, server: Served) -> None:
    headers = {"origin": "https://example.org"}
    found = lenient.ask("/health", headers=headers)
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "https://example.org")
    assert server.ask("/health", headers=headers).status_code == 403
