"""What drafts gain: tokens per second with and without, beside llama-server on the same library.

    python benchmarks/speculative.py [--quick] [--file MODEL.gguf [--draft DRAFT.gguf] [--mtp]] [--json FILE]

All ways take turns, prompt by prompt, greedily: without drafts, with drafts, here and in llama-server; a ratio is taken
within such a round. Time counts from the first token on. A model drafts at most 8 tokens. Prompt lookup is the
package's as it is, and llama-server's for the last 2 tokens, with drafts of 8 and of 48. Every text is compared with
that of the package without drafts; where one parts from it, both tokens must be as likely but for rounding.

The models have random weights, and are made so that drafts are right to a degree:

- The draft model is the target's first layers, with the same embeddings and head. The target's other layers add a
  fraction of what they would, which says how often both choose the same token. Its acceptance is what that fraction
  makes it, and its cost is 15% of the target's. That measures what a draft, its check and its taking back cost at a
  stated acceptance; what a real draft model for a real target gains is not said.
- For prompt lookup there is a model whose tokens each have one that always follows, by far the likeliest. Its prompt is
  random tokens, what the model makes of them, and the random tokens' last one, so that the right continuation is in the
  prompt: as in a text that is copied out, the best case of this way. Once the prompt has other tokens in between, as in
  a text that is copied with corrections.

llama-server gives target and draft model threads of their own, which wait busily for each other where there are no
cores for both; so it is measured with one thread for the draft model, too.

For real texts name a model, and a smaller one with its vocabulary for the rows "draft model"; ``--mtp`` is for models
with layers that predict further tokens. Where an interpreter
has llama-cpp-python (``--peer-python``), its prompt lookup is measured beside its own plain decoding.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import spread  # noqa: E402
from benchmarks.models import PAIR_LAYERS, describe, model_file, pair_files  # noqa: E402
from benchmarks.peers import BenchmarkError, Settings, llama_cpp_python, package_info  # noqa: E402
from benchmarks.report import report  # noqa: E402
from benchmarks.server import PAUSE, generating_server, server_program  # noqa: E402
from llama_cffi import ContextOptions, Llama  # noqa: E402
from llama_cffi.engine.draft_model import DraftHeads, DraftModel  # noqa: E402
from llama_cffi.engine.prompt_lookup import PromptLookup  # noqa: E402
from tests.support.llama_server import LlamaServer, ServerError  # noqa: E402

N_DRAFT, NGRAM, LONG = 8, 2, 48
FIRST_TEXT_TOKEN = 300
OURS, SERVER, SERVER_1 = "llama_cffi", "llama-server", "llama-server, 1 thread"
SERVER_LONG = "llama-server, 48 tokens"
PLAIN, MODEL, LOOKUP, HEADS = "none", "draft model", "prompt lookup", "its own layers"
FAINT = (0.0, 0.03, 0.1)
# Every so manieth token of the text in the prompt is another one; 0 for none.
CHANGED = (0, 8)
OPENINGS = ("Once upon a time", "The history of the city begins", "To make a good soup", "It was late when she")
# By so much two tokens may differ in log probability that took turns because of a batch's size.
NEAR = 0.1

Tokens = Sequence[int]


@dataclass(frozen=True)
class Text:
    """One generated text."""

    tokens: Tokens
    rate: float
    """Tokens per second after the first."""
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Case:
    """A model, and who drafts for it."""

    title: str
    way: str
    path: Path
    prompts: Callable[[Llama, int, int], Iterator[list[int]]]
    """Prompts without end, for a number of tokens and a seed."""
    draft: Path | None = None


@dataclass
class Row:
    """All that was measured of one way of one peer."""

    rates: list[float] = field(default_factory=list)
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    parted: int = 0
    """Texts that went on otherwise after two tokens that were as likely."""

    def add(self, text: Text) -> None:
        """One more text."""
        self.rates.append(text.rate)
        self.tokens += len(text.tokens)
        self.drafted += text.drafted
        self.accepted += text.accepted


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure speculative decoding beside llama-server's.")
    parser.add_argument("--quick", action="store_true", help="one round on small models: does it run at all?")
    parser.add_argument("--rounds", type=int, help="prompts of each case (default: 12)")
    parser.add_argument("--file", type=Path, metavar="GGUF", help="measure this model instead of the random ones")
    parser.add_argument("--draft", type=Path, metavar="GGUF", help="its draft model")
    parser.add_argument("--mtp", action="store_true", help="the model has layers that predict further tokens")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PYTHON", help="interpreter with llama-cpp-python"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 12)
    if (options.draft is not None or options.mtp) and options.file is None:
        parser.error("--draft and --mtp need the --file that they draft for")
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print."""
    program = server_program()
    info = package_info()
    settings = Settings(threads=options.threads or info["threads"], n_tokens=48 if options.quick else 128)
    print(f"llama_cffi {info['version']}, llama.cpp {info['commit']}, {settings.threads} threads, "
          f"{options.rounds} rounds of {settings.n_tokens} tokens")  # fmt: skip
    other = llama_cpp_python(options.peer_python)
    if isinstance(other, str):
        print(f"llama-cpp-python: not measured ({other})")
    results: dict[str, Any] = {"settings": asdict(settings), "cases": {}}
    for case in _cases(options):
        rows, prompts = measure(case, program, settings, options.rounds)
        print(f"\n{case.title}")
        print(table(rows))
        results["cases"][case.title] = {
            way: {peer: asdict(row) for peer, row in peers.items()} for way, peers in rows.items()
        }
        if case.way == LOOKUP and not isinstance(other, str):
            extra = {**asdict(settings), "n_draft": N_DRAFT, "ngram": NGRAM, "prompts": prompts}
            rates = other[0].call("speculative", case.path, extra)
            print(f"  {LOOKUP:<15}{other[0].name:<24}{statistics.median(rates[LOOKUP]):>9.1f}  "
                  f"{_ratio(rates[LOOKUP], rates[PLAIN])}")  # fmt: skip
            results["cases"][case.title][other[0].name] = rates
    return results


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    if options.file is not None:
        if options.draft is not None:
            yield Case(f"{options.file}, draft model {options.draft}", MODEL, options.file, texts, options.draft)
        if options.mtp:
            yield Case(f"{options.file}, layers that predict further tokens", HEADS, options.file, texts)
        yield Case(f"{options.file}, prompts with half of their text twice", LOOKUP, options.file, repeated_texts)
        return
    name = "small" if options.quick else "deep"
    for faint in FAINT[1:2] if options.quick else FAINT:
        target, draft = pair_files(name, faint, options.cache)
        title = (
            f"{describe(name, target)}\n  draft model: its first {PAIR_LAYERS[name]}, the others add {faint:g} times"
        )
        yield Case(title, MODEL, target, random_prompts, draft)
    path = model_file(name, options.cache, successors=True)
    for changed in CHANGED[:1] if options.quick else CHANGED:
        title = f"{describe(name, path)}\n  a token always has the same successor, the continuation is in the prompt"
        if changed:
            title += f", but for one token of {changed}"
        yield Case(title, LOOKUP, path, partial(repeated_prompts, changed=changed))


# -- prompts


def random_prompts(llm: Llama, n: int, seed: int) -> Iterator[list[int]]:
    """16 tokens that share no prefix with another prompt."""
    rng = random.Random(seed)
    while True:
        yield [rng.randrange(FIRST_TEXT_TOKEN, llm.model.vocab.n_tokens) for _ in range(16)]


def repeated_prompts(llm: Llama, n: int, seed: int, *, changed: int) -> Iterator[list[int]]:
    """A random prompt, ``n`` tokens that the model makes of it, each ``changed``-th another one, and the prompt's last
    token."""
    for prompt in random_prompts(llm, n, seed):
        more = list(generate(llm, prompt, n, source=False).tokens)
        if changed:
            places = range(changed - 1, len(more), changed)
            for place, token in zip(places, reversed(more), strict=False):
                more[place] = token
        yield [*prompt, *more, prompt[-1]]


def texts(llm: Llama, n: int, seed: int) -> Iterator[list[int]]:
    """The openings in turn."""
    while True:
        for opening in OPENINGS:
            yield llm.tokenize(opening).tolist()


def repeated_texts(llm: Llama, n: int, seed: int) -> Iterator[list[int]]:
    """An opening, what the model makes of it, and the opening once more."""
    while True:
        for opening in OPENINGS:
            more = llm.generate(opening, max_tokens=n, temperature=0.0, speculative=False).text
            yield llm.tokenize(f"{opening}{more}\n{opening}").tolist()


# -- measuring


def measure(
    case: Case, program: Path, settings: Settings, rounds: int
) -> tuple[dict[str, dict[str, Row]], list[list[int]]]:
    """Rows by way and peer, and the prompts. Raises :class:`BenchmarkError` when a text is not the one it should be."""
    n, threads = settings.n_tokens, settings.threads
    drafts: DraftModel | DraftHeads | None = None
    if case.draft is not None:
        drafts = DraftModel(model=case.draft, n_draft=N_DRAFT, p_min=0.0)
    elif case.way == HEADS:
        drafts = DraftHeads(n_draft=N_DRAFT, p_min=0.0)
    source: Any = True if drafts is not None else PromptLookup()
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        llm = stack.enter_context(
            Llama(
                case.path,
                n_ctx=settings.n_ctx,
                n_batch=settings.n_batch,
                n_ubatch=settings.n_ubatch,
                n_threads=threads,
                n_threads_batch=threads,
                draft=drafts,
                context_options=ContextOptions(type_k="f16", type_v="f16", flash_attn="auto"),
            )
        )
        contenders: dict[tuple[str, str], Callable[[list[int]], Text]] = {
            (PLAIN, OURS): lambda prompt: generate(llm, prompt, n, source=False),
            (case.way, OURS): lambda prompt: generate(llm, prompt, n, source=source),
        }
        for i, (key, extra) in enumerate(_servers(case).items()):
            server = stack.enter_context(generating_server(program, case.path, settings, *extra, log=logs / str(i)))
            contenders[key] = lambda prompt, server=server: ask(server, prompt, n)  # type: ignore[misc]
        rows = {key: Row() for key in contenders}
        prompts: list[list[int]] = []
        for i, prompt in zip(range(rounds + 1), case.prompts(llm, n, settings.seed), strict=False):
            found = {}
            # There and back, so that nobody always comes after the same one.
            for key in contenders if i % 2 == 0 else reversed(contenders):
                sleep(PAUSE)
                found[key] = contenders[key](prompt)
            if i == 0:
                continue  # contexts made their graphs
            prompts.append(prompt)
            for key, text in found.items():
                rows[key].add(text)
                rows[key].parted += parts(llm, prompt, found[PLAIN, OURS].tokens, text.tokens, " of ".join(key))
    return {way: {key[1]: row for key, row in rows.items() if key[0] == way} for way in (PLAIN, case.way)}, prompts


def generate(llm: Llama, prompt: list[int], n: int, *, source: Any) -> Text:
    """A text by this package, from an empty memory."""
    llm.context.memory.clear(data=False)
    chunks = llm.stream(prompt, max_tokens=n, temperature=0.0, speculative=source)
    next(chunks)
    start = perf_counter()
    done = [chunk.completion for chunk in chunks][-1]
    seconds = perf_counter() - start
    if done is None or len(done.tokens) < 2:
        raise BenchmarkError("a text ended before its second token")
    drafts = done.speculation
    counts = (drafts.drafted_tokens, drafts.accepted_tokens) if drafts is not None else (0, 0)
    return Text(done.tokens, (len(done.tokens) - 1) / seconds, *counts)


def ask(server: LlamaServer, prompt: list[int], n: int) -> Text:
    """A text by llama-server, with its own clock."""
    body = {"prompt": prompt, "n_predict": n, "temperature": 0.0, "samplers": ["temperature"]}
    try:
        answer = server.post("/completion", {**body, "cache_prompt": False, "return_tokens": True})
    except ServerError as error:
        raise BenchmarkError(str(error)) from error
    timings = answer["timings"]
    rate = float(timings["predicted_per_second"])
    return Text(answer["tokens"], rate, timings.get("draft_n", 0), timings.get("draft_n_accepted", 0))


def parts(llm: Llama, prompt: list[int], expected: Tokens, found: Tokens, who: str) -> bool:
    """Whether a text parts from the expected one where two tokens are as likely.

    Rounding depends on how many tokens are computed together. Raises :class:`BenchmarkError` for any other difference.
    """
    place = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return False
    # Once more as it was computed: a prompt has other rounding than the tokens one by one.
    llm.context.memory.clear(data=False)
    again = llm.generate(prompt, max_tokens=place + 1, temperature=0.0, logprobs=5, speculative=False)
    likely = dict(again.logprobs[place].top) if again.logprobs is not None else {}
    gap = likely.get(expected[place], float("nan")) - likely.get(found[place], float("-inf"))
    if not gap <= NEAR:
        raise BenchmarkError(f"{who}: token {place} is {found[place]} and not {expected[place]}, likelier by {gap:.3f}")
    return True


def _servers(case: Case) -> dict[tuple[str, str], tuple[object, ...]]:
    """Options of every llama-server, by way and peer."""
    found: dict[tuple[str, str], tuple[object, ...]] = {(PLAIN, SERVER): ()}
    if case.way == HEADS:
        found[case.way, SERVER] = ("--spec-type", "draft-mtp", "--spec-draft-n-max", N_DRAFT)
    elif case.draft is None:
        for peer, n in ((SERVER, N_DRAFT), (SERVER_LONG, LONG)):
            sizes = ("--spec-ngram-simple-size-n", NGRAM, "--spec-ngram-simple-size-m", n)
            found[case.way, peer] = ("--spec-type", "ngram-simple", *sizes)
    else:
        drafts = ("--spec-type", "draft-simple", "--model-draft", case.draft, "--spec-draft-n-max", N_DRAFT)
        found[case.way, SERVER] = drafts
        found[case.way, SERVER_1] = (*drafts, "--spec-draft-threads", 1, "--spec-draft-threads-batch", 1)
    return found


# -- what it says


def table(rows: dict[str, dict[str, Row]]) -> str:
    """The rows as text."""
    lines = [f"  {'drafts':<15}{'peer':<24}{'tokens/s':>9}  {'of none':<24}{'accepted':>8}{'per decode':>12}"
             f"  {OURS} by it"]  # fmt: skip
    for way, peers in rows.items():
        for peer, row in peers.items():
            line = f"  {way:<15}{peer:<24}{statistics.median(row.rates):>9.1f}"
            if way != PLAIN:
                plain = rows[PLAIN][OURS if peer == OURS else SERVER]
                accepted = row.accepted / row.drafted if row.drafted else 0.0
                # A decode gives what it accepted of its draft, and one token more.
                together = row.tokens / (row.tokens - row.accepted)
                line += f"  {_ratio(row.rates, plain.rates):<24}{accepted:>8.0%}{together:>12.2f}"
            if peer != OURS:
                line = f"{line:<100}{_ratio(peers[OURS].rates, row.rates)}"
            lines.append(line)
            if row.parted:
                lines.append(f"    {row.parted} of its {len(row.rates)} texts part where two tokens are as likely")
    return "\n".join(lines)


def _ratio(rates: list[float], others: list[float]) -> str:
    ratios = [rate / other for rate, other in zip(rates, others, strict=True)]
    first, third = spread(ratios)
    return f"{statistics.median(ratios):.2f} ({first:.2f} to {third:.2f})"


if __name__ == "__main__":
    sys.exit(report(run, parse()))
