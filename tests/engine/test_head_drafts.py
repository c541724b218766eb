"""Drafts from hidden states on real models: the heads of the model itself (MTP), and EAGLE-3 models."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import (
    Completion,
    Context,
    ContextOptions,
    DraftHeads,
    DraftModel,
    FinishReason,
    Llama,
    Model,
    ModelOptions,
)
from llama_cffi._native import hidden_states
from llama_cffi.core.batch import Batch
from llama_cffi.core.head_context import HeadContext
from llama_cffi.core.hidden_states import HEADED, TAPPED
from llama_cffi.core.paired_batch import PairedBatch
from llama_cffi.engine.beside import BesideModel
from llama_cffi.engine.drafters import DraftController
from llama_cffi.engine.head_drafts import HeadDrafts
from llama_cffi.errors import (
    BatchError,
    ClosedError,
    ContextError,
    DraftError,
    MemoryFullError,
    NativeError,
    UnsupportedError,
)
from tests.support.headed_models import Headed, write_eagle3_model, write_headed_model
from tests.support.random_model import Shape, write_random_model

pytest_plugins = ["tests.support.models"]
pytestmark = [
    pytest.mark.usefixtures("eager"),
    pytest.mark.skipif(hidden_states.lacking() is not None, reason="this libllama exports no hidden states"),
]

PROMPTS = ["tana nese", "mi ro", "ka ka ka", "tore", "sula mene"]
FEW = PROMPTS[:2]
LOAD = ModelOptions(load_mtp=True)
EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "disabled"}


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """Drafts are as long as they may be, however many are wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DraftController, "_best", lambda self, n_max, n_plain: n_max)
        yield


@dataclass(frozen=True)
class Pair:
    """A model, and what drafts for it."""

    model: Model
    draft: Any

    def open(self, **options: Any) -> Llama:
        fields = {"n_ctx": 512, "n_seq_max": 4, **options.pop("context", {})}
        context = ContextOptions(**EXACT, **fields)
        return Llama(self.model, context_options=context, n_threads=1, reproducible=True, **options)

    def drafting(self, **options: Any) -> Llama:
        return self.open(draft=self.draft, **options)


def any_head(**options: Any) -> DraftHeads:
    return DraftHeads(p_min=0.0, **options)


@pytest.fixture(scope="module")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Pair]]:
    folder, made = tmp_path_factory.mktemp("heads"), dict[tuple[str, str], Pair]()

    def make(kind: str, head: str = "random") -> Pair:
        if (kind, head) in made:
            return made[kind, head]
        path = folder / f"{kind}-{head}.gguf"
        if kind == "eagle3":
            # The second layer adds nothing: what goes into it is the state that the token is chosen from.
            write_random_model(path, Shape(), weights="f32", faint=(1, 0.0))
            draft = write_eagle3_model(folder / f"{head}-draft.gguf", path, (0, 1, 1), head=head)  # type: ignore[arg-type]
            pair = Pair(Model(path), DraftModel(model=draft, p_min=0.0))
        else:
            name, _, n_heads = kind.partition("-")
            shape = Headed(architecture=name, head=head, n_layer=1 if head == "right" else 2, n_heads=int(n_heads or 1))  # type: ignore[arg-type]
            pair = Pair(Model(write_headed_model(path, shape), LOAD), any_head())
        made[kind, head] = pair
        return pair

    yield make
    for pair in made.values():
        pair.model.close()


KINDS = ["glm4moe", "step35-3", "eagle3"]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, make_pair: Callable[..., Pair]) -> Pair:
    """A model whose heads have weights of their own."""
    return make_pair(request.param)


@pytest.fixture(scope="module")
def both(pair: Pair) -> Iterator[tuple[Llama, Llama]]:
    """The same model without and with drafts."""
    with pair.open() as plain, pair.drafting() as drafting:
        yield plain, drafting


def greedy(llm: Llama, prompt: Any, **options: Any) -> Completion:
    completion = llm.generate(prompt, **{"temperature": 0, "max_tokens": 20} | options)
    assert isinstance(completion, Completion)
    return completion


def drafts_of(llm: Llama) -> HeadDrafts:
    assert llm._runtime.draft is not None
    source = llm._runtime.draft.source
    assert isinstance(source, HeadDrafts)
    return source


def recorded(drafts: HeadDrafts, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """Each text that was drafted for from now on, and its draft."""
    found: list[tuple[list[int], list[int]]] = []
    propose = drafts.propose

    def record(tokens: Any, n_max: int, **options: Any) -> list[int]:
        draft = propose(tokens, n_max, **options)
        found.append((list(tokens), draft))
        return draft

    propose_all = drafts.propose_all

    def record_all(wanted: Any) -> list[list[int]]:
        texts = propose_all(wanted)
        found.extend((list(one.tokens), draft) for one, draft in zip(wanted, texts, strict=True))
        return texts

    monkeypatch.setattr(drafts, "propose", record)
    monkeypatch.setattr(drafts, "propose_all", record_all)
    return found


# -- the text does not change


def test_the_same_texts(both: tuple[Llama, Llama]) -> None:
    plain, drafting = both
    n_accepted = n_drafted = 0
    for prompt in FEW:
        alone, drafted = greedy(plain, prompt), greedy(drafting, prompt)
        assert drafted.tokens == alone.tokens
        speculation = drafted.speculation
        assert speculation is not None
        assert speculation.target_decodes + speculation.accepted_tokens == len(drafted.tokens)
        n_drafted += speculation.drafted_tokens
        n_accepted += speculation.accepted_tokens
    assert n_drafted > n_accepted


def test_many_at_once(both: tuple[Llama, Llama]) -> None:
    """Five texts on four sequences."""
    plain, drafting = both
    together = drafting.generate(PROMPTS, temperature=0, max_tokens=15)
    assert [done.tokens for done in together] == [greedy(plain, one, max_tokens=15).tokens for one in PROMPTS]


def test_several_texts_share_the_decodes_of_the_heads(both: tuple[Llama, Llama]) -> None:
    _, drafting = both
    context = drafts_of(drafting).context

    def computed(prompts: list[str]) -> int:
        before = context._door.n_computed
        drafting.generate(prompts, temperature=0, max_tokens=15)
        return int(context._door.n_computed - before)

    apart = sum(computed([prompt]) for prompt in PROMPTS[:4])
    assert computed(PROMPTS[:4]) < 0.4 * apart


def test_memory_in_parts(make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """Several sequences are computed in another order than that of the batch."""
    pair, parts = make_pair("glm4moe", "state"), {"kv_unified": False, "n_ctx": 1024}
    with pair.open(context=parts) as plain, pair.drafting(context=parts) as drafting:
        found = recorded(drafts_of(drafting), monkeypatch)
        together = drafting.generate(FEW, temperature=0, max_tokens=12)
        assert [one.tokens for one in together] == [greedy(plain, one, max_tokens=12).tokens for one in FEW]
    assert sum(len(draft) for _, draft in found) > 20
    assert all(set(draft) <= {text[-1]} for text, draft in found)


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": 1.3},
        {"grammar": 'root ::= " " [a-z]+ (" " [a-z]+)* "."'},
        {"schema": {"enum": ["tana nese", "mi ro tore", "nesetana"]}},
        {"stop": ["ta", "ne"]},
        {"logprobs": 2},
        {"seed": 3, "temperature": 1.2},
    ],
    ids=lambda options: "-".join(options),
)
def test_with_everything_that_chooses(both: tuple[Llama, Llama], options: dict[str, Any]) -> None:
    plain, drafting = both
    alone, drafted = (greedy(llm, "tana nese", **options) for llm in (plain, drafting))
    assert (drafted.text, drafted.tokens, drafted.finish_reason) == (alone.text, alone.tokens, alone.finish_reason)
    assert drafted.stop_sequence == alone.stop_sequence


def test_a_conversation_and_texts_that_begin_alike(both: tuple[Llama, Llama]) -> None:
    texts = []
    for llm in both:
        prompt = llm.tokenize("tana nese mi ro ka").tolist()
        found = []
        for n in (12, 16, 8):
            done = greedy(llm, prompt, max_tokens=n)
            found.append(done.tokens)
            prompt += [*done.tokens, 300 + n]
        # Shares a beginning with what is in memory, and goes back in the text.
        found += [done.tokens for done in llm.generate([prompt[:n] for n in (9, 30, 40)], temperature=0, max_tokens=9)]
        texts.append(found)
    assert texts[0] == texts[1]


def test_cancelled_in_the_middle(both: tuple[Llama, Llama]) -> None:
    plain, drafting = both
    stream = drafting.stream("tana nese", temperature=0, max_tokens=60)
    for _ in range(7):
        next(stream)
    stream.close()
    assert greedy(drafting, "tana nese").tokens == greedy(plain, "tana nese").tokens


def test_small_batches(pair: Pair) -> None:
    """A prompt is computed in pieces, by the target and by the heads."""
    small = {"n_batch": 8, "n_ubatch": 8, "n_seq_max": 2}
    prompt = [1, *range(300, 340)]
    with pair.open(context=small) as plain, pair.drafting(context=small) as drafting:
        assert greedy(drafting, prompt).tokens == greedy(plain, prompt).tokens


def test_a_shift_of_the_context(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("glm4moe")
    options: dict[str, Any] = {"max_tokens": 70, "overflow": "shift"}
    prompt = [1, *range(260, 470)]
    small = {"n_ctx": 256, "n_seq_max": 1}
    with pair.open(context=small) as plain, pair.drafting(context=small) as drafting:
        alone, drafted = greedy(plain, prompt, **options), greedy(drafting, prompt, **options)
    assert len(drafted.tokens) == 70
    # After a shift rounding differs with the batch size; until then nothing does.
    assert drafted.tokens[:40] == alone.tokens[:40]


def test_a_model_with_recurrent_layers(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("qwen35")
    with pair.open() as plain, pair.drafting() as drafting:
        try:
            drafted = [greedy(drafting, prompt) for prompt in FEW]
        except UnsupportedError as error:
            pytest.skip(str(error))
        assert [one.tokens for one in drafted] == [greedy(plain, prompt).tokens for prompt in FEW]
        assert sum(one.speculation.drafted_tokens for one in drafted if one.speculation is not None) > 0


# -- what the heads are given


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_given_the_state_before_the_token(
    kind: str, make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that passes its state on drafts the token that was chosen from that state: the last one."""
    pair = make_pair(kind, "state")
    with pair.open() as plain, pair.drafting() as drafting:
        found = recorded(drafts_of(drafting), monkeypatch)
        together = drafting.generate(FEW, temperature=0, max_tokens=15)
        assert [one.tokens for one in together] == [greedy(plain, one, max_tokens=15).tokens for one in FEW]
    assert sum(len(draft) for _, draft in found) > 20
    for text, draft in found:
        assert set(draft) <= {text[-1]}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_computed_piece_by_piece_is_what_one_computation_gives(
    kind: str, make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(kind)
    with pair.drafting() as drafting, pair.drafting() as other:
        found = recorded(drafts_of(drafting), monkeypatch)
        texts = drafting.generate(PROMPTS, temperature=0, max_tokens=12)
        # Goes on with what is in memory, and goes back in a text.
        again = [
            [*drafting.tokenize(one).tolist(), *done.tokens, 333] for one, done in zip(PROMPTS, texts, strict=True)
        ]
        greedy(drafting, again[0], max_tokens=8)
        greedy(drafting, again[1][:-6], max_tokens=8)
        found = [one for one in found if one[1]][::4]
        assert len(found) >= 5
        equal = 0
        for text, draft in found:
            context, fresh = other.context, drafts_of(other)
            context.memory.clear()
            fresh._clear()
            batch = Batch(len(text))
            batch.extend(text[:-1], 0)
            context.decode(batch)
            equal += fresh.propose(text, len(draft), seq_id=0, begins=True) == draft
    # Two tokens may be nearly equally likely, and batches of another size round differently.
    assert equal >= 0.9 * len(found)


def test_a_head_that_is_right(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("glm4moe", "right")
    with pair.open() as plain, pair.drafting() as drafting:
        for prompt in FEW:
            alone, drafted = greedy(plain, prompt, max_tokens=60), greedy(drafting, prompt, max_tokens=60)
            assert drafted.tokens == alone.tokens
            assert drafted.speculation is not None
            assert drafted.speculation.acceptance > 0.95
            assert drafted.speculation.target_decodes < 0.3 * len(drafted.tokens)
        together = drafting.generate(FEW, temperature=0, max_tokens=20)
        assert all(one.speculation is not None and one.speculation.acceptance > 0.95 for one in together)


def test_a_draft_ends_where_the_heads_are_unsure(make_pair: Callable[..., Pair]) -> None:
    model, rates = make_pair("glm4moe").model, []
    for p_min in (0.0, 0.3, 0.9):
        with Pair(model, DraftHeads(p_min=p_min)).drafting() as llm:
            speculation = greedy(llm, "tana nese", seed=1, temperature=0.8).speculation
        assert speculation is not None
        rates.append(speculation.drafted_tokens)
    assert rates[0] > rates[1] > rates[2]


@pytest.mark.parametrize("kind", KINDS)
def test_heads_share_what_the_target_shares(kind: str, make_pair: Callable[..., Pair]) -> None:
    """Texts that begin alike, side by side: each has the pairs of the whole text."""
    beginning = [1, *range(300, 330)]
    prompts = [[*beginning, token] for token in (331, 332, 333)]
    with make_pair(kind).open() as plain, make_pair(kind).drafting() as llm:
        greedy(llm, prompts[0], max_tokens=4)
        found = llm.generate(prompts, temperature=0, max_tokens=8)
        assert [one.tokens for one in found] == [greedy(plain, prompt, max_tokens=8).tokens for prompt in prompts]
        assert min(one.usage.cached_tokens for one in found) >= len(beginning) - 1
        drafts, memory = drafts_of(llm), drafts_of(llm).context.memory
        first = 1 - drafts._shift
        held = [seq_id for seq_id in range(4) if memory.seq_pos_max(seq_id) is not None]
        assert len(held) == 3
        for seq_id in held:
            assert drafts._trails[seq_id].start == 0
            assert memory.seq_pos_min(seq_id) == first
            assert drafts._trails[seq_id].tokens[: len(beginning)] == beginning


def test_as_many_tokens_as_there_are_heads(make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, n in (("step35-3", 3), ("step35", 8)):
        with make_pair(kind).drafting() as llm:
            found = recorded(drafts_of(llm), monkeypatch)
            greedy(llm, "tana nese")
        assert max(len(draft) for _, draft in found) == n


# -- where they come from


def test_heads_in_a_file_of_their_own(tmp_path: Path) -> None:
    shape = Headed(head="right", n_layer=1)
    whole = write_headed_model(tmp_path / "whole.gguf", shape)
    heads = write_headed_model(tmp_path / "heads.gguf", shape, trunk=False)
    with Llama(whole, draft=any_head(), n_ctx=256, n_threads=1) as llm:
        expected = greedy(llm, "tana nese")
    for draft in (DraftModel(model=heads, p_min=0.0), any_head(model=heads)):
        with Model(heads, LOAD) as alone, pytest.raises(ContextError, match="only layers that predict further tokens"):
            Context(alone, ContextOptions(n_ctx=256, n_threads=1))
        beside = BesideModel(whole, {"draft": draft})
        assert beside.bytes_on(ContextOptions(n_ctx=256)) == {}
        with Llama(whole, draft=draft, n_ctx=256, n_threads=1) as llm:
            assert not llm.model.options.load_mtp
            done = greedy(llm, "tana nese")
        assert done.tokens == expected.tokens
        assert done.speculation is not None
        assert done.speculation.acceptance > 0.95


def test_layers_that_draft_are_loaded_for_drafts_only(tmp_path: Path) -> None:
    path = write_headed_model(tmp_path / "model.gguf", Headed())
    with Llama(path, n_ctx=256, n_threads=1) as plain, Llama(path, draft="mtp", n_ctx=256, n_threads=1) as drafting:
        assert (plain.model.options.load_mtp, drafting.model.options.load_mtp) == (False, True)
        assert drafting.model.size >= plain.model.size
        assert greedy(drafting, "tana nese").tokens == greedy(plain, "tana nese").tokens


def test_a_fork_has_heads_of_its_own(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("glm4moe", "right")
    with pair.drafting() as llm:
        first = greedy(llm, "tana nese", max_tokens=20)
        with llm.fork() as twin:
            assert drafts_of(twin) is not drafts_of(llm)
            texts = [greedy(one, "tana nese", max_tokens=20) for one in (twin, llm)]
            context = drafts_of(twin).context
        assert context.closed
    assert [one.tokens for one in texts] == [first.tokens] * 2


def test_what_was_opened_is_closed(make_pair: Callable[..., Pair]) -> None:
    for kind in ("glm4moe", "eagle3"):
        with make_pair(kind).drafting() as llm:
            drafts = drafts_of(llm)
            greedy(llm, "tana")
        assert drafts.context.closed
        drafts.close()
        with pytest.raises(ClosedError):
            drafts.context.ptr  # noqa: B018


def test_heads_do_not_keep_their_target(make_pair: Callable[..., Pair]) -> None:
    llm = make_pair("glm4moe").drafting()
    drafts = weakref.ref(drafts_of(llm))
    target = llm.context
    assert llm._runtime.draft is not None
    llm._runtime.draft.close()
    llm._runtime.draft = None
    gc.collect()
    assert drafts() is None
    assert target.watch is None
    assert len(greedy(llm, "tana", max_tokens=5, speculative=False).tokens) == 5
    llm.close()


def test_a_full_memory_costs_drafts_only(both: tuple[Llama, Llama], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, drafting = both
    calls = []

    def full(*args: Any, **options: Any) -> None:
        calls.append(args)
        raise MemoryFullError("no room", code=1)

    with monkeypatch.context() as patch:
        patch.setattr(drafts_of(drafting).context, "decode", full)
        done = greedy(drafting, "mi ro")
    assert calls
    assert done.tokens == greedy(plain, "mi ro").tokens
    assert done.speculation is not None
    assert done.speculation.drafted_tokens == 0
    again = greedy(drafting, "mi ro")
    assert again.tokens == done.tokens
    assert again.speculation is not None
    assert again.speculation.drafted_tokens > 0


def test_a_request_without_drafts(both: tuple[Llama, Llama]) -> None:
    plain, drafting = both
    done = greedy(drafting, "tore", speculative=False)
    assert done.speculation is None
    assert done.tokens == greedy(drafting, "tore").tokens == greedy(plain, "tore").tokens
    assert done.finish_reason is FinishReason.LENGTH


# -- what is refused


def test_models_without_heads(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"does not compute heads .* of llama models"):
        Llama(model, draft="mtp", n_ctx=256, n_threads=1)
    path = write_headed_model(tmp_path / "headed.gguf", Headed())
    with Model(path) as loaded, pytest.raises(UnsupportedError, match="load_mtp=True"):
        Llama(loaded, draft="mtp", n_ctx=256, n_threads=1)


def test_a_library_that_does_not_compute_these_heads(
    make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NativeError("llama_decode: no such graph")

    monkeypatch.setattr(HeadContext, "decode", fail)
    with pytest.raises(UnsupportedError, match="does not compute the heads of glm4moe models: llama_decode"):
        make_pair("glm4moe").drafting()


def test_an_eagle3_model_for_another_target(make_pair: Callable[..., Pair], tmp_path: Path) -> None:
    pair = make_pair("eagle3")
    deep = write_eagle3_model(tmp_path / "deep.gguf", pair.model.path, (0, 1, 9))
    with pytest.raises(UnsupportedError, match="layers 0, 1, 9, and the model has 2"):
        Llama(pair.model, draft=deep, n_ctx=256, n_threads=1)
    last = write_eagle3_model(tmp_path / "last.gguf", pair.model.path, (0, 1, 2))
    with pytest.raises(UnsupportedError, match="output of the last layer of llama models"):
        Llama(pair.model, draft=last, n_ctx=256, n_threads=1)
    with pytest.raises(UnsupportedError, match="inputs of layers of glm4moe"):
        Llama(make_pair("glm4moe").model, draft=pair.draft.model, n_ctx=256, n_threads=1)
    other = write_random_model(tmp_path / "other.gguf", Shape(n_vocab=900))
    with Model(other) as target, pytest.raises(DraftError, match="tokens"):
        Llama(target, draft=pair.draft.model, n_ctx=256, n_threads=1)


def test_what_only_drafts_has_no_context_of_its_own(make_pair: Callable[..., Pair]) -> None:
    with Model(make_pair("eagle3").draft.model) as alone, pytest.raises(ContextError, match="drafts for another model"):
        Context(alone, ContextOptions(n_ctx=256, n_threads=1))


def test_arguments(model: Model) -> None:
    for bad in ({"n_draft": 0}, {"p_min": 2.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DraftHeads(**bad)
    with pytest.raises(TypeError, match="opens it once"):
        Llama(model, n_ctx=256, n_threads=1).generate("a", speculative=DraftHeads())  # type: ignore[call-overload]


def test_batches_of_another_context(make_pair: Callable[..., Pair]) -> None:
    """llama.cpp would read past a row, or compute with what is not there."""
    with make_pair("glm4moe").drafting() as llm:
        heads = drafts_of(llm).context
        with llm.context.lock():
            plain = Batch(1)
            plain.single(5, 0, 0)
            with pytest.raises(BatchError, match="64 numbers beside each token, and the batch has 0"):
                heads.decode(plain)
            for context, width in ((heads, 32), (llm.context, 64)):
                batch = PairedBatch(1, width)
                batch.single(5, 0, 0)
                with pytest.raises(BatchError, match="numbers beside each token"):
                    context.decode(batch)


# -- what llama.cpp has


def test_the_architectures_are_those_of_the_source(llama_cpp_models: Path) -> None:
    """An architecture on a list that llama.cpp does not treat so would end in an assertion, or compute nonsense."""
    source = llama_cpp_models.parent / "src" / "models"
    if not source.is_dir():
        pytest.skip("no source of llama.cpp")
    files = {path.stem.replace("-", "").replace("_", ""): path.read_text() for path in source.glob("*.cpp")}
    names = {"gpt-oss": "openaimoe"}

    def having(word: str) -> set[str]:
        return {name for name, text in files.items() if word in text}

    def flat(architectures: frozenset[str]) -> set[str]:
        return {names.get(one, one).replace("-", "").replace("_", "") for one in architectures}

    assert flat(HEADED) == having("LLM_GRAPH_TYPE_DECODER_MTP")
    assert flat(TAPPED) == having("t_layer_inp")
