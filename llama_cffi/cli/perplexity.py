"""``llama-cffi perplexity``: how well a model predicts a text."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import typer

from llama_cffi._util.progress import Bar
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.adapters import additions
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import load
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import PLACEMENT, Placement


@console.command
@takes(ModelChoice, Placement)
def perplexity(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The text; standard input without one.")] = None,
    prompt: Annotated[str | None, options.prompt("TEXT")] = None,
    file: Annotated[Path | None, options.text_file("the text")] = None,
    ctx_size: Annotated[
        int | None,
        options.option(
            "-c", "--ctx-size", metavar="N", min=0, env="CTX_SIZE",
            show_default="512, or what the model was trained for",
            help="Tokens of the chunks of the text; 0 for the context length of the model's training.",
        ),
    ] = None,
    stride: Annotated[
        int,
        options.option(
            "--ppl-stride", "--stride", metavar="N", min=0,
            help="Begin a chunk every N tokens and score only its last N; 0 scores the second half of each.",
        ),
    ] = 0,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    choice: ModelChoice = MODEL,
    placement: Placement = PLACEMENT,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    lora: options.Lora = None,
    control_vector: options.ControlVector = None,
    control_vector_layer_range: options.LayerRange = None,
    batch_size: options.BatchSize = 2048,
    ubatch_size: options.UbatchSize = 512,
    threads: options.Threads = None,
    threads_batch: options.ThreadsBatch = None,
) -> None:  # fmt: skip
    """Measure how well a model predicts a text.

    The number is that of llama.cpp's llama-perplexity: the lower, the better the prediction.
    """
    model_options = placement.options()
    given = arguments.prompt_text(text, prompt, file, what="text")
    added = additions(lora, control_vector, control_vector_layer_range)
    n_threads = arguments.positive(threads)
    llm = load(
        choice.name(),
        n_seq_max=1,
        # Room for as many chunks as one batch takes, which are then computed together.
        n_ctx=0 if ctx_size == 0 else max(ctx_size or 0, batch_size),
        n_batch=batch_size,
        n_ubatch=min(ubatch_size, batch_size),
        n_threads=n_threads,
        n_threads_batch=arguments.positive(threads_batch) or n_threads,
        rpc=arguments.rpc(rpc),
        isolate=isolate,
        model_options=model_options,
    )
    with llm, Bar("scoring") as bar:
        added.apply(llm)
        chunk = llm.model.n_ctx_train if ctx_size == 0 else ctx_size
        found = llm.perplexity(given, n_ctx=chunk, stride=stride or None, progress=bar)
        about = {"path": str(llm.model.path), "description": llm.model.desc}
    if as_json:
        console.print_json({**dataclasses.asdict(found), "model": about})
        return
    # One token has no spread.
    spread = f" +/- {found.stderr:.4f}" if math.isfinite(found.stderr) else ""
    console.rows(
        [
            ("perplexity", f"{found.value:.4f}{spread}"),
            ("tokens scored", f"{found.n_tokens:,} in {found.n_chunks:,} chunk{'s' * (found.n_chunks != 1)}"),
        ]
    )
