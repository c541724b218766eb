"""Projectors whose tensors or metadata are not what libmtmd expects: an exception or an answer, never the end of the
process. And what a sound one takes of memory."""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cffi import Model, ModelOptions, Projector, estimate_memory
from llama_cffi._native import cache, log, media_sketch
from llama_cffi.cli.projector_summary import summarise_projector
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.media.projector_memory import estimate_projector
from llama_cffi.errors import ModelFileError
from tests.support.children import run_module
from tests.support.projector_fuzz import ProjectorFile, write_kinds

_PER_CHILD = 100
_MANY = {
    "encoders": (("seeing", "hearing"), 500),
    "qwen3tts": (("qwen3tts",), 300),
    "pockettts": (("pockettts",), 300),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, and their projectors."""
    made = tmp_path_factory.mktemp("damaged")
    write_kinds(made)
    return made


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def changed(folder: Path, path: Path, kind: str = "seeing", /, **changes: Any) -> Path:
    """The projector of a kind with other tensors by their names (None: without it) or metadata."""
    file = ProjectorFile(folder / f"mmproj-{kind}.gguf")
    for name, value in changes.items():
        if name in file.fields:
            file.fields[name] = value
        else:
            file.tensors = [(one, value if one == name else array) for one, array in file.tensors]
            file.tensors = [(one, array) for one, array in file.tensors if array is not None]
    file.write(path)
    return path


def test_a_projector_that_would_end_the_process_is_refused(folder: Path, tmp_path: Path) -> None:
    with Model(folder / "seeing.gguf") as model:
        # libmtmd takes this tensor for optional, and follows a null pointer.
        path = changed(folder, tmp_path / "a.gguf", **{"v.patch_embd.weight.1": None})
        for _ in range(2):
            with pytest.raises(ModelFileError, match=r"damaged: libmtmd crashes when .* \(SIG"):
                Projector(model, path, n_threads=1)
        with pytest.raises(ModelFileError, match="damaged"):
            estimate_projector(path)
        # What libmtmd refuses itself has its own reason.
        path = changed(folder, tmp_path / "b.gguf", **{"mm.0.weight": None})
        with pytest.raises(ModelFileError, match=r"mm\.0\.weight"):
            Projector(model, path, n_threads=1)
        with pytest.raises(ModelFileError, match="cannot be used as a projector"):
            estimate_projector(path)
        for changes, words in (
            ({"mm.0.bias": np.zeros(256, dtype=np.float16)}, "mm.0.bias"),
            ({"mm.0.weight": np.zeros((256, 256), dtype=np.int32)}, "mm.0.weight"),
            ({"mm.0.bias": np.zeros((256, 1), dtype=np.float16)}, "mm.0.bias"),
            ({"clip.vision.attention.head_count": 32}, "multiple of 4"),
            ({"clip.vision.attention.layer_norm_epsilon": -1.0}, "epsilon"),
            ({"clip.vision.attention.layer_norm_epsilon": float("nan")}, "epsilon"),
        ):
            with pytest.raises(ModelFileError, match=words):
                Projector(model, changed(folder, tmp_path / "c.gguf", **changes), n_threads=1)


def test_a_generator_that_would_end_the_process_is_refused(folder: Path, tmp_path: Path) -> None:
    file = ProjectorFile(folder / "mmproj-qwen3tts.gguf")
    found = dict(file.tensors)
    with Model(folder / "qwen3tts.gguf") as model:
        # libmtmd takes the weights of its layers for optional.
        path = changed(folder, tmp_path / "a.gguf", "qwen3tts", **{"a.gen.code.blk.0.attn_q.weight": None})
        with pytest.raises(ModelFileError, match=r"damaged: libmtmd crashes when .* \(SIG"):
            Projector(model, path, n_threads=1)
        # A code is drawn that the table does not have, now and then.
        table = found["a.gen.code.embd.weight"][:, :-1].copy()
        path = changed(folder, tmp_path / "b.gguf", "qwen3tts", **{"a.gen.code.embd.weight": table})
        with pytest.raises(ModelFileError, match=r"a\.gen\.code\.head"):
            Projector(model, path, n_threads=1)
    with Model(folder / "pockettts.gguf") as model:
        path = changed(folder, tmp_path / "c.gguf", "pockettts", **{"a.gen.wav.upsample.weight": None})
        with pytest.raises(ModelFileError, match=r"a\.gen\.wav\.upsample"):
            Projector(model, path, n_threads=1)
        # The last layer of the decoder has other channels than what it is given.
        wrong = np.zeros((1, 5, 3), dtype=np.float16)
        path = changed(folder, tmp_path / "d.gguf", "pockettts", **{"a.gen.wav.seanet.conv_out.weight": wrong})
        with pytest.raises(ModelFileError, match="damaged"):
            Projector(model, path, n_threads=1)


def test_a_projector_is_laid_out_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    lay_out = media_sketch.lay_out

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        asked.append(path)
        return lay_out(path, *args, **options)

    monkeypatch.setattr(media_sketch, "lay_out", counted)
    path = folder / "mmproj-seeing.gguf"
    with Model(folder / "seeing.gguf") as model:
        for _ in range(3):
            Projector(model, path, n_threads=1).close()
    assert asked == [path]
    assert len(list((cache.folder() / "projectors").iterdir())) == 1


@pytest.mark.parametrize("kind", ["seeing", "hearing"])
def test_the_memory_is_what_is_allocated(folder: Path, kind: str) -> None:
    path = folder / f"mmproj-{kind}.gguf"
    estimate = estimate_projector(path)
    with Model(folder / f"{kind}.gguf") as model:
        mark = log.mark()
        Projector(model, path, n_threads=1).close()
        lines = [
            match
            for line in log.lines_since(mark, 0)
            if (match := re.search(r"(?:model|buffer) size[:=\s]+([\d.]+) MiB", line))
        ]
        assert len(lines) >= 2
        plain, both = estimate_memory(model.path), estimate_memory(model.path, ModelOptions(), mmproj=path)
    allocated = sum(float(match[1]) for match in lines) * 2**20
    assert abs(estimate.total - allocated) < 0.02 * allocated
    assert both.projector == estimate
    assert both.total == plain.total + estimate.total
    assert estimate.weights == sum(tensor.nbytes for tensor in GGUFFile(path).tensors)
    summary = summarise_projector(GGUFFile(path), path)
    assert summary.memory == {device.name: device.total for device in estimate.devices}
    assert summary.rows()[0][0] == "takes"


@pytest.mark.fuzz
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the file that a child writes is another one's")
@pytest.mark.parametrize("group", _MANY)
def test_many_changed_projectors(folder: Path, group: str) -> None:
    kinds, many = _MANY[group]
    start = random.SystemRandom().randrange(1 << 31)
    print(f"from seed {start}")
    counts: Counter[str] = Counter()
    for first in range(start, start + many, _PER_CHILD):
        *_, last = run_module("tests.support.projector_fuzz", folder, first, _PER_CHILD, *kinds)
        counts.update(json.loads(last)["counts"])
    print(dict(counts))
    assert counts["answers"]
    assert counts["ModelFileError (would have crashed)"]
