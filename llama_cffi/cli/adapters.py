"""What ``--lora`` and ``--control-vector`` add to a model: LoRA adapters and a control vector, each at its scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llama_cffi.cli.arguments import scaled_file

if TYPE_CHECKING:
    from llama_cffi import ControlVector, Llama, LoraAdapter

_LAYERS = "--control-vector-layer-range"


@dataclass(frozen=True)
class Additions:
    """What a command computes with besides the weights of its model."""

    loras: tuple[tuple[Path, float], ...]
    """Files of LoRA adapters and their scales."""
    vector: ControlVector | None
    """The sum of the control vectors."""
    layers: range | None
    """Those that the vector is added to; None is all that can have one."""

    def apply(self, llm: Llama) -> tuple[LoraAdapter, ...]:
        """Let everything from now on be computed with them, and return the adapters in their order.

        Raises :class:`AdapterError` for what was made for another model, ``ValueError`` for layers that it has not.
        """
        last = llm.model.n_layer - 1
        if self.layers is not None and self.layers[-1] > last:
            raise ValueError(f"{_LAYERS}: this model takes control vectors in its layers 1 to {last}")
        adapters = tuple(llm.load_adapter(path) for path, _ in self.loras)
        if adapters:
            llm.set_adapters({one: scale for one, (_, scale) in zip(adapters, self.loras, strict=True)})
        if self.vector is not None:
            llm.set_control_vector(self.vector, layers=self.layers)
        return adapters


def additions(
    lora: Sequence[str] | None, control_vector: Sequence[str] | None, layer_range: tuple[int, int] | None
) -> Additions:
    """The options read, with as much of their files as needs no model: loading one may take minutes.

    Raises the errors of :class:`GGUFFile` and :meth:`ControlVector.from_gguf`, ``typer.BadParameter`` for wrong usage.
    """
    loras = tuple(scaled_file(text, "--lora") for text in lora or ())
    vectors = tuple(scaled_file(text, "--control-vector") for text in control_vector or ())
    layers = None
    if layer_range is not None:
        start, end = layer_range
        if not vectors:
            raise typer.BadParameter("there is no --control-vector for it", param_hint=_LAYERS)
        if not 1 <= start <= end:
            raise typer.BadParameter(f"{start} {end} is not a range of layers; the first one is 1", param_hint=_LAYERS)
        layers = range(start, end + 1)
    for path, _ in loras:
        _look_at(path)
    return Additions(loras, _sum(vectors), layers)


def _look_at(path: Path) -> None:
    """Raise for a path that is not a GGUF file."""
    from llama_cffi import GGUFFile

    GGUFFile(path)


def _sum(files: Sequence[tuple[Path, float]]) -> ControlVector | None:
    if not files:
        return None
    from llama_cffi import ControlVector

    first, *others = (ControlVector.from_gguf(path) * scale for path, scale in files)
    return sum(others, start=first)
