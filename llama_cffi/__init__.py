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
    from llama_cffi.chat_session import ChatSession
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.core.batch import Batch
    from llama_cffi.core.context import Context, ContextOptions
    from llama_cffi.core.control_vector import ControlVector
    from llama_cffi.core.gguf import GGUFFile
    from llama_cffi.core.memory import Memory
    from llama_cffi.core.model import Model, ModelOptions
    from llama_cffi.core.quantize import QuantizeOptions, quantize
    from llama_cffi.core.sampler import SamplerChain
    from llama_cffi.core.saved_state import SavedState
    from llama_cffi.core.state import State
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.engine.draft_model import DraftModel
    from llama_cffi.engine.drafters import PromptLookup
    from llama_cffi.engine.engine import Engine
    from llama_cffi.engine.prompt_cache import PromptCache
    from llama_cffi.engine.request import Request
    from llama_cffi.engine.sampling_params import SamplingParams
    from llama_cffi.errors import LlamaCffiError
    from llama_cffi.grammar.values import GBNF, Lark, Lazy, Regex
    from llama_cffi.llama import Llama
    from llama_cffi.prompt.tools import Tool
    from llama_cffi.reply.completion import Chunk, Completion, FinishReason, Speculation, Timings, TokenLogprob, Usage
    from llama_cffi.reply.reply import Reply, ReplyChunk, ToolCall
    from llama_cffi.reply.scores import Perplexity, Score
    from llama_cffi.reply.vectors import Embeddings, Label, Ranked
    from llama_cffi.tool_loop import ToolResult, ToolRun

_HOME = {
    "GBNF": "grammar.values",
    "Batch": "core.batch",
    "ChatSession": "chat_session",
    "Chunk": "reply.completion",
    "Completion": "reply.completion",
    "Context": "core.context",
    "ContextOptions": "core.context",
    "ControlVector": "core.control_vector",
    "DraftModel": "engine.draft_model",
    "Embeddings": "reply.vectors",
    "Engine": "engine.engine",
    "FinishReason": "reply.completion",
    "GGUFFile": "core.gguf",
    "Label": "reply.vectors",
    "Lark": "grammar.values",
    "Lazy": "grammar.values",
    "Llama": "llama",
    "LlamaCffiError": "errors",
    "LoraAdapter": "core.adapter",
    "Memory": "core.memory",
    "Model": "core.model",
    "ModelOptions": "core.model",
    "Perplexity": "reply.scores",
    "PromptCache": "engine.prompt_cache",
    "PromptLookup": "engine.drafters",
    "QuantizeOptions": "core.quantize",
    "Ranked": "reply.vectors",
    "Regex": "grammar.values",
    "Reply": "reply.reply",
    "ReplyChunk": "reply.reply",
    "Request": "engine.request",
    "SamplerChain": "core.sampler",
    "SamplingParams": "engine.sampling_params",
    "SavedState": "core.saved_state",
    "Score": "reply.scores",
    "Speculation": "reply.completion",
    "State": "core.state",
    "Timings": "reply.completion",
    "TokenLogprob": "reply.completion",
    "Tool": "prompt.tools",
    "ToolCall": "reply.reply",
    "ToolResult": "tool_loop",
    "ToolRun": "tool_loop",
    "Usage": "reply.completion",
    "Vocab": "core.vocab",
    "features": "_native.features",
    "quantize": "core.quantize",
    "use_library": "_native.library",
}

__all__ = [
    "GBNF",
    "Batch",
    "ChatSession",
    "Chunk",
    "Completion",
    "Context",
    "ContextOptions",
    "ControlVector",
    "DraftModel",
    "Embeddings",
    "Engine",
    "FinishReason",
    "GGUFFile",
    "Label",
    "Lark",
    "Lazy",
    "Llama",
    "LlamaCffiError",
    "LoraAdapter",
    "Memory",
    "Model",
    "ModelOptions",
    "Perplexity",
    "PromptCache",
    "PromptLookup",
    "QuantizeOptions",
    "Ranked",
    "Regex",
    "Reply",
    "ReplyChunk",
    "Request",
    "SamplerChain",
    "SamplingParams",
    "SavedState",
    "Score",
    "Speculation",
    "State",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolResult",
    "ToolRun",
    "Usage",
    "Vocab",
    "features",
    "quantize",
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
