"""LoRA adapters: at run time they are what merging them into the weights gives."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import Batch, Context, ContextOptions, ControlVector, Llama, Model, PromptCache
from llama_cffi._native import binding, lib
from llama_cffi.core import graph_reuse
from llama_cffi.core.adapter import LoraAdapter, adapter_set
from llama_cffi.errors import (
    AdapterError,
    ClosedError,
    InUseError,
    ModelFileError,
    ModelNotFoundError,
    StateMismatchError,
    UnsupportedError,
)
from tests.support.children import run_child
from tests.support.lora import ATTENTION, Pair, random_pairs, write_lora, write_merged
from tests.support.random_model import Shape, write_random_model

if TYPE_CHECKING:
    from tests.support.models import MakeContext, MakeLlama
    from tests.support.tools import Measure

pytest_plugins = ["tests.support.models", "tests.support.tools"]

TOKENS = [1, 300, 301, 302, 303, 299, 310]


@pytest.fixture(scope="module")
def pairs(model_path: Path) -> tuple[dict[str, Pair], dict[str, Pair]]:
    return random_pairs(model_path, seed=1), random_pairs(model_path, ATTENTION, rank=2, seed=2)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, pairs: tuple[dict[str, Pair], ...]) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_lora(folder / f"lora-{i}.gguf", one) for i, one in enumerate(pairs)]


@pytest.fixture
def adapters(model: Model, paths: list[Path]) -> Iterator[tuple[LoraAdapter, LoraAdapter]]:
    first, second = (LoraAdapter(model, path) for path in paths)
    yield first, second
    first.close()
    second.close()


def logprobs(context: Context) -> NDArray[np.float64]:
    """Log-probabilities after every one of the tokens."""
    context.memory.clear()
    batch = Batch(len(TOKENS))
    for i, token in enumerate(TOKENS):
        batch.add(token, i, output=True)
    context.decode(batch)
    rows = np.stack([context.outputs.logits(i) for i in range(len(TOKENS))]).astype(np.float64)
    result: NDArray[np.float64] = rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)
    return result


# -- what it computes


@pytest.mark.parametrize("scales", [(1.0, 0.0), (0.0, 0.5), (-0.7, 0.0), (0.4, 1.3), (0.0, 0.0)])
def test_an_adapter_is_what_merging_it_gives(
    model_path: Path, tmp_path: Path, adapters: tuple[LoraAdapter, LoraAdapter],
    pairs: tuple[dict[str, Pair], dict[str, Pair]], scales: tuple[float, float], make_context: MakeContext,
) -> None:  # fmt: skip
    merged = write_merged(tmp_path / "merged.gguf", model_path, list(zip(pairs, scales, strict=True)))
    # In a cache or a kernel of f16, a difference in the last bit of a float32 may become one of a thousandth.
    exact = {"type_k": "f32", "type_v": "f32", "flash_attn": "disabled"}
    context = make_context(**exact)
    plain = logprobs(context)
    context.set_adapters(dict(zip(adapters, scales, strict=True)))
    with Model(merged) as other:
        expected = logprobs(make_context(other, **exact))
        assert np.abs(logprobs(context) - expected).max() < 1e-4
    if any(scales):
        assert np.abs(plain - expected).max() > 0.1
    context.set_adapters({})
    np.testing.assert_array_equal(logprobs(context), plain)


def test_contexts_of_one_model_have_scales_of_their_own(
    adapters: tuple[LoraAdapter, LoraAdapter], make_context: MakeContext
) -> None:
    one, other = make_context(), make_context()
    plain = logprobs(one)
    other.set_adapters({adapters[0]: 1.0})
    np.testing.assert_array_equal(logprobs(one), plain)
    assert np.abs(logprobs(other) - plain).max() > 0.1
    assert (one.adapters, other.adapters) == ({}, {adapters[0]: 1.0})


def test_an_adapter_loaded_after_the_context_has_decoded(
    model: Model, paths: list[Path], make_context: MakeContext
) -> None:
    context = make_context()
    plain = logprobs(context)
    with LoraAdapter(model, paths[0]) as adapter:
        context.set_adapters({adapter: 1.0})
        assert np.abs(logprobs(context) - plain).max() > 0.1
        context.set_adapters({})


def test_a_library_that_does_not_see_changes(
    model: Model,
    make_context: MakeContext,
    adapters: tuple[LoraAdapter, LoraAdapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graph_reuse, "sees_adapters", lambda: False)
    data = np.ones((model.n_layer, model.n_embd))
    data[0] = 0
    # Graphs are not used again, unless the user wants it.
    monkeypatch.setenv(graph_reuse.SWITCH, "")
    monkeypatch.delenv(graph_reuse.SWITCH)
    context = make_context()
    assert os.environ[graph_reuse.SWITCH] == "1"
    before = logprobs(context)
    context.set_adapters({adapters[0]: 1.0})
    assert np.abs(logprobs(context) - before).max() > 0.1
    context.close()
    for value in ("0", "off", ""):
        monkeypatch.setenv(graph_reuse.SWITCH, value)
        context = make_context()
        context.set_adapters({adapters[0]: 1.0})  # nothing is computed yet
        changed = logprobs(context)
        with pytest.raises(UnsupportedError, match="another Context"):
            context.set_adapters({})
        with pytest.raises(UnsupportedError, match="another Context"):
            context.set_adapters({adapters[0]: 0.5})
        with pytest.raises(UnsupportedError, match="another Context"):
            context.set_control_vector(ControlVector(data))
        context.set_adapters({adapters[0]: 1.0})
        context.set_control_vector(None)
        assert np.array_equal(logprobs(context), changed)
        context.close()


def test_what_a_file_says_of_itself(model: Model, model_path: Path, tmp_path: Path, pairs: Any) -> None:
    key = "adapter.alora.invocation_tokens"
    path = write_lora(tmp_path / "alora.gguf", pairs[1], alpha=4.0, metadata={"general.name": "ä", key: [7, 300]})
    with LoraAdapter(model, path) as adapter:
        assert adapter.metadata["general.name"] == "ä"
        assert (adapter.alpha, adapter.invocation_tokens) == (4.0, (7, 300))
        if binding.has("llama_adapter_get_alora_n_invocation_tokens"):
            n = lib.llama_adapter_get_alora_n_invocation_tokens(adapter.ptr)
            assert tuple(lib.llama_adapter_get_alora_invocation_tokens(adapter.ptr)[0:n]) == (7, 300)
        assert repr(adapter) == "<LoraAdapter 'alora.gguf'>"
    with LoraAdapter(model, write_lora(tmp_path / "plain.gguf", pairs[1], alpha=0.0)) as adapter:
        assert (adapter.alpha, adapter.invocation_tokens) == (None, ())


# -- what is refused


def test_adapters_of_another_model(
    adapters: tuple[LoraAdapter, LoraAdapter], model_path: Path, tmp_path: Path, paths: list[Path],
    make_context: MakeContext,
) -> None:  # fmt: skip
    with Model(model_path) as twin, pytest.raises(AdapterError, match="another Model"):
        make_context(twin).set_adapters({adapters[0]: 1.0})
    wide = write_random_model(tmp_path / "wide.gguf", Shape(n_embd=128), weights="f32")
    with Model(wide) as other, pytest.raises(AdapterError, match="incorrect shape"):
        LoraAdapter(other, paths[0])
    long = random_pairs(write_random_model(tmp_path / "long.gguf", Shape(n_layer=3), weights="f32"))
    with Model(model_path) as short, pytest.raises(AdapterError, match=r"blk\.2.*does not exist"):
        LoraAdapter(short, write_lora(tmp_path / "long-lora.gguf", long))


A, B = np.ones((4, 64), dtype=np.float32), np.ones((64, 4), dtype=np.float32)
Q = "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    ("tensors", "options", "reason"),
    [
        ({Q: (A, B)}, {"architecture": "gpt2"}, "'gpt2' models"),
        ({Q: (A, B)}, {"metadata": {"general.type": "model"}}, "not a LoRA adapter"),
        ({Q: (A, B)}, {"metadata": {"adapter.type": "dora"}}, "'dora'"),
        ({Q: (A, B)}, {"alpha": math.inf}, "finite"),
        ({Q: (A, B)}, {"metadata": {"adapter.lora.alpha": "8"}}, "finite number, not '8'"),
        ({Q: (A.astype(np.int32), B)}, {}, "numbers of type i32"),
        ({Q: (A[None].repeat(2, 0), B[None].repeat(2, 0))}, {}, "shapes"),
        ({Q: (A, B[:, :3])}, {}, "not transposed"),
        ({"token_embd.weight": (B[:2].repeat(256, 0), B)}, {}, "output matrix too"),
        ({"token_embd.weight": (B[:2, :3].repeat(256, 0), B)}, {}, "rank 3, its partner 4"),
        ({"rope.weight": (A, B)}, {}, "does not exist"),
    ],
)  # fmt: skip
def test_files_that_are_no_adapter_of_the_model(
    model: Model, tmp_path: Path, tensors: Mapping[str, Any], options: Any, reason: str
) -> None:
    path = write_lora(tmp_path / "bad.gguf", tensors, **options)
    with pytest.raises(AdapterError, match=reason):
        LoraAdapter(model, path)


def test_files_that_are_none(model: Model, model_path: Path, tmp_path: Path, paths: list[Path]) -> None:
    with pytest.raises(ModelNotFoundError):
        LoraAdapter(model, tmp_path / "nothing.gguf")
    with pytest.raises(AdapterError, match="not a LoRA adapter"):
        LoraAdapter(model, model_path)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(paths[0].read_bytes()[:-5000])
    with pytest.raises(ModelFileError):
        LoraAdapter(model, cut)


def test_scales_and_adapters_that_are_none(
    model: Model, adapters: tuple[LoraAdapter, LoraAdapter], context: Context
) -> None:
    for scale in (math.nan, math.inf, "1", None, True, 1e300):
        with pytest.raises(ValueError, match="finite number"):
            context.set_adapters({adapters[0]: scale})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="LoraAdapter objects"):
        context.set_adapters({"lora.gguf": 1.0})  # type: ignore[dict-item]
    assert context.adapters == {}
    assert adapter_set({adapters[0]: 1, adapters[1]: 0.0}, model) == ((adapters[0], 1.0),)
    both = {adapters[0]: 1.0, adapters[1]: 2.0}
    assert adapter_set(both, model) == adapter_set(dict(reversed(both.items())), model)


# -- who goes first


def test_closing_what_a_context_computes_with(model: Model, paths: list[Path], make_context: MakeContext) -> None:
    one, other = make_context(), make_context()
    adapter = LoraAdapter(model, paths[0])
    for context in (one, other):
        context.set_adapters({adapter: 1.0})
    for context in (one, other):
        with pytest.raises(InUseError, match="set_adapters"):
            adapter.close()
        context.set_adapters({}) if context is one else context.close()
    adapter.close()
    adapter.close()
    assert adapter.closed
    with pytest.raises(ClosedError):
        one.set_adapters({adapter: 1.0})
    assert logprobs(one).shape == (len(TOKENS), 512)


PREPARE = """
import gc, itertools, sys
from llama_cffi import Batch, Context, ContextOptions, Model
from llama_cffi.core.adapter import LoraAdapter
from llama_cffi.errors import InUseError
from tests.support.releases import Releases

releases = Releases(all_named=False)  # a GGUFFile goes while an adapter is made
freed = releases.freed

def make():
    model = Model(sys.argv[1])
    old = Context(model, ContextOptions(n_ctx=32, n_batch=8, n_threads=1))
    adapter = LoraAdapter(model, sys.argv[2])
    new = Context(model, ContextOptions(n_ctx=32, n_batch=8, n_threads=1))
    batch = Batch(8)
    batch.extend([1, 300, 301], 0, output_last=True)
    for context in (old, new):
        context.set_adapters({adapter: 0.5})
        context.decode(batch)
    objects = {"model": model, "old": old, "adapter": adapter, "new": new}
    for name, owner in objects.items():
        releases.name(owner.ptr, name)
    return objects

def check():
    assert sorted(freed) == ["adapter", "model", "new", "old"], freed
    assert freed[-1] == "model", freed
    # A context keeps a pointer to what it computes with.
    assert freed.index("adapter") == 2, freed
    releases.clear()
"""

LIFETIMES = {
    "closing": """
for order in itertools.permutations(("model", "old", "adapter", "new")):
    objects = make()
    for name in order:
        try:
            objects[name].close()
        except InUseError:
            assert name == "adapter" and not (objects["old"].closed and objects["new"].closed), order
    objects["model"].close()
    check()
    assert all(one.closed for one in objects.values())
""",
    "dropping": """
for order in itertools.permutations(("model", "old", "adapter", "new")):
    objects = make()
    for name in order:
        del objects[name]
    check()
""",
    "cycles": """
gc.disable()
for size in range(1, 5):
    for members in itertools.permutations(("model", "old", "adapter", "new"), size):
        objects = make()
        cycle = [objects.pop(name) for name in members]
        cycle.append(cycle)
        objects.clear()
        del cycle
        gc.collect()
        check()
""",
    "exit": """
objects = make()
keep = [objects]
keep.append(keep)
""",
}


@pytest.mark.parametrize("way", LIFETIMES)
def test_every_order(model_path: Path, paths: list[Path], way: str) -> None:
    run_child(PREPARE + LIFETIMES[way], model_path, paths[0])


# -- through the facade


def test_requests_with_adapters_of_their_own(
    make_llama: MakeLlama, model: Model, adapters: tuple[LoraAdapter, LoraAdapter]
) -> None:
    llm = make_llama()
    sets: list[dict[LoraAdapter, float]] = [{}, {adapters[0]: 1.0}, {adapters[0]: 0.5, adapters[1]: -0.5}]
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0}
    alone = []
    for one in sets:
        with Llama(model, n_ctx=512, n_threads=1) as fresh:
            alone.append(fresh.generate("tana nese", adapters=one, **options).text)
    assert len(set(alone)) == 3
    for order in itertools.permutations(range(3)):  # one after the other: nothing is reused across sets
        for i in order:
            assert llm.generate("tana nese", adapters=sets[i], **options).text == alone[i]
    assert llm.generate("tana nese", adapters=sets[1], **options).usage.cached_tokens > 0
    streams = [llm.stream("tana nese", adapters=sets[i % 3], **options) for i in range(6)]
    texts = ["".join(chunk.text for chunk in stream) for stream in streams]  # together, in turns
    assert texts == alone * 2
    llm.set_adapters({})


def test_the_adapters_of_requests_that_name_none(
    make_llama: MakeLlama, adapters: tuple[LoraAdapter, LoraAdapter]
) -> None:
    llm = make_llama()
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0.0}
    plain, changed = (llm.generate("tana", adapters=one, **options).text for one in ({}, {adapters[0]: 1.0}))
    llm.set_adapters({adapters[0]: 1.0})
    assert llm.adapters == {adapters[0]: 1.0}
    assert llm.generate("tana", **options).text == changed
    assert llm.generate("tana", adapters={}, **options).text == plain
    llm.set_adapters({})
    assert llm.generate("tana", **options).text == plain


def test_an_adapter_goes_when_nobody_computes_with_it(make_llama: MakeLlama, paths: list[Path]) -> None:
    llm = make_llama()
    adapter = llm.load_adapter(paths[0])
    llm.generate("tana", adapters={adapter: 1.0}, max_tokens=2)
    with pytest.raises(InUseError):
        adapter.close()
    llm.set_adapters({})
    adapter.close()
    with pytest.raises(ClosedError):
        llm.generate("tana", adapters={adapter: 1.0}, max_tokens=2)


def test_an_adapter_of_another_model_is_refused_before_anything_is_computed(
    make_llama: MakeLlama, model_path: Path, adapters: tuple[LoraAdapter, LoraAdapter]
) -> None:
    with Llama(model_path, n_ctx=64, n_threads=1) as llm:
        with pytest.raises(AdapterError):
            llm.generate("tana", adapters={adapters[0]: 1.0}, max_tokens=1)
        with pytest.raises(AdapterError):
            llm.set_adapters({adapters[0]: 1.0})
        assert llm.adapters == {}


def test_closing_the_llama_closes_its_adapters(model_path: Path, paths: list[Path]) -> None:
    with Llama(model_path, n_ctx=64, n_threads=1) as llm:
        adapter = llm.load_adapter(paths[0])
        llm.set_adapters({adapter: 1.0})
        llm.generate("tana", max_tokens=1)
    assert adapter.closed
    with pytest.raises(ClosedError):
        llm.load_adapter(paths[0])


def test_options_of_the_context_are_kept(model: Model, paths: list[Path]) -> None:
    with Context(model, ContextOptions(n_ctx=64, n_threads=1)) as context, LoraAdapter(model, paths[0]) as adapter:
        context.set_adapters({adapter: 1.0})
        before = logprobs(context)
        context.set_threads(1)
        np.testing.assert_array_equal(logprobs(context), before)
        context.set_adapters({})


def test_perplexity_with_an_adapter_is_that_of_llama_perplexity(
    model_path: Path, tmp_path: Path, paths: list[Path], llama_perplexity: Measure
) -> None:
    text = " ".join(["tana nese roki", "mupo", "tana seli"] * 90)
    (tmp_path / "text").write_text(text)
    scaled = f"{paths[0]}:0.6,{paths[1]}:-0.4"
    expected, _ = llama_perplexity("-m", model_path, "-f", tmp_path / "text", "-c", "64", "--lora-scaled", scaled)
    with Llama(model_path, n_ctx=256, n_threads=1) as llm:
        adapters = {llm.load_adapter(paths[0]): 0.6, llm.load_adapter(paths[1]): -0.4}
        assert llm.perplexity(text, n_ctx=64, adapters=adapters).value == pytest.approx(expected, rel=1e-3)
        assert llm.perplexity(text, n_ctx=64).value != pytest.approx(expected, rel=1e-3)
        for adapter in adapters:
            adapter.close()  # the scores are told, and nobody computes with it any more


# -- saved states


def test_states_say_what_changed_the_model(
    model: Model, make_llama: MakeLlama, adapters: tuple[LoraAdapter, LoraAdapter], tmp_path: Path
) -> None:
    llm = make_llama()
    prompt = "tana nese roki mupo"
    llm.generate(prompt, max_tokens=1)
    llm.set_adapters({adapters[0]: 0.5})
    changed = llm.generate(prompt, max_tokens=8, temperature=0.0)
    llm.save_state(tmp_path / "all")  # what is in memory without adapters is no part of it
    llm.save_prompt(prompt, tmp_path / "one")
    other = make_llama()
    with pytest.raises(StateMismatchError, match="adapters"):
        other.load_state(tmp_path / "all")
    with pytest.raises(StateMismatchError, match="adapters"):
        other.load_prompt(tmp_path / "one")
    other.set_adapters({adapters[0]: 0.25})
    with pytest.raises(StateMismatchError, match="adapters"):
        other.load_state(tmp_path / "all")
    other.set_adapters({adapters[0]: 0.5})
    assert other.load_state(tmp_path / "all") == len(llm.tokenize(prompt)) + 7
    again = other.generate(prompt, max_tokens=8, temperature=0.0)
    assert (again.text, again.usage.cached_tokens > 0) == (changed.text, True)
    assert other.generate(prompt, adapters={}, max_tokens=1).usage.cached_tokens == 0
    other.set_control_vector(ControlVector(np.zeros((2, 64))))
    with pytest.raises(StateMismatchError, match="control vector"):
        llm.load_state_bytes(other.state_bytes())
    for one in (llm, other):
        one.set_adapters({})


def test_the_prompt_cache_is_for_the_plain_model(
    make_llama: MakeLlama, adapters: tuple[LoraAdapter, LoraAdapter], tmp_path: Path
) -> None:
    prompt = "tana nese roki mupo"
    cache = PromptCache(tmp_path, min_tokens=4)
    llm = make_llama(prompt_cache=cache, n_seq_max=1)
    llm.generate(prompt, adapters={adapters[0]: 1.0}, max_tokens=2)
    assert cache.nbytes == 0
    plain = llm.generate(prompt, max_tokens=2, temperature=0.0)
    assert cache.nbytes > 0
    kept = cache.nbytes
    assert llm.generate(prompt, adapters={adapters[0]: 1.0}, max_tokens=2).usage.cached_tokens == 0
    assert llm.generate(prompt, max_tokens=2, temperature=0.0).text == plain.text
    llm.set_control_vector(ControlVector(np.zeros((2, 64))))
    assert llm.generate(prompt, max_tokens=2).usage.cached_tokens == 0
    assert cache.nbytes == kept
    llm.set_control_vector(None)
    assert llm.generate(prompt, max_tokens=2).usage.cached_tokens > 0
    llm.set_adapters({})
