"""Values pickle, copy and compare; objects that cannot say what to do instead."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llama_cffi
from llama_cffi import (
    GBNF,
    ArchiveMember,
    AsyncLlama,
    Audio,
    Batch,
    Chunk,
    Completion,
    Context,
    ContextOptions,
    ControlVector,
    DraftHeads,
    DraftModel,
    EmbeddingBatch,
    Embeddings,
    Engine,
    FinishReason,
    GGUFFile,
    Image,
    JsonSchema,
    Label,
    Lark,
    Lazy,
    Llama,
    LlamaCffiError,
    LoraAdapter,
    MediaChunk,
    Model,
    ModelOptions,
    Perplexity,
    Projector,
    PromptCache,
    PromptLookup,
    QuantizeOptions,
    Ranked,
    Regex,
    Reply,
    ReplyChunk,
    Request,
    SamplerChain,
    SamplingParams,
    SavedState,
    Score,
    Speculation,
    SpeechGenerator,
    ThreadUse,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolResult,
    ToolRun,
    Usage,
    Video,
)
from llama_cffi.core.memory_breakdown import DeviceMemory, MemoryBreakdown
from llama_cffi.core.memory_estimate import MemoryEstimate
from llama_cffi.core.prompt import Prompt
from llama_cffi.core.sampler import Greedy, TopK
from llama_cffi.engine.fake import FakeRunner
from llama_cffi.engine.telemetry import RequestEvent
from llama_cffi.grammar.guidance import GuidanceConstraint
from llama_cffi.grammar.native import NativeConstraint
from llama_cffi.prompt.tools import check_tools
from tests.support.lora import random_pairs, write_lora
from tests.support.media_kinds import write_kind
from tests.support.speech_models import write_speaking_model

pytest_plugins = ["tests.support.models"]

USAGE, TIMINGS, LOGPROB = Usage(3, 1, 2), Timings(0.1, 0.2, 3, 4), TokenLogprob(5, b"a", -0.5, ((5, -0.5), (6, -1.0)))
MORE: tuple[bool, bool, tuple[TokenLogprob | None, ...]] = (True, True, (None, LOGPROB))
ENDING: tuple[Any, ...] = (
    FinishReason.STOP,
    "\n",
    USAGE,
    TIMINGS,
    7,
    (LOGPROB,),
    {"a": [1]},
    Prompt((1, 2, 3)),
    Speculation(4, 3, 2),
    *MORE,
)
_Reply: Any = Reply
REPLY: Reply = _Reply("text", (5, 6), *ENDING, "why", (ToolCall("c1", "add", {"a": 1}),), "<raw>")


def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


PIXELS = Image(np.zeros((2, 3, 3), dtype=np.uint8))
VALUES: dict[str, Any] = {
    "ArchiveMember": ArchiveMember("models.zip", "tiny.gguf"),
    "Audio": Audio(np.zeros(9, dtype=np.float32), 16000),
    "Image": PIXELS,
    "Video": Video([PIXELS, PIXELS], [0, 1]),
    "Chunk": Chunk("a", (5,), (LOGPROB,), Completion("text", (5, 6), *ENDING)),
    "Completion": Completion("text", (5, 6), *ENDING),
    "ContextOptions": ContextOptions(n_ctx=64, pooling="mean", rope_freq_base=1e4),
    "ControlVector": ControlVector([[0.0, 0.0], [1.0, 2.5]], model_hint="llama"),
    "DraftHeads": DraftHeads(model="heads.gguf", p_min=0.2),
    "DraftModel": DraftModel(model="draft.gguf", n_draft=3),
    "Embeddings": Embeddings(np.eye(2, dtype=np.float32), (1, 2), (False, True), "mean"),
    "FinishReason": FinishReason.DEADLINE,
    "GBNF": GBNF('root ::= "a"', engine="llguidance"),
    "JsonSchema": JsonSchema({"type": "integer", "enum": [1, 2]}, strict=True, on_unsupported="annotate"),
    "EngineSnapshot": Engine(FakeRunner()).snapshot(),
    "Label": Label(1, "good", 0.5),
    "Lark": Lark('start: "a"'),
    "Lazy": Lazy(Regex("[0-9]+"), trigger="<", end=">"),
    "LlamaCffiError": LlamaCffiError("wrong", log=["a line"]),
    "MemoryBreakdown": MemoryBreakdown((DeviceMemory("CPU", 1, 2, 3, 4),)),
    "MemoryEstimate": MemoryEstimate((DeviceMemory("CPU", 1, 2, 3, 4),), 0, 2),
    "ModelOptions": ModelOptions(n_gpu_layers=1, tensor_split=(1, 2), kv_overrides={"a": 1}),
    "Perplexity": Perplexity(2.0, 0.1, 0.7, 10, 1),
    "PromptLookup": PromptLookup(n_draft=3),
    "QuantizeOptions": QuantizeOptions(tensor_types={"a": "f16"}, prune_layers=(1,)),
    "Ranked": Ranked(1, 0.5, "a document"),
    "Regex": Regex("[a-z]+"),
    "Reply": REPLY,
    "ReplyChunk": ReplyChunk("a", (5,), (LOGPROB,), REPLY, "because"),
    "RequestEvent": RequestEvent(kind="ended", number=1, submitted=1.5, finish_reason="stop"),
    "Request": Request(prompt=Prompt((1, 2)), stop=("a", 5, re.compile("b+")), sampling=SamplingParams(top_k=3)),
    "SamplingParams": SamplingParams(temperature=0.5, logit_bias={3: -1.0}, samplers=None),
    "Score": Score(-0.5, True, (LOGPROB,)),
    "Speculation": Speculation(4, 3, 2),
    "Timings": TIMINGS,
    "TokenLogprob": LOGPROB,
    "ThreadUse": ThreadUse(n=1, n_batch=2, reason="2 CPUs", reason_batch="2 CPUs", lowered="other work", shared=True),
    "Tool": Tool("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}}),
    "ToolCall": ToolCall("c1", "add", {"a": 1}),
    "ToolResult": ToolResult(ToolCall("c1", "add", {"a": 1}), "2"),
    "ToolRun": ToolRun(REPLY, (ToolResult(ToolCall("c1", "add", {}), "2"),), [REPLY.message]),
    "Usage": USAGE,
}
MADE: dict[str, Callable[[Llama, Path], Any]] = {
    "Batch": lambda llm, folder: filled_batch(),
    "GGUFFile": lambda llm, folder: GGUFFile(llm.model.path),
    "PromptCache": lambda llm, folder: PromptCache(folder, max_bytes=1000, min_tokens=5),
    "SavedState": lambda llm, folder: SavedState.take(llm.context, seq_id=None),
}
"""Values that an open model or a folder is needed for."""
BOUND: dict[str, Callable[[Llama, Path], Any]] = {
    "AsyncChatSession": lambda llm, folder: AsyncLlama(llm).session(),
    "AsyncLlama": lambda llm, folder: AsyncLlama(llm),
    "AsyncSpeechStream": lambda llm, folder: AsyncLlama(speaking(folder)).stream_speech("x"),
    "AsyncStream": lambda llm, folder: AsyncLlama(llm).stream("x"),
    "ChatSession": lambda llm, folder: llm.session(),
    "Context": lambda llm, folder: llm.context,
    "EmbeddingBatch": lambda llm, folder: EmbeddingBatch(
        llm.model, np.zeros((1, llm.model.n_embd_inp), dtype=np.float32), 0
    ),
    "Engine": lambda llm, folder: Engine(FakeRunner()),
    "LoraAdapter": lambda llm, folder: LoraAdapter(
        llm.model, write_lora(folder / "a.gguf", random_pairs(llm.model.path))
    ),
    "MediaChunk": lambda llm, folder: next(
        one for one in projector(folder).tokenize(PIXELS) if isinstance(one, MediaChunk)
    ),
    "Memory": lambda llm, folder: llm.context.memory,
    "Outputs": lambda llm, folder: llm.context.outputs,
    "Projector": lambda llm, folder: projector(folder),
    "SamplerChain": lambda llm, folder: SamplerChain([TopK(3), Greedy()], llm.model.vocab),
    "SpeechGenerator": lambda llm, folder: generator(folder),
    "SpeechStream": lambda llm, folder: speaking(folder).stream_speech("x"),
    "State": lambda llm, folder: llm.context.state,
    "Vocab": lambda llm, folder: llm.model.vocab,
}
"""Objects that exist once."""
REFERENCED: dict[str, Callable[[Llama], Any]] = {"Llama": lambda llm: llm, "Model": lambda llm: llm.model}
"""Objects that exist once, and that another process opens by the path of their file."""
FUNCTIONS = {"estimate_memory", "features", "quantize", "use_library"}


def adapter(model: Model, folder: Path) -> LoraAdapter:
    return LoraAdapter(model, write_lora(folder / "lora.gguf", random_pairs(model.path)))


def projector(folder: Path) -> Projector:
    kind = write_kind(folder, "qwen2vl", folder)
    return Projector(Model(kind.model), kind.projector, n_threads=1, warmup=False)


def speaking(folder: Path) -> Llama:
    made = write_speaking_model(folder, "pockettts")
    return Llama(made.model, mmproj=made.projector, n_ctx=256, n_threads=1)


def generator(folder: Path) -> SpeechGenerator:
    made = write_speaking_model(folder, "pockettts")
    options = ContextOptions(n_ctx=256, n_threads=1, embeddings=True, pooling="none")
    context = Context(model := Model(made.model), options, own_threads=True)
    return SpeechGenerator(context, Projector(model, made.projector, n_threads=1, warmup=False))


def filled_batch() -> Batch:
    batch = Batch(3, 2)
    batch.add(5, 0)
    batch.add(6, 1, (0, 1), output=True)
    return batch


def through_pickle(value: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle-{protocol}": partial(through_pickle, protocol=protocol) for protocol in range(2, 6)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def contents(value: Any) -> Any:
    """What an object without an equality of its own holds."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Batch):
        return value.n_tokens, *map(contents, (value.token, value.pos, value.n_seq_id, value.seq_id, value.output))
    if isinstance(value, SavedState):
        return value.header, contents(value.payload)
    if isinstance(value, (Embeddings, GGUFFile, PromptCache, LlamaCffiError)):
        return {name: contents(one) for name, one in vars(value).items()}
    return value


def test_every_public_name_is_a_value_or_bound_to_its_process() -> None:
    assert sorted({*VALUES, *MADE, *BOUND, *REFERENCED, *FUNCTIONS}) == sorted(llama_cffi.__all__)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", VALUES)
def test_values_pickle_copy_and_compare(name: str, way: Callable[[Any], Any]) -> None:
    value = VALUES[name]
    assert type(value).__name__ == name
    twin = way(value)
    assert type(twin) is type(value)
    assert contents(twin) == contents(value)


@pytest.mark.parametrize("name", MADE)
def test_values_with_data_of_their_own_pickle_and_copy(name: str, llm: Llama, tmp_path: Path) -> None:
    llm.generate("abc", max_tokens=2)
    value = MADE[name](llm, tmp_path)
    for way in WAYS.values():
        assert contents(way(value)) == contents(value)


@pytest.mark.parametrize("name", BOUND)
def test_what_exists_once_says_what_to_do_instead(name: str, llm: Llama, tmp_path: Path) -> None:
    thing = BOUND[name](llm, tmp_path)
    refused(thing, name)
    assert type(thing)._instead_of_pickling
    assert type(thing)._instead_of_copying


@pytest.mark.parametrize("name", REFERENCED)
def test_what_has_a_file_pickles_as_a_reference_and_is_not_copied(name: str, llm: Llama) -> None:
    thing = REFERENCED[name](llm)
    for way in WAYS.values():
        if isinstance(way, partial):
            with way(thing) as twin:
                assert type(twin) is type(thing)
                assert getattr(twin, "model", twin).fingerprint == llm.model.fingerprint
        else:
            with pytest.raises(TypeError, match=rf"^a {name} cannot be copied: \w.+\w[()]*$"):
                way(thing)


def refused(thing: Any, name: str) -> None:
    assert type(thing).__name__ == name
    article = "an" if name[0] in "AEIOU" else "a"
    ways: list[Callable[[Any], Any]] = [*WAYS.values(), *(partial(through_pickle, protocol=n) for n in (0, 1))]
    for way in ways:
        verb = "pickled" if isinstance(way, partial) else "copied"
        with pytest.raises(TypeError, match=rf"^{article} {name} cannot be {verb}: \w.+\w[()]*$"):
            way(thing)


def test_what_is_behind_the_public_names_says_so_too(llm: Llama) -> None:
    llm.generate("abc", max_tokens=1)
    refused(llm.model.handle, "Handle")
    refused(llm.stream("abc", max_tokens=1), "Stream")
    refused(llm.stream("abc", schema=["a", "b"]), "Stream")
    refused(llm.stream_chat([{"role": "user", "content": "a"}], chat_template="{{ messages[0].content }}"), "Stream")
    refused(llm.context.outputs.logits_view(), "OutputView")
    refused(NativeConstraint(llm.model.vocab, 'root ::= "a"'), "NativeConstraint")
    refused(constraint := GuidanceConstraint(llm.model.vocab, 'start: "a"'), "GuidanceConstraint")
    # A value that holds one: copied it shares it, and what else is asked of it names what is in the way.
    holders: list[tuple[Any, str]] = [
        (DraftModel(model=llm.model), "Model"),
        (Request(prompt=Prompt((1,)), constraint=constraint), "GuidanceConstraint"),
    ]
    for value, name in holders:
        assert copy.copy(value) == value
        if name not in REFERENCED:
            with pytest.raises(TypeError, match=f"^a {name} cannot be pickled: "):
                pickle.dumps(value)
        with pytest.raises(TypeError, match=f"^a {name} cannot be copied: "):
            copy.deepcopy(value)


def test_a_subclass_is_named_by_its_own_name_and_may_decide_otherwise(llm: Llama) -> None:
    class Reopened(Model):
        def __reduce__(self) -> Any:
            return Model, (self.path,)

    with Reopened(llm.model.path) as model:
        with pytest.raises(TypeError, match=r"^a Reopened cannot be copied: "):
            copy.copy(model)
        with pickle.loads(pickle.dumps(model)) as other:
            assert other.desc == model.desc


def test_a_tool_with_a_function_of_a_module_pickles() -> None:
    for tool in (*check_tools([add]), Tool("plus", function=add)):
        for way in WAYS.values():
            twin = way(tool)
            assert twin == tool
            assert twin.call({"a": 1}) == "3"
            if tool.name == "add":
                with pytest.raises(llama_cffi.LlamaCffiError, match="do not fit"):
                    twin.call({"a": "one"})


def test_copies_of_a_batch_have_memory_of_their_own(llm: Llama) -> None:
    batch = filled_batch()
    for way in WAYS.values():
        twin = way(batch)
        twin.token[0] = 99
        twin.add(7, 2)
        assert contents(batch) == contents(filled_batch())
        assert (len(twin), int(twin.token[0]), int(twin.ptr.token[0])) == (3, 99, 99)


def test_a_copied_control_vector_cannot_be_written_either() -> None:
    vector = ControlVector([[0.0, 0.0], [1.0, 2.5]])
    for way in WAYS.values():
        with pytest.raises(ValueError, match="read-only"):
            way(vector).data[1, 0] = 3
