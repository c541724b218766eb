"""The hidden states of a Context's last decode: what draft heads take as input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import ffi, hidden_states, log
from llama_cffi.core.draft_layers import n_heads
from llama_cffi.core.model_base import ModelBase
from llama_cffi.core.outputs import Outputs
from llama_cffi.errors import BatchError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADED = frozenset(
    [
        "bailingmoe3", "cohere2moe", "deepseek2", "deepseek32", "deepseek4", "glm-dsa", "glm4moe", "glm5-next", "hy_v3",
        "mimo2", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next", "step35",
    ]
)  # fmt: skip
"""Architectures whose heads for further tokens llama.cpp computes. For the others it would compute their layers."""

TAPPED = frozenset(
    [
        "bailingmoe3", "deepseek4", "gemma4", "gpt-oss", "hunyuan_vl", "lfm2", "llama", "mimo2", "minimax-01",
        "minimax-m2", "muse-glimmer", "nanbeige", "nemotron_h", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next",
        "qwen4exp",
    ]
)  # fmt: skip
"""Architectures that give the inputs of their layers. For the others llama.cpp fails with an assertion."""

_GIVES_LAST = HEADED | {"gemma4", "gpt-oss", "nemotron_h"}
"""Architectures that give the output of the last layer, which an EAGLE-3 model may take, too."""


class HiddenStates:
    """Reads the hidden states that a context computes; it computes them from the creation of this object on.

    They are what the model's own heads take; with ``layers``, the inputs of these layers side by side, ``n_layer`` for
    the output of the last one. There is a row for each token of a batch; with ``outputs_only``, for each token whose
    output was requested.

    Raises :class:`UnsupportedError` for a library or an architecture without them.
    """

    __slots__ = ("_access", "_layers", "_n_embd", "_n_layer", "_outputs_only", "width")

    def __init__(
        self,
        outputs: Outputs,
        model: ModelBase,
        *,
        layers: Sequence[int] | None = None,
        outputs_only: bool = False,
    ) -> None:
        self._access = outputs.access
        self._layers = layers
        self._n_layer = model.n_layer
        self._n_embd = model.n_embd if layers is not None else model.n_embd_out
        self._outputs_only = outputs_only
        self.width = self._n_embd * (len(layers) if layers is not None else 1)
        """Numbers in a row."""
        if layers is not None:
            check_layers(model, layers)
        self._switch(True)

    def _switch(self, on: bool) -> None:
        ptr = self._access.ptr
        for layer in self._layers if self._layers is not None else (self._n_layer,):
            if layer == self._n_layer:
                hidden_states.function("llama_set_embeddings_nextn")(ptr, on, self._outputs_only)
            else:
                hidden_states.function("llama_set_embeddings_layer_inp")(ptr, layer, on)

    def stop(self) -> None:
        """Let the context compute them no longer. Does nothing when it is closed."""
        if not self._access.handle.closed:
            with self._access.lock():
                self._switch(False)

    def rows(self, n: int) -> NDArray[np.float32]:
        """Return a copy of the first ``n`` rows, float32 of shape ``(n, width)``. The caller holds the context."""
        if self._layers is None:
            return self._read(self._n_layer, n)
        return np.concatenate([self._read(layer, n) for layer in self._layers], axis=1)

    def _read(self, layer: int, n: int) -> NDArray[np.float32]:
        ptr = self._access.ptr
        if layer == self._n_layer:
            return _copied(hidden_states.function("llama_get_embeddings_nextn")(ptr), n, self._n_embd)
        return _copied(hidden_states.function("llama_get_embeddings_layer_inp")(ptr, layer), n, self._n_embd)

    def row(self, i: int) -> NDArray[np.float32]:
        """Return a copy of the row of batch row ``i``, float32 of shape ``(width,)``; not for ``layers``."""
        pointer = hidden_states.function("llama_get_embeddings_nextn_ith")(self._access.ptr, i)
        return _copied(pointer, 1, self._n_embd).reshape(self._n_embd)


def check_headed(target: ModelBase, model: ModelBase) -> None:
    """Raise :class:`UnsupportedError` unless llama.cpp computes the heads of ``model``, for this target."""
    for one in {target, model}:
        if one.architecture not in HEADED:
            raise UnsupportedError(f"llama.cpp does not compute heads for further tokens of {one.architecture} models")
    if not n_heads(model):
        raise UnsupportedError(f"{model.path.name} has no heads for further tokens (nextn_predict_layers)")
    if not model.options.load_mtp:
        raise UnsupportedError(
            f"{model.path.name} was loaded without its heads: load it with ModelOptions(load_mtp=True), or give its "
            "path to Llama(..., draft='mtp')"
        )


def target_layers(model: ModelBase) -> tuple[int, ...]:
    """Return the layers of the target whose inputs an EAGLE-3 model takes. Wraps ``llama_model_target_layer_ids``."""
    n = hidden_states.function("llama_model_target_layer_ids_n")(model.ptr)
    return tuple(hidden_states.function("llama_model_target_layer_ids")(model.ptr)[0:n])


def check_layers(model: ModelBase, layers: Sequence[int]) -> None:
    """Raise :class:`UnsupportedError` unless a model gives the inputs of these layers."""
    name, n = model.architecture, model.n_layer
    if any(not 0 <= layer <= n for layer in layers):
        raise UnsupportedError(f"the draft model takes the inputs of layers {_list(layers)}, and the model has {n}")
    if name not in TAPPED and any(layer < n for layer in layers):
        raise UnsupportedError(f"llama.cpp does not give the inputs of layers of {name} models")
    if name not in _GIVES_LAST and n in layers:
        raise UnsupportedError(f"llama.cpp does not give the output of the last layer of {name} models")


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _copied(row: Any, n: int, width: int) -> NDArray[np.float32]:
    if row == ffi.NULL:
        raise BatchError("there are no hidden states of the last decode", log=log.lines_since(log.call_mark()))
    copy: NDArray[np.float32] = np.frombuffer(ffi.buffer(row, 4 * n * width), dtype=np.float32).copy()
    return copy.reshape(n, width)


__all__ = ["HEADED", "TAPPED", "HiddenStates", "check_headed", "check_layers", "target_layers"]
