"""Every mistake gets its own exception with the reason, and what was used stays usable (or is closed)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llama_cffi import Batch, Context, ContextOptions, Llama, Model, ModelOptions, SamplerChain
from llama_cffi.core.sampler import Grammar, Greedy, TopK
from llama_cffi.errors import (
    BatchError,
    BusyError,
    ClosedError,
    ContextError,
    ContextOverflowError,
    GrammarError,
    MemoryFullError,
    ModelFileError,
    ModelNotFoundError,
    PromptError,
    SamplerError,
    TokenError,
    TokenizeError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from tests.support.models import MakeContext, MakeLlama

pytest_plugins = ["tests.support.models"]


def batch_of(*tokens: int, pos: int = 0, seq_id: int = 0) -> Batch:
    batch = Batch(len(tokens))
    batch.extend(tokens, pos, seq_id, output_last=True)
    return batch


def logits_after(context: Context) -> NDArray[np.float32]:
    context.memory.clear()
    context.decode(batch_of(1, 300, 301))
    return context.outputs.logits()


@pytest.fixture
def usable(context: Context) -> Iterator[Context]:
    """A context that must compute the same after the test as before."""
    before = logits_after(context)
    yield context
    np.testing.assert_array_equal(logits_after(context), before)


# -- files


def broken(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no such file.*none\.gguf"):
        Model(tmp_path / "none.gguf")
    with pytest.raises(FileNotFoundError):
        Llama(tmp_path / "none.gguf")


@pytest.mark.parametrize("name", ["owner/repo", "owner/repo:Q4_K_M"])
def test_a_name_on_the_hub_is_no_path(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"no such file: {name}; .*Llama\.from_hub\('{name}'\)"):
        Llama(name)


@pytest.mark.parametrize("name", ["models/none.gguf", "a/b/none.GGUF", "none", "../none/model"])
def test_a_path_that_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        Llama(name)
    assert "hub" not in str(caught.value)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a directory"):
        Model(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is empty"):
        Model(broken(tmp_path / "empty.gguf", b""))


def test_no_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"not a GGUF file.*b'PK"):
        Model(broken(tmp_path / "zip.gguf", b"PK\3\4" + b"x" * 100))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = broken(tmp_path / "secret.gguf", b"GGUF")
    path.chmod(0)
    with pytest.raises(ModelFileError, match="Permission denied"):
        Model(path)


def test_nul_in_a_path() -> None:
    with pytest.raises(ModelFileError, match="null byte"):
        Model("a\0b.gguf")


@pytest.mark.parametrize("size", [4, 8, 20, 24, 1_000, 20_000, 50_000, -1])
def test_a_truncated_file(model_path: Path, tmp_path: Path, size: int) -> None:
    """Cut in the header, in the metadata, in the tensors, and one byte short."""
    path = broken(tmp_path / "cut.gguf", model_path.read_bytes()[:size])
    with pytest.raises(ModelFileError, match=r"cannot load .*cut\.gguf") as caught:
        Model(path)
    assert caught.value.log, "the reason is missing"
    assert caught.value.message.startswith(f"cannot load {path}: it is ")


def test_a_link_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "loop.gguf"
    path.symlink_to(path)
    with pytest.raises(ModelFileError, match=r"cannot read .*loop\.gguf: Too many levels of symbolic links$"):
        Model(path)


def test_garbage_in_the_metadata(model_path: Path, tmp_path: Path) -> None:
    data = bytearray(model_path.read_bytes())
    data[24:200] = b"\xff" * 176
    with pytest.raises(ModelFileError) as caught:
        Model(broken(tmp_path / "garbage.gguf", bytes(data)))
    assert caught.value.log


def test_a_file_without_architecture(assets: Path) -> None:
    with pytest.raises(ModelFileError, match="architecture"):
        Model(assets / "models" / "dummy.gguf")
    with pytest.raises(ModelFileError):
        Model([assets / "models" / f"dummy-0000{i}-of-00002.gguf" for i in (1, 2)])


def test_a_file_that_is_no_language_model(assets: Path) -> None:
    with pytest.raises(ModelFileError, match="CLIP"):
        Model(assets / "models" / "mmproj-tinygemma3.gguf")


def test_a_vocabulary_without_weights(llama_cpp_models: Path) -> None:
    path = llama_cpp_models / "ggml-vocab-gpt-2.gguf"
    with pytest.raises(ModelFileError) as caught:
        Model(path)
    assert caught.value.log
    with Model(path, ModelOptions(vocab_only=True)) as vocab_only:
        with pytest.raises(ContextError, match="vocab_only"):
            Context(vocab_only)
        with pytest.raises(ContextError, match="vocab_only"):
            Llama(vocab_only)
        assert vocab_only.vocab.tokenize("hello").tolist() == [31373]


def test_no_files() -> None:
    with pytest.raises(ModelFileError, match="no model file"):
        Model([])


def test_a_failed_load_leaves_the_others_alone(usable: Context, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        Model(broken(tmp_path / "cut.gguf", b"GGUF\3\0\0\0"))


# -- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_mode": "fast"}, "load_mode must be one of"),
        ({"split_mode": "half"}, "split_mode must be one of"),
        ({"main_gpu": -1}, "main_gpu"),
        ({"tensor_split": [-1.0]}, "tensor_split"),
        ({"tensor_split": [float("nan")]}, "tensor_split"),
        ({"tensor_split": [1.0] * 1000}, "tensor_split"),
        ({"devices": ["no such device"]}, "no such device"),
        ({"kv_overrides": {"": 1}}, "1 to 127 bytes"),
        ({"kv_overrides": {"k" * 128: 1}}, "1 to 127 bytes"),
        ({"kv_overrides": {"k": 2**63}}, "64 bits"),
        ({"kv_overrides": {"k": "v" * 128}}, "127 bytes"),
    ],
)
def test_model_options(model_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Model(model_path, ModelOptions(**options))  # type: ignore[arg-type]


def test_an_override_of_another_type(model_path: Path) -> None:
    with pytest.raises(TypeError, match="bool, int, float or str"):
        Model(model_path, ModelOptions(kv_overrides={"k": None}))  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ctx": -1}, "n_ctx"),
        ({"n_ctx": 2**31}, "n_ctx must be an int from 0 to 2,147,483,647, got 2147483648"),
        ({"n_batch": 0}, "n_batch"),
        ({"n_ubatch": 0}, "n_ubatch"),
        ({"n_seq_max": 0}, "n_seq_max"),
        ({"n_seq_max": 100_000}, "n_seq_max must be at most"),
        ({"n_threads": 0}, "n_threads must be 1 to 512"),
        ({"n_threads_batch": 513}, "n_threads_batch must be 1 to 512"),
        ({"type_k": "f64"}, "type_k must be one of"),
        ({"type_v": "q9_0"}, "type_v must be one of"),
        ({"flash_attn": "maybe"}, "flash_attn must be one of"),
        ({"rope_scaling": "log"}, "rope_scaling must be one of"),
        ({"rope_freq_base": 0.0}, "rope_freq_base must be positive"),
        ({"rope_freq_scale": float("nan")}, "rope_freq_scale must be positive"),
    ],
)
def test_context_options(model: Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Context(model, ContextOptions(**options))  # type: ignore[arg-type]


def test_a_context_that_llama_cpp_refuses(model: Model) -> None:
    with pytest.raises(ContextError, match="cannot create a context") as caught:
        Context(model, ContextOptions(n_ctx=64, type_v="q8_0", flash_attn="disabled"))
    assert "flash" in "\n".join(caught.value.log).lower()


def test_unknown_options(llm: Llama, model: Model) -> None:
    with pytest.raises(TypeError, match="temprature"):
        llm.generate("a", temprature=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="n_context"):
        Llama(model, n_context=5)  # type: ignore[call-arg]


# -- closed


def test_a_closed_context(model: Model) -> None:
    context = Context(model, ContextOptions(n_ctx=64, n_threads=1))
    chain = SamplerChain([Greedy()], model.vocab)
    memory = context.memory
    context.decode(batch_of(1))
    view = context.outputs.logits_view()
    context.close()
    context.close()
    calls: list[Callable[[], object]] = [
        lambda: context.ptr,
        lambda: context.memory,
        lambda: context.decode(batch_of(1)),
        lambda: context.encode(batch_of(1)),
        lambda: context.outputs.logits(),
        lambda: context.outputs.logits_view(),
        lambda: context.synchronize(),
        lambda: context.set_threads(1),
        lambda: context.perf,
        lambda: context.perf_reset(),
        lambda: memory.clear(),
        lambda: memory.seq_rm(0),
        lambda: memory.seq_cp(0, 0),
        lambda: memory.seq_keep(0),
        lambda: memory.seq_pos_min(0),
        lambda: memory.can_shift,
        lambda: view.array,
        lambda: chain.sample(context),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="this Context is closed"):
            call()
    chain.close()


def test_a_closed_model(model_path: Path) -> None:
    model = Model(model_path)
    context = Context(model, ContextOptions(n_ctx=64, n_threads=1))
    chain = SamplerChain([Greedy()], model.vocab)
    model.close()
    assert model.closed
    assert context.closed
    assert chain.closed
    calls: list[Callable[[], object]] = [
        lambda: model.metadata,
        lambda: model.desc,
        lambda: model.n_params,
        lambda: model.chat_template(),
        lambda: Context(model),
        lambda: SamplerChain([Greedy()], model.vocab),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="this Model is closed"):
            call()


def test_a_closed_chain(context: Context) -> None:
    chain = SamplerChain([Greedy()], context.model.vocab)
    context.decode(batch_of(1))
    chain.close()
    chain.close()
    calls: list[Callable[[], object]] = [
        lambda: chain.sample(context),
        lambda: chain.accept(5),
        lambda: chain.reset(),
        lambda: chain.clone(),
        lambda: chain.apply(np.zeros(4, dtype=np.float32)),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="this SamplerChain is closed"):
            call()


def test_a_closed_llama(model: Model) -> None:
    llm = Llama(model, n_ctx=64, n_threads=1)
    stream = llm.stream("tana", max_tokens=5)
    next(stream)
    llm.close()
    llm.close()
    assert llm.closed
    with pytest.raises(ClosedError):
        llm.generate("tana")
    with pytest.raises(ClosedError):
        llm.stream("tana")
    with pytest.raises(ClosedError):
        next(stream)
    assert not model.closed


# -- batches


def test_a_batch_larger_than_n_batch(usable: Context) -> None:
    with pytest.raises(BatchError, match="1 to n_batch=64 tokens, not 65"):
        usable.decode(batch_of(*[5] * 65))


def test_an_empty_batch(usable: Context) -> None:
    with pytest.raises(BatchError, match="not 0"):
        usable.decode(Batch(4))


@pytest.mark.parametrize("token", [-1, 512, 2**31 - 1])
def test_a_token_out_of_range(usable: Context, token: int) -> None:
    with pytest.raises(TokenError, match=f"token {token} at index 1 is outside"):
        usable.decode(batch_of(5, token, 6))


@pytest.mark.parametrize("seq_id", [-1, 4, 100_000, 2**31 - 1])
def test_a_seq_id_beyond_n_seq_max(usable: Context, seq_id: int) -> None:
    with pytest.raises(BatchError, match=f"seq_id {seq_id} is outside 0 to 3"):
        usable.decode(batch_of(5, seq_id=seq_id))


@pytest.mark.parametrize("count", [0, -1, 2, 1_000_000])
@pytest.mark.parametrize("n", [1, 2])
def test_more_seq_ids_than_columns(usable: Context, count: int, n: int) -> None:
    batch = batch_of(*[5] * n)
    batch.n_seq_id[n - 1] = count
    with pytest.raises(BatchError, match=f"row {n - 1} has n_seq_id={count}"):
        usable.decode(batch)


@pytest.mark.parametrize("pos", [1, 7, -1, -2, 2**31 - 1])
def test_positions_that_do_not_follow(usable: Context, pos: int) -> None:
    usable.memory.clear()
    usable.decode(batch_of(5, 6, 7))
    with pytest.raises(BatchError) as caught:
        usable.decode(batch_of(8, pos=pos))
    assert caught.value.log


def test_a_full_memory(usable: Context) -> None:
    usable.memory.clear()
    for start in range(0, 256, 64):
        usable.decode(batch_of(*[5] * 64, pos=start))
    with pytest.raises(MemoryFullError, match="no room for 1 tokens in a memory of 256"):
        usable.decode(batch_of(5, pos=256))
    assert usable.memory.seq_pos_max(0) == 255


def test_a_batch_that_is_full() -> None:
    batch = batch_of(1, 2)
    with pytest.raises(BatchError, match="full"):
        batch.add(3, 2)
    with pytest.raises(BatchError, match="do not fit"):
        batch.extend([3], 2)


def test_encode_with_a_decoder(usable: Context) -> None:
    with pytest.raises(UnsupportedError, match="no encoder"):
        usable.encode(batch_of(1))


# -- two threads


def test_two_threads_in_one_context(usable: Context) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with usable.lock():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    calls: list[Callable[[], object]] = [
        lambda: usable.decode(batch_of(1)),
        lambda: usable.outputs.logits(),
        lambda: usable.memory.clear(),
        lambda: usable.set_threads(1),
    ]
    try:
        for call in calls:
            with pytest.raises(BusyError, match="another thread"):
                call()
    finally:
        leave.set()
        thread.join()


# -- sampling


def test_a_row_without_logits(usable: Context) -> None:
    usable.memory.clear()
    usable.decode(batch_of(5, 6, 7))
    with SamplerChain([Greedy()], usable.model.vocab) as chain:
        for row in (0, 3, -2, 2**31 - 1):
            with pytest.raises(BatchError, match=f"row {row} has no logits") as caught:
                usable.outputs.logits(row)
            assert caught.value.log
            with pytest.raises(BatchError, match=f"row {row} has no logits"):
                chain.sample(usable, row)
        assert chain.sample(usable) == int(usable.outputs.logits().argmax())


def test_a_row_before_any_decode(make_context: MakeContext) -> None:
    with pytest.raises(BatchError, match="row -1 has no logits"):
        make_context().outputs.logits()


@pytest.mark.parametrize("samplers", [[], [TopK(5)], [Greedy(), TopK(5)]])
def test_a_chain_that_selects_nothing(model: Model, samplers: list[TopK | Greedy]) -> None:
    with pytest.raises(SamplerError, match="must end in a sampler that selects"):
        SamplerChain(samplers, model.vocab)


BAD_GRAMMARS = {
    "open group": ('root ::= (', "pars"),
    "no such rule": ('root ::= other', "other"),
    "no root": ('start ::= "a"', "root"),
    "left recursion": ('root ::= root "a"', "recursion"),
    "empty": ("  ", "empty"),
    "NUL": ('root ::= "a\0"', "NUL"),
    "surrogate": ('root ::= "\ud800"', "surrogate"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_GRAMMARS)
def test_a_grammar_that_does_not_parse(llm: Llama, kind: str) -> None:
    text, reason = BAD_GRAMMARS[kind]
    with pytest.raises(GrammarError, match=f"(?s).*{reason}"):
        SamplerChain([Grammar(text), Greedy()], llm.model.vocab)
    with pytest.raises(GrammarError, match=f"(?s).*{reason}"):
        llm.generate("tana", grammar=text)
    assert llm.generate("tana", max_tokens=2).usage.completion_tokens == 2


def test_a_forbidden_accept(usable: Context) -> None:
    vocab = usable.model.vocab
    (a,) = (token for token in range(259, 512) if vocab.piece(token) == b"a")
    (b,) = (token for token in range(259, 512) if vocab.piece(token) == b"b")
    with SamplerChain([Grammar('root ::= "aa"'), Greedy()], vocab) as chain:
        chain.accept(a)
        with pytest.raises(GrammarError, match=f"cannot accept token {b}"):
            chain.accept(b)
        chain.reset()
        chain.accept(a)
        logits_after(usable)
        assert vocab.piece(chain.sample(usable)).startswith(b"a")


def test_an_accept_out_of_range(model: Model) -> None:
    with SamplerChain([Greedy()], model.vocab) as chain:
        for token in (-1, 512, 2**31):
            with pytest.raises(TokenError, match=f"token {token} is outside"):
                chain.accept(token)


# -- prompts


@pytest.fixture(scope="module")
def without_bos(model_path: Path) -> Iterator[Model]:
    with Model(model_path, ModelOptions(kv_overrides={"tokenizer.ggml.add_bos_token": False})) as model:
        yield model


def test_an_empty_prompt_to_a_model_without_bos(without_bos: Model, make_llama: MakeLlama) -> None:
    llm = make_llama(without_bos)
    with pytest.raises(PromptError, match="no tokens"):
        llm.generate("")
    with pytest.raises(PromptError, match="no tokens"):
        llm.stream("")
    with pytest.raises(PromptError, match="no tokens"):
        llm.generate(["tana", ""])
    assert llm.generate("tana", max_tokens=3).usage.completion_tokens == 3


def test_no_tokens(llm: Llama) -> None:
    with pytest.raises(PromptError, match="no tokens"):
        llm.generate(np.zeros(0, dtype=np.int32))
    nothing: list[str] = []
    assert len(llm.generate(nothing)) == 0


@pytest.mark.parametrize("overflow", ["error", "stop", "shift"])
def test_a_prompt_longer_than_the_context(make_llama: MakeLlama, overflow: str) -> None:
    llm = make_llama(n_ctx=256, overflow=overflow)
    with pytest.raises(ContextOverflowError, match="the prompt has 257 tokens; the context has room for 256"):
        llm.generate([5] * 257)
    assert llm.generate("tana", max_tokens=2).usage.completion_tokens == 2


def test_nul_and_surrogates_in_prompts(llm: Llama) -> None:
    with pytest.raises(TokenizeError, match="lone surrogate"):
        llm.generate("a\ud800")
    assert llm.generate("a\0b", max_tokens=2).usage.prompt_tokens > 3


def test_prompts_that_are_none(llm: Llama) -> None:
    untyped: Any = llm
    for prompt in (None, 5, b"bytes", [b"bytes"], [None]):
        with pytest.raises((TypeError, TokenError), match=r"must be|is a str"):
            untyped.generate(prompt)
        with pytest.raises((TypeError, TokenError), match=r"must be|is a str"):
            untyped.stream(prompt)
    with pytest.raises(TokenError, match="token 512 at index 1"):
        llm.generate([5, 512])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_tokens": -1}, ValueError),
        ({"max_tokens": 1.5}, ValueError),
        ({"stop": ""}, ValueError),
        ({"stop": ["a", ""]}, ValueError),
        ({"stop": [5.5]}, ValueError),
        ({"stop": [512]}, TokenError),
        ({"max_seconds": 0}, ValueError),
        ({"speculative": "guess"}, TypeError),
        ({"logit_bias": {" no token of this": 1.0}}, TokenError),
        ({"logprobs": -1}, ValueError),
        ({"overflow": "wrap"}, ValueError),
        ({"priority": 101}, ValueError),
        ({"priority": -101}, ValueError),
        ({"priority": 0.5}, ValueError),
        ({"temperature": float("nan")}, SamplerError),
        ({"temperature": float("inf")}, SamplerError),
        ({"top_p": 1.5}, SamplerError),
        ({"top_p": float("nan")}, SamplerError),
        ({"min_p": -0.1}, SamplerError),
        ({"top_k": 1.5}, SamplerError),
        ({"seed": -1}, SamplerError),
        ({"seed": 2**32 - 1}, SamplerError),
        ({"repeat_penalty": 0.0}, SamplerError),
        ({"repeat_last_n": -1}, SamplerError),
        ({"frequency_penalty": float("nan")}, SamplerError),
        ({"logit_bias": {512: 1.0}}, TokenError),
        ({"logit_bias": {5: float("nan")}}, SamplerError),
        ({"logit_bias": {5: float("inf")}}, SamplerError),
    ],
)
def test_generation_options(llm: Llama, options: dict[str, object], error: type[Exception]) -> None:
    untyped: Any = llm
    for call in (untyped.generate, untyped.stream):
        with pytest.raises(error):
            call("tana", **options)
    assert llm.generate("tana", max_tokens=2).usage.completion_tokens == 2
