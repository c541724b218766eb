"""Pictures with memories of every kind that text models have: what is said of them is what libmtmd computes afresh."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Audio, Completion, Context, Image, Llama, Model
from llama_cffi.core.embedding_batch import EmbeddingBatch
from llama_cffi.errors import AbortedError, LlamaCffiError, MemoryFullError
from tests.support.llama_server import find_server, running_server
from tests.support.media_models import write_gemma3_projector, write_vision_projector
from tests.support.media_server import greedy, of_server, same
from tests.support.media_walk import MediaWalk
from tests.support.memory_models import N_EMBD, write_memory_model
from tests.support.memory_walk import EXACT
from tests.support.pictures import photograph

KINDS = {
    "llama": "qwen2vl",
    "qwen2vl": "qwen2vl",
    "lfm2": "qwen2vl",
    "qwen35": "qwen2vl",
    "granitehybrid": "qwen2vl",
    "mamba2": "qwen2vl",
    "gemma3": "gemma3",
    "gemma3, causal": "qwen2vl",
}
"""Text models and their projectors. Those of gemma3 see their pictures at once, which are longer than the window."""


class Opened:
    """Models and projectors, which are written at their first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, Model] = {}

    def model(self, kind: str) -> Model:
        name = kind.partition(",")[0]
        if name not in self._models:
            self._models[name] = Model(write_memory_model(self._folder / f"{name}.gguf", name))
        return self._models[name]

    def projector(self, kind: str) -> Path:
        name = KINDS[kind]
        path = self._folder / f"mmproj-{name}.gguf"
        if not path.exists():
            write = write_gemma3_projector if name == "gemma3" else write_vision_projector
            write(path, n_text=N_EMBD)
        return path

    def close(self) -> None:
        for model in self._models.values():
            model.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    opened = Opened(tmp_path_factory.mktemp("media-memories"))
    yield opened
    opened.close()


def walk(opened: Opened, kind: str, seed: int, n: int, folder: Path, **options: Any) -> MediaWalk:
    walk = MediaWalk(opened.model(kind), opened.projector(kind), seed, folder, **options)
    try:
        walk.run(n)
    except BaseException:
        print(f"{kind}, seed {seed}, after {sum(walk.seen[one] for one in walk._steps)} steps: {dict(walk.seen)}")
        raise
    finally:
        walk.close()
    return walk


@pytest.mark.parametrize("kind", ["qwen35", "gemma3"])
def test_a_random_walk(opened: Opened, kind: str, tmp_path: Path) -> None:
    found = walk(opened, kind, 1, 12, tmp_path, context_options=replace(EXACT, swa_full=False))
    assert found.seen["texts"] > 5


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_long_random_walks(opened: Opened, kind: str, tmp_path: Path) -> None:
    """``LLAMA_CFFI_WALK_SEED`` is the first seed, ``LLAMA_CFFI_WALK_SECONDS`` what each kind takes."""
    seed = int(os.environ.get("LLAMA_CFFI_WALK_SEED", "1000"))
    end = time.monotonic() + float(os.environ.get("LLAMA_CFFI_WALK_SECONDS", "20"))
    totals: dict[str, float] = {}
    while time.monotonic() < end:
        options = options_of(seed, pieces=KINDS[kind] != "gemma3")
        found = walk(opened, kind, seed, 60, tmp_path, **options)
        for key, n in found.seen.items():
            totals[key] = totals.get(key, 0) + n
        totals["moved"] = max(totals.get("moved", 0), found.moved)
        seed += 1
    print(f"{kind}: seeds up to {seed - 1}, {totals}")
    assert totals["texts"] > 0


def options_of(seed: int, *, pieces: bool) -> dict[str, Any]:
    """Options of a walk; with ``pieces`` a picture may be computed in several."""
    every: list[dict[str, Any]] = [{}, {"n_cells": 400, "n_seq_max": 2}, {"host_bytes": 0}, {"media_bytes": 0}]
    if pieces:
        every += [{"n_ubatch": 16}, {"n_batch": 12, "n_ubatch": 12, "n_cells": 400}]
    return every[seed % len(every)] | {"context_options": replace(EXACT, swa_full=seed % 3 == 0)}


class Interrupted:
    """Has the second piece of the next picture fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: LlamaCffiError | None = None
        self._n_pieces = 0
        decode = EmbeddingBatch.decode

        def decode_or_fail(batch: EmbeddingBatch, context: Context, **options: Any) -> None:
            self._n_pieces += 1
            if self.error is not None and self._n_pieces == 2:
                error, self.error = self.error, None
                raise error
            decode(batch, context, **options)

        monkeypatch.setattr(EmbeddingBatch, "decode", decode_or_fail)

    def arm(self, error: LlamaCffiError) -> None:
        self.error, self._n_pieces = error, 0


@pytest.mark.parametrize("kind", ["qwen2vl", pytest.param("lfm2", marks=pytest.mark.conformance), "qwen35"])
def test_a_picture_that_is_interrupted_is_computed_once(
    opened: Opened, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory was full, it was given up in a prefill or in an encoding: what follows is what a fresh one says."""
    interrupted = Interrupted(monkeypatch)
    picture, other = (Image(photograph(40, 32, i)) for i in range(2))
    options: dict[str, Any] = {"mmproj": opened.projector(kind), "n_ctx": 128, "n_threads": 1, "context_options": EXACT}
    greedy: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logprobs": 0}
    prompts: list[list[str | Image]] = [
        ["tana", picture, "nelu"],
        ["tana", picture, "so"],
        [other, "be", picture, "it"],
    ]
    with (
        Llama(opened.model(kind), n_batch=8, n_seq_max=2, **options) as llm,
        Llama(opened.model(kind), **options) as fresh,
    ):
        encoder = llm._runtime.engine._runner.encoder
        assert encoder is not None
        for prompt in prompts:
            for slot in llm.slots():
                if slot.n_held:
                    llm.clear_slot(slot.id)
            llm.generate("ra mi lo", max_tokens=1)  # what it holds goes to make room
            interrupted.arm(MemoryFullError("there is no room"))
            found, expected = llm.generate(prompt, **greedy), fresh.generate(prompt, **greedy)
            assert interrupted.error is None
            close(found, expected)
            interrupted.arm(AbortedError("given up"))
            with pytest.raises(AbortedError, match="given up"):
                llm.generate(prompt, reuse=False, **greedy)
            close(llm.generate(prompt, **greedy), expected)
        blocked, encode = threading.Event(), encoder._encode
        encoder._encode = lambda media: (blocked.wait(20), encode(media))[1]
        late: list[str | Image] = ["tana", Image(photograph(32, 40, 7)), "nelu"]
        assert llm.generate(late, max_seconds=0.05, **greedy).finish_reason == "deadline"
        blocked.set()
        close(llm.generate(late, **greedy), fresh.generate(late, **greedy))


def close(found: Completion, expected: Completion) -> None:
    assert found.tokens == expected.tokens
    for one, other in zip(found.logprobs or (), expected.logprobs or (), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("gemma3", "prompt"),
        ("qwen35", "state"),
        ("mamba2", "slot"),
        *(
            pytest.param(*one, marks=pytest.mark.conformance)
            for one in (("gemma3", "state"), ("gemma3", "slot"), ("qwen35", "prompt"), ("qwen35", "slot"),
                        ("mamba2", "state"), ("mamba2", "prompt"))
        ),
    ],
)  # fmt: skip
def test_a_restored_state_goes_back_to_its_picture(opened: Opened, kind: str, how: str, tmp_path: Path) -> None:
    """Neither a sliding window nor a recurrent layer can be cut there, and the embeddings are in another process."""
    picture, text = Image(photograph(64, 64, 4)), "tana nelu soki " * 12
    first: list[str | Image] = [text, picture, "ra mi lo be so " * 8]
    second: list[str | Image] = [text, picture, "so it be mi " * 4]
    options: dict[str, Any] = {"mmproj": opened.projector(kind), "n_ctx": 512, "n_threads": 1, "n_seq_max": 2}
    options["context_options"] = replace(EXACT, swa_full=False)
    greedy: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "logprobs": 0}
    with Llama(opened.model(kind), **options) as llm:
        done = llm.generate(first, **greedy)
        if how == "state":
            llm.save_state(tmp_path / "saved")
        elif how == "prompt":
            llm.save_prompt(first, tmp_path / "saved")
        else:
            llm.save_slot(done.slot or 0, tmp_path / "saved")
    with Llama(opened.model(kind), **options) as llm, Llama(opened.model(kind), **options) as fresh:
        {"state": llm.load_state, "prompt": llm.load_prompt}.get(how, partial(llm.load_slot, 1))(tmp_path / "saved")
        for question in (first, second, first):
            found, expected = llm.generate(question, **greedy), fresh.generate(question, **greedy)
            assert found.usage.cached_tokens >= found.prompt.media[-1].end
            close(found, expected)
        encoder = llm._runtime.engine._runner.encoder
        assert encoder is not None
        assert encoder.n_encoded == 0


@pytest.mark.conformance
@pytest.mark.skipif(find_server() is None, reason="no llama-server in build/libllama")
@pytest.mark.parametrize("kind", ["lfm2", "qwen35", "granitehybrid", "gemma3", "gemma3, causal"])
def test_pictures_are_answered_as_llama_server_answers_them(opened: Opened, kind: str, tmp_path: Path) -> None:
    model, projector, program = opened.model(kind), opened.projector(kind), find_server()
    assert program is not None
    options = ("-c", 1024, "-np", 1, "-fa", "off", "-ctk", "f32", "-ctv", "f32", "-t", 1, "--no-warmup")
    media = ("--mmproj", projector, "--mtmd-batch-max-tokens", 1)
    files = [photograph(width, height, i) for i, (width, height) in enumerate([(40, 30), (64, 64)])]
    a, b = (Image(one) for one in files)
    with (
        running_server(program, model.path, *options, *media, log=tmp_path / "log.txt") as server,
        Llama(model, mmproj=projector, n_ctx=1024, n_threads=1, context_options=EXACT) as llm,
    ):
        cases: list[tuple[list[str | bytes], list[str | Image | Audio]]] = [
            (["tana ", files[0], " nelu"], ["tana ", a, " nelu"]),
            (["tana ", files[0], " nelu soki"], ["tana ", a, " nelu soki"]),
            ([files[1], files[0], " ra ", files[1], "mi lo"], [b, a, " ra ", b, "mi lo"]),
        ]
        for given, prompt in cases:
            expected, n = of_server(server, llm, given)
            found = llm.generate(prompt, **greedy(llm))
            same(found, expected)
            assert found.usage.prompt_tokens == n
