"""A model in a process of its own answers as one in this process does."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    AsyncLlama,
    Completion,
    Context,
    ContextOptions,
    ControlVector,
    DraftModel,
    Llama,
    LoraAdapter,
    Model,
    SamplingParams,
)
from llama_cffi.core.sampler import Dist, PythonSampler, TopK
from llama_cffi.errors import (
    AdapterError,
    BusyError,
    ClosedError,
    ContextError,
    ContextOverflowError,
    ModelFileError,
    ModelLoadCancelled,
    ModelNotFoundError,
    PromptError,
    QueueFullError,
    SchemaError,
    StateFormatError,
    TextTooLongError,
    UnsupportedError,
)
from llama_cffi.runtime import demo_path
from tests.support.lora import random_pairs, write_lora

OPTIONS: dict[str, Any] = {"n_ctx": 512, "n_seq_max": 4, "n_threads": 1, "reproducible": True}
# What is computed together depends on when requests arrive in the other process: in half precision, texts would too.
OPTIONS["context_options"] = ContextOptions(type_k="f32", type_v="f32", flash_attn="disabled")
PROMPT = "Once upon a time"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def here() -> Iterator[Llama]:
    with Llama.demo(**OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def there() -> Iterator[Llama]:
    with Llama.demo(isolate=True, **OPTIONS) as llm:
        yield llm


@dataclass
class Animal:
    """A class of this module, which the other process cannot import."""

    name: str


GREEDY: dict[str, Any] = {"temperature": 0, "reuse": False}
"""What others have left in memory was computed in other batches, and rounded otherwise."""
TEXTS: dict[str, Callable[[Llama], Any]] = {
    "greedy": lambda llm: llm.generate(PROMPT, max_tokens=12, **GREEDY),
    "seed": lambda llm: llm.generate(PROMPT, max_tokens=12, seed=3, reuse=False, temperature=1.5, repeat_penalty=1.3),
    "list": lambda llm: llm.generate([PROMPT, "The dog"], max_tokens=6, **GREEDY),
    "best": lambda llm: llm.generate(PROMPT, max_tokens=6, n=2, best_of=3, seed=5, reuse=False),
    "tokens": lambda llm: llm.generate(llm.tokenize(PROMPT), max_tokens=6, **GREEDY, echo=True),
    "logprobs": lambda llm: llm.generate(PROMPT, max_tokens=4, **GREEDY, logprobs=2, prompt_logprobs=1),
    "stops": lambda llm: llm.generate(PROMPT, max_tokens=60, **GREEDY, stop=[re.compile("[a-z]+y "), "zzz"]),
    "heal": lambda llm: llm.generate("Once upo", max_tokens=6, **GREEDY, heal=True),
    "bias": lambda llm: llm.generate(PROMPT, max_tokens=6, **GREEDY, logit_bias={" little": -100.0}),
    "schema": lambda llm: llm.generate(PROMPT, schema=Animal, **GREEDY, max_tokens=200),
    "choices": lambda llm: llm.generate(PROMPT, schema=["cat", "dog"], **GREEDY),
    "grammar": lambda llm: llm.generate(PROMPT, grammar='root ::= " a"+', **GREEDY, max_tokens=5),
    "samplers": lambda llm: llm.generate(
        PROMPT, sampling=SamplingParams(samplers=(TopK(5), Dist(1))), max_tokens=8, reuse=False
    ),
    "lookup": lambda llm: llm.generate(PROMPT * 3, speculative="lookup", max_tokens=12, **GREEDY),
    "shift": lambda llm: llm.generate(PROMPT, max_tokens=4, **GREEDY, overflow="shift"),
    "chat": lambda llm: llm.chat("Hello", chat_template=TEMPLATE, max_tokens=8, **GREEDY),
    "chat schema": lambda llm: llm.chat(
        "Hello",
        chat_template=TEMPLATE,
        schema=dict[str, int],
        max_tokens=60,
        temperature=0,
        reuse=False,
        on_incomplete="return",
    ),
    "map": lambda llm: sorted(llm.map([PROMPT, "The", "A"], max_tokens=4, **GREEDY), key=lambda one: one[0]),
    "stream": lambda llm: [(c.text, c.tokens) for c in llm.stream(PROMPT, max_tokens=8, **GREEDY)],
    "partials": lambda llm: [
        chunk.partial for chunk in llm.stream(PROMPT, schema=Animal, **GREEDY, max_tokens=60, on_incomplete="return")
    ],
    "render": lambda llm: llm.render_chat("Hello", chat_template=TEMPLATE),
    "chat tokens": lambda llm: llm.tokenize_chat("Hello", chat_template=TEMPLATE).tolist(),
}

NUMBERS: dict[str, Callable[[Llama], Any]] = {
    "perplexity": lambda llm: llm.perplexity("Once upon a time there was a dog. " * 3, n_ctx=16).nll,
    "score": lambda llm: [one.logprob for one in llm.score(PROMPT, [" there", " was"])],
    "similarity": lambda llm: llm.similarity("a dog", ["a cat", "the sun"]),
    "embed": lambda llm: llm.embed(["a dog", "the sun shines"]).array,
    "tokens of texts": lambda llm: llm.embed("a dog", pooling="none", normalize=False).array,
}


def plain(found: Any) -> Any:
    """Without what differs between two calls: times, and what was found in memory."""
    if isinstance(found, (list, tuple)):
        return [plain(one) for one in found]
    if hasattr(found, "finish_reason"):
        kept = ("text", "tokens", "finish_reason", "stop_sequence", "logprobs", "prompt_logprobs", "parsed")
        return {name: getattr(found, name) for name in kept} | {"prompt": found.prompt, "type": type(found)}
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_it_answers_as_in_this_process(name: str, here: Llama, there: Llama) -> None:
    assert plain(TEXTS[name](there)) == plain(TEXTS[name](here))


@pytest.mark.parametrize("name", NUMBERS)
def test_it_computes_as_in_this_process(name: str, here: Llama, there: Llama) -> None:
    # Texts of one call may be computed in other groups, and are rounded otherwise.
    assert np.allclose(NUMBERS[name](there), NUMBERS[name](here), atol=1e-4)


def test_tools_run_in_this_process(there: Llama) -> None:
    called: list[int] = []

    def add(n: int) -> str:
        """Add a number."""
        called.append(os.getpid())
        return str(n)

    run = there.run_tools(
        "Add 1", tools=[add], tool_choice="required", max_rounds=1, chat_template=TEMPLATE, max_tokens=80, temperature=0
    )
    assert len(run.results) == len(called) > 0
    assert set(called) == {os.getpid()}


ERRORS: dict[str, tuple[type[Exception], str, Callable[[Llama], Any]]] = {
    "prompt": (ContextOverflowError, "context", lambda llm: llm.generate([5] * 600)),
    "empty": (PromptError, "empty", lambda llm: llm.embed("")),
    "long": (TextTooLongError, "tokens", lambda llm: llm.embed("dog " * 600)),
    "schema": (SchemaError, "schema", lambda llm: llm.generate(PROMPT, schema={"type": "nothing"})),
    "slot": (ValueError, "slot must be 0 to 3", lambda llm: llm.generate(PROMPT, slot=9, max_tokens=1)),
    "states": (StateFormatError, "state", lambda llm: llm.load_state_bytes(b"x" * 100)),
    "empty slot": (PromptError, "holds nothing", lambda llm: (llm.clear_slot(3), llm.save_slot(3, "x"))),
    "rerank": (UnsupportedError, "not a reranker", lambda llm: llm.rerank("a", ["b"])),
}


@pytest.mark.parametrize("name", ERRORS)
def test_it_refuses_what_is_refused_in_this_process(name: str, here: Llama, there: Llama) -> None:
    kind, said, call = ERRORS[name]
    for llm in (here, there):
        with pytest.raises(kind, match=said):
            call(llm)


def test_states_and_slots(here: Llama, there: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there.generate(PROMPT, max_tokens=2, temperature=0)
    data = there.state_bytes()
    assert type(data) is bytes
    assert here.load_state_bytes(data) == there.load_state_bytes(memoryview(data)) > 0
    monkeypatch.chdir(tmp_path)  # where this process is, and the other one is not
    there.save_state("all.state")
    assert there.load_state("all.state") == here.load_state(tmp_path / "all.state")
    n = there.save_prompt(PROMPT, "one.prompt")
    prompt = there.load_prompt("one.prompt")
    assert len(prompt) == n
    assert there.generate(prompt, max_tokens=1, temperature=0).usage.cached_tokens == n - 1
    slot = there.generate(PROMPT, max_tokens=2, temperature=0).slot or 0
    assert there.save_slot(slot, "a.slot") == there.clear_slot(slot) > 0
    assert there.load_slot(slot, "a.slot")[:4] == prompt[:4]
    assert [one.id for one in there.slots()] == [0, 1, 2, 3]


def test_a_slot_shows_the_request_of_this_process(there: Llama) -> None:
    with there.stream(PROMPT, max_tokens=400, seed=1) as stream:
        next(stream)
        requests = [one.request for one in there.slots() if one.request is not None]
        assert requests == [stream._sequence.request]
        assert requests[0] is stream._sequence.request


def test_adapters_and_control_vectors(here: Llama, there: Llama, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "lora.gguf", random_pairs(Path(demo_path())))
    rng = np.random.default_rng(1)
    data = rng.standard_normal((here.model.n_layer, here.model.n_embd), dtype=np.float32)
    data[0] = 0
    found = []
    for llm in (here, there):
        adapter = llm.load_adapter(path)
        assert isinstance(adapter, LoraAdapter)
        options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
        one = llm.generate(PROMPT, adapters={adapter: 1.0}, **options).tokens
        llm.set_adapters({adapter: 0.5})
        assert llm.adapters == {adapter: 0.5}
        two = llm.generate(PROMPT, **options).tokens
        vectors = llm.embed("a dog").array.round(3).tolist()
        llm.set_adapters({})
        llm.set_control_vector(ControlVector(data))
        three = [llm.generate(PROMPT, **options).tokens for _ in range(2)]
        llm.set_control_vector(None)
        found.append((one, two, vectors, three))
        adapter.close()
        assert adapter.closed
        with pytest.raises(ClosedError):
            llm.set_adapters({adapter: 1.0})
    assert found[0] == found[1]
    with pytest.raises(AdapterError, match="not a LoRA"):
        there.load_adapter(demo_path())
    other = here.load_adapter(path)
    with pytest.raises(AdapterError, match="another Model"):
        there.set_adapters({other: 1.0})


def test_values_of_native_objects_can_be_read_and_the_objects_not_used(here: Llama, there: Llama) -> None:
    model, context = there.model, there.context
    for name in ("n_params", "n_embd", "n_layer", "desc", "architecture", "metadata", "fingerprint", "has_classifier"):
        assert getattr(model, name) == getattr(here.model, name), name
    assert model.placement.devices == here.model.placement.devices
    assert model.path == here.model.path
    assert (context.n_ctx, context.n_ctx_seq, context.n_batch) == (here.context.n_ctx, 512, here.context.n_batch)
    assert there.n_ctx == 512
    for part in there.memory.devices:
        same = here.memory.on(part.name)
        assert same is not None
        assert (part.weights, part.kv, part.compute) == (same.weights, same.kv, same.compute)
    assert there.memory.weights > 0
    assert there.detokenize(there.tokenize("a dog")) == here.detokenize(here.tokenize("a dog"))
    assert "demo.gguf" in repr(there)
    for use in (lambda: model.handle, lambda: model.ptr, lambda: context.memory, lambda: context.decode):
        with pytest.raises(UnsupportedError, match=r"isolate=True: .* is in the process of the model"):
            use()
    with pytest.raises(UnsupportedError, match="cannot be set"):
        context.n_threads = 3
    with pytest.raises(AttributeError):
        model.no_such_thing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(TypeError, match="must be a Model"):
        Context(model)
    with pytest.raises(UnsupportedError, match="closed with its Llama"):
        model.close()
    with pytest.raises(UnsupportedError, match="cannot be done from another process"):
        there._runtime.slots_of_another_kind  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(UnsupportedError, match=r"isolate=True: a fork .*: open another Llama"):
        there.fork()


def test_what_cannot_leave_this_process_is_refused(here: Llama, there: Llama) -> None:
    class Mine(PythonSampler):
        selects = True

        def apply(self, candidates: Any) -> None:
            candidates.select(0)

    class Drafts:
        def start(self) -> Any:
            raise AssertionError

    for options, reason in (
        ({"sampling": SamplingParams(samplers=(Mine(),))}, "a sampler written in Python .*: use isolate=False"),
        ({"speculative": Drafts()}, "isolate=True: .*Drafts"),
    ):
        with pytest.raises(UnsupportedError, match=reason):
            there.generate(PROMPT, **options)
    with pytest.raises(TypeError):
        there.generate(PROMPT, adapters={object(): 1.0})  # type: ignore[dict-item]
    with pytest.raises(UnsupportedError, match="isolate=True: a Model is in this process: give its path"):
        Llama(here.model, isolate=True)
    for draft in (here.model, DraftModel(model=here.model)):
        with pytest.raises(UnsupportedError, match="isolate=True: a draft Model is in this process: give its path"):
            Llama.demo(isolate=True, draft=draft)
    with pytest.raises(UnsupportedError, match=r"isolate=True: draft=<.*Drafts.*> cannot leave this process"):
        Llama.demo(isolate=True, draft=Drafts())
    with pytest.raises(ValueError, match="replay=True needs isolate=True"):
        Llama.demo(replay=True)
    with pytest.raises(ModelNotFoundError, match="from_hub"):
        Llama("owner/repo", isolate=True)
    with pytest.raises(TypeError, match="must be the path"):
        Llama(3, isolate=True)  # type: ignore[arg-type]


def test_errors_and_progress_of_loading(tmp_path: Path) -> None:
    parts: list[float] = []

    def stop(part: float) -> bool:
        parts.append(part)
        return False

    with pytest.raises(ModelLoadCancelled):
        Llama.demo(isolate=True, progress=stop)
    assert parts
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(Path(demo_path()).read_bytes()[:-1000])
    with pytest.raises(ModelFileError):
        Llama(damaged, isolate=True)


def test_cancelling_and_deadlines(there: Llama) -> None:
    with there.stream(PROMPT, max_tokens=500, seed=1) as stream:
        next(stream)
    assert str(list(stream)[-1].completion.finish_reason) == "cancelled"  # type: ignore[union-attr]
    stream = there.stream(PROMPT, max_tokens=500, seed=1)
    next(stream)
    del stream
    done = there.generate(PROMPT, max_tokens=500, seed=1, max_seconds=0.01)
    assert str(done.finish_reason) == "deadline"
    while there._runtime.engine.snapshot().running:
        pass  # what was dropped ends before its 500 tokens, or the test hangs


def test_calls_report_progress_and_end_with_it(there: Llama) -> None:
    parts: list[float] = []
    there.embed(["a dog"] * 40, progress=parts.append)
    assert parts[-1] == 1.0

    def stop(part: float) -> None:
        raise KeyError(part)

    with pytest.raises(KeyError):
        there.embed(["a dog"] * 40, progress=stop)
    there.embed("a dog")


def test_threads_are_computed_together(here: Llama, there: Llama) -> None:
    prompts = [PROMPT, "The dog", "A cat", "One day", "In the"]
    found: dict[str, tuple[int, ...]] = {}

    def ask(prompt: str) -> None:
        found[prompt] = there.generate(prompt, max_tokens=10, temperature=0).tokens

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found.keys() == set(prompts)
    assert sum(there._runtime.engine.snapshot().requests.values()) >= 5


def test_coroutines(here: Llama, there: Llama) -> None:
    async def ask() -> tuple[Any, ...]:
        llm = AsyncLlama(there)
        texts = await asyncio.gather(*(llm.generate(one, max_tokens=6, temperature=0) for one in (PROMPT, "The dog")))
        chunks = [chunk.text async for chunk in llm.stream(PROMPT, max_tokens=6, temperature=0)]
        reply = await llm.chat("Hello", chat_template=TEMPLATE, max_tokens=4, temperature=0)
        vectors = await llm.embed("a dog")
        stream = llm.stream(PROMPT, max_tokens=500, seed=1)
        await stream.start()
        await anext(stream)
        assert stream.progress is not None
        assert stream.progress.completion_tokens >= 1
        assert stream.progress.prompt_tokens == len(there.tokenize(PROMPT))
        await stream.aclose()
        assert llm.stats().slots == 4
        await llm.aclose()
        return [one.text for one in texts], "".join(chunks), reply.text, vectors.array

    texts, chunks, reply, vectors = asyncio.run(ask())
    assert texts == [here.generate(one, max_tokens=6, temperature=0).text for one in (PROMPT, "The dog")]
    assert chunks == texts[0]
    assert reply == here.chat("Hello", chat_template=TEMPLATE, max_tokens=4, temperature=0).text
    assert np.allclose(vectors, here.embed("a dog").array, atol=1e-4)


async def wait_for_room(llm: Llama, **options: Any) -> list[Completion]:
    calls = AsyncLlama(llm, when_full="wait")
    found = await asyncio.wait_for(
        asyncio.gather(*(calls.generate(PROMPT, max_tokens=30, seed=i, **options) for i in range(12))), 60
    )
    await calls.drain(60)
    return list(found)


def test_a_draft_source_logs_events_and_limits(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []
    refused: list[BaseException] = []

    def note(event: Any) -> None:
        events.append(event)
        try:  # the thread that would have to bring the answer is this one
            llm.generate(PROMPT, max_tokens=1)
        except BusyError as error:
            refused.append(error)

    with caplog.at_level(logging.DEBUG, "llama_cffi"):
        llm = Llama.demo(isolate=True, draft="lookup", on_event=note, max_waiting=1, **OPTIONS)
        endless = dict.fromkeys(llm.model.vocab.eog_tokens, float("-inf"))
        done = llm.generate(PROMPT * 3, max_tokens=8, temperature=0)
        assert done.speculation is not None
        assert llm.generate(PROMPT, max_tokens=2, speculative=False).speculation is None
        streams = []
        for i in range(4):
            streams.append(llm.stream(PROMPT, max_tokens=500, seed=i, logit_bias=endless))
            next(streams[-1])
        waiting = llm.stream(PROMPT, max_tokens=1)
        with pytest.raises(QueueFullError) as caught:
            llm.stream(PROMPT, max_tokens=1)
        assert caught.value.retry_after > 0
        for stream in (*streams, waiting):
            stream.close()
        # A call that waits for room hears of it from the other process.
        found = asyncio.run(wait_for_room(llm, logit_bias=endless))
        assert [one.usage.completion_tokens for one in found] == [30] * 12
        llm.close()
    assert {event.kind for event in events} == {"queued", "ended"}
    assert refused
    assert {"llama_cffi.native", "llama_cffi.engine"} <= {record.name for record in caplog.records}
    with pytest.raises(ClosedError):
        llm.generate(PROMPT)
    with pytest.raises(ClosedError):
        llm.save_state("x")
    assert llm.closed
    llm.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork_it_says_so(there: Llama) -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            there.generate(PROMPT, max_tokens=1)
        except ContextError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"created in another process" in os.read(read, 1000)
    os.close(read)
    os.close(write)
    assert there.generate(PROMPT, max_tokens=1).tokens


def test_a_vocabulary_of_this_process_serves_samplers(there: Llama) -> None:
    from llama_cffi.samplers import Greedy, SamplerChain

    row = np.zeros(there.model.vocab.n_tokens, dtype=np.float32)
    row[7] = 1
    with SamplerChain([Greedy()], there.model.vocab) as chain:
        ids, _, selected = chain.apply(row)
        assert ids[selected] == 7
    assert not isinstance(there.model, Model)
