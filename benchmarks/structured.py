"""What structured output costs, here and in llama-server.

    python benchmarks/structured.py [--quick] [--json FILE]

Both on the same library (``python scripts/build_libllama.py --tool llama-server``), with the same threads, context,
prompt and sampling, each in fresh processes that take turns: tokens per second of decoding without a schema and with
one, from the first token on, so that neither prompt nor compilation counts. The schemas are such that no text of the
length measured is complete. With random weights nearly every token is one that the schema forbids at first, which is
the dearest case: a trained model mostly wants what it may say.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.compare import spread  # noqa: E402
from benchmarks.models import SHAPES, describe, model_file  # noqa: E402
from benchmarks.peers import BenchmarkError, Settings, package, package_info  # noqa: E402
from benchmarks.report import report  # noqa: E402
from benchmarks.server import generating_server, server_program  # noqa: E402
from tests.support.llama_server import ServerError  # noqa: E402

PROMPT = "Write what is asked for as JSON:"
# Of llama-server's samplers those that this package has too, with its defaults.
SAMPLING = {
    "samplers": ["top_k", "top_p", "min_p", "temperature"],
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _endless(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 100}


def _call(name: str, **properties: Any) -> dict[str, Any]:
    return _object(name={"const": name}, arguments=_object(**properties))


TEXT, WHOLE, YES = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "objects": _endless(_object(name=TEXT, age=WHOLE, member=YES)),
    "tool calls": _endless(
        {
            "anyOf": [
                _call("get_weather", city=TEXT, unit={"enum": ["celsius", "fahrenheit"]}),
                _call("book_flight", origin=TEXT, destination=TEXT, passengers=WHOLE, refundable=YES),
                _call("search", query=TEXT, sites={"type": "array", "items": TEXT}, limit=WHOLE),
            ]
        }
    ),
}
PLAIN = ""
TESTS = {PLAIN: "no schema", **{name: f"schema: {name}" for name in SCHEMAS}}

Samples = dict[str, list[float]]
"""Tokens per second of each repetition, by the name of the schema."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure decoding with and without a schema, beside llama-server.")
    parser.add_argument("--quick", action="store_true", help="one short round on the small model: does it run at all?")
    parser.add_argument("--rounds", type=int, help="rounds of both (default: 8)")
    parser.add_argument("--model", choices=tuple(SHAPES), help="default: 160M")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where the models are")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 8)
    options.model = options.model or ("15M" if options.quick else "160M")
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; what was measured comes back."""
    program = server_program()
    threads = options.threads if options.threads is not None else package_info()["threads"]
    settings = Settings(threads=threads, n_tokens=32 if options.quick else 128, reps=1 if options.quick else 3)
    path = model_file(options.model, options.cache)

    def own() -> Samples:
        given = {**asdict(settings), "prompt": PROMPT, "schemas": SCHEMAS}
        found: Samples = package().call("structured", path, given)
        return found

    def server() -> Samples:
        return measure_server(program, path, settings)

    peers = {"llama_cffi": own, "llama-server": server}
    rounds: dict[str, list[Samples]] = {name: [] for name in peers}
    for i in range(options.rounds):
        for name in peers if i % 2 == 0 else reversed(peers):
            rounds[name].append(peers[name]())

    print(f"{describe(options.model, path)}; {threads} threads, {options.rounds} rounds of {settings.reps}\n")
    print(f"{'tokens per second':<24}{'llama_cffi':>12}{'llama-server':>14}   llama_cffi by llama-server")
    for test, label in TESTS.items():
        speeds = [statistics.median(rate for one in rounds[name] for rate in one[test]) for name in peers]
        pairs = zip(rounds["llama_cffi"], rounds["llama-server"], strict=True)
        ratio = _ratio([_median(ours, test) / _median(theirs, test) for ours, theirs in pairs])
        print(f"{label:<24}{speeds[0]:>12.1f}{speeds[1]:>14.1f}   {ratio}")
    print("\nof the speed without a schema, within a round")
    for name in SCHEMAS:
        print(f"  {TESTS[name]}")
        for peer, found in rounds.items():
            print(f"    {peer:<20}{_ratio([_median(one, name) / _median(one, PLAIN) for one in found])}")
    return {"settings": asdict(settings), "model": options.model, "schemas": SCHEMAS, "rounds": rounds}


def measure_server(program: Path, model: Path, settings: Settings) -> Samples:
    """What llama-server's own clock says of each test, in a fresh server, in turns."""
    rates: Samples = {name: [] for name in TESTS}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            generating_server(program, model, settings, log=Path(folder) / "log") as server,
        ):
            for i in range(settings.reps + 1):
                for name, samples in rates.items():
                    body: dict[str, Any] = {"prompt": PROMPT, "n_predict": settings.n_tokens, "seed": i, **SAMPLING}
                    if name != PLAIN:
                        body["json_schema"] = SCHEMAS[name]
                    timings = server.post("/completion", {**body, "cache_prompt": False})["timings"]
                    if timings["predicted_n"] != settings.n_tokens:
                        raise BenchmarkError(f"{timings['predicted_n']} tokens came instead of {settings.n_tokens}")
                    if i:
                        # From the first token on, as ours.
                        samples.append(float(timings["predicted_per_second"]))
    except ServerError as error:
        raise BenchmarkError(str(error)) from error
    return rates


def _median(samples: Samples, test: str) -> float:
    return statistics.median(samples[test])


def _ratio(ratios: list[float]) -> str:
    first, third = spread(ratios)
    return f"{statistics.median(ratios):.3f} ({first:.3f} to {third:.3f})"


if __name__ == "__main__":
    sys.exit(report(run, parse()))
