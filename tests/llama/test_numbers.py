"""Numbers of numpy wherever numbers go, bools and floats nowhere that an integer goes; wrong models, all forbidden."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import (
    Batch,
    Context,
    ContextOptions,
    DraftModel,
    Llama,
    LoraAdapter,
    Model,
    ModelOptions,
    PromptLookup,
    Request,
    SamplerChain,
)
from llama_cffi.core.prompt import Prompt
from llama_cffi.core.sampler import (
    XTC,
    AdaptiveP,
    Dist,
    Dry,
    DynamicTemperature,
    Grammar,
    Greedy,
    LazyGrammar,
    LogitBias,
    MinP,
    Mirostat,
    MirostatV2,
    Penalties,
    PythonSampler,
    Sampler,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)
from llama_cffi.errors import BatchError, ModelFileError, SamplerError, TokenError
from tests.support.lora import random_pairs, write_lora

pytest_plugins = ["tests.support.models"]

I16, F32 = np.int16, np.float32
NO_INTEGERS: list[Any] = [True, np.True_, 1.0, F32(1), "1", None, np.array(1)]

SAMPLERS: list[tuple[Callable[..., Sampler], tuple[Any, ...]]] = [
    (TopK, (5,)),
    (TopP, (0.5, 2)),
    (MinP, (0.5, 2)),
    (Typical, (0.5, 2)),
    (TopNSigma, (1.5,)),
    (XTC, (0.5, 0.25, 3, 2)),
    (Temperature, (0.5,)),
    (DynamicTemperature, (0.5, 0.25, 1.5)),
    (Penalties, (8, 1.5, 0.5, 0.25)),
    (Dry, (0.5, 1.5, 2, 8)),
    (Dist, (7,)),
    (Mirostat, (7, 5.0, 0.25, 50)),
    (MirostatV2, (7, 5.0, 0.25)),
    (AdaptiveP, (7, 0.25, 0.5)),
]


def of_numpy(values: Sequence[Any]) -> list[Any]:
    return [I16(value) if isinstance(value, int) else F32(value) for value in values]


@pytest.mark.parametrize(("kind", "arguments"), SAMPLERS, ids=lambda one: getattr(one, "__name__", ""))
def test_samplers(kind: Callable[..., Sampler], arguments: tuple[Any, ...], model: Model) -> None:
    row = np.random.default_rng(3).normal(0, 2, model.vocab.n_tokens).astype(np.float32)
    results = []
    for values in (arguments, of_numpy(arguments)):
        sampler = kind(*values)
        with SamplerChain([sampler] if sampler.selects else [sampler, Dist(np.uint32(5))], model.vocab) as chain:
            chain.accept_prompt([1, 2, 3, 1, 2, 3])
            results.append([one.tolist() if isinstance(one, np.ndarray) else one for one in chain.apply(row)])
    assert results[0] == results[1]
    for i, value in enumerate(arguments):
        for bad in NO_INTEGERS if isinstance(value, int) else [True, np.True_, "1", None, np.array(1.0)]:
            sampler = kind(*arguments[:i], bad, *arguments[i + 1 :])
            with pytest.raises(SamplerError, match=r"^\w+ must be ") as caught:
                SamplerChain([sampler] if sampler.selects else [sampler, Greedy()], model.vocab)
            assert repr(bad) in str(caught.value)


def test_tokens_of_samplers(model: Model) -> None:
    row = np.zeros(model.vocab.n_tokens, dtype=np.float32)
    with SamplerChain([LogitBias({I16(7): F32(2)}), Greedy()], model.vocab) as chain:
        assert chain.select(row) == 7
        chain.accept(I16(7))
        for bad in NO_INTEGERS:
            with pytest.raises(TokenError, match=r"^a token must be an int, got "):
                chain.accept(bad)
    if os.environ.get("LLAMA_CFFI_HELPERS") == "none":
        pytest.skip("a lazy grammar needs the compiled helpers")
    for bad in NO_INTEGERS:
        for sampler in (LogitBias({5: 1.0, bad: 1.0}) if not isinstance(bad, np.ndarray) else None,
                        LazyGrammar('root ::= "a"', tokens=(bad,))):  # fmt: skip
            if sampler is not None:
                with pytest.raises(TokenError, match="is outside the vocabulary of 512 tokens"):
                    SamplerChain([sampler, Greedy()], model.vocab)


def test_vocab(model: Model) -> None:
    vocab = model.vocab
    asks: list[Callable[[Any], object]] = [
        vocab.piece,
        vocab.is_eog,
        vocab.is_control,
        vocab.attr,
        vocab.score,
        vocab.text,
    ]
    for ask in asks:
        assert ask(np.uint16(300)) == ask(300)
    for ask in asks[1:]:
        for bad in NO_INTEGERS:
            with pytest.raises(TokenError, match=r"^a token must be an int, got "):
                ask(bad)
    assert vocab.detokenize([I16(300), np.int64(301)]) == vocab.detokenize([300, 301])


def test_batch() -> None:
    batch = Batch(np.int64(4), np.uint8(2))
    assert batch.add(I16(5), np.int64(0), np.int8(1), output=True) == 0
    assert batch.add(6, 1, [I16(0), np.int64(1)]) == 1
    assert batch.extend(np.array([7, 8], dtype=np.uint16), np.int64(2), I16(1)) == 3
    assert (batch.token.tolist(), batch.pos.tolist(), len(batch)) == ([5, 6, 7, 8], [0, 1, 2, 3], 4)
    assert batch.seq_id.tolist() == [[1, 0], [0, 1], [1, 0], [1, 0]]
    batch.n_tokens = np.int64(1)
    for bad in NO_INTEGERS:
        calls: list[tuple[str, Callable[[Any], object]]] = [
            ("token", lambda one: batch.add(one, 0)),
            ("pos", lambda one: batch.add(1, one)),
            ("capacity", lambda one: Batch(one)),
            ("n_seq_max", lambda one: Batch(1, one)),
            ("n_tokens", lambda one: setattr(batch, "n_tokens", one)),
            ("pos", lambda one: batch.extend([1], one)),
            ("seq_id", lambda one: batch.extend([1], 0, one)),
            ("seq_id", lambda one: batch.add(1, 0, [one])),
        ]
        for name, call in calls:
            with pytest.raises(BatchError, match=rf"^{name} must be ") as caught:
                call(bad)
            assert repr(bad) in str(caught.value)
    no_tokens: list[Any] = [[1.5], np.array([1.0]), [True], [[1]], ["a"]]
    for tokens in no_tokens:
        with pytest.raises(BatchError, match=r"^tokens must "):
            batch.extend(tokens, 0)
    for number in (2**31, -(2**31) - 1):
        for call in (
            lambda n: batch.add(1, n),
            lambda n: batch.extend(np.array([n]), 0),
            lambda n: batch.add(np.int64(n), 0),
        ):
            with pytest.raises(OverflowError):
                call(number)
    assert len(batch) == 1


def test_memory_and_state(context: Context) -> None:
    batch = Batch(8)
    batch.extend([1, 2, 3, 4], 0, output_last=True)
    context.decode(batch)
    memory, state = context.memory, context.state
    memory.seq_cp(I16(0), np.int64(1), I16(0), np.uint8(4))
    memory.seq_add(I16(1), I16(2), None, np.int8(1))
    assert memory.seq_pos_max(np.int64(1)) == 4
    assert memory.seq_rm(I16(1), np.uint16(3))
    assert memory.seq_pos_max(1) == 1
    assert state.seq_size(np.int64(0)) == state.seq_size(0)
    assert (context.outputs.logits(np.int64(3)) == context.outputs.logits(3)).all()
    calls: list[Callable[[Any], object]] = [
        memory.seq_pos_max,
        state.seq_size,
        lambda bad: memory.seq_cp(0, bad),
        lambda bad: memory.seq_add(0, 0, None, bad),
        lambda bad: memory.seq_div(0, 0, None, bad),
    ]
    for bad in NO_INTEGERS:
        for call in calls:
            with pytest.raises(ValueError, match=r"(seq_id|delta|divisor) must be ") as caught:
                call(bad)
            assert repr(bad) in str(caught.value)
        if bad is not None:
            with pytest.raises(ValueError, match="positions must be 0 to"):
                memory.seq_rm(0, bad)


def test_options(model: Model, model_path: Path) -> None:
    options = {"n_ctx": 256, "n_batch": 32, "n_ubatch": 16, "n_seq_max": 2, "n_threads": 1, "n_threads_batch": 1}
    given = ContextOptions(
        rope_freq_base=F32(10_000), rope_freq_scale=F32(1), **{k: I16(v) for k, v in options.items()}
    )
    with Context(model, given) as context:
        assert (context.n_ctx, context.n_batch, context.n_seq_max, context.n_threads) == (256, 32, 2, 1)
        context.set_threads(np.int64(1), I16(1))
    for name in options:
        for bad in NO_INTEGERS:
            if not (bad is None and "threads" in name):
                with pytest.raises(ValueError, match=rf"^{name} must be ") as caught:
                    Context(model, ContextOptions(**{name: bad}))
                assert repr(bad) in str(caught.value)
    wrong: list[Any] = ["1", True, np.True_, -1, 0, float("nan"), 1e39]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"^rope_freq_base must be positive, got "):
            Context(model, ContextOptions(rope_freq_base=bad))
    overrides = {"llama.rope.freq_base": F32(5000), "llama.context_length": np.uint16(99)}
    with Model(
        model_path,
        ModelOptions(n_gpu_layers=I16(0), main_gpu=I16(0), tensor_split=(F32(1),), kv_overrides=overrides),
    ) as other:
        assert other.n_ctx_train == 99
    for name, wanted in (("n_gpu_layers", "a whole number of layers"), ("main_gpu", "an int from")):
        for bad in NO_INTEGERS[:-2]:
            with pytest.raises(ValueError, match=rf"^{name} must be {wanted}"):
                Model(model_path, ModelOptions(**{name: bad}))
    with pytest.raises(ValueError, match="tensor_split takes at most"):
        Model(model_path, ModelOptions(tensor_split=("1",)))  # type: ignore[arg-type]


def test_adapters(llm: Llama, tmp_path: Path) -> None:
    adapter = LoraAdapter(llm.model, write_lora(tmp_path / "lora.gguf", random_pairs(llm.model.path)))
    llm.context.set_adapters({adapter: F32(0.5)})
    assert llm.context.adapters == {adapter: 0.5}
    no_scales: list[Any] = [True, np.True_, "1", None, np.nan, 10**400]
    for bad in no_scales:
        with pytest.raises(ValueError, match="must be a finite number of 32 bits, got "):
            llm.context.set_adapters({adapter: bad})


def test_requests() -> None:
    prompt = Prompt((1, 2))
    numbers: dict[str, Any] = {"max_tokens": np.int8(100), "logprobs": np.uint8(2), "priority": I16(-3)}
    request = Request(prompt=prompt, stop=("a", I16(7)), max_seconds=F32(2), **numbers)
    assert request == Request(prompt=prompt, max_tokens=100, logprobs=2, priority=-3, stop=("a", 7), max_seconds=2.0)
    kinds = [type(one) for one in (request.max_tokens, request.logprobs, request.priority, request.stop[1])]
    assert kinds == [int] * 4
    for bad in NO_INTEGERS:
        for name in ("max_tokens", "logprobs"):
            if bad is not None:
                with pytest.raises(ValueError, match=rf"^{name} must be None or a number of"):
                    Request(prompt=prompt, **{name: bad})
        if not isinstance(bad, str):
            with pytest.raises(ValueError, match=r"^stop must be non-empty strings, tokens or compiled patterns, got "):
                Request(prompt=prompt, stop=(bad,))
        with pytest.raises(ValueError, match=r"^n_draft must be at least 1, got "):
            PromptLookup(n_draft=bad)
        with pytest.raises(ValueError, match=r"^n_draft must be at least 1, got "):
            DraftModel(model="a", n_draft=bad)
    no_seconds: list[Any] = [True, "1", float("nan"), 0]
    for bad in (*NO_INTEGERS, 101, -101):
        with pytest.raises(ValueError, match=r"^priority must be an int from -100 to 100, lower is sooner, got "):
            Request(prompt=prompt, priority=bad)
    for bad in no_seconds:
        with pytest.raises(ValueError, match=r"^max_seconds must be None or above 0, got "):
            Request(prompt=prompt, max_seconds=bad)
    assert PromptLookup(n_draft=I16(3)) == PromptLookup(n_draft=3)


def test_generating_with_numbers_of_numpy(llm: Llama) -> None:
    bias: list[dict[Any, Any]] = [{300: 2.0, "a": 0.5}, {I16(300): F32(2), "a": np.float64(0.5)}]
    expected = llm.generate("tana", max_tokens=5, top_k=9, seed=3, temperature=0.5, logit_bias=bias[0])
    found = llm.generate(
        "tana", max_tokens=I16(5), top_k=np.int64(9), seed=np.uint32(3), temperature=F32(0.5),
        logit_bias=bias[1],
    )  # fmt: skip
    assert found.tokens == expected.tokens


# -- logit_bias


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_token_is_forbidden(llm: Llama, temperature: float) -> None:
    vocab = llm.model.vocab
    everything: dict[int, Any] = dict.fromkeys(range(vocab.n_tokens), "never")
    with_x: dict[int, Any] = {i: "never" for i in range(vocab.n_tokens) if b"x" in vocab.piece(i)}
    calls: list[dict[str, Any]] = [
        {"logit_bias": everything},
        {"logit_bias": everything, "logprobs": 1},
        {"logit_bias": with_x, "schema": ["xyz"]},
        {"logit_bias": with_x, "schema": ["xyz"], "logprobs": 1},
        {"logit_bias": with_x, "grammar": 'root ::= "xyz"'},
    ]
    for options in calls:
        with pytest.raises(SamplerError, match="every token is forbidden"):
            llm.generate("tana", max_tokens=3, temperature=temperature, **options)
    assert llm.generate("tana", max_tokens=2).tokens


@pytest.mark.parametrize("last", [Greedy(), Dist(1), Mirostat(1), AdaptiveP(1, 0.5)])
def test_a_chain_that_forbids_every_token(context: Context, last: Sampler) -> None:
    vocab = context.model.vocab
    batch = Batch(1)
    batch.add(1, 0, output=True)
    context.decode(batch)
    never = float("-inf")
    best = int(context.outputs.logits().argmax())
    for steps in ([LogitBias(dict.fromkeys(range(vocab.n_tokens), never))], [TopK(1), LogitBias({best: never})]):
        with SamplerChain([Penalties(), *steps, last], vocab) as chain:
            with pytest.raises(SamplerError, match="every token is forbidden"):
                chain.sample(context)
            with pytest.raises(SamplerError, match="every token is forbidden"):
                chain.select(context.outputs.logits())
    # The one that is left is chosen.
    with SamplerChain([LogitBias({i: never for i in range(vocab.n_tokens) if i != 9}), last], vocab) as chain:
        assert chain.sample(context) == chain.select(context.outputs.logits()) == 9


def test_a_sampler_in_python_may_select_what_it_likes(context: Context) -> None:
    class First(PythonSampler):
        selects = True

        def apply(self, candidates: Any) -> None:
            candidates.select(0)

    batch = Batch(1)
    batch.add(1, 0, output=True)
    context.decode(batch)
    with SamplerChain([LogitBias({0: float("-inf")}), First()], context.model.vocab) as chain:
        assert chain.sample(context) == 0


def test_a_grammar_tells_of_each_token(model: Model) -> None:
    """``apply`` shows what the chain leaves, also when that is nothing."""
    with SamplerChain([Grammar('root ::= "a"'), Greedy()], model.vocab) as chain:
        assert chain.apply(np.zeros(1, dtype=np.float32), ids=np.array([300], dtype=np.int32))[1][0] == -np.inf


def test_keys_and_values_of_a_bias(llm: Llama) -> None:
    wrong: list[tuple[dict[Any, Any], str]] = [
        ({"\ud800": 1.0}, "holds a lone surrogate at index 0"),
        ({"ab\udfff": 1.0}, "holds a lone surrogate at index 2"),
        ({3: float("nan")}, r"logit_bias\[3\] must be a finite number or -inf, got nan"),
        ({"a": np.float32("nan")}, r"logit_bias\['a'\] must be a finite number or -inf, got "),
        ({3: float("inf")}, r"logit_bias\[3\] must be a finite number or -inf, got inf"),
        ({3: True}, r'logit_bias\[3\] must be a number or "never", got True'),
        ({3: np.True_}, r'logit_bias\[3\] must be a number or "never", got '),
    ]
    for bias, message in wrong:
        with pytest.raises(SamplerError, match=message):
            llm.generate("tana", max_tokens=1, logit_bias=bias)


# -- wrong models and sizes


@pytest.mark.parametrize("make", [Model])
def test_what_is_no_model(make: Callable[[Any], object], tmp_path: Path) -> None:
    for path in (None, 5, True, 1.5, b"model.gguf", [5], [None], ["a", 5], {"a": 1}, object()):
        with pytest.raises(TypeError, match=r"^a model must be the path of a GGUF file, or the list of its"):
            make(path)
    for path in ("", [""], [tmp_path / "a", ""]):
        with pytest.raises(ModelFileError, match=r"^the path of the model is empty$"):
            make(path)
    for path in ([], ()):
        with pytest.raises(ModelFileError, match=r"^no model file was given"):
            make(path)


def test_what_is_no_option(model: Model, model_path: Path) -> None:
    wrong: Any = 5
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: Model(model_path, wrong), "^options must be ModelOptions or None, got 5$"),
        (lambda: Model(model_path, progress=wrong), "^progress must be a function or None, got 5$"),
        (lambda: Context(model, wrong), "^options must be ContextOptions or None, got 5$"),
        (lambda: Context(wrong), "^model must be a Model, got 5$"),
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=message):
            call()


def test_a_batch_smaller_than_the_sequences(model: Model) -> None:
    for n_batch, n_seq_max in ((1, 2), (3, 4), (7, 8)):
        with pytest.raises(ValueError, match=rf"^n_batch must be at least n_seq_max={n_seq_max}, .* got {n_batch}$"):
            Context(model, ContextOptions(n_ctx=64, n_batch=n_batch, n_seq_max=n_seq_max))
        with pytest.raises(ValueError, match=r"^n_batch must be at least n_seq_max"):
            Llama(model, n_ctx=64, n_batch=n_batch, n_seq_max=n_seq_max)
        with Llama(model, n_ctx=64, n_batch=n_seq_max, n_seq_max=n_seq_max, n_threads=1) as llm:
            assert len(llm.generate(["tana"] * n_seq_max, max_tokens=2)) == n_seq_max
