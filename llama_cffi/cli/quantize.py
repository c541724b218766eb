"""``llama-cffi quantize``: a model with smaller weights."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from llama_cffi._util.progress import Bar
from llama_cffi.cli import arguments, console, options

_TERMINATED = 143


@console.command
def quantize(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="GGUF file, or the first part of a split model; - is standard input."),
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The file to write.")],
    type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Such as Q4_K_M, Q8_0 or F16; an unknown one lists all.")
    ],
    force: Annotated[bool, options.option("--force", help="Replace TARGET if it exists.")] = False,
    allow_requantize: Annotated[
        bool, options.option("--allow-requantize", help="Accept a quantized model; it loses accuracy twice.")
    ] = False,
    leave_output_tensor: Annotated[
        bool, options.option("--leave-output-tensor", help="Do not quantize the output matrix.")
    ] = False,
    pure: Annotated[bool, options.option("--pure", help="Give all tensors the same type.")] = False,
    copy: Annotated[bool, options.option("--copy", help="Only copy the tensors, regardless of TYPE.")] = False,
    imatrix: Annotated[
        Path | None,
        options.option("--imatrix", metavar="FILE", help="Importance matrix; types of 2 bits and less need one."),
    ] = None,
    output_tensor_type: Annotated[
        str | None, options.option("--output-tensor-type", metavar="TYPE", help="The ggml type of the output matrix.")
    ] = None,
    token_embedding_type: Annotated[
        str | None, options.option("--token-embedding-type", metavar="TYPE", help="Type of the token embeddings.")
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        options.option(
            "--tensor-type", metavar="NAME=TYPE",
            help="The ggml type of the tensors whose names match: attn_q=q8_0. Repeatable.",
        ),
    ] = None,
    prune_layers: Annotated[
        str | None, options.option("--prune-layers", metavar="N,N", help="Layers to leave out, separated by commas.")
    ] = None,
    override_kv: options.OverrideKv = None,
    max_buffer_size: Annotated[
        int | None,
        options.option("--max-buffer-size", metavar="MIB", min=1, help="The most MiB of rows in memory at once."),
    ] = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:  # fmt: skip
    """Write a model with weights of another type.

    The result is that of llama.cpp's llama-quantize. TARGET appears when it is complete; Ctrl-C leaves nothing.
    """
    patterns = arguments.pairs(tensor_type or (), "--tensor-type", "NAME=TYPE, as in attn_q=q8_0")
    layers = arguments.numbers(prune_layers, "--prune-layers")
    overrides = arguments.kv_overrides(override_kv or ())
    if str(target) == "-":
        raise typer.BadParameter("the result is a file, which - does not name", param_hint="TARGET")
    from llama_cffi.core.quantize import QuantizeOptions, check_target, native_params, quantize

    settings = QuantizeOptions(
        n_threads=arguments.positive(threads),
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        tensor_types=patterns,
        allow_requantize=allow_requantize,
        quantize_output_tensor=not leave_output_tensor,
        pure=pure,
        copy=copy,
        imatrix=imatrix,
        kv_overrides=overrides,
        prune_layers=layers,
        max_buf_size=max_buffer_size * 2**20 if max_buffer_size is not None else None,
    )
    signal.signal(signal.SIGTERM, _terminated)
    if str(source) == "-":
        # Before it is read, which may take minutes: wrong values must not wait for it.
        native_params(type, settings)
        check_target(target, overwrite=force)
    with _file(source, target.parent) as model, Bar("quantizing") as bar:
        start = time.monotonic()
        quantize(model, target, type, settings, overwrite=force, progress=bar)
        seconds = time.monotonic() - start
        before, after = model.stat().st_size, target.stat().st_size
    if as_json:
        report = {"source": str(source), "target": str(target), "type": type.upper(), "seconds": seconds}
        console.print_json({**report, "source_bytes": before, "target_bytes": after})
        return
    console.rows(
        [
            ("written", str(target)),
            ("type", type.upper()),
            ("size", f"{console.size_text(after)}, from {console.size_text(before)}"),
            ("time", f"{seconds:.1f} s"),
        ]
    )


@contextmanager
def _file(source: Path, folder: Path) -> Iterator[Path]:
    """The source, or where it is ``-`` a file in this folder with what standard input holds, for the block."""
    if str(source) != "-":
        yield source
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise typer.BadParameter("standard input is a terminal, which sends no model", param_hint="SOURCE")
    from llama_cffi._util.files import PART

    # llama.cpp reads a model in the order that it likes; a pipe has one of its own.
    with tempfile.NamedTemporaryFile(prefix=".standard-input.", suffix=PART, dir=folder) as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise console.Terminated(_TERMINATED)
