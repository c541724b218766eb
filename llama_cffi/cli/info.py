"""``llama-cffi info``: what a GGUF file is, without loading its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_cffi.cli import console, options
from llama_cffi.cli.loading import model_file, remote_model, web_address
from llama_cffi.cli.projector_summary import PROJECTOR, summarise_projector
from llama_cffi.cli.summary import Summary, parts, summarise

if TYPE_CHECKING:
    from llama_cffi.core.gguf import GGUFFile
    from llama_cffi.core.source import Source

_SHOWN = 8
"""How many values of a long array are shown."""

_VOCAB_TYPES = {
    "llama": "SentencePiece", "gpt2": "byte-level BPE", "bert": "WordPiece", "t5": "Unigram", "rwkv": "RWKV",
    "none": "no tokens",
}  # fmt: skip


@console.command
def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="GGUF file, or one part of a split model; hf:OWNER/REPO:Q4_K_M and https://... are not downloaded.",
        ),
    ] = None,
    model: Annotated[
        Path | None, options.option("-m", "--model", metavar="FILE", help="Another way to give FILE.")
    ] = None,
    metadata: Annotated[bool, typer.Option("--metadata", help="Show all metadata; long arrays are shortened.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors.")] = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Show the metadata of a GGUF file, without loading its weights."""
    if (file is None) is (model is None):
        raise typer.BadParameter("give one file, as an argument or with --model", param_hint="FILE")
    file = file or model or Path()
    with _opened(file) as (opened, missing, memory):
        _show(file, opened, missing, memory, metadata=metadata, tensors=tensors, as_json=as_json)


@contextmanager
def _opened(file: Path) -> Iterator[tuple[list[tuple[str, GGUFFile]], list[str], dict[str, int] | None]]:
    """The parts of a model with their names, those that are missing, and the memory that a remote one would take."""
    from llama_cffi.core.gguf import GGUFFile

    remote = remote_model(str(file))
    if remote is None:
        file = Path(model_file(file))
        given = GGUFFile(file)
        present, missing = parts(file, given.metadata)
        yield [(str(path), given if path == file else GGUFFile(path)) for path in present], [*map(str, missing)], None
        return
    from llama_cffi.core.opening import remote_headers

    with remote_headers(remote) as sources:
        opened = [(source.name, GGUFFile(source)) for source in sources]
        yield opened, [], _memory(sources)


def _memory(sources: list[Source]) -> dict[str, int] | None:
    """What the model and its usual context would take; None for what is not a model."""
    from llama_cffi import ContextOptions, LlamaCffiError, estimate_memory
    from llama_cffi.cli.memory_plan import usual_context

    try:
        context = ContextOptions(n_ctx=usual_context(sources[0].path))
        found = estimate_memory([source.path for source in sources], None, context)
    except LlamaCffiError:
        return None
    return {"weights": found.weights, "kv": found.kv, "compute": found.compute, "n_ctx": context.n_ctx}


def _show(
    file: Path,
    opened: list[tuple[str, GGUFFile]],
    missing: list[str],
    memory: dict[str, int] | None,
    *,
    metadata: bool,
    tensors: bool,
    as_json: bool,
) -> None:
    first = opened[0][1]
    summary = summarise(first, web_address(file) or str(file), opened, missing, memory)
    projector = summarise_projector(first, Path(opened[0][0])) if summary.architecture == PROJECTOR else None
    if as_json:
        report = _report(summary, opened, metadata=metadata, tensors=tensors)
        console.print_json(report | ({} if projector is None else {"projector": dataclasses.asdict(projector)}))
        return
    console.rows([*_rows(summary), *(projector.rows() if projector is not None else [])])
    if metadata:
        print()
        for key, value in first.metadata.items():
            print(f"{console.style(console.one_line(key), '1')} = {_value(value)}")
    if tensors:
        print()
        listed = [tensor for _, part in opened for tensor in part.tensors]
        width = max((len(console.one_line(tensor.name)) for tensor in listed), default=0)
        for tensor in listed:
            shape = " x ".join(map(str, tensor.shape))
            size = console.size_text(tensor.nbytes)
            print(f"{console.one_line(tensor.name):{width}}  {tensor.type.upper():8} {size:>10}  {shape}")


def _rows(summary: Summary) -> list[tuple[str, str]]:
    """Labels and values; what the file does not say is left out."""
    n_files = len(summary.files) + len(summary.missing_files)
    size = f"{console.size_text(summary.file_size)}, GGUF version {summary.gguf_version}"
    found = [
        ("file", f"{summary.path} ({size})"),
        ("parts", f"{n_files}, {_missing(summary)}" if n_files > 1 else None),
        ("type", summary.type if summary.type != "model" else None),
        ("name", summary.name),
        ("architecture", summary.architecture or "not given: no model that llama.cpp can load"),
        ("projector", f"for {', '.join(summary.projects)}" if summary.projects else None),
        ("parameters", _parameters(summary)),
        *(("weights" if i == 0 else "", text) for i, text in enumerate(_weights(summary))),
        ("context length", f"{summary.context_length:,} tokens" if summary.context_length else None),
        ("layers", _extent(summary.layers)),
        ("heads", _heads(summary)),
        ("embedding", _extent(summary.embedding)),
        ("feed forward", _extent(summary.feed_forward)),
        ("experts", f"{summary.experts}, {summary.experts_used} used" if summary.experts else None),
        ("vocabulary", _vocabulary(summary)),
        ("chat template", "yes" if summary.chat_template else "no"),
        ("sampling", ", ".join(f"{name} {_short(value)}" for name, value in summary.sampling.items()) or None),
        ("suppressed", f"{summary.suppressed_tokens} tokens are never sampled" if summary.suppressed_tokens else None),
        ("memory", _memory_text(summary)),
        ("license", summary.license or "not given"),
        ("metadata", f"{summary.metadata_keys} keys"),
    ]
    return [(label, console.one_line(text, 1000)) for label, text in found if text]


def _memory_text(summary: Summary) -> str | None:
    memory = summary.memory
    if memory is None:
        return None
    sizes = {name: console.size_text(size) for name, size in memory.items() if name != "n_ctx"}
    context = f"{sizes['kv']} for {memory['n_ctx']:,} tokens"
    return f"{sizes['weights']} for the weights, {context}, {sizes['compute']} to compute"


def _missing(summary: Summary) -> str:
    if not summary.missing_files:
        return "all there"
    return "missing: " + ", ".join(Path(file).name for file in summary.missing_files)


def _parameters(summary: Summary) -> str:
    if not summary.n_params:
        return "none: this file holds no weights"
    more = " in the parts that are there" if summary.missing_files else ""
    label = f", {summary.size_label}" if summary.size_label else ""
    return f"{console.count_text(summary.n_params)} ({summary.n_params:,}{label}){more}"


def _weights(summary: Summary) -> list[str]:
    total = summary.tensor_bytes
    lines = [
        f"{part.type:6} {part.nbytes / total:6.1%} of {console.size_text(total)}, {part.n_tensors} tensors"
        for part in summary.weights
        if total
    ]
    if summary.bits_per_weight is not None:
        lines.append(f"{summary.bits_per_weight:.2f} bits per weight")
    return lines


def _heads(summary: Summary) -> str | None:
    if summary.heads is None:
        return None
    kv = _extent(summary.kv_heads)
    return f"{_extent(summary.heads)}, {kv} for keys and values" if kv is not None else _extent(summary.heads)


def _vocabulary(summary: Summary) -> str | None:
    if summary.vocab_type is None and summary.vocab_size is None:
        return None
    kind = summary.vocab_type or "unknown type"
    known = _VOCAB_TYPES.get(kind)
    size = f"{summary.vocab_size:,} tokens, " if summary.vocab_size is not None else ""
    return f"{size}{kind} ({known})" if known else f"{size}{kind}"


def _extent(value: Any) -> str | None:
    """A number, or the range of one number per layer."""
    if isinstance(value, list):
        return f"{min(value)} to {max(value)}, by layer" if value else None
    return None if value is None else f"{value:,}"


def _value(value: Any) -> str:
    """A metadata value on one line."""
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_value(item) for item in value[:_SHOWN])
        return f"[{shown}, ... {len(value):,} in all]" if len(value) > _SHOWN else f"[{shown}]"
    return console.one_line(value) if isinstance(value, str) else str(value)


def _short(value: Any) -> str:
    """A value as its author wrote it, before a file kept it with 32 bits."""
    return f"{value:g}" if isinstance(value, float) else _value(value)


def _report(summary: Summary, opened: list[tuple[str, GGUFFile]], *, metadata: bool, tensors: bool) -> dict[str, Any]:
    """The same as plain data; long arrays of the metadata as their length and first values."""
    report = dataclasses.asdict(summary)
    report |= {"tensor_bytes": summary.tensor_bytes, "bits_per_weight": summary.bits_per_weight}
    if metadata:
        report["metadata"] = {
            key: {"length": len(value), "first": value[:_SHOWN]}
            if isinstance(value, list) and len(value) > _SHOWN
            else value
            for key, value in opened[0][1].metadata.items()
        }
    if tensors:
        report["tensor_list"] = [
            {
                "name": tensor.name, "type": tensor.type.upper(), "shape": list(tensor.shape),
                "n_params": tensor.n_elements, "nbytes": tensor.nbytes, "file": path,
            }
            for path, part in opened
            for tensor in part.tensors
        ]  # fmt: skip
    return report
