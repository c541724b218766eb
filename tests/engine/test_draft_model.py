"""Speculative decoding on real models: the text of the target alone, in fewer of its decodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llama_cffi import Completion, ContextOptions, FinishReason, Llama, Model, ModelOptions
from llama_cffi.engine.draft_model import DraftModel, ModelDrafts, check_vocabulary
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.errors import ClosedError, DraftError, MemoryFullError, ModelNotFoundError
from tests.support.quantized import write_q8_0
from tests.support.random_model import Shape, write_random_model

if TYPE_CHECKING:
    from tests.support.models import MakeLlama

pytest_plugins = ["tests.support.models", "tests.support.steady_clock"]
pytestmark = pytest.mark.usefixtures("steady_clock")

PROMPTS = ["Once upon a time", "Lily and Ben", "One day, a big dog", "The sun", "Once upon a time, there was a frog"]


@pytest.fixture(scope="module")
def draft_path(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K in Q8_0."""
    return write_q8_0(assets / "models" / "stories260K.gguf", tmp_path_factory.mktemp("draft") / "q8_0.gguf")


@pytest.fixture(scope="module")
def speculating(stories: Model, draft_path: Path, steady_clock: None) -> Iterator[Llama]:
    with Llama(stories, draft=draft_path, n_ctx=1024, n_threads=1, n_seq_max=4) as llm:
        yield llm


def greedy(llm: Llama, prompt: Any, **options: Any) -> Completion:
    completion = llm.generate(prompt, **{"temperature": 0, "max_tokens": 100} | options)
    assert isinstance(completion, Completion)
    return completion


# -- a draft model


def test_the_same_text_in_fewer_decodes(speculating: Llama, stories: Model, make_llama: MakeLlama) -> None:
    plain = make_llama(stories, n_ctx=1024)
    for prompt in PROMPTS:
        alone, drafted = greedy(plain, prompt), greedy(speculating, prompt)
        assert drafted.tokens == alone.tokens
        assert alone.speculation is None
        speculation = drafted.speculation
        assert speculation is not None
        assert speculation.target_decodes < 0.6 * len(drafted.tokens)
        assert speculation.target_decodes + speculation.accepted_tokens == len(drafted.tokens)
        assert speculation.acceptance > 0.8


def test_the_target_is_computed_that_often(speculating: Llama) -> None:
    generations = speculating.context._door.n_computed
    done = greedy(speculating, "The moon")
    assert done.speculation is not None
    assert speculating.context._door.n_computed - generations == done.speculation.target_decodes


def test_many_that_draft(speculating: Llama, stories: Model, make_llama: MakeLlama) -> None:
    """Five texts on four sequences: a twin in the draft's memory serves one text after the other."""
    together = speculating.generate(PROMPTS, temperature=0, max_tokens=60)
    plain = make_llama(stories, n_ctx=1024)
    assert [done.tokens for done in together] == [greedy(plain, prompt, max_tokens=60).tokens for prompt in PROMPTS]


def test_several_texts_share_the_decodes_of_the_draft_model(speculating: Llama) -> None:
    assert speculating._runtime.draft is not None
    drafts = speculating._runtime.draft.source
    assert isinstance(drafts, ModelDrafts)

    def computed(prompts: Any) -> int:
        before = drafts.context._door.n_computed
        speculating.generate(prompts, temperature=0, max_tokens=60)
        return int(drafts.context._door.n_computed - before)

    apart = [computed([prompt]) for prompt in PROMPTS[:4]]
    together = computed(PROMPTS[:4])
    # Those that accept more of their drafts end sooner: the last ones draft with fewer others.
    assert max(apart) <= together < 0.5 * sum(apart)


def test_a_full_draft_memory_of_several_texts(speculating: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [greedy(speculating, prompt, speculative=False, max_tokens=40).tokens for prompt in PROMPTS[:3]]
    assert speculating._runtime.draft is not None
    drafts, n_decodes = speculating._runtime.draft.source, 0
    assert isinstance(drafts, ModelDrafts)
    decode = drafts.context.decode

    def full(*args: Any, **options: Any) -> None:
        nonlocal n_decodes
        n_decodes += 1
        if n_decodes % 3 == 0:
            raise MemoryFullError("no room", code=1)
        decode(*args, **options)

    monkeypatch.setattr(drafts.context, "decode", full)
    together = speculating.generate(PROMPTS[:3], temperature=0, max_tokens=40)
    assert n_decodes > 3
    assert [list(one.tokens) for one in together] == [list(tokens) for tokens in alone]
    assert all(one.speculation is not None and one.speculation.accepted_tokens for one in together)


def test_the_same_seed_draws_the_same_text(stories: Model, draft_path: Path) -> None:
    # In half precision a row differs with the size of its batch, by enough to move a draw now and then.
    exact = ContextOptions(n_ctx=512, type_k="f32", type_v="f32", flash_attn="disabled")
    with Llama(stories, draft=draft_path, context_options=exact, n_threads=1) as llm:
        for seed in range(5):
            alone, drafted = (llm.generate("Once", seed=seed, max_tokens=60, speculative=on) for on in (False, True))
            assert drafted.tokens == alone.tokens


def test_the_distribution_is_the_targets(make_llama: MakeLlama, model: Model) -> None:
    """The second and third token, one chosen where the draft begins, the other behind an accepted draft."""
    llm = make_llama(draft=DraftModel(model=model, p_min=0.0))
    prompt = llm.tokenize("tana nese").tolist()
    best = greedy(llm, prompt, max_tokens=2).tokens
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 3, "top_p": 1.0, "min_p": 0.0}
    texts = [llm.generate(prompt, seed=seed, max_tokens=3, **options).tokens for seed in range(2000)]
    for n in (1, 2):
        rows = llm.generate([*prompt, *best[:n]], max_tokens=1, logprobs=3, speculative=False).logprobs
        assert rows is not None
        weights = {token: float(np.exp(value)) for token, value in rows[0].top}
        counts = Counter(tokens[n] for tokens in texts if tokens[:n] == best[:n])
        assert set(counts) <= set(weights)
        means = {token: counts.total() * weight / sum(weights.values()) for token, weight in weights.items()}
        assert counts.total() > 200
        # Two degrees of freedom: mean 2, standard deviation 2.
        assert sum((counts[token] - mean) ** 2 / mean for token, mean in means.items()) < 14


def test_drafts_end_where_the_draft_model_is_unsure(stories: Model, draft_path: Path) -> None:
    rates = []
    for p_min in (0.0, 0.5, 0.95):
        with Llama(stories, draft=DraftModel(model=draft_path, p_min=p_min), n_ctx=512, n_threads=1) as llm:
            speculation = llm.generate("Once upon a time", seed=1, max_tokens=150, temperature=1.0).speculation
        assert speculation is not None
        rates.append(speculation.acceptance)
    assert rates[0] < rates[1] < rates[2]


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": 1.3},
        {"grammar": 'root ::= " " [a-z]+ (" " [a-z]+)* "."'},
        {"stop": ["was", " the"]},
        {"logprobs": 2},
        {"logit_bias": {300: 2.0}},
        {"grammar": "root ::= [a-z ]+", "seed": 3, "temperature": 1.2},
    ],
    ids=lambda options: "-".join(options),
)
def test_with_everything_that_chooses(speculating: Llama, options: dict[str, Any]) -> None:
    alone = greedy(speculating, "Once upon a time", **options, speculative=False)
    drafted = greedy(speculating, "Once upon a time", **options)
    assert (drafted.text, drafted.tokens, drafted.finish_reason, drafted.stop_sequence) == (
        alone.text,
        alone.tokens,
        alone.finish_reason,
        alone.stop_sequence,
    )
    if alone.logprobs is not None:
        assert drafted.logprobs is not None
        for one, other in zip(alone.logprobs, drafted.logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=5e-3)


def test_streaming_gives_every_token_a_chunk(speculating: Llama) -> None:
    chunks = list(speculating.stream("Once", temperature=0, max_tokens=30))
    assert [len(chunk.tokens) for chunk in chunks] == [1] * 30
    assert chunks[-1].completion is not None
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].completion.text


def test_a_shift_moves_the_target_only(stories: Model, draft_path: Path, make_llama: MakeLlama) -> None:
    options: dict[str, Any] = {"max_tokens": 400, "overflow": "shift"}
    alone = greedy(make_llama(stories, n_ctx=256, n_seq_max=1), "Once", **options)
    done = greedy(make_llama(stories, n_ctx=256, n_seq_max=1, draft=draft_path), "Once", **options)
    assert len(done.tokens) == 400
    # After a shift rounding differs with the batch size; until then nothing does.
    assert done.tokens[:200] == alone.tokens[:200]
    assert done.speculation is not None
    assert done.speculation.acceptance > 0.5


def test_a_full_draft_memory_costs_drafts_only(speculating: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = greedy(speculating, PROMPTS[0], speculative=False)
    assert speculating._runtime.draft is not None
    drafts = speculating._runtime.draft.source
    assert isinstance(drafts, ModelDrafts)
    calls = []

    def full(*args: Any) -> list[int]:
        calls.append(args)
        raise MemoryFullError("no room", code=1)

    monkeypatch.setattr(drafts, "_draft", full)
    done = greedy(speculating, PROMPTS[0])
    assert calls
    assert done.tokens == alone.tokens
    assert done.speculation is not None
    assert done.speculation.drafted_tokens == 0


def test_batches_smaller_than_the_text(stories: Model, draft_path: Path, make_llama: MakeLlama) -> None:
    text = greedy(make_llama(stories), "Once upon a time", max_tokens=60).text
    options: dict[str, Any] = {"n_batch": 8, "n_ubatch": 8}
    alone = greedy(make_llama(stories, **options), "Once upon a time" + text, max_tokens=40)
    done = greedy(make_llama(stories, draft=draft_path, **options), "Once upon a time" + text, max_tokens=40)
    assert done.tokens == alone.tokens


# -- prompt lookup


@pytest.mark.parametrize("kv_unified", [True, False])
def test_prompt_lookup_on_a_text_that_repeats(stories: Model, make_llama: MakeLlama, kv_unified: bool) -> None:
    llm = make_llama(stories, draft="lookup", context_options=ContextOptions(n_ctx=2048, kv_unified=kv_unified))
    once = greedy(llm, "Once upon a time", max_tokens=80).text
    prompt = f"Once upon a time{once}\nOnce upon a time"
    alone, done = greedy(llm, prompt, max_tokens=80, speculative=False), greedy(llm, prompt, max_tokens=80)
    assert done.tokens == alone.tokens
    assert done.speculation is not None
    assert done.speculation.target_decodes < len(done.tokens)


def test_one_request_may_have_its_own(llm: Llama) -> None:
    plain = greedy(llm, "tana nese")
    assert plain.speculation is None
    for source in ("lookup", PromptLookup(n_draft=3, min_ngram=1)):
        done = greedy(llm, "tana nese", speculative=source)
        assert done.tokens == plain.tokens
        assert done.speculation is not None


# -- what is refused


def test_another_vocabulary(make_llama: MakeLlama, stories: Model, model: Model, tmp_path: Path) -> None:
    with pytest.raises(DraftError, match=r"token \d+ is "):
        make_llama(stories, draft=model)
    larger = write_random_model(tmp_path / "larger.gguf", Shape(n_vocab=700))
    with pytest.raises(DraftError, match="700 tokens and the model 512"):
        make_llama(draft=larger)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.add_bos_token", False, "add_bos=False, not True"),
        ("tokenizer.ggml.bos_token_id", 5, "BOS is 5, not 1"),
        ("tokenizer.ggml.add_eos_token", True, "add_eos=True, not False"),
    ],
)
def test_the_same_tokens_used_otherwise(model: Model, model_path: Path, key: str, value: Any, message: str) -> None:
    with (
        Model(model_path, ModelOptions(vocab_only=True, kv_overrides={key: value})) as other,
        pytest.raises(DraftError, match=message),
    ):
        check_vocabulary(model.vocab, other.vocab)


def test_another_kind_of_vocabulary(model: Model, llama_cpp_models: Path) -> None:
    with (
        Model(llama_cpp_models / "ggml-vocab-gpt-2.gguf", ModelOptions(vocab_only=True)) as other,
        pytest.raises(DraftError, match="type BPE, not SPM"),
    ):
        check_vocabulary(model.vocab, other.vocab)


def test_padding_at_the_end_of_a_vocabulary(make_llama: MakeLlama, llm: Llama, tmp_path: Path) -> None:
    """The draft model has 20 tokens less or more: what only one of them has is neither fed nor drafted."""
    for n_vocab in (492, 532):
        other = write_random_model(tmp_path / f"{n_vocab}.gguf", Shape(n_vocab=n_vocab), seed=3)
        small = make_llama(draft=DraftModel(model=other, p_min=0.0))
        for prompt in ([1, 300, 301], [1, 500, 301]):
            done = greedy(small, prompt)
            assert done.tokens == greedy(llm, prompt).tokens
            assert done.speculation is not None
            assert (done.speculation.drafted_tokens == 0) == (n_vocab == 492 and 500 in prompt)


def test_arguments_that_are_no_draft(llm: Llama, make_llama: MakeLlama, tmp_path: Path, model: Model) -> None:
    with pytest.raises(ValueError, match="opened with draft="):
        llm.generate("tana", speculative=True)
    with pytest.raises(TypeError, match="opens it once"):
        llm.generate("tana", speculative=model)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="draft source"):
        llm.generate("tana", speculative=7)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="draft source"):
        make_llama(draft=PromptLookup)
    with pytest.raises(ModelNotFoundError):
        make_llama(draft=tmp_path / "nothing.gguf")
    with pytest.raises(ValueError, match="p_min"):
        DraftModel(model=model, p_min=2.0)
    with pytest.raises(ValueError, match="n_draft"):
        DraftModel(model=model, n_draft=0)


def test_what_was_opened_is_closed(model: Model, model_path: Path) -> None:
    with Llama(model, draft=model_path, n_ctx=256, n_threads=1) as llm:
        opened = llm._runtime.draft
        assert opened is not None
        assert isinstance(opened.source, ModelDrafts)
        context = opened.source.context
        owned = context.model
    assert context.closed
    assert owned.closed
    with Llama(model, draft=model, n_ctx=256, n_threads=1) as llm:
        pass
    assert not model.closed


@pytest.mark.usefixtures("all_processors")
def test_both_compute_with_the_same_threads(make_llama: MakeLlama, model_path: Path) -> None:
    """Two pools that take turns would wait busily for each other, and a token would take ten times as long."""
    llm = make_llama(draft=model_path, n_threads=2)
    assert llm._runtime.draft is not None
    assert isinstance(llm._runtime.draft.source, ModelDrafts)
    context = llm._runtime.draft.source.context
    assert context.n_threads == 2
    assert context._threads._pools == llm.context._threads._pools
    greedy(llm, "tana")
    llm.context.set_threads(1)
    greedy(llm, "tana")
    context.close()
    assert greedy(llm, "tana", speculative=False).usage.completion_tokens == 100
    llm = make_llama(draft=model_path, n_threads=2)
    assert isinstance(llm._runtime.draft.source, ModelDrafts)  # type: ignore[union-attr]
    llm.context.close()
    assert llm._runtime.draft.source.context.closed, "the threads are gone"  # type: ignore[union-attr]


def test_a_draft_model_that_is_closed_ends_the_request(make_llama: MakeLlama, model_path: Path) -> None:
    with Model(model_path) as other:
        llm = make_llama(draft=DraftModel(model=other, p_min=0.0))
        stream = llm.stream("tana", max_tokens=50)
        next(stream)
    with pytest.raises(ClosedError):
        list(stream)
    done = llm.generate("tana", max_tokens=3, speculative=False)
    assert done.finish_reason is FinishReason.LENGTH
