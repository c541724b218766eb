"""Media in prompts of several: tokens, positions and embeddings are those that libmtmd makes of the whole prompt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Audio, Context, Image, Llama, Model, Video
from llama_cffi.core.prompt import Prompt
from llama_cffi.errors import PromptError
from tests.support.media_kinds import TEMPLATE, tone
from tests.support.media_models import (
    write_audio_projector,
    write_deepseek4v_projector,
    write_gemma3_projector,
    write_hunyuanvl_projector,
    write_vision_projector,
)
from tests.support.media_reference import Evaluated, Reference, open_reference
from tests.support.memory_models import N_EMBD, write_memory_model
from tests.support.memory_walk import EXACT
from tests.support.pictures import photograph

KINDS: dict[str, tuple[str, Any]] = {
    "hunyuanvl": ("qwen2vl", write_hunyuanvl_projector),
    "deepseek4v": ("llama", write_deepseek4v_projector),
    "qwen2vl": ("qwen2vl", write_vision_projector),
    "gemma3": ("gemma3", write_gemma3_projector),
    "ultravox": ("llama", write_audio_projector),
}
"""Text models, and what writes the projector. HunyuanVL numbers the images, and DeepSeek-V4 aligns them."""
PICTURES = [photograph(width, height, i) for i, (width, height) in enumerate([(40, 30), (16, 64), (33, 9)])]
SOUNDS = [tone(hertz, 0.1) for hertz in (220, 440, 2000)]
TEXTS = ("tana", "nelu soki ", "a", " ra mi lo be", "so it")


class Opened:
    """A model that sees or hears, and what libmtmd says of its prompts."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        architecture, write = KINDS[name]
        self.files = SOUNDS if name == "ultravox" else PICTURES
        self.model = Model(write_memory_model(folder / "model.gguf", architecture))
        self.path = write(folder / "mmproj.gguf", n_text=N_EMBD)
        options = replace(EXACT, n_ctx=1024, n_batch=256, n_ubatch=256, n_threads=1)
        self.context = Context(self.model, options)
        self.llm = Llama(self.model, mmproj=self.path, context_options=options)
        self._reference = open_reference(self.model, self.path, exact=True)
        self.reference: Reference = self._reference.__enter__()

    def value(self, part: str | bytes) -> str | Image | Audio:
        """A part of a prompt as this package takes it."""
        if isinstance(part, str):
            return part
        return Audio(part) if self.files is SOUNDS else Image(part)

    def evaluate(self, parts: list[str | bytes]) -> Evaluated:
        self.context.memory.clear()
        return self.reference.evaluate_all(self.context, parts)

    def close(self) -> None:
        self._reference.__exit__(None, None, None)
        self.llm.close()
        self.context.close()
        self.model.close()


PLAIN = ("hunyuanvl", "deepseek4v")
"""Kinds of the plain tests."""


@pytest.fixture(
    scope="module",
    params=[*PLAIN, *(pytest.param(one, marks=pytest.mark.conformance) for one in KINDS if one not in PLAIN)],
)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    found = Opened(request.param, tmp_path_factory.mktemp("places"))
    yield found
    found.close()


def check(opened: Opened, prompt: Prompt, parts: list[str | bytes]) -> None:
    """Compare a prompt with what libmtmd makes of its parts, and the logits of its end."""
    expected = opened.evaluate(parts)
    projector = opened.llm.projector
    spans = {span.start: span for span in prompt.media}
    found: list[tuple[Any, list[int]]] = []
    cell = 0
    while cell < len(prompt):
        span = spans.get(cell)
        end = cell + 1 if span is None else span.end
        found.append((span, list(prompt[cell:end])))
        cell = end
    texts = [[one for _, cells in run for one in cells] for is_text, run in groupby(found, lambda one: one[0] is None)
             if is_text]  # fmt: skip
    assert texts == expected.tokens
    media = [span.media for span in prompt.media]
    assert [(one.n_cells, one.n_positions) for one in media] == [
        (n, n_positions) for kind, n, n_positions in expected.shapes if kind != "text"
    ]
    for span, rows, places in zip(prompt.media, expected.embeddings, expected.positions, strict=True):
        mine = span.media.content.positions(prompt.position(span.start))
        assert np.array_equal(np.atleast_2d(mine), places)
        assert np.array_equal(span.media.content.encode(projector), rows)
    assert prompt.n_positions == expected.end
    row = opened.context.outputs.logits()
    done = opened.llm.generate(prompt, max_tokens=1, temperature=0, logprobs=0)
    assert done.logprobs is not None
    assert done.logprobs[0].token == int(row.argmax())
    logprob = -float(np.log(np.exp(row - row.max()).sum()))
    assert done.logprobs[0].logprob == pytest.approx(logprob, abs=1e-3)


def some_parts(rng: random.Random, files: list[bytes]) -> list[str | bytes]:
    """Texts and media, which end with a text; two texts never follow each other."""
    parts: list[str | bytes] = []
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.6:
            parts.append(rng.choice(TEXTS))
        parts.append(rng.choice(files))
    return [*parts, rng.choice(TEXTS)]


def test_prompts_of_several_media(opened: Opened) -> None:
    rng = random.Random(0)
    for _ in range(5):
        parts = some_parts(rng, opened.files)
        check(opened, opened.llm.make_prompt([opened.value(one) for one in parts]), parts)


@pytest.mark.conformance
def test_many_prompts_of_several_media(opened: Opened) -> None:
    rng = random.Random(1)
    for _ in range(200):
        parts = some_parts(rng, opened.files)
        check(opened, opened.llm.make_prompt([opened.value(one) for one in parts]), parts)


def test_conversations_and_videos(opened: Opened) -> None:
    a, b, *_ = opened.files
    said: list[dict[str, Any]] = [
        {"role": "user", "content": ["tana", opened.value(a)]},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": [opened.value(b), opened.value(a), "be"]},
    ]
    reply = opened.llm.chat(said, chat_template=TEMPLATE, temperature=0, max_tokens=1)
    middle = "<|im_end|>\n<|im_start|>assistant\nso<|im_end|>\n<|im_start|>user\n"
    end = "be<|im_end|>\n<|im_start|>assistant\n"
    check(opened, reply.prompt, ["<|im_start|>user\ntana", a, middle, b, a, end])
    if opened.name in ("hunyuanvl", "deepseek4v", "gemma3"):  # qwen2vl sees frames in pairs
        x, y, z = (photograph(24, 24, i) for i in range(3))
        video = Video([Image(one) for one in (x, y, z)], [0, 1, 2])
        prompt = opened.llm.make_prompt(["tana", opened.value(a), video, opened.value(b), "be"])
        check(opened, prompt, ["tana", a, "Video:", x, "[0m0.00s]", y, z, b, "be"])


def test_equal_media_of_a_prompt_are_encoded_once_unless_they_are_aligned_otherwise(opened: Opened) -> None:
    encoder = opened.llm._runtime.engine._runner.encoder
    assert encoder is not None
    medium = opened.value(tone(990, 0.1) if opened.files is SOUNDS else photograph(24, 40, 9))
    before = encoder.n_encoded
    done = opened.llm.generate([medium, "a", medium, "so", medium, "be"], max_tokens=1)
    n_different = len({span.media for span in done.prompt.media})
    assert encoder.n_encoded - before == n_different
    assert n_different > 1 if opened.name == "deepseek4v" else n_different == 1


def test_media_moved_to_another_place_are_refused_where_that_changes_them(opened: Opened) -> None:
    prompt = opened.llm.make_prompt([opened.value(opened.files[0]), "tana"])
    moved = Prompt([5]) + prompt
    if opened.name in ("hunyuanvl", "deepseek4v"):
        with pytest.raises(PromptError, match="prepared for another place"):
            opened.llm.generate(prompt + prompt if opened.name == "hunyuanvl" else moved, max_tokens=1)
    else:
        assert opened.llm.generate(moved + prompt, max_tokens=1).tokens


@pytest.mark.conformance
def test_another_process_places_them_alike(opened: Opened) -> None:
    a, b = (opened.value(one) for one in opened.files[:2])
    prompt: list[Any] = ["tana", a, "so", b, a, "be"]
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 4}
    expected = opened.llm.generate(prompt, **options)
    with Llama(opened.model.path, mmproj=opened.path, isolate=True, n_ctx=1024, context_options=EXACT) as other:
        found = other.generate(prompt, **options)
    assert (found.prompt, found.tokens) == (expected.prompt, expected.tokens)
