"""``llama-cffi embed``: texts as vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llama_cffi._util.progress import Bar
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import load_embedder
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import PLACEMENT, Placement

if TYPE_CHECKING:
    from llama_cffi import Embeddings, Llama

Pooling = Literal["none", "mean", "cls", "last"]


@console.command
@takes(ModelChoice, Placement)
def embed(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="The texts to embed.")] = None,
    file: Annotated[Path | None, options.text_file("the texts")] = None,
    whole: Annotated[
        bool, options.option("--whole", help="Read the file or standard input as one text, not one on each line.")
    ] = False,
    pooling: Annotated[
        Pooling | None,
        options.option(
            "--pooling", metavar="TYPE", env="POOLING", show_default="the model's",
            help="The pooling of the tokens of a text: mean, cls, last, or none for a vector of each token.",
        ),
    ] = None,
    normalize: Annotated[
        bool, options.option("--normalize/--no-normalize", help="Scale every vector to length 1.")
    ] = True,
    truncate: Annotated[
        bool, options.option("--truncate/--no-truncate", help="Cut off the end of a text that is too long.")
    ] = False,
    prefix: Annotated[
        str, options.option("--prefix", metavar="TEXT", help="A prefix of every text.")
    ] = "",
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    choice: ModelChoice = MODEL,
    lora: options.Lora = None,
    placement: Placement = PLACEMENT,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    ctx_size: options.CtxSize = None,
    batch_size: options.BatchSize = 2048,
    ubatch_size: options.UbatchSize = 512,
    threads: options.Threads = None,
) -> None:  # fmt: skip
    """Print the embeddings of texts.

    Each line is a vector, its numbers separated by spaces. Texts are arguments, or the lines of a file or of standard
    input.
    """
    found = arguments.texts(texts or (), file, whole=whole)
    llm = load_embedder(
        choice.name(),
        lora=lora,
        placement=placement,
        rpc=rpc,
        isolate=isolate,
        n_ctx=ctx_size,
        n_batch=batch_size,
        n_ubatch=ubatch_size,
        n_threads=threads,
    )
    with llm:
        with Bar("embedding") as bar:
            embeddings = llm.embed(
                found, normalize=normalize, truncate=truncate, pooling=pooling, prefix=prefix, progress=bar
            )
        if as_json:
            console.print_json(_report(llm, embeddings))
            return
    for row in embeddings.array.tolist():
        print(" ".join(f"{number:.7g}" for number in row))


def _report(llm: Llama, embeddings: Embeddings) -> dict[str, Any]:
    """The embeddings as plain data, in the order of the texts."""
    rows = zip(embeddings, embeddings.n_tokens, embeddings.truncated, strict=True)
    return {
        "embeddings": [
            {"embedding": row.tolist(), "tokens": tokens, "truncated": truncated} for row, tokens, truncated in rows
        ],
        "pooling": embeddings.pooling,
        "width": embeddings.array.shape[-1],
        "tokens": sum(embeddings.n_tokens),
        "model": {"path": str(llm.model.path), "description": llm.model.desc},
    }
