"""Pickled Llama objects: another process opens the same file with the same options."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama_cffi._util.shown import shown
from llama_cffi.core.model import Model
from llama_cffi.core.model_reference import ModelReference
from llama_cffi.core.opening import absolute_path
from llama_cffi.engine.draft_model import DraftModel
from llama_cffi.engine.draft_source import NAMED_SOURCES

if TYPE_CHECKING:
    from llama_cffi.runtime import Runtime

_ONCE = ("progress",)
"""Options that serve the loading alone."""


def portable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a Llama as another process, with another current folder, understands them."""
    found = {name: value for name, value in options.items() if name not in _ONCE}
    for name, words in (("mmproj", ("auto",)), ("draft", NAMED_SOURCES)):
        value = found.get(name)
        if isinstance(value, (str, os.PathLike)) and value not in words:
            found[name] = absolute_path(value)
        elif isinstance(value, DraftModel) and isinstance(value.model, (str, os.PathLike)):
            found[name] = replace(value, model=absolute_path(value.model))
    return found


def reference(kind: type[Any], runtime: Runtime, options: Mapping[str, Any], *, shared: bool) -> tuple[Any, ...]:
    """Return what pickle keeps of a Llama: how it is opened again, or the :class:`Model` that it ``shared``.

    Raises ``TypeError`` for what another process cannot have, and :class:`ClosedError`.
    """
    runtime.check_open()
    if runtime.conditioning:
        raise TypeError(
            "a Llama with adapters or a control vector cannot be pickled: they would be missing in the other process; "
            "set them there"
        )
    for name, value in options.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise TypeError(f"a Llama cannot be pickled: its {name}={shown(value)} cannot be: {error}") from error
    if shared:
        return reopen, (kind, runtime.model, dict(options))
    return reopen, (kind, ModelReference.of(runtime.model), dict(options))


def reopen(kind: type[Any], model: ModelReference | Model, options: dict[str, Any]) -> Any:
    """Open a pickled Llama. Raises the errors of opening, and :class:`ModelFileError` for a file that has changed."""
    if isinstance(model, Model):
        return kind(model, **options)
    model.check()
    llama = kind(model.target, **options)
    try:
        model.check_loaded(llama.model)
    except BaseException:
        llama.close()
        raise
    return llama


__all__ = ["portable", "reference", "reopen"]
