"""The values of ``draft=`` and ``speculative=``, converted into a draft source."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from llama_cffi._util.shown import shown
from llama_cffi.core.gguf import GGUFFile
from llama_cffi.core.model import Model, ModelOptions
from llama_cffi.core.shared_model import ModelShare
from llama_cffi.engine.draft_model import DraftHeads, DraftModel, ModelDrafts, draft_context
from llama_cffi.engine.drafters import DraftSource
from llama_cffi.engine.head_drafts import HeadDrafts
from llama_cffi.engine.prompt_lookup import PromptLookup
from llama_cffi.errors import UnsupportedError

if TYPE_CHECKING:
    from llama_cffi.core.context import Context

Draft = Literal["lookup", "mtp"] | str | os.PathLike[str] | Model | DraftModel | DraftHeads | DraftSource
"""``"lookup"`` (a :class:`PromptLookup` with its defaults), ``"mtp"`` (:class:`DraftHeads`, the same), a draft model as
a file or loaded, a :class:`DraftModel` or :class:`DraftHeads` with options, or anything else that drafts. A file that
is named lookup is ``Path("lookup")``."""

NAMED_SOURCES = ("lookup", "mtp")
"""The texts that are not the path of a draft model."""

Speculative = bool | Literal["lookup"] | DraftSource
"""True for the draft source of the Llama, False for no drafts, or a draft source for this one text."""


class OpenDraft:
    """A source of drafts beside a Context, and what was opened for it. ``options`` are those of loading a draft model.

    Raises what loading the draft model raises, and :class:`DraftError` when it does not fit.
    """

    def __init__(self, draft: Draft, target: Context, options: ModelOptions | None = None) -> None:
        self._drafts: ModelDrafts | HeadDrafts | None = None
        self._owned: ModelShare | None = None
        self._draft: DraftModel | DraftHeads | DraftSource
        self.source: DraftSource
        if isinstance(draft, str) and draft == "lookup":
            draft = PromptLookup()
        elif isinstance(draft, str) and draft == "mtp":
            draft = DraftHeads()
        elif isinstance(draft, (str, os.PathLike, Model)):
            draft = DraftModel(model=draft)
        if not isinstance(draft, (DraftModel, DraftHeads)):
            self._draft = self.source = check_source(draft, "draft")
            return
        model = draft.model if draft.model is not None else target.model
        if not isinstance(model, Model):
            options = options if options is not None else ModelOptions()
            if isinstance(draft, DraftHeads) or drafts_from_states(model):
                # llama.cpp plans no context for heads alone: they are small, and go to the devices as a whole.
                n_gpu_layers = "all" if options.fits_layers else options.n_gpu_layers
                options = replace(options, load_mtp=True, n_gpu_layers=n_gpu_layers)
            model = Model(model, options, context=draft_context(target.options, target.n_ctx))
            self._owned = ModelShare(model)
        self._draft = draft = replace(draft, model=model)
        try:
            self._drafts = self.source = _open(draft, target, model)
        except BaseException:
            self.close()
            raise

    def fork(self, target: Context) -> OpenDraft:
        """The same source beside another Context; a draft model gets a context of its own, and its weights are shared.

        A source that is neither a draft model nor ``"lookup"`` is the very same object.
        """
        # First of all: the model is open as long as one of its owners is.
        owned = self._owned.share() if self._owned is not None else None
        try:
            twin = OpenDraft(self._draft, target)
        except BaseException:
            if owned is not None:
                owned.close()
            raise
        twin._owned = owned
        return twin

    def close(self) -> None:
        """Free what was opened. Idempotent."""
        if self._drafts is not None:
            self._drafts.close()
        if self._owned is not None:
            self._owned.close()


def drafts_by_heads(draft: Draft | None) -> bool:
    """Return whether these drafts need the layers of the model that predict further tokens."""
    return (isinstance(draft, str) and draft == "mtp") or (isinstance(draft, DraftHeads) and draft.model is None)


def _open(draft: DraftModel | DraftHeads, target: Context, model: Model) -> ModelDrafts | HeadDrafts:
    """Return the drafts of a model, by what kind it is of."""
    if model.architecture in _OTHER_HEADS:
        raise UnsupportedError(
            f"drafts by {model.architecture} models are not supported: {_OTHER_HEADS[model.architecture]}"
        )
    if model.architecture == "eagle3":
        return HeadDrafts(target, model, draft, "eagle3")
    if isinstance(draft, DraftHeads) or (model is not target.model and _holds_heads_only(model.path)):
        return HeadDrafts(target, model, draft, "mtp")
    return ModelDrafts(target, model, draft)


_OTHER_HEADS = {
    "dflash": "they draft blocks of masked tokens",
    "gemma4-assistant": "they compute with the memory of their target",
}


def drafts_from_states(path: str | os.PathLike[str]) -> bool:
    """Return whether the model in a file drafts from the hidden states of another one, and computes nothing alone."""
    return GGUFFile(path).architecture == "eagle3" or _holds_heads_only(path)


def _holds_heads_only(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the layers that predict further tokens, and not those before them."""
    names = {tensor.name for tensor in GGUFFile(path).tensors}
    return "blk.0.attn_norm.weight" not in names and any(".nextn." in name for name in names)


def request_source(speculative: Speculative | None, default: DraftSource | None) -> DraftSource | None:
    """Return the source of one request's drafts; ValueError for True where there is none by default."""
    if speculative is None or speculative is True:
        if speculative and default is None:
            raise ValueError("speculative=True needs a Llama that was opened with draft=")
        return default
    if speculative is False:
        return None
    if isinstance(speculative, str) and speculative == "lookup":
        return PromptLookup()
    return check_source(speculative, "speculative")


def check_source(source: object, name: str) -> DraftSource:
    """Return the same object as a draft source; TypeError when it is not one."""
    if isinstance(source, (str, os.PathLike, Model, DraftModel, DraftHeads)):
        raise TypeError(f"{name}={source!r}: a draft model is given to Llama(draft=...), which opens it once")
    if isinstance(source, type) or not callable(getattr(source, "start", None)):
        raise TypeError(f"{name} must be a draft source, not {shown(source)}")
    return source  # type: ignore[return-value]


__all__ = [
    "NAMED_SOURCES",
    "Draft",
    "OpenDraft",
    "Speculative",
    "check_source",
    "drafts_by_heads",
    "drafts_from_states",
    "request_source",
]
