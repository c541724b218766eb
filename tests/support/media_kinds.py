"""Models of each kind that takes media, with media for them."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llama_cffi import Audio, Image, Llama
from tests.support.media_models import (
    GEMMA3_SHAPE,
    HEARING_SHAPE,
    QWEN2VL_SHAPE,
    write_audio_projector,
    write_text_model,
    write_vision_projector,
)
from tests.support.pictures import pictures

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template, which the models have not."""
_SHAPES = {"gemma3": GEMMA3_SHAPE, "qwen2vl": QWEN2VL_SHAPE, "llama": HEARING_SHAPE}


def tone(hertz: int, seconds: float = 0.4) -> bytes:
    """Return a WAV file."""
    times = np.arange(int(16000 * seconds)) / 16000
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16000)
        writer.writeframes((8000 * np.sin(2 * np.pi * hertz * times)).astype("<i2").tobytes())
    return file.getvalue()


FILES = {
    "gemma3": pictures(),
    "qwen2vl": pictures(),
    "llama": {f"{hertz} Hz": tone(hertz) for hertz in (220, 440, 2000)},
}
"""Files for each kind, by name."""


@dataclass(frozen=True)
class Kind:
    """A model that sees or hears, and its projector."""

    name: str
    model: Path
    projector: Path

    @property
    def media(self) -> dict[str, Image | Audio]:
        """The values of the files."""
        make: Any = Audio if self.name == "llama" else Image
        return {name: make(data) for name, data in FILES[self.name].items()}


def write_kind(folder: Path, name: str, assets: Path) -> Kind:
    """Write a model with random weights: gemma3 (whose projector is a trained one), qwen2vl (M-RoPE) or llama
    (sound).
    """
    model = write_text_model(folder / f"{name}.gguf", name, _SHAPES[name])
    if name == "gemma3":
        return Kind(name, model, assets / "models" / "mmproj-tinygemma3.gguf")
    write = write_vision_projector if name == "qwen2vl" else write_audio_projector
    return Kind(name, model, write(folder / f"mmproj-{name}.gguf"))


def open_llama(kind: Kind, **options: Any) -> Llama:
    """Open a model with its projector."""
    return Llama(kind.model, **{"mmproj": kind.projector, "n_ctx": 2048, "n_threads": 1, **options})
