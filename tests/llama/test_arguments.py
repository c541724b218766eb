"""Hostile values for every argument: an error that names it, or an answer; never an exception from inside."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from llama_cffi import Context, ContextOptions, ControlVector, Llama, Model, ModelOptions, SamplingParams
from llama_cffi import options as opt
from llama_cffi import spec as specs
from llama_cffi.core.prompt import Media, Prompt
from llama_cffi.engine.sampling_params import SamplingKwargs
from llama_cffi.errors import UnsupportedError
from llama_cffi.grammar.values import Regex
from tests.support.hostile import HOSTILE, fault

GREEDY: dict[str, Any] = {"max_tokens": 1, "temperature": 0}
MESSAGES = [{"role": "user", "content": "a"}]
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {}}}
OWN = [name for name in opt.ChatOptions.__annotations__ if name not in SamplingKwargs.__annotations__]


def look() -> str:
    """Look."""
    return "nothing"


@pytest.fixture(scope="module")
def llm() -> Iterator[Llama]:
    with Llama.demo(n_ctx=256, n_seq_max=2, n_threads=1) as llm:
        yield llm


def walk(arguments: list[str], call: Callable[..., object], **usual: Any) -> None:
    """Call with every hostile value for each argument, among what is usual for the others."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in arguments:
            others = {key: value for key, value in usual.items() if name != "sampling" or key != "temperature"}
            for label, make in HOSTILE.items():
                if name == "progress" and label in ("a class", "lambda"):
                    continue  # what a function of the caller's raises is the caller's
                given = {**others, name: make()}
                if bad := fault(lambda given=given: call(**given), name):  # type: ignore[misc]
                    found.append(f"{name}={label}: {bad}")
    assert not found, "\n".join(found)


def names(kind: type) -> list[str]:
    return list(kind.__annotations__)


CALLS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "generate": (["prompt", "n", "best_of", *names(opt.GenerateOptions)], {"prompt": "a", **GREEDY}),
    "stream": (["prompt", "stop", "schema"], {"prompt": "a", **GREEDY}),
    "infill": (["prefix", "suffix", "stop", *names(opt.InfillLayout)], {"prefix": "a", "suffix": "b", **GREEDY}),
    "tokenize_infill": (["prefix", "suffix", *names(opt.InfillLayout)], {"prefix": "a", "suffix": "b"}),
    "chat": (["messages", "grammar", "logit_bias", *OWN], {"messages": MESSAGES, **GREEDY}),
    "stream_chat": (["messages", "tool_choice", "schema"], {"messages": MESSAGES, "tools": [TOOL], **GREEDY}),
    "run_tools": (["messages", "max_rounds", "on_error", "tools"], {"messages": "a", "tools": [look], **GREEDY}),
    "stream_tools": (["messages", "max_rounds", "tools"], {"messages": "a", "tools": [look], **GREEDY}),
    "session": (["messages"], {}),
    "render_chat": (["messages", *names(opt.RenderOptions)], {"messages": MESSAGES}),
    "tokenize_chat": (["messages", "prefix", "tools"], {"messages": MESSAGES}),
    "tokenize": (["text", "add_special", "parse_special"], {"text": "a"}),
    "detokenize": (["tokens", "remove_special", "unparse_special"], {"tokens": [1]}),
    "embed": (["texts", "progress", *names(opt.EmbedOptions)], {"texts": "a"}),
    "similarity": (["a", "b", *names(opt.SimilarityOptions)], {"a": "a", "b": "a"}),
    "rerank": (["query", "documents", "progress", *names(opt.RerankOptions)], {"query": "a", "documents": ["a"]}),
    "classify": (["texts", *names(opt.ClassifyOptions)], {"texts": "a"}),
    "perplexity": (["text", "progress", *names(opt.PerplexityOptions)], {"text": "a b c d e f g"}),
    "score": (["prefix", "continuations", *names(opt.ScoreOptions)], {"prefix": "a", "continuations": ["b"]}),
    "load_state_bytes": (["data"], {}),
    "load_adapter": (["path"], {}),
    "set_adapters": (["adapters"], {}),
    "set_control_vector": (["vector"], {}),
}


@pytest.mark.parametrize("method", CALLS)
def test_every_argument_of_a_call(llm: Llama, method: str) -> None:
    before = llm.generate("Once", temperature=0, max_tokens=3).text
    arguments, usual = CALLS[method]
    walk(arguments, getattr(llm, method), **usual)
    assert llm.generate("Once", temperature=0, max_tokens=3).text == before


def test_every_argument_of_a_session(llm: Llama) -> None:
    def session() -> Any:
        return llm.session(MESSAGES, **GREEDY)

    walk(["text", "role", "tools"], lambda **given: session().chat(**given), text="a")
    walk(["text", "max_rounds"], lambda **given: session().run_tools(**given), text="a", tools=[look])
    walk(["turns"], lambda turns: session().rewind(turns))
    walk(["messages"], lambda messages: session().replace(messages))


@pytest.mark.parametrize("method", ["save_state", "load_state", "load_prompt"])
def test_paths_are_no_numbers(llm: Llama, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (None, 5, True, b"x", "", "\0", "\ud800", [], object()):
        assert fault(lambda value=value: getattr(llm, method)(value), "path") is None  # type: ignore[misc]
        assert fault(lambda value=value: llm.session(MESSAGES).save(value), "path") is None  # type: ignore[misc]
    walk(["prompt"], llm.save_prompt, path=tmp_path / "prompt")


def test_the_layers_of_a_control_vector(llm: Llama) -> None:
    vector = ControlVector(np.zeros((llm.model.n_layer, llm.model.n_embd), dtype=np.float32))
    walk(["layers"], lambda layers: llm.set_control_vector(vector, layers=layers))
    llm.set_control_vector(None)


SPECS: dict[type, dict[str, Any]] = {
    specs.GenerateSpec: {"prompts": ("a",)},
    specs.InfillSpec: {"prefix": "a", "suffix": "b"},
    specs.ChatSpec: {"messages": MESSAGES},
    specs.ToolsSpec: {"messages": MESSAGES},
    specs.RenderSpec: {"messages": MESSAGES},
    specs.EmbedSpec: {"texts": "a"},
    specs.RerankSpec: {"query": "a", "documents": ["a"]},
    specs.ClassifySpec: {"texts": "a"},
    specs.PerplexitySpec: {"text": "a"},
    specs.ScoreSpec: {"prefix": "a", "continuations": ["b"]},
    SamplingParams: {},
}


@pytest.mark.parametrize("kind", SPECS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_value(kind: Any) -> None:
    walk(list(kind.__dataclass_fields__), kind, **SPECS[kind])


def test_every_option_of_opening(llm: Llama) -> None:
    small: dict[str, Any] = {"n_ctx": 32, "n_batch": 32, "n_ubatch": 32, "n_threads": 1}
    walk(names(opt.LlamaOptions), lambda **given: Llama(llm.model, **given).close(), **small, n_seq_max=1)
    walk(["model"], lambda model: Llama(model))
    walk(
        list(get_type_hints(ContextOptions)),
        lambda **given: Context(llm.model, ContextOptions(**given)).close(),
        **small,
    )
    path = llm.model.path
    walk(
        list(ModelOptions.__dataclass_fields__),
        lambda **given: Model(path, ModelOptions(**given)).close(),
        vocab_only=True,
    )
    walk(["name"], lambda name: Llama.from_hub(name, offline=True))


def test_more_completions_than_can_be_made(llm: Llama) -> None:
    for n in (10**6, 10**30):
        with pytest.raises(ValueError, match="n must be at least 1"):
            llm.generate("a", n=n)


def test_numbers_of_numpy_are_numbers(llm: Llama) -> None:
    wanted = llm.generate("Once", temperature=0, max_tokens=3, top_k=5).text
    options: dict[str, Any] = {
        "temperature": np.float32(0),
        "max_tokens": np.int64(3),
        "top_k": np.uint8(5),
        "echo": np.bool_(False),
    }
    assert llm.generate("Once", **options).text == wanted
    assert llm.generate(np.array([1, 2]), **options).tokens == llm.generate([np.int64(1), 2], **options).tokens


def test_the_cells_of_a_prompt_are_ints() -> None:
    assert [type(cell) for cell in Prompt([np.int64(1), 2])] == [int, int]
    for part in (True, 0.5, "a", None, np.float32(1)):
        with pytest.raises(TypeError, match="a Prompt is made of tokens"):
            Prompt([part])  # type: ignore[list-item]


def test_a_prompt_with_media_needs_a_projector(llm: Llama) -> None:
    prompt = Prompt([1, Media(b"x" * 16, 2, 2), 3])
    with pytest.raises(UnsupportedError):
        llm.generate(prompt, max_tokens=1)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_chunks_copy_with_what_they_say(llm: Llama, copied: Callable[[Any], Any]) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "maxItems": 2}
    for stream in (
        llm.stream("a", schema=schema, seed=1, max_tokens=200),
        llm.stream_chat("a", schema=schema, seed=1, max_tokens=200),
    ):
        for chunk in stream:
            again = copied(chunk)
            assert again == chunk
            assert again.partial == chunk.partial
            assert type(again) is type(chunk)


def test_streams_that_are_closed_or_dropped(llm: Llama) -> None:
    wanted = llm.generate("Once", temperature=0, max_tokens=5).text
    stream: Any = llm.stream("Once", temperature=0, max_tokens=200)
    next(iter(stream))
    stream.close()
    stream.close()
    list(stream)
    with pytest.raises(RuntimeError, match="was read before"):
        stream.result()
    dropped = llm.stream("Once", temperature=0, max_tokens=200)
    next(iter(dropped))
    del dropped
    assert llm.generate("Once", temperature=0, max_tokens=5).text == wanted


def test_threads_that_stream_schemas(llm: Llama) -> None:
    found: list[str] = []

    def read(word: str) -> None:
        found.extend(chunk.completion.parsed for chunk in llm.stream("a", schema=Regex(word)) if chunk.completion)

    words = [f"{'ab'[i % 2]}{i}" for i in range(6)]
    threads = [threading.Thread(target=read, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(words)


def test_a_fork_keeps_the_conditioning(llm: Llama) -> None:
    rng = np.random.default_rng(0)
    data = 20 * rng.normal(size=(llm.model.n_layer, llm.model.n_embd)).astype(np.float32)
    data[0] = 0  # nothing is added after the first layer
    vector = ControlVector(data)
    plain = llm.generate("Once", temperature=0, max_tokens=8).text
    llm.set_control_vector(vector)
    try:
        changed = llm.generate("Once", temperature=0, max_tokens=8).text
        with llm.fork() as twin:
            llm.set_control_vector(None)
            assert twin.generate("Once", temperature=0, max_tokens=8).text == changed
            assert llm.generate("Once", temperature=0, max_tokens=8).text == plain
    finally:
        llm.set_control_vector(None)
    assert changed != plain
