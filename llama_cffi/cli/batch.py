"""``llama-cffi batch``: answer a file of requests in OpenAI's batch format."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import llama_cffi
from llama_cffi._util.progress import Bar
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli import serve_options as opt
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import draft_source, model_file, projector_source
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import CONTEXT_MEMORY, PLACEMENT, ContextMemory, Placement

if TYPE_CHECKING:
    from llama_cffi.server.batch import Counts

_SECONDS = 86_400.0
"""What one request may take: a batch has time."""


@console.command
@takes(ModelChoice, Placement, ContextMemory)
def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Requests, one JSON object on each line.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Answers; what it answers already is skipped.")],
    as_json: options.Json = False,
    choice: ModelChoice = MODEL,
    alias: opt.Alias = None,
    chat_template: options.ChatTemplate = None,
    chat_template_file: options.ChatTemplateFile = None,
    parallel: opt.Parallel = None,
    ctx_size: options.CtxSize = None,
    kv_cells: opt.KvCells = None,
    cache_ram: opt.CacheRam = None,
    n_predict: opt.NPredict = -1,
    max_n: opt.MaxN = 16,
    verbose: options.Verbose = False,
    placement: Placement = PLACEMENT,
    context: ContextMemory = CONTEXT_MEMORY,
    mmproj: options.Mmproj = None,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    model_draft: options.ModelDraft = None,
    spec_type: options.SpecType = None,
    batch_size: options.BatchSize = 2048,
    ubatch_size: options.UbatchSize = 512,
    threads: options.Threads = None,
    threads_batch: options.ThreadsBatch = None,
    context_shift: options.ContextShift = False,
) -> None:
    """Answer a file of requests in OpenAI's batch format.

    Each line of IN has custom_id, url (/v1/chat/completions, /v1/embeddings or another path of the server) and body.
    Each line of OUT is the answer to one of them, in the order in which they are finished. The same command continues
    after an interruption.
    """
    try:
        from llama_cffi.server.batch import BatchError, Counts, read_answered, read_ids
        from llama_cffi.server.settings import Settings
    except ModuleNotFoundError as error:
        console.fail(f"{error.name} is not installed: pip install 'llama-cffi[server]'")
    if chat_template is not None and chat_template_file is not None:
        raise typer.BadParameter("give either --chat-template or --chat-template-file")
    try:
        ids = read_ids(source)
        answered = read_answered(target)
    except BatchError as error:
        console.fail(str(error))
    counts = Counts(len(ids), sum(one in answered for one in ids))
    if counts.done:
        console.note(f"{counts.done} of {counts.total} are answered already")
    name = choice.name()
    file, projector = model_file(name), projector_source(name, mmproj)
    n_threads = arguments.positive(threads)
    slots = parallel if parallel is not None and parallel > 0 else 8
    given: dict[str, Any] = {
        "n_ctx": ctx_size,
        "n_cells": kv_cells,
        "n_batch": batch_size,
        "n_ubatch": min(ubatch_size, batch_size),
        "n_seq_max": slots,
        "n_threads": n_threads,
        "n_threads_batch": arguments.positive(threads_batch) or n_threads,
        "overflow": "shift" if context_shift else "stop",
        "mmproj": projector,
        "draft": draft_source(model_draft, spec_type),
        "rpc": arguments.rpc(rpc),
        "isolate": isolate,
        "model_options": placement.options(),
    }
    context.add_to(given, file)
    if cache_ram is not None:
        given["host_bytes"] = cache_ram << 20 if cache_ram >= 0 else sys.maxsize
    settings = Settings(
        names=tuple(one for part in (alias or "").split(",") if (one := part.strip())),
        chat_template=chat_template if chat_template_file is None else arguments.read_text(chat_template_file),
        max_n=max_n,
        default_max_tokens=n_predict if n_predict >= 0 else None,
        request_timeout=_SECONDS,
    )
    began = time.perf_counter()
    if counts.done < counts.total:
        asyncio.run(_run(source, target, answered, counts, 2 * slots, settings, file, given))
    _report(counts, time.perf_counter() - began, as_json=as_json)


async def _run(
    source: Path, target: Path, skip: set[str], counts: Counts, n_at_once: int, settings: Any, file: str,
    given: dict[str, Any],
) -> None:  # fmt: skip
    from llama_cffi.server.batch import run_batch
    from llama_cffi.server.service import Service

    service = Service(lambda: llama_cffi.AsyncLlama.open(file, **given), settings, Path(file).stem)
    try:
        await service.load()
        with Bar("batch") as bar, target.open("ab") as out:
            await run_batch(service, source, out, skip, counts, n_at_once, lambda now: bar(now.done / now.total))
    finally:
        await service.close()


def _report(counts: Counts, seconds: float, *, as_json: bool) -> None:
    speed = counts.completion_tokens / seconds if seconds else 0.0
    if as_json:
        console.print_json(
            {
                "total": counts.total,
                "done": counts.done,
                "answered": counts.answered,
                "failed": counts.failed,
                "prompt_tokens": counts.prompt_tokens,
                "completion_tokens": counts.completion_tokens,
                "seconds": seconds,
            }
        )
        return
    failed = f", {counts.failed} with an error" if counts.failed else ""
    print(
        f"{counts.answered} answered{failed}: {counts.prompt_tokens:,} prompt tokens, {counts.completion_tokens:,} "
        f"generated in {seconds:.1f} s ({speed:.1f} per second)"
    )
