"""What every part of the facade stands on: a model, a context, an engine, and their lifetime."""

from __future__ import annotations

import os
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llama_cffi.core.conditioning import PLAIN
from llama_cffi.core.context import Context, ContextOptions
from llama_cffi.core.model import Model, ModelOptions, ProgressCallback
from llama_cffi.engine.embedder import Embedders
from llama_cffi.engine.engine import Engine
from llama_cffi.engine.request import OVERFLOW_POLICIES, Overflow
from llama_cffi.engine.runner import ContextRunner
from llama_cffi.errors import ClosedError, ModelFileError, UnsupportedError
from llama_cffi.facade.draft import Draft, OpenDraft
from llama_cffi.facade.owned_model import OwnedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from llama_cffi.engine.prompt_cache import PromptCache

DEFAULT_N_CTX = 4096
"""Context length unless one is given; less when the model was trained for less."""


class Base:
    """Model, context and engine of a :class:`~llama_cffi.llama.Llama`, and its tokens."""

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        *,
        n_ctx: int | None = None,
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        n_seq_max: int = 8,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        n_gpu_layers: int | None = None,
        require_gpu: bool = False,
        overflow: Overflow = "stop",
        draft: Draft | None = None,
        model_options: ModelOptions | None = None,
        context_options: ContextOptions | None = None,
        progress: ProgressCallback | None = None,
        prompt_cache: PromptCache | None = None,
    ) -> None:
        if overflow not in OVERFLOW_POLICIES:
            raise ValueError(f"overflow must be one of {', '.join(map(repr, OVERFLOW_POLICIES))}, got {overflow!r}")
        if isinstance(model, Model):
            if model_options is not None or n_gpu_layers is not None or require_gpu or progress is not None:
                raise ValueError("a Model is loaded already: give options of the load and progress to Model()")
            self._owned: OwnedModel | None = None
            self.model = model
        else:
            if n_gpu_layers is not None or require_gpu:
                if model_options is not None:
                    raise ValueError("give n_gpu_layers and require_gpu, or model_options, not both")
                model_options = ModelOptions(n_gpu_layers=n_gpu_layers, require_gpu=require_gpu)
            self.model = Model(model, model_options, progress=progress)
            self._owned = OwnedModel(self.model)
        self.overflow: Overflow = overflow
        self._conditioning = PLAIN
        self._prompt_cache = prompt_cache
        self._draft: OpenDraft | None = None
        try:
            options = _context_options(
                context_options,
                self.model,
                n_ctx=n_ctx,
                n_batch=n_batch,
                n_ubatch=n_ubatch,
                n_seq_max=n_seq_max,
                n_threads=n_threads,
                n_threads_batch=n_threads_batch,
            )
            self._open(options)
            if draft is not None:
                self._draft = OpenDraft(draft, self.context, n_gpu_layers=n_gpu_layers)
        except BaseException:
            if self._owned is not None:
                self._owned.close()
            raise

    def _open(self, options: ContextOptions) -> None:
        """Make what belongs to a context of one's own."""
        self.context = Context(self.model, options)
        # An encoder generates nothing, but it embeds.
        self._generates = self.context.has_memory and not self.model.has_encoder
        if self._generates:
            self._engine = Engine(ContextRunner(self.context, self._prompt_cache))
        self._embedders = Embedders(self.context)

    @classmethod
    def demo(
        cls,
        *,
        n_ctx: int | None = None,
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        n_seq_max: int = 8,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        overflow: Overflow = "stop",
        draft: Draft | None = None,
        context_options: ContextOptions | None = None,
        prompt_cache: PromptCache | None = None,
    ) -> Self:
        """The model that ships with the package: tiny, it writes children's stories."""
        return cls(
            demo_path(),
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_seq_max=n_seq_max,
            n_threads=n_threads,
            n_threads_batch=n_threads_batch,
            overflow=overflow,
            draft=draft,
            context_options=context_options,
            prompt_cache=prompt_cache,
        )

    # -- text and tokens

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> NDArray[np.int32]:
        """Token ids of a text, int32 of shape ``(n,)``; see :meth:`Vocab.tokenize`."""
        return self.model.vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(
        self,
        tokens: SequenceOf[int] | NDArray[np.int32],
        *,
        remove_special: bool = False,
        unparse_special: bool = True,
    ) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD. See :meth:`Vocab.detokenize`."""
        data = self.model.vocab.detokenize(tokens, remove_special=remove_special, unparse_special=unparse_special)
        return data.decode("utf-8", "replace")

    # -- lifetime

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` ran."""
        return self.context.closed

    def close(self) -> None:
        """Free the contexts, and the models that this object loaded, unless a fork of it is open. Idempotent."""
        self.context.close()
        self._embedders.close()
        if self._draft is not None:
            self._draft.close()
        if self._owned is not None:
            self._owned.close()

    def _check_open(self) -> None:
        if self.context.closed:
            raise ClosedError("this Llama is closed")

    def _open_engine(self) -> Engine:
        self._check_open()
        if not self._generates:
            name = self.model.path.name
            if self.context.has_memory and self.model.has_decoder:
                raise UnsupportedError(
                    f"{name} has an encoder before its decoder, which takes Context.encode and decode"
                )
            raise UnsupportedError(f"{name} is an encoder: it generates no text, but embed() works")
        return self._engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model.path.name!r}: {'closed' if self.closed else self.context}>"


def demo_path() -> str:
    """The path of the model that ships with the package."""
    path = Path(__file__).parents[1] / "models" / "demo.gguf"
    if not path.is_file():
        raise ModelFileError("this installation of llama_cffi lacks its demo model")
    return str(path)


def _context_options(base: ContextOptions | None, model: Model, **overrides: int | None) -> ContextOptions:
    given = {name: value for name, value in overrides.items() if value is not None}
    if base is None:
        trained = model.n_ctx_train
        base = ContextOptions(n_ctx=min(DEFAULT_N_CTX, trained) if trained > 0 else DEFAULT_N_CTX)
    return replace(base, **given)  # type: ignore[arg-type]
