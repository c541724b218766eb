"""llama-server's own form of a completion: what it takes, whole answers and streams."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.served import events

if TYPE_CHECKING:
    from tests.server.conftest import Running

pytest.importorskip("httpx")
pytest.importorskip("orjson", reason="needs the extra llama-cffi[server]")

Ask = Callable[..., Any]
GREEDY = {"temperature": 0, "n_predict": 8}


def complete(ask: Ask, prompt: Any = "Once upon a time", **fields: Any) -> Any:
    found = ask("/completion", {"prompt": prompt, **GREEDY, **fields})
    assert found.status_code == 200, found.text
    return events(found) if fields.get("stream") else found.json()


def refused(ask: Ask, path: str = "/completion", **body: Any) -> tuple[int, str]:
    error = ask(path, body).json()["error"]
    return error["code"], error["param"]


# -- the prompt


def test_a_text_of_the_package(ask: Ask, server: Running) -> None:
    whole = server.llm.llama.generate("Once upon a time", temperature=0, max_tokens=8)
    found = complete(ask, return_tokens=True)
    assert (found["content"], found["tokens"]) == (whole.text, list(whole.tokens))
    assert ask("/completions", {"prompt": "Once upon a time", **GREEDY}).json()["content"] == whole.text


def test_prompts_of_every_form(ask: Ask, server: Running) -> None:
    llama = server.llm.llama
    ids = llama.tokenize("Once upon a time").tolist()
    text = complete(ask)["content"]
    assert complete(ask, ids)["content"] == text
    assert complete(ask, {"prompt_string": "Once upon a time"})["content"] == text
    assert complete(ask, {"prompt_string": ids[:-1] + ids[-1:], "multimodal_data": []})["content"] == text
    mixed = complete(ask, ["Once upon", *llama.tokenize(" a time", add_special=False).tolist()])
    assert mixed["tokens_evaluated"] >= len(ids)
    several = complete(ask, ["Once upon a time", ids, ["Once", 5, "x"], {"prompt_string": "Lily"}], n_predict=2)
    assert [one["index"] for one in several] == [0, 1, 2, 3]
    assert several[0]["content"] == several[1]["content"] == text[: len(several[0]["content"])]
    assert several[2]["tokens_evaluated"] == len(llama.tokenize("Once")) + 1 + len(
        llama.tokenize("x", add_special=False)
    )


def test_control_tokens_are_read(ask: Ask, server: Running) -> None:
    vocab = server.llm.llama.model.vocab
    assert vocab.bos is not None
    found = complete(ask, f"a{vocab.text(vocab.bos)}b", n_predict=1)
    wanted = server.llm.llama.tokenize(f"a{vocab.text(vocab.bos)}b", parse_special=True)
    assert found["tokens_evaluated"] == len(wanted) < len(server.llm.llama.tokenize(f"a{vocab.text(vocab.bos)}b"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": [[1, None]]}, "prompt[0][1]"),
        ({"prompt": [1, 2.5]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": {"prompt_string": 3}}, "prompt.prompt_string"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["x"]}}, "prompt.multimodal_data"),
        ({"prompt": [2**31 - 1]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": "a", "n_probs": 101}, "n_probs"),
        ({"prompt": "a", "t_max_predict_ms": "soon"}, "t_max_predict_ms"),
        ({"prompt": "a", "n_indent": -1}, "n_indent"),
        ({"prompt": "a", "response_fields": "content"}, "response_fields"),
        ({"prompt": "a", "id_slot": 2}, "id_slot"),
        ({"prompt": "a", "priority": 101}, "priority"),
        ({"prompt": "a", "logit_bias": {"1" * 5000: 1}}, "logit_bias"),
        ({"prompt": "a", "grammar": 'root ::= "a"', "json_schema": {}}, "grammar"),
        ({"prompt": "a", "chat_template": "x"}, "chat_template"),
    ],
)
def test_what_is_refused(ask: Ask, fields: Any, param: str | None) -> None:
    assert refused(ask, **fields) == (400, param)


# -- how it ends


def test_the_ends_of_a_text(ask: Ask, server: Running) -> None:
    eos = server.llm.llama.model.vocab.eos
    n = len(server.llm.llama.tokenize("Once upon a time"))
    cut = complete(ask, n_predict=3)
    assert (cut["stop_type"], cut["stopping_word"], cut["truncated"]) == ("limit", "", False)
    assert (cut["tokens_predicted"], cut["tokens_evaluated"], cut["tokens_cached"]) == (3, n, n + 2)
    whole = complete(ask)
    word = whole["content"][4:6]
    stopped = complete(ask, stop=[word, ""])
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", word)
    assert stopped["content"] == whole["content"][: whole["content"].index(word)]
    ended = complete(ask, logit_bias=[[eos, 100]])
    assert (ended["stop_type"], ended["content"], ended["tokens_predicted"]) == ("eos", "", 0)
    assert ended["tokens_cached"] == n
    lines = complete(ask, grammar='root ::= "a\\nb"', n_predict=20)
    assert (lines["content"], lines["has_new_line"], lines["stop_type"]) == ("a\nb", True, "eos")
    assert not cut["has_new_line"]


def test_a_prompt_alone_is_computed(ask: Ask) -> None:
    prompt = "There was a little dog in the garden, and it"
    found = complete(ask, prompt, n_predict=0)
    assert (found["content"], found["tokens_predicted"], found["stop_type"]) == ("", 0, "limit")
    again = complete(ask, prompt, n_predict=2)
    assert again["timings"]["cache_n"] == found["tokens_evaluated"] - 1
    assert again["timings"]["prompt_n"] == 1


def test_without_the_cache_all_is_computed(ask: Ask, server: Running) -> None:
    prompt = "A little girl named Sue had a toy car that she liked very much, and"
    first = complete(ask, prompt, cache_prompt=False, id_slot=0)
    assert first["id_slot"] == 0
    assert server.llm.llama.slots()[0].n_held == 0
    assert complete(ask, prompt, cache_prompt=False)["timings"]["cache_n"] == 0
    kept = complete(ask, prompt)
    assert kept["timings"]["cache_n"] <= 1  # BOS
    assert complete(ask, prompt, cache_prompt=False)["timings"]["cache_n"] == 0
    assert complete(ask, prompt)["timings"]["cache_n"] > 0
    assert kept["content"] == first["content"]


def test_the_slot_that_is_asked_for(ask: Ask, server: Running) -> None:
    for slot in (1, 0, 1):
        found = complete(ask, f"The story of slot {slot} begins", id_slot=slot)
        assert found["id_slot"] == slot
        assert server.llm.llama.slots()[slot].n_held == found["tokens_cached"]


# -- what is shown


def test_probabilities(ask: Ask) -> None:
    found = complete(ask, n_predict=4, n_probs=3)
    entries = found["completion_probabilities"]
    assert "".join(one["token"] for one in entries) == found["content"]
    for one in entries:
        assert set(one) == {"id", "token", "bytes", "logprob", "top_logprobs"}
        assert one["top_logprobs"][0]["id"] == one["id"]
        assert len(one["top_logprobs"]) == 3
    after = complete(ask, n_predict=4, n_probs=3, post_sampling_probs=True, temperature=1, top_k=2, top_p=1, min_p=0)
    for one in after["completion_probabilities"]:
        assert set(one) == {"id", "token", "bytes", "prob", "top_probs"}
        assert math.isclose(sum(top["prob"] for top in one["top_probs"]), 1, abs_tol=1e-5)
        assert len(one["top_probs"]) == 2
    assert "completion_probabilities" not in complete(ask, n_probs=0)


def test_the_settings_of_a_text(ask: Ask) -> None:
    fields = {"top_k": 7, "seed": 5, "stop": ["xyz"], "samplers": ["top_k", "typ_p", "temperature"], "n_probs": 1}
    settings = complete(ask, **fields, logit_bias=[[5, -1.5]], ignore_eos=True)["generation_settings"]
    assert {name: settings[name] for name in fields} == fields
    assert (settings["n_predict"], settings["max_tokens"], settings["ignore_eos"]) == (8, 8, True)
    assert settings["logit_bias"] == [{"bias": -1.5, "token": 5}]
    assert complete(ask, n_predict=-1, stop=["."])["generation_settings"]["n_predict"] == -1
    drawn = complete(ask, n_predict=1)["generation_settings"]
    assert (0 <= drawn["seed"] < 2**32 - 1, drawn["top_k"], drawn["stop"]) == (True, 40, [])


def test_the_fields_of_an_answer(ask: Ask) -> None:
    paths = ["content", "generation_settings/n_predict", "timings/none/x", "nothing"]
    found = complete(ask, response_fields=paths)
    assert set(found) == {"content", "generation_settings/n_predict"}
    assert found["generation_settings/n_predict"] == 8
    last = complete(ask, response_fields=["stop_type"], stream=True)[-1]
    assert last == {"stop_type": "limit"}


def test_several_texts_of_one_prompt(ask: Ask) -> None:
    found = complete(ask, n_cmpl=3, temperature=1, seed=4)
    assert [one["index"] for one in found] == [0, 1, 2]
    assert [one["generation_settings"]["seed"] for one in found] == [4, 5, 6]


# -- streams


def test_a_stream_says_the_same(ask: Ask) -> None:
    whole = complete(ask, n_probs=2)
    *pieces, last = complete(ask, n_probs=2, stream=True)
    assert "".join(one["content"] for one in pieces) == whole["content"]
    assert [entry for one in pieces for entry in one.get("completion_probabilities", ())] == (
        whole["completion_probabilities"]
    )
    assert all(one["stop"] is False and one["tokens_evaluated"] == whole["tokens_evaluated"] for one in pieces)
    assert pieces[-1]["tokens_predicted"] == 8
    assert (last["stop"], last["content"], last["tokens"]) == (True, "", [])
    different = {"content", "timings", "generation_settings", "completion_probabilities", "id_slot"}
    assert {key: value for key, value in last.items() if key not in different} == {
        key: value for key, value in whole.items() if key not in different
    }
    assert set(last) | {"completion_probabilities"} == set(whole)


def test_several_streams_in_one(ask: Ask) -> None:
    found = complete(ask, ["Once", "Lily"], stream=True)
    for i, prompt in enumerate(("Once", "Lily")):
        own = [one for one in found if one["index"] == i]
        assert "".join(one["content"] for one in own) == complete(ask, prompt)["content"]
        assert [one["stop"] for one in own] == [False] * (len(own) - 1) + [True]


def test_times_of_each_token(ask: Ask) -> None:
    *pieces, _ = complete(ask, stream=True, timings_per_token=True)
    assert [one["timings"]["predicted_n"] for one in pieces] == sorted(one["timings"]["predicted_n"] for one in pieces)
    assert all(one["timings"]["cache_n"] + one["timings"]["prompt_n"] == one["tokens_evaluated"] for one in pieces)


def test_the_progress_of_a_prompt(ask: Ask) -> None:
    found = complete(ask, "word " * 200, stream=True, return_progress=True, n_predict=1)
    for one in found:
        if "prompt_progress" in one:
            told = one["prompt_progress"]
            assert told["cache"] <= told["processed"] <= told["total"] == one["tokens_evaluated"]
    assert found[-1]["stop"]


def test_an_error_has_its_status(ask: Ask) -> None:
    found = ask("/completion", {"prompt": "word " * 5000, "stream": True})
    error = found.json()["error"]
    assert (found.status_code, error["code"], error["type"]) == (400, 400, "exceed_context_size_error")


def test_what_comes_back_is_taken(ask: Ask) -> None:
    """Clients send the settings of an answer with their next request."""
    settings = complete(ask)["generation_settings"]
    found = ask("/completion", {"prompt": "Once", **settings, "stream": False})
    assert found.status_code == 200, found.text


def test_the_same_in_the_other_dialect(ask: Ask, server: Running) -> None:
    """What memory keeps, and the order of those that wait, is asked for in OpenAI's bodies with the same names."""
    prompt = "Tom and his dog went to the park on a sunny day, and"
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 2, "priority": 5, "id_slot": 0}
    for _ in range(2):
        found = ask("/v1/completions", {**body, "cache_prompt": False}).json()
        assert found["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    ask("/v1/completions", body)
    assert server.llm.llama.slots()[0].n_held > 10
    assert ask("/v1/completions", body).json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 10
    chat = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 2, "cache_prompt": False, "priority": -5}
    for _ in range(2):
        found = ask("/v1/chat/completions", chat).json()
        assert found["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_priority_in_a_header(ask: Ask) -> None:
    assert ask("/completion", {"prompt": "a", **GREEDY}, x_priority="-3").status_code == 200
    for wrong in ("101", "soon", "1.5", "9" * 5000):
        found = ask("/completion", {"prompt": "a", **GREEDY}, x_priority=wrong)
        assert (found.status_code, found.json()["error"]["param"]) == (400, "x-priority")
