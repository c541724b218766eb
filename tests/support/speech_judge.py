"""What a program of llama.h and mtmd-helper.h says, which does as llama.cpp's own llama-tts: the judge of speech."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_cffi._native import library
from tests.support.speech_models import SpeakingModel

_SOURCE = Path(__file__).with_suffix(".cpp")


@dataclass(frozen=True)
class Spoken:
    """What the judge has said."""

    samples: NDArray[np.float32]
    frames: int
    reason: str
    rate: int


def build_judge(folder: Path) -> Path | None:
    """Compile the judge; None where there is no compiler, or no headers beside the library."""
    library.load()
    prefix = library.info().path.resolve().parent.parent
    compiler = shutil.which("c++")
    if compiler is None or not (prefix / "include" / "mtmd-helper.h").is_file():
        return None
    program = folder / "judge"
    link = ["-L", str(prefix / "lib"), "-lmtmd", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{prefix / 'lib'}"]
    command = [compiler, "-std=c++17", "-O0", "-I", str(prefix / "include"), str(_SOURCE), "-o", str(program), *link]
    subprocess.run(command, check=True, timeout=120)
    return program


def judged(
    program: Path,
    model: SpeakingModel,
    text: str,
    *,
    frames: int,
    seed: int = 0,
    temperature: float = 0.0,
    language: str = "",
    voice: Path | None = None,
) -> Spoken:
    """Let the judge speak."""
    out = program.with_name(f"{model.name}.pcm")
    given = [model.model, model.projector, text, frames, seed, temperature, language, voice or "-", out]
    done = subprocess.run([str(program), *map(str, given)], capture_output=True, text=True, timeout=60, check=True)
    n, reason, rate = done.stdout.split()
    return Spoken(np.fromfile(out, dtype=np.float32), int(n), reason, int(rate))
