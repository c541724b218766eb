"""The model of a Llama: loaded as its options say, fitted to the devices, or given open."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from llama_cffi.core.fitting import Fitting
from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.core.shared_model import ModelShare
from llama_cffi.engine.beside import BesideModel
from llama_cffi.engine.context_choice import choose_contexts
from llama_cffi.engine.draft_source import drafts_by_heads
from llama_cffi.errors import HubNameError, ModelNotFoundError

_MODEL_FIELDS = ("n_gpu_layers", "require_gpu", "max_device_memory")


def load_model(
    model: str | os.PathLike[str] | Model, given: Mapping[str, Any]
) -> tuple[Model, ModelShare | None, Fitting | None]:
    """Load a model, unless it is one, with the options of a Llama.

    Returns the model, the share of its owner, and what fitted it; a model that was given open has no share. Raises the
    errors of :class:`Model`, and ``ValueError`` for options that do not go together.
    """
    options = given.get("model_options")
    fields = {name: given[name] for name in _MODEL_FIELDS if given.get(name) is not None and given[name] is not False}
    if isinstance(model, Model):
        if options is not None or fields or given.get("progress") is not None or given.get("rpc"):
            named = [name for name in ("model_options", *_MODEL_FIELDS, "progress", "rpc") if name in given]
            raise ValueError(f"{', '.join(named)}: the model is already loaded; give these options to Model(...)")
        return model, None, _fitted_context(model, given)
    check_model_path(model)
    if fields:
        if options is not None:
            raise ValueError(f"give {' and '.join(fields)}, or model_options, not both")
        options = ModelOptions(**fields)
    options = options if options is not None else ModelOptions()
    if given.get("rpc"):
        options = replace(options, rpc=given["rpc"])
    if drafts_by_heads(given.get("draft")):
        options = replace(options, load_mtp=True)
    fitting = None
    if Fitting.is_needed(options) or given.get("n_ctx") == "auto":
        beside = BesideModel(model, given, options)
        fitting = Fitting(model, options, partial(choose_contexts, given=given), beside=beside)
    if fitting is not None:
        return (*load_fitted(model, fitting, given), fitting)
    loaded = _open(model, options, given, None)
    return loaded, ModelShare(loaded), None


def load_fitted(model: Any, fitting: Fitting, given: Mapping[str, Any]) -> tuple[Model, ModelShare]:
    """Load a model as the fitting says now."""
    loaded = _open(model, None, given, fitting)
    return loaded, ModelShare(loaded)


def _open(path: Any, options: ModelOptions | None, given: Mapping[str, Any], fitting: Fitting | None) -> Model:
    with naming_the_hub(path):
        return Model(path, options, progress=given.get("progress"), context=fitting)


@contextmanager
def naming_the_hub(model: str | os.PathLike[str]) -> Iterator[None]:
    """Add how to fetch a model to the error of a missing file whose path is the name of one."""
    try:
        yield
    except ModelNotFoundError as error:
        name = os.fspath(model).removeprefix("hf:")  # as the command line takes it
        if not _names_a_repository(name):
            raise
        raise ModelNotFoundError(
            f"{error.message}; to fetch a model from the Hugging Face hub: Llama.from_hub({name!r})"
        ) from None


def _fitted_context(model: Model, given: Mapping[str, Any]) -> Fitting | None:
    """What finds the longest context beside a model that the caller loaded; None for a context of a given length."""
    if given.get("n_ctx") != "auto":
        return None
    beside = BesideModel(model.parts, given, model.options)
    fitting = Fitting(model.parts, model.options, partial(choose_contexts, given=given), beside=beside, loaded=True)
    fitting.plan()
    return fitting


def check_model_path(model: object) -> None:
    """Raise TypeError for what is not a path, and ``ValueError`` for an empty one."""
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model must be the path of a GGUF file, its content or a Model, not {type(model).__name__}")
    if not os.fspath(model):
        raise ValueError("model is an empty path")


def _names_a_repository(path: str) -> bool:
    """Whether what was given as a path is a name for :meth:`Llama.from_hub` rather than that of a missing file."""
    from llama_cffi.hub.name import HubName

    try:
        return not HubName.parse(path).repo.lower().endswith(".gguf") and not path.lower().endswith(".gguf")
    except HubNameError:
        return False


__all__ = ["check_model_path", "load_fitted", "load_model", "naming_the_hub"]
