"""A Llama by the name of its model on the hub."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypedDict

from llama_cffi.core.context import ContextOptions
from llama_cffi.core.model import ModelOptions, ProgressCallback
from llama_cffi.engine.request import Overflow
from llama_cffi.facade.base import Base
from llama_cffi.facade.draft import Draft

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from llama_cffi.engine.prompt_cache import PromptCache


class LlamaOptions(TypedDict, total=False):
    """What a :class:`~llama_cffi.llama.Llama` takes beside its model."""

    n_ctx: int | None
    n_batch: int | None
    n_ubatch: int | None
    n_seq_max: int
    n_threads: int | None
    n_threads_batch: int | None
    n_gpu_layers: int | None
    require_gpu: bool
    overflow: Overflow
    draft: Draft | None
    model_options: ModelOptions | None
    context_options: ContextOptions | None
    progress: ProgressCallback | None
    prompt_cache: PromptCache | None


class Hub(Base):
    """How a :class:`~llama_cffi.llama.Llama` is made from a name."""

    @classmethod
    def from_hub(
        cls,
        name: str,
        *,
        revision: str | None = None,
        offline: bool = False,
        download_progress: ProgressCallback | None = None,
        **options: Unpack[LlamaOptions],
    ) -> Self:
        """Fetch a model from the Hugging Face hub, unless the cache has it, and load it.

        ``name``, ``revision`` and ``offline`` are those of :func:`llama_cffi.hub.pull`: ``owner/repo``,
        ``owner/repo:Q4_K_M`` or ``owner/repo/path/file.gguf``. ``download_progress`` is called with the fraction that
        is there, and cancels when it returns False; ``options`` are those of the class, ``progress`` that of loading.

        Raises the subclasses of :class:`HubError`, :class:`UnsupportedError` without huggingface_hub, and what the
        class raises.
        """
        from llama_cffi.hub import pull

        inspect.signature(cls).bind(name, **options)  # a misspelt option is no reason to fetch gigabytes first
        path = pull(name, revision=revision, offline=offline, progress=download_progress)
        return cls(path, **options)


__all__ = ["Hub", "LlamaOptions"]
