"""The names that users may rely on."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import llama_cffi
from llama_cffi import errors

PUBLIC = [
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
    "JsonSchema",
    "Label",
    "Lark",
    "Lazy",
    "Llama",
    "LlamaCffiError",
    "LoraAdapter",
    "Memory",
    "MemoryEstimate",
    "Model",
    "ModelOptions",
    "Outputs",
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
    "estimate_memory",
    "features",
    "quantize",
    "use_library",
]


def test_the_public_names() -> None:
    assert llama_cffi.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(llama_cffi))
    for name in PUBLIC:
        thing = getattr(llama_cffi, name)
        assert (thing.__name__ if isinstance(thing, type) or inspect.isfunction(thing) else name) == name


def test_every_public_name_says_what_it_is() -> None:
    for name in PUBLIC:
        thing = getattr(llama_cffi, name)
        assert inspect.getdoc(thing), name
        for member, value in vars(thing).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+)( \((\w+)\))?", line)
        if found:
            depth = len(found[1]) // 4
            del path[depth:]
            drawn[found[2]] = path[-1] if path else None
            path.append(found[2])
            kind = getattr(errors, found[2])
            if found[4]:
                assert found[4] in [base.__name__ for base in kind.__mro__], found[2]
    assert sorted(drawn) == sorted(errors.__all__)
    for name, parent in drawn.items():
        if parent is not None:
            assert getattr(errors, parent) in getattr(errors, name).__bases__, name


def test_the_public_modules_are_attributes() -> None:
    for name in ("errors", "hub", "samplers"):
        assert getattr(llama_cffi, name).__name__ == f"llama_cffi.{name}"
        assert name in dir(llama_cffi)


def test_the_samplers_are_those_of_the_core() -> None:
    from llama_cffi import samplers
    from llama_cffi.core import sampler

    assert samplers.__all__ == sampler.__all__
    for name in samplers.__all__:
        assert getattr(samplers, name) is getattr(sampler, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(llama_cffi, "Lama")


def test_the_version() -> None:
    assert re.match(r"\d+\.\d+", llama_cffi.__version__)


def test_importing_the_package_loads_neither_numpy_nor_the_extension() -> None:
    code = "import sys, llama_cffi; print([m for m in sys.modules if m == 'numpy' or 'llama_cffi._native._' in m])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
