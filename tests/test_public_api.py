"""The names that users may rely on."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import llama_cffi
from llama_cffi import errors, options, samplers

PUBLIC = [
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


def test_the_public_names() -> None:
    assert llama_cffi.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(llama_cffi))
    for name in PUBLIC:
        thing = getattr(llama_cffi, name)
        assert (thing.__name__ if isinstance(thing, type) or inspect.isfunction(thing) else name) == name


def public_things() -> dict[str, Any]:
    """Everything that a user may name: classes, functions and objects by their names."""
    found = {name: getattr(llama_cffi, name) for name in PUBLIC}
    for module in (errors, options, samplers):
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    return found


def functions_of(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions behind the methods and properties that a class and its bases define; not those that dataclasses
    write."""
    bases = [one for one in reversed(kind.__mro__) if one.__module__.startswith("llama_cffi")]
    for name, (base, member) in {name: (one, member) for one in bases for name, member in vars(one).items()}.items():
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        elif isinstance(member, (property, cached_property)):
            member = member.fget if isinstance(member, property) else member.func
        if inspect.isfunction(member) and member.__code__.co_filename == inspect.getsourcefile(base):
            yield name, member


def test_every_public_name_says_what_it_is() -> None:
    silent = []
    for name, thing in public_things().items():
        if not isinstance(thing, type) and not inspect.isfunction(thing):
            continue  # an alias of types, or an object, whose class is looked at
        if not thing.__doc__ or thing.__doc__.startswith(f"{thing.__name__}("):  # what a dataclass writes itself
            silent.append(name)
        if isinstance(thing, type):
            silent += [
                f"{name}.{member}"
                for member, function in functions_of(thing)
                if not member.startswith("_") and not inspect.getdoc(getattr(thing, member)) and not function.__doc__
            ]
    assert silent == []


def test_every_public_function_is_annotated_in_full() -> None:
    bare = []
    for name, thing in public_things().items():
        functions = list(functions_of(thing)) if isinstance(thing, type) else [("", thing)]
        for member, function in functions:
            if not inspect.isfunction(function):
                continue
            code = function.__code__
            n_named = code.co_argcount + code.co_kwonlyargcount
            n_all = n_named + bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
            wanted = {*code.co_varnames[:n_all], "return"} - {"self", "cls"}
            bare += [f"{name}.{member}({one})" for one in sorted(wanted - function.__annotations__.keys())]
    assert bare == []


def test_what_is_looked_at_is_everything() -> None:
    seen = {name for name, _ in functions_of(llama_cffi.Llama)}
    assert {"generate", "stream_chat", "embed", "from_hub", "model", "fork", "close", "__init__"} <= seen
    assert "__init__" not in dict(functions_of(llama_cffi.SamplingParams))


def test_every_option_says_what_it_is() -> None:
    tree = ast.parse(inspect.getsource(options))
    kinds = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {node.name for node in kinds} <= set(options.__all__)
    keys = 0
    for kind in kinds:
        for key, after in zip(kind.body, [*kind.body[1:], None], strict=True):
            if isinstance(key, ast.AnnAssign):
                keys += 1
                assert isinstance(after, ast.Expr), ast.unparse(key)
                assert isinstance(after.value, ast.Constant), ast.unparse(key)
    assert keys > 40


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
