"""Many callers at once, over HTTP or in the process that computes, beside llama-server.

    python benchmarks/serve.py [--in-process] [--scenario NAME] [--quick] [--json FILE]

All on the same library (``python scripts/build_libllama.py --tool llama-server``), with the same threads, cells and
slots, and all opened afresh for each round, so that nothing is cached; they take turns. The callers stream greedily:
coroutines of a process of their own, which read the events of ``llama-cffi serve`` and of llama-server; with
``--in-process`` threads and coroutines of the process that computes, and the former for llama-server.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import spread  # noqa: E402
from benchmarks.models import SHAPES, describe, model_file  # noqa: E402
from benchmarks.peers import BenchmarkError, Settings, package_info  # noqa: E402
from benchmarks.report import report  # noqa: E402
from benchmarks.server import PAUSE, generating_server, own_server, server_program  # noqa: E402
from tests.support.llama_server import ServerError  # noqa: E402

N_PROMPT = 100
"""Tokens of a prompt that shares nothing with others."""
SERVER, OWN_SERVER = "llama-server", "llama-cffi serve"
Job = dict[str, Any]
Found = list[Job]


def tokens(draw: random.Random, n: int) -> list[int]:
    """Random tokens of every model that is measured."""
    return [draw.randrange(300, 30_000) for _ in range(n)]


def turn(prompt: list[int], n: int, leave: int | None = None) -> Job:
    """One question of a caller."""
    return {"tokens": prompt, "n": n, "leave": leave}


def unlike(draw: random.Random, callers: int, n: int) -> list[Job]:
    """Prompts that share nothing, all at once."""
    return [{"delay": 0, "turns": [turn(tokens(draw, N_PROMPT), n)]} for _ in range(callers)]


def arriving(draw: random.Random, callers: int, n: int) -> list[Job]:
    """A prompt of 2,000 tokens that arrives while the others stream."""
    # They stream for longer than it takes to compute it.
    return [*unlike(draw, callers, 8 * n), {"delay": 0.4, "turns": [turn(tokens(draw, 2000), 8)]}]


def sharing(draw: random.Random, callers: int, n: int) -> list[Job]:
    """Prompts that begin with the same 1,000 tokens."""
    prefix = tokens(draw, 1000)
    return [{"delay": 0, "turns": [turn(prefix + tokens(draw, 20), n)]} for _ in range(callers)]


def growing(draw: random.Random, callers: int, n: int) -> list[Job]:
    """Chats of five turns each."""
    return [{"delay": 0, "turns": [turn(tokens(draw, 40), n // 2) for _ in range(5)]} for _ in range(callers)]


def leaving(draw: random.Random, callers: int, n: int) -> list[Job]:
    """Half of the callers leave at random."""
    jobs = unlike(draw, callers, n)
    for job in jobs[::2]:
        job["turns"][0]["leave"] = draw.randrange(1, n)
    return jobs


SCENARIOS: dict[str, tuple[Callable[[random.Random, int, int], list[Job]], list[int]]] = {
    "unlike": (unlike, [1, 2, 4, 8, 32]),
    "arriving": (arriving, [7]),
    "sharing": (sharing, [32]),
    "growing": (growing, [16]),
    "leaving": (leaving, [8]),
}
"""How the callers of each scenario are made, and how many there are."""


def summary(found: Found, *, streaming: bool) -> dict[str, float]:
    """What one round says; with ``streaming`` the gaps are those of other streams while a long prompt is computed."""
    late = max(found, key=lambda one: one["prompt"] * streaming)
    begin, end = (late["start"], late["times"][0]) if streaming else (0.0, float("inf"))
    first = [1e3 * (one["times"][0] - one["start"]) for one in found if one["times"]]
    pairs = [pair for one in found for pair in zip(one["times"], one["times"][1:], strict=False)]
    gaps = [1e3 * (after - before) for before, after in pairs if after > begin and before < end]
    seconds = max(one["times"][-1] for one in found) - min(one["start"] for one in found)
    prompts = [one for one in found if not one["left"]]
    return {
        "tokens per second": sum(len(one["times"]) for one in found) / seconds,
        "first token p50, ms": _part(first, 50),
        "first token p99, ms": _part(first, 99),
        "between tokens p50, ms": _part(gaps, 50),
        "between tokens p99, ms": _part(gaps, 99),
        "of the prompts reused": sum(one["cached"] for one in prompts) / max(1, sum(one["prompt"] for one in prompts)),
    }


def _part(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure many callers at once, beside llama-server.")
    parser.add_argument(
        "--in-process", action="store_true", help="callers of this package in the process that computes"
    )
    parser.add_argument("--scenario", choices=tuple(SCENARIOS), default="unlike", help="default: unlike")
    parser.add_argument("--callers", type=int, nargs="+", help="default: those of the scenario")
    parser.add_argument("--slots", type=int, default=8, help="texts that are computed at once (default: 8)")
    parser.add_argument("--quick", action="store_true", help="one short round on the small model: does it run at all?")
    parser.add_argument("--rounds", type=int, help="rounds of each (default: 5)")
    parser.add_argument("--model", choices=tuple(SHAPES), help="default: 160M")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.model = options.model or ("15M" if options.quick else "160M")
    options.callers = options.callers or (SCENARIOS[options.scenario][1][:3] if options.quick else None)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; what was measured comes back."""
    program = server_program()
    threads = options.threads if options.threads is not None else package_info()["threads"]
    path = model_file(options.model, options.cache)
    make, usual = SCENARIOS[options.scenario]
    n_tokens = 16 if options.quick else 64
    print(f"{describe(options.model, path)}; {threads} threads, {options.slots} slots, {options.rounds} rounds")
    results: dict[str, Any] = {}
    for n_callers in options.callers or usual:
        ours = ("threads", "tasks") if options.in_process else (OWN_SERVER,)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in (*ours, SERVER)}
        seconds: dict[str, float] = dict.fromkeys(rounds, 0.0)
        samples: dict[str, list[Found]] = {name: [] for name in rounds}
        for i in range(options.rounds):
            callers = make(random.Random(f"{n_callers} {i}"), n_callers, n_tokens)
            longest = max(sum(len(one["tokens"]) + one["n"] for one in job["turns"]) for job in callers) + 8
            n_cells = 256 * -(-longest * options.slots // 256)
            settings = Settings(threads=threads, n_tokens=n_tokens, n_ctx=n_cells)
            for name in rounds if i % 2 == 0 else reversed(rounds):
                time.sleep(PAUSE)
                if name in (SERVER, OWN_SERVER):
                    found, used = at_server(
                        None if name == OWN_SERVER else program, path, settings, options.slots, longest, callers
                    )
                    seconds[name] += used
                else:
                    found = here(name, path, settings, options.slots, longest, callers)
                samples[name].append(found)
                rounds[name].append(summary(found, streaming=options.scenario == "arriving"))
        show(n_callers, rounds)
        if not options.in_process:
            n = sum(len(one["times"]) for found in samples[OWN_SERVER] for one in found)
            cost = 1000 * seconds[OWN_SERVER] / n
            print(f"seconds of CPU of the thread with the event loop for 1,000 tokens: {cost:.3f}")
        results[str(n_callers)] = {"rounds": rounds, "samples": samples}
    return {"settings": asdict(settings), "model": options.model, "scenario": options.scenario, "callers": results}


def show(n_callers: int, rounds: dict[str, list[dict[str, float]]]) -> None:
    """Print medians, and the ratio to llama-server within a round with its quartiles."""
    *ours, _ = rounds
    heads = "".join(f"{name:>18}" for name in rounds)
    print(f"\n{f'{n_callers} callers':<24}{heads}   {', '.join(ours)} by {SERVER}")
    for key in rounds[SERVER][0]:
        medians = [statistics.median(one[key] for one in rounds[name]) for name in rounds]
        ratios = []
        for name in ours:
            pairs = zip(rounds[name], rounds[SERVER], strict=True)
            found = [one[key] / other[key] for one, other in pairs if other[key]]
            if found:
                first, third = spread(found)
                ratios.append(f"{statistics.median(found):.2f} ({first:.2f} to {third:.2f})")
        print(f"{key:<24}{''.join(f'{one:>18.2f}' for one in medians)}   {', '.join(ratios)}")


def here(kind: str, model: Path, settings: Settings, slots: int, longest: int, callers: list[Job]) -> Found:
    """The callers in the process that computes."""
    given = {
        "n_ctx": longest,
        "n_cells": settings.n_ctx,
        "n_seq_max": slots,
        "n_batch": settings.n_batch,
        "n_ubatch": settings.n_ubatch,
        "n_threads": settings.threads,
        "n_threads_batch": settings.threads,
    }
    return _call(kind, str(model), {"settings": given, "callers": callers})


def at_server(
    program: Path | None, model: Path, settings: Settings, slots: int, longest: int, callers: list[Job]
) -> tuple[Found, float]:
    """The callers in a process beside a fresh server, this package's without a ``program``.

    Also returns the seconds of CPU of the server's first thread meanwhile.
    """
    given = ("--parallel", slots, "--kv-unified")
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            made = (
                own_server(model, settings, *given, longest=longest, log=log)
                if program is None
                else generating_server(program, model, settings, *given, log=log)
            )
            with made as server:
                before = _first_thread(server.pid)
                found = _call("http", str(server.port), {"callers": callers})
                return found, _first_thread(server.pid) - before
    except ServerError as error:
        raise BenchmarkError(str(error)) from error


def _first_thread(pid: int) -> float:
    return sum(one.user_time + one.system_time for one in psutil.Process(pid).threads() if one.id == pid)


def _call(kind: str, target: str, job: Job) -> Found:
    command = [sys.executable, str(Path(__file__).with_name("callers.py")), kind, target]
    done = subprocess.run(command, input=json.dumps(job), text=True, capture_output=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{kind} callers ended with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    found: Found = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(report(run, parse()))
