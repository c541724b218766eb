"""``llama-cffi bench``: how fast a model is on this machine."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import llama_cffi
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import draft_source, model_file
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import CONTEXT_MEMORY, PLACEMENT, ContextMemory, Placement

if TYPE_CHECKING:
    from llama_cffi import AsyncLlama


@dataclass(frozen=True)
class Result:
    """One line of the table: medians over the repetitions."""

    what: str
    tokens: int
    """Tokens that were measured, in each repetition."""
    tokens_per_second: float
    spread: float
    """Largest less smallest number of tokens per second, as a part of the median."""
    first_token_ms: float | None = None
    """Median over all callers of the time to their first token."""
    gap_ms: float | None = None
    """Median time between two tokens of a caller."""
    gap_p99_ms: float | None = None


@console.command
@takes(ModelChoice, Placement, ContextMemory)
def bench(
    choice: ModelChoice = MODEL,
    n_prompt: Annotated[
        int, options.option("-p", "--n-prompt", metavar="N", min=0, help="Tokens of a prompt; 0 leaves prefill out.")
    ] = 512,
    n_gen: Annotated[
        int, options.option("-n", "--n-gen", metavar="N", min=0, help="Tokens to generate; 0 leaves decode out.")
    ] = 128,
    callers: Annotated[
        str, options.option("--callers", metavar="LIST", help="Numbers of callers at once, separated by commas.")
    ] = "1,2,4,8",
    repetitions: Annotated[
        int, options.option("-r", "--repetitions", metavar="N", min=1, help="How often each is measured.")
    ] = 3,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    placement: Placement = PLACEMENT,
    context: ContextMemory = CONTEXT_MEMORY,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    model_draft: options.ModelDraft = None,
    spec_type: options.SpecType = None,
    batch_size: options.BatchSize = 2048,
    ubatch_size: options.UbatchSize = 512,
    threads: options.Threads = None,
    threads_batch: options.ThreadsBatch = None,
) -> None:
    """Measure the speed of a model on this machine.

    It measures prefill, decode, and several callers at once. Prompts are random tokens, so that none begins like
    another. A first round, which is not counted, warms up.
    """
    numbers = arguments.numbers(callers, "--callers")
    if any(number < 1 for number in numbers):
        raise typer.BadParameter("there is at least one caller", param_hint="--callers")
    file = model_file(choice.name())
    n_threads = arguments.positive(threads)
    given: dict[str, Any] = {
        "n_ctx": n_prompt + n_gen + 8,
        "n_cells": (n_prompt + n_gen + 8) * max(numbers, default=1),
        "n_batch": batch_size,
        "n_ubatch": min(ubatch_size, batch_size),
        "n_seq_max": max(numbers, default=1),
        "n_threads": n_threads,
        "n_threads_batch": arguments.positive(threads_batch) or n_threads,
        "draft": draft_source(model_draft, spec_type),
        "rpc": arguments.rpc(rpc),
        "isolate": isolate,
        "model_options": placement.options(),
    }
    context.add_to(given, file)
    facts, results = asyncio.run(_measure(file, given, n_prompt, n_gen, numbers, repetitions))
    if as_json:
        console.print_json({**facts, "results": [asdict(one) for one in results]})
        return
    console.rows((name.replace("_", " "), str(value)) for name, value in facts.items())
    print()
    _print_table(results)


async def _measure(
    file: str, given: dict[str, Any], n_prompt: int, n_gen: int, numbers: Sequence[int], repetitions: int
) -> tuple[dict[str, Any], list[Result]]:
    async with await llama_cffi.AsyncLlama.open(file, **given) as llm:
        context, loaded = llm.llama.context, llm.llama.model
        facts = {
            "model": Path(file).name,
            "description": loaded.desc,
            "parameters": loaded.n_params,
            "threads": context.n_threads,
            "placement": str(loaded.placement),
            "prompt_tokens": n_prompt,
            "generated_tokens": n_gen,
            "repetitions": repetitions,
        }
        bench_ = _Bench(llm, random.Random(1))
        results = []
        if n_prompt:
            rounds = [await bench_.round(1, n_prompt, 1) for _ in range(repetitions + 1)][1:]
            results.append(_result("prefill", n_prompt, [n_prompt / one.first[0] for one in rounds]))
        if n_gen:
            rounds = [await bench_.round(1, 1, n_gen) for _ in range(repetitions + 1)][1:]
            speeds = [(n_gen - 1) / max(one.seconds - one.first[0], 1e-9) for one in rounds]
            results.append(_result("decode", n_gen, speeds, rounds))
            for n in numbers:
                rounds = [await bench_.round(n, max(1, n_prompt), n_gen) for _ in range(repetitions)]
                speeds = [n * n_gen / one.seconds for one in rounds]
                results.append(_result(f"{n} caller{'s' * (n > 1)}", n * n_gen, speeds, rounds))
    return facts, results


@dataclass(frozen=True)
class _Round:
    seconds: float
    first: list[float]
    gaps: list[float]


class _Bench:
    """Asks for texts of a fixed length, all at once."""

    def __init__(self, llm: AsyncLlama, chance: random.Random) -> None:
        self._llm, self._chance = llm, chance
        vocab = llm.llama.model.vocab
        self._n_tokens = len(vocab)
        self._never = dict.fromkeys(vocab.eog_tokens, "never")

    async def round(self, n_callers: int, n_prompt: int, n_gen: int) -> _Round:
        """Return the times of one round."""
        prompts = [[self._chance.randrange(self._n_tokens) for _ in range(n_prompt)] for _ in range(n_callers)]
        began = time.perf_counter()
        times = await asyncio.gather(*(self._text(prompt, n_gen) for prompt in prompts))
        ended = time.perf_counter()
        gaps = [after - before for one in times for before, after in itertools.pairwise(one)]
        return _Round(ended - began, [one[0] - began for one in times], gaps)

    async def _text(self, prompt: list[int], n_gen: int) -> list[float]:
        """Return when each chunk of a text came."""
        bias: Any = self._never
        stream = self._llm.stream(prompt, max_tokens=n_gen, temperature=0, logit_bias=bias)
        found: list[float] = []
        async with stream:
            async for chunk in stream:
                if chunk.tokens or chunk.completion is not None:
                    found.append(time.perf_counter())
        return found


def _result(what: str, tokens: int, speeds: Sequence[float], rounds: Iterable[_Round] = ()) -> Result:
    middle = statistics.median(speeds)
    spread = (max(speeds) - min(speeds)) / middle if middle else 0.0
    first = sorted(one for each in rounds for one in each.first)
    gaps = sorted(one for each in rounds for one in each.gaps)
    return Result(
        what,
        tokens,
        middle,
        spread,
        statistics.median(first) * 1000 if first else None,
        statistics.median(gaps) * 1000 if gaps else None,
        gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))] * 1000 if gaps else None,
    )


def _print_table(results: Sequence[Result]) -> None:
    titles = ("", "tokens/s", "spread", "first token ms", "gap ms", "gap p99 ms")
    lines: list[tuple[str, ...]] = [titles]
    for one in results:
        times = (one.first_token_ms, one.gap_ms, one.gap_p99_ms)
        shown = ("" if value is None else f"{value:.1f}" for value in times)
        lines.append((one.what, f"{one.tokens_per_second:.1f}", f"{one.spread:.0%}", *shown))
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    for line in lines:
        cells = [cell.ljust(width) if not i else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
        print("  ".join(cells).rstrip())
