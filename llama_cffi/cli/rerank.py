"""``llama-cffi rerank``: documents in the order of how well they fit a query."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_cffi._util.progress import Bar
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import load_embedder
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import PLACEMENT, Placement

if TYPE_CHECKING:
    from llama_cffi import Ranked


@console.command
@takes(ModelChoice, Placement)
def rerank(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The query.")],
    documents: Annotated[list[str] | None, typer.Argument(metavar="DOCUMENT", help="The documents to rank.")] = None,
    file: Annotated[Path | None, options.text_file("the documents")] = None,
    whole: Annotated[
        bool, options.option("--whole", help="Read the file or standard input as one document, not one on each line.")
    ] = False,
    top_n: Annotated[
        int | None,
        options.option("--top-n", metavar="N", min=1, show_default="all", help="Only the N best documents."),
    ] = None,
    truncate: Annotated[
        bool,
        options.option("--truncate/--no-truncate", help="Cut off the end of a document that is too long."),
    ] = False,
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
) -> None:
    """Rank documents for a query, the best first.

    Each line has score, index and document, separated by tabs. Documents are arguments, or the lines of a file or of
    standard input; their index counts from 0. The model must have a head for ranking. A document of several lines is
    printed as one, with --json as it is.
    """
    asked = arguments.prompt_text(query, None, None, what="query")
    found = arguments.texts(documents or (), file, whole=whole, what="document")
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
        with Bar("ranking") as bar:
            ranked = llm.rerank(asked, found, top_n=top_n, truncate=truncate, progress=bar)
        about = {"path": str(llm.model.path), "description": llm.model.desc}
    if as_json:
        console.print_json({"results": [_shown(one) for one in ranked], "model": about})
        return
    for one in ranked:
        print(f"{one.score:.7g}\t{one.index}\t{_on_a_line(one.document)}")


def _shown(one: Ranked) -> dict[str, Any]:
    return {"index": one.index, "score": one.score, "document": one.document}


def _on_a_line(document: str) -> str:
    line = " ".join(document.splitlines())
    return console.printable(line) if sys.stdout.isatty() else line
