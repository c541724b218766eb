"""Every call that takes media: what is reused, saved, refused, and left as text."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import AsyncLlama, Audio, Image, Llama, PromptCache, Video
from llama_cffi.core.prompt import Prompt
from llama_cffi.errors import (
    ContextOverflowError,
    MediaError,
    ModelNotFoundError,
    PromptError,
    TemplateError,
    UnsupportedError,
)
from llama_cffi.spec import ChatSpec, GenerateSpec
from tests.support.media_kinds import TEMPLATE, Kind, open_llama, tone, write_kind
from tests.support.pictures import pictures, scene

JPEG = pictures()["rotated"]
CAT, DOG = Image(scene(40, 30, 1)), Image(scene(30, 40, 2))
TAIL = (9, 10)
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 4}
CHAT: dict[str, Any] = {**GREEDY, "chat_template": TEMPLATE}


@pytest.fixture(scope="module", params=["qwen2vl", pytest.param("gemma3", marks=pytest.mark.conformance)])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Kind:
    return write_kind(tmp_path_factory.mktemp("media"), request.param, assets)


@pytest.fixture(scope="module")
def llm(kind: Kind) -> Iterator[Llama]:
    with open_llama(kind) as llm:
        yield llm


def encoded(llm: Llama) -> int:
    encoder = llm._runtime.engine._runner.encoder
    assert encoder is not None
    return encoder.n_encoded


# -- what is reused


def test_a_second_question_costs_neither_an_encoding_nor_a_prefill(kind: Kind) -> None:
    with open_llama(kind) as llm:
        first = llm.generate(["A cat: ", CAT, " Which?"], **GREEDY)
        second = llm.generate(["A cat: ", CAT, " Where?"], **GREEDY)
        shared = next(i for i, (a, b) in enumerate(zip(first.prompt, second.prompt, strict=True)) if a != b)
        assert second.usage.cached_tokens == shared > first.prompt.media[-1].end - 1
        assert encoded(llm) == 1
        # In a conversation, too, and not another image.
        llm.chat([{"role": "user", "content": [CAT, "Which?"]}], **CHAT)
        assert encoded(llm) == 1
        llm.generate(["A cat: ", DOG, " Which?"], **GREEDY)
        assert encoded(llm) == 2
        assert llm.generate(["A cat: ", DOG, " Which?"], reuse=False, **GREEDY).usage.cached_tokens == 0
        assert encoded(llm) == 2


def test_equal_images_are_equal_however_they_were_given(llm: Llama, tmp_path: Path) -> None:
    (tmp_path / "cat.rgb.ppm").write_bytes(b"P6 40 30 255\n" + CAT.data)
    pixels = np.asarray(scene(40, 30, 1))
    prompts = [llm.generate([Image(one), "?"], **GREEDY) for one in (pixels, scene(40, 30, 1))]
    assert (prompts[0].prompt, prompts[0].tokens) == (prompts[1].prompt, prompts[1].tokens)
    other = llm.generate([Image(tmp_path / "cat.rgb.ppm"), "?"], **GREEDY)
    assert other.tokens == prompts[0].tokens


def test_saved_states_are_continued_equally(kind: Kind, tmp_path: Path) -> None:
    question: Any = ["A cat: ", CAT, " Which?"]
    more: Any = ["A cat: ", CAT, " Where?"]
    with open_llama(kind) as llm:
        expected = [llm.generate(one, logprobs=0, **GREEDY) for one in (question, more)]
        llm.save_state(tmp_path / "state")
        n = llm.save_prompt(question, tmp_path / "prompt")
        llm.save_slot(expected[1].slot or 0, tmp_path / "slot")
    loads: tuple[Callable[[Llama], object], ...] = (
        lambda llm: llm.load_state(tmp_path / "state"),
        lambda llm: llm.load_prompt(tmp_path / "prompt"),
        lambda llm: llm.load_slot(1, tmp_path / "slot"),
    )
    for load in loads:
        with open_llama(kind) as llm:
            load(llm)
            for one, before in zip((question, more), expected, strict=True):
                found = llm.generate(one, logprobs=0, **GREEDY)
                assert found.tokens == before.tokens
                assert np.allclose(
                    [a.logprob for a in found.logprobs or ()], [b.logprob for b in before.logprobs or ()], atol=1e-3
                )
                # What a saved sliding window has lost cannot be continued before its end.
                assert kind.name == "gemma3" or found.usage.cached_tokens >= before.prompt.media[-1].end
            assert encoded(llm) <= (kind.name == "gemma3")
    with open_llama(kind) as llm:
        loaded = llm.load_prompt(tmp_path / "prompt")
        assert (len(loaded), loaded) == (n, expected[0].prompt)
        # Its digest is enough while the image is in memory.
        found = llm.generate(loaded + TAIL, **GREEDY)
        assert (found.usage.cached_tokens, encoded(llm)) == (n, 0)
        with pytest.raises(PromptError, match="only its digest is known"):
            llm.generate(loaded, reuse=False, **GREEDY)


def test_a_prompt_that_ends_with_an_image_is_kept_and_continued(kind: Kind, tmp_path: Path) -> None:
    with open_llama(kind) as llm:
        whole = llm.generate(["Look: ", CAT], **GREEDY).prompt
        cut = whole.first(whole.media[-1].end)
        more = cut + TAIL
        with open_llama(kind) as other:
            expected = other.generate(more, **GREEDY)
        llm.generate(cut, max_tokens=0)
        llm.save_state(tmp_path / "state")
        found = llm.generate(more, **GREEDY)
        assert (found.tokens, found.usage.cached_tokens) == (expected.tokens, len(cut))
        llm.load_state(tmp_path / "state")
        found = llm.generate(more, **GREEDY)
        assert (found.tokens, found.usage.cached_tokens) == (expected.tokens, len(cut))


def test_prompt_caches_and_forks_know_media(kind: Kind, tmp_path: Path) -> None:
    prompt: Any = ["A cat: ", CAT, " Which animal do you see here?" * 4]
    cache = PromptCache(tmp_path, min_tokens=8)
    with open_llama(kind, prompt_cache=cache) as llm:
        expected = llm.generate(prompt, **GREEDY)
        with llm.fork() as twin:
            assert twin.generate(prompt, **GREEDY).usage.cached_tokens == len(expected.prompt) - 1
            assert twin.generate([DOG, "?"], **GREEDY).tokens
    with open_llama(kind, prompt_cache=cache) as llm:
        again = llm.generate(prompt, **GREEDY)
        assert again.tokens == expected.tokens
        if llm.model.n_swa == 0:
            assert again.usage.disk_tokens > expected.prompt.media[-1].end
            assert encoded(llm) == 0


def test_a_video_is_its_frames(kind: Kind) -> None:
    frames = [scene(40, 30, i) for i in range(4)]
    video = Video(frames, [0, 1, 2, 6])
    with open_llama(kind) as llm:
        first = llm.generate(["See: ", video, " What?"], **GREEDY)
        second = llm.generate(["See: ", video, " Who?"], **GREEDY)
        assert second.usage.cached_tokens > first.prompt.media[-1].end - 1
        assert encoded(llm) == len(first.prompt.media)
        reply = llm.chat([{"role": "user", "content": [video, "What?"]}], **CHAT)
        assert (len(reply.prompt.media), encoded(llm)) == (len(first.prompt.media), len(first.prompt.media))


# -- what is computed at once, by others, elsewhere


def test_lists_maps_and_coroutines(kind: Kind, llm: Llama) -> None:
    prompts: list[Any] = [["A ", CAT], "Only text", [DOG, " and ", CAT, "?"], [CAT]]
    alone = [llm.generate(one, **GREEDY).tokens for one in prompts]
    assert [one.tokens for one in llm.generate(prompts, **GREEDY)] == alone
    assert [one.tokens for _, one in sorted(llm.map(prompts, **GREEDY), key=lambda one: one[0])] == alone
    assert [one.tokens for one in llm.generate(prompts[2], n=2, **GREEDY)] == [alone[2]] * 2

    async def ask() -> list[Any]:
        async with await AsyncLlama.open(kind.model, mmproj=kind.projector, n_ctx=2048, n_threads=1) as other:
            found = await asyncio.gather(*(other.generate(one, **GREEDY) for one in prompts))
            session = other.session(**CHAT)
            await session.chat([CAT, "Which?"])
            return [found, session.messages]

    found, messages = asyncio.run(ask())
    assert [one.tokens for one in found] == alone
    assert messages[0]["content"][0] == {"type": "image", "image": CAT}


def test_specs_with_media_pickle() -> None:
    for spec in (
        GenerateSpec.of(["A ", CAT, Audio(tone(440))], {}),
        ChatSpec([{"role": "user", "content": ["A", CAT]}], {}),
    ):
        assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_prompt_pickles_with_its_media(llm: Llama) -> None:
    completion = llm.generate(["A ", CAT], **GREEDY)
    again: Prompt = pickle.loads(pickle.dumps(completion.prompt))
    assert again == completion.prompt
    assert llm.generate(again, reuse=False, **GREEDY).tokens == completion.tokens


def test_sessions_keep_media_and_write_them(llm: Llama, tmp_path: Path) -> None:
    session = llm.session(**CHAT)
    session.chat([CAT, "Which?"])
    session.chat("Why?")
    assert session.n_tokens == len(
        llm.tokenize_chat(session.messages, chat_template=TEMPLATE, add_generation_prompt=False)
    )
    session.save(tmp_path / "talk.json")
    other = llm.session(**CHAT)
    other.load(tmp_path / "talk.json")
    assert [one["role"] for one in other.messages] == ["user", "assistant", "user", "assistant"]
    assert session.fork().chat("So?").text == other.chat("So?").text
    assert session.rewind()[0]["content"] == "Why?"


def test_echo_and_healing_beside_media(llm: Llama) -> None:
    assert llm.generate(["A ", CAT, " b"], echo=True, **GREEDY).text.startswith("A  b")
    healed = llm.generate([CAT, " ta"], heal=True, **GREEDY)
    assert len(healed.prompt) <= len(llm.generate([CAT, " ta"], **GREEDY).prompt)
    # Nothing before an image is taken off.
    assert llm.generate(["ta", CAT], heal=True, **GREEDY).prompt.media


# -- what stays text


def test_a_text_that_says_a_marker_or_an_image_token_is_text(llm: Llama) -> None:
    for text in ("<__media__>", "<start_of_image>", "<|vision_start|>", "<|image_pad|>"):
        found = llm.generate([text, CAT], **GREEDY).prompt
        n = found.media[0].start
        assert len(found.media) == 1
        controls = {token for token in found[:n] if llm.model.vocab.is_control(token)}
        assert controls == {token for token in llm.generate(["a", CAT], **GREEDY).prompt[:n] if token >= 0
                            and llm.model.vocab.is_control(token)}  # fmt: skip
        said = [{"role": "user", "content": [text, CAT]}]
        tokens = llm.tokenize_chat(said, chat_template=TEMPLATE)
        assert np.count_nonzero(tokens == -1) == found.media[0].media.n_cells
        assert llm.render_chat(said, chat_template=TEMPLATE).count(text) == (2 if text == "<__media__>" else 1)


# -- what is refused, before anything is computed


def refused(llm: Llama, call: Callable[[], object], error: type[Exception], message: str) -> None:
    before = sum(len(one.held) for one in llm._runtime.engine._scheduler.slots), encoded(llm)
    with pytest.raises(error, match=message):
        call()
    assert (sum(len(one.held) for one in llm._runtime.engine._scheduler.slots), encoded(llm)) == before


def test_media_that_cannot_be_are_refused_with_their_place(llm: Llama) -> None:
    sound = Audio(tone(440))
    cut = Image(JPEG[: len(JPEG) // 3] + b"\xfe" * (len(JPEG) - len(JPEG) // 3 - 2) + JPEG[-2:])
    said: list[Any] = [{"role": "user", "content": "a"}, {"role": "user", "content": ["b", cut]}]
    place = r"messages\[1\]\.content\[1\]: "
    refused(llm, lambda: llm.chat(said, **CHAT), MediaError, place)
    refused(llm, lambda: llm.generate(["a", cut]), MediaError, r"prompt\[1\]: ")
    said[1]["content"][1] = sound
    refused(llm, lambda: llm.chat(said, **CHAT), UnsupportedError, f"{place}the projector of .* takes no sound")
    refused(llm, lambda: llm.generate([CAT, sound]), UnsupportedError, r"prompt\[1\]: the projector .* no sound")
    said[1]["content"][1] = CAT
    first = "{{ messages[0].content }}"
    refused(llm, lambda: llm.chat(said, chat_template=first), TemplateError, r"does not write messages\[1\]\.content")
    refused(llm, lambda: llm.generate([CAT] * 99), ContextOverflowError, "the prompt has .* tokens")


def test_options_that_media_do_not_allow(llm: Llama) -> None:
    # The positions of gemma3 can be shifted, and those of media cannot.
    refused(llm, lambda: llm.generate(["a", CAT], overflow="shift"), UnsupportedError, "shift")
    if llm.model.architecture == "gemma3":
        with open_llama(
            Kind("", llm.model.path, llm.projector.path if llm.projector else Path()), overflow="shift"
        ) as other:
            assert other.generate(["a", CAT], **GREEDY).tokens == llm.generate(["a", CAT], **GREEDY).tokens
    refused(llm, lambda: llm.generate(["a", CAT], prompt_logprobs=0), UnsupportedError, "media have no log-prob")
    refused(llm, lambda: llm.generate(["a", CAT], suffix="b"), TypeError, "suffix= must be a text")
    for call in (lambda: llm.perplexity(["a", CAT]), lambda: llm.score(["a", CAT], ["b"])):  # type: ignore[list-item]
        with pytest.raises(TypeError, match="must be a text or a sequence of tokens"):
            call()
    with pytest.raises(UnsupportedError, match="text 1 has media"):
        llm.embed(["a", llm.generate([CAT], **GREEDY).prompt])
    with pytest.raises(TypeError, match=r"prompt\[0\] must be a text, a token, an Image, Audio or Video"):
        llm.generate([None, CAT])  # type: ignore[list-item]


def test_an_image_that_must_be_computed_at_once_needs_a_batch_that_holds_it(kind: Kind) -> None:
    with open_llama(kind, n_ubatch=64, n_batch=512) as llm:
        if kind.name == "gemma3":
            refused(llm, lambda: llm.generate([CAT]), ContextOverflowError, "takes 256 cells, .* n_ubatch=64")
        else:
            assert llm.generate([CAT], **GREEDY).tokens
    with open_llama(kind, n_batch=3, n_seq_max=2) as small, open_llama(kind) as llm:
        if kind.name == "gemma3":
            refused(small, lambda: small.generate([CAT]), ContextOverflowError, "takes 256 cells, .* n_ubatch=3")
        else:
            # Cells that only see what is before them are computed in several batches.
            found = small.generate(["a", CAT, "b"], **GREEDY)
            assert found.tokens == llm.generate(["a", CAT, "b"], **GREEDY).tokens
            again = small.generate(["a", CAT, "c"], **GREEDY)
            assert again.usage.cached_tokens == again.usage.prompt_tokens - 1


def test_a_model_without_a_projector_takes_no_media(kind: Kind) -> None:
    with Llama(kind.model, n_ctx=256, n_threads=1) as llm:
        assert llm.projector is None
        said = [{"role": "user", "content": [CAT]}]
        with pytest.raises(UnsupportedError, match=r"messages\[0\]\.content\[0\]: .* without a projector.* mmproj="):
            llm.chat(said, chat_template=TEMPLATE)
        with pytest.raises(UnsupportedError, match=r"prompt\[1\]: .* without a projector"):
            llm.generate(["a", CAT])
        with pytest.raises(ModelNotFoundError, match="no projector"):
            Llama(write_alone(kind), mmproj="auto")
    with pytest.raises(ValueError, match="give mmproj="):
        Llama(kind.model, image_max_tokens=64)


def write_alone(kind: Kind) -> Path:
    folder = kind.model.parent / "alone"
    folder.mkdir(exist_ok=True)
    link = folder / "other.gguf"
    if not link.exists():
        link.hardlink_to(kind.model)
    return link


def test_a_prompt_of_another_projector_is_refused(kind: Kind, llm: Llama) -> None:
    prompt = llm.generate([CAT], **GREEDY).prompt
    with open_llama(kind, image_max_tokens=32) as other, pytest.raises(PromptError, match="another projector"):
        other.generate(prompt)


def test_drafts_do_not_change_what_is_said_of_an_image(kind: Kind, llm: Llama) -> None:
    prompt: Any = ["One two three ", CAT, " one two three one two"]
    expected = llm.generate(prompt, temperature=0, max_tokens=12).tokens
    assert llm.generate(prompt, temperature=0, max_tokens=12, speculative="lookup").tokens == expected
    with open_llama(kind, draft=kind.model) as drafting:
        found = drafting.generate(prompt, temperature=0, max_tokens=12)
        # The draft model has no projector.
        assert (found.tokens, found.speculation.drafted_tokens if found.speculation else None) == (expected, 0)
        assert drafting.generate("One two", temperature=0, max_tokens=12).tokens
