"""llama.cpp from Python: direct, complete, safe.

::

    from llama_cffi import Llama

    llm = Llama("model.gguf")
    print(llm.generate("Once upon a time").text)

Importing the package loads nothing; the first name taken from it loads libllama.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi._native.features import features
    from llama_cffi._native.library import use_library
    from llama_cffi.core.batch import Batch
    from llama_cffi.core.context import Context, ContextOptions
    from llama_cffi.core.gguf import GGUFFile
    from llama_cffi.core.memory import Memory
    from llama_cffi.core.model import Model, ModelOptions
    from llama_cffi.core.sampler import SamplerChain
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.engine.engine import Engine
    from llama_cffi.engine.request import (
        Chunk,
        Completion,
        FinishReason,
        Request,
        SamplingParams,
        Timings,
        TokenLogprob,
        Usage,
    )
    from llama_cffi.errors import LlamaCffiError
    from llama_cffi.facade.embedding import Embeddings, Label, Ranked
    from llama_cffi.llama import Llama

_HOME = {
    "Batch": "core.batch",
    "Chunk": "engine.request",
    "Completion": "engine.request",
    "Context": "core.context",
    "ContextOptions": "core.context",
    "Embeddings": "facade.embedding",
    "Engine": "engine.engine",
    "FinishReason": "engine.request",
    "GGUFFile": "core.gguf",
    "Label": "facade.embedding",
    "Llama": "llama",
    "LlamaCffiError": "errors",
    "Memory": "core.memory",
    "Model": "core.model",
    "ModelOptions": "core.model",
    "Ranked": "facade.embedding",
    "Request": "engine.request",
    "SamplerChain": "core.sampler",
    "SamplingParams": "engine.request",
    "Timings": "engine.request",
    "TokenLogprob": "engine.request",
    "Usage": "engine.request",
    "Vocab": "core.vocab",
    "features": "_native.features",
    "use_library": "_native.library",
}

__all__ = [
    "Batch",
    "Chunk",
    "Completion",
    "Context",
    "ContextOptions",
    "Embeddings",
    "Engine",
    "FinishReason",
    "GGUFFile",
    "Label",
    "Llama",
    "LlamaCffiError",
    "Memory",
    "Model",
    "ModelOptions",
    "Ranked",
    "Request",
    "SamplerChain",
    "SamplingParams",
    "Timings",
    "TokenLogprob",
    "Usage",
    "Vocab",
    "features",
    "use_library",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Costs 35 ms, which few programs should pay.
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("llama-cffi")
        except PackageNotFoundError:
            return "0+unknown"
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
