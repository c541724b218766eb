"""llama.cpp from Python: direct, complete, safe.

::

    from llama_cffi import Llama

    llm = Llama("model.gguf")
    print(llm.generate("Once upon a time").text)

Importing the package, or a name from it, loads no library: the first object or function that needs libllama binds it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi._native.features import features
    from llama_cffi._native.library import use_library
    from llama_cffi.aio.llama import AsyncLlama
    from llama_cffi.aio.session import AsyncChatSession
    from llama_cffi.aio.speech import AsyncSpeechStream
    from llama_cffi.aio.stream import AsyncStream
    from llama_cffi.chat_session import ChatSession
    from llama_cffi.core.adapter import LoraAdapter
    from llama_cffi.core.archive import ArchiveMember
    from llama_cffi.core.batch import Batch
    from llama_cffi.core.context import Context
    from llama_cffi.core.context_options import ContextOptions
    from llama_cffi.core.context_threads import ThreadUse
    from llama_cffi.core.control_vector import ControlVector
    from llama_cffi.core.embedding_batch import EmbeddingBatch
    from llama_cffi.core.gguf import GGUFFile
    from llama_cffi.core.media.audio import Audio
    from llama_cffi.core.media.chunk import MediaChunk
    from llama_cffi.core.media.image import Image
    from llama_cffi.core.media.projector import Projector
    from llama_cffi.core.media.speech import SpeechGenerator
    from llama_cffi.core.media.video import Video
    from llama_cffi.core.memory import Memory
    from llama_cffi.core.memory_breakdown import MemoryBreakdown
    from llama_cffi.core.memory_estimate import MemoryEstimate, estimate_memory
    from llama_cffi.core.model import Model
    from llama_cffi.core.model_options import ModelOptions
    from llama_cffi.core.outputs import Outputs
    from llama_cffi.core.quantize import QuantizeOptions, quantize
    from llama_cffi.core.sampler import SamplerChain
    from llama_cffi.core.saved_state import SavedState
    from llama_cffi.core.state import State
    from llama_cffi.core.vocab import Vocab
    from llama_cffi.engine.draft_model import DraftHeads, DraftModel
    from llama_cffi.engine.engine import Engine
    from llama_cffi.engine.prompt_cache import PromptCache
    from llama_cffi.engine.prompt_lookup import PromptLookup
    from llama_cffi.engine.request import Request
    from llama_cffi.engine.sampling_params import SamplingParams
    from llama_cffi.engine.snapshot import EngineSnapshot
    from llama_cffi.engine.telemetry import RequestEvent
    from llama_cffi.errors import LlamaCffiError
    from llama_cffi.grammar.values import GBNF, JsonSchema, Lark, Lazy, Regex
    from llama_cffi.llama import Llama
    from llama_cffi.prompt.tools import Tool
    from llama_cffi.reply.completion import Chunk, Completion, FinishReason, Speculation, Timings, TokenLogprob, Usage
    from llama_cffi.reply.reply import Reply, ReplyChunk, ToolCall
    from llama_cffi.reply.scores import Perplexity, Score
    from llama_cffi.reply.vectors import Embeddings, Label, Ranked
    from llama_cffi.speech import SpeechStream
    from llama_cffi.tool_loop import ToolResult, ToolRun

_HOME = {
    "GBNF": "grammar.values",
    "ArchiveMember": "core.archive",
    "AsyncChatSession": "aio.session",
    "AsyncLlama": "aio.llama",
    "AsyncSpeechStream": "aio.speech",
    "AsyncStream": "aio.stream",
    "Audio": "core.media.audio",
    "Batch": "core.batch",
    "ChatSession": "chat_session",
    "Chunk": "reply.completion",
    "Completion": "reply.completion",
    "Context": "core.context",
    "ContextOptions": "core.context_options",
    "ControlVector": "core.control_vector",
    "DraftHeads": "engine.draft_model",
    "DraftModel": "engine.draft_model",
    "EmbeddingBatch": "core.embedding_batch",
    "Embeddings": "reply.vectors",
    "Engine": "engine.engine",
    "EngineSnapshot": "engine.snapshot",
    "FinishReason": "reply.completion",
    "GGUFFile": "core.gguf",
    "Image": "core.media.image",
    "JsonSchema": "grammar.values",
    "Label": "reply.vectors",
    "Lark": "grammar.values",
    "Lazy": "grammar.values",
    "Llama": "llama",
    "LlamaCffiError": "errors",
    "LoraAdapter": "core.adapter",
    "MediaChunk": "core.media.chunk",
    "Memory": "core.memory",
    "MemoryBreakdown": "core.memory_breakdown",
    "MemoryEstimate": "core.memory_estimate",
    "Model": "core.model",
    "ModelOptions": "core.model_options",
    "Outputs": "core.outputs",
    "Perplexity": "reply.scores",
    "Projector": "core.media.projector",
    "PromptCache": "engine.prompt_cache",
    "PromptLookup": "engine.prompt_lookup",
    "QuantizeOptions": "core.quantize",
    "Ranked": "reply.vectors",
    "Regex": "grammar.values",
    "Reply": "reply.reply",
    "ReplyChunk": "reply.reply",
    "Request": "engine.request",
    "RequestEvent": "engine.telemetry",
    "SamplerChain": "core.sampler",
    "SamplingParams": "engine.sampling_params",
    "SavedState": "core.saved_state",
    "Score": "reply.scores",
    "Speculation": "reply.completion",
    "SpeechGenerator": "core.media.speech",
    "SpeechStream": "speech",
    "State": "core.state",
    "ThreadUse": "core.context_threads",
    "Timings": "reply.completion",
    "TokenLogprob": "reply.completion",
    "Tool": "prompt.tools",
    "ToolCall": "reply.reply",
    "ToolResult": "tool_loop",
    "ToolRun": "tool_loop",
    "Usage": "reply.completion",
    "Video": "core.media.video",
    "Vocab": "core.vocab",
    "estimate_memory": "core.memory_estimate",
    "features": "_native.features",
    "quantize": "core.quantize",
    "use_library": "_native.library",
}

_MODULES = ("errors", "hub", "otel", "samplers")
"""Public modules, which need no import statement of their own."""

__all__ = [
    "GBNF",
    "ArchiveMember",
    "AsyncChatSession",
    "AsyncLlama",
    "AsyncSpeechStream",
    "AsyncStream",
    "Audio",
    "Batch",
    "ChatSession",
    "Chunk",
    "Completion",
    "Context",
    "ContextOptions",
    "ControlVector",
    "DraftHeads",
    "DraftModel",
    "EmbeddingBatch",
    "Embeddings",
    "Engine",
    "EngineSnapshot",
    "FinishReason",
    "GGUFFile",
    "Image",
    "JsonSchema",
    "Label",
    "Lark",
    "Lazy",
    "Llama",
    "LlamaCffiError",
    "LoraAdapter",
    "MediaChunk",
    "Memory",
    "MemoryBreakdown",
    "MemoryEstimate",
    "Model",
    "ModelOptions",
    "Outputs",
    "Perplexity",
    "Projector",
    "PromptCache",
    "PromptLookup",
    "QuantizeOptions",
    "Ranked",
    "Regex",
    "Reply",
    "ReplyChunk",
    "Request",
    "RequestEvent",
    "SamplerChain",
    "SamplingParams",
    "SavedState",
    "Score",
    "Speculation",
    "SpeechGenerator",
    "SpeechStream",
    "State",
    "ThreadUse",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolResult",
    "ToolRun",
    "Usage",
    "Video",
    "Vocab",
    "estimate_memory",
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
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
