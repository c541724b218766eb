"""Questions about pictures, beside llama-server.

    python benchmarks/media.py [--rounds N] [--quick] [--json FILE]

``llama-cffi serve`` and llama-server on the same library (``python scripts/build_libllama.py --tool llama-server``),
with the same threads, cells and slots, opened afresh for each round, in turn. Each caller sends a picture of its own
with a question, and then another question about the same picture, as chat completions: milliseconds to the end of each
answer of one token (the first token of random weights need not be a whole character). At last a text is streamed while
a question about a new picture is asked: its longest pause until the answer, and how many of its tokens came meanwhile.
The models have random weights, the text model's as Q8_0, and the sizes of a small one that sees.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.callers import lines_of  # noqa: E402
from benchmarks.compare import spread  # noqa: E402
from benchmarks.peers import BenchmarkError, Settings, package_info  # noqa: E402
from benchmarks.report import report  # noqa: E402
from benchmarks.server import PAUSE, generating_server, own_server, server_program  # noqa: E402
from llama_cffi.core.quantize import quantize  # noqa: E402
from tests.support.llama_server import LlamaServer, ServerError  # noqa: E402
from tests.support.media_kinds import TEMPLATE  # noqa: E402
from tests.support.media_models import VisionShape, write_text_model, write_vision_projector  # noqa: E402
from tests.support.pictures import photograph  # noqa: E402
from tests.support.random_model import Shape  # noqa: E402

TEXT = Shape(n_layer=8, n_embd=512, n_head=8, n_head_kv=4, n_ff=2048, n_vocab=512, n_ctx_train=8192)
VISION = VisionShape(n_embd=384, n_ff=1536, n_layer=12, n_head=6, patch=14)
PIXELS = 448
"""Width and height of the pictures, of which each 28 by 28 pixels are a token: 256 in all."""
N_STREAMED, N_BEFORE = 700, 20
"""Tokens of a stream beside a question, and how many of them come before it."""
QUESTIONS = ("What is in the picture?", "Which colors are there?")
SERVER, OWN_SERVER = "llama-server", "llama-cffi serve"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure questions about pictures, beside llama-server.")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4], help="default: 1 4")
    parser.add_argument("--quick", action="store_true", help="one round with small pictures: does it run at all?")
    parser.add_argument("--rounds", type=int, help="rounds of each (default: 5)")
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print; what was measured comes back."""
    program = server_program()
    threads = options.threads if options.threads is not None else package_info()["threads"]
    settings, size = Settings(threads=threads, n_ctx=4096), 56 if options.quick else PIXELS
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "qwen2vl-q8_0.gguf"
        quantize(write_text_model(Path(folder) / "qwen2vl.gguf", "qwen2vl", TEXT), model, "q8_0")
        projector = write_vision_projector(Path(folder) / "mmproj.gguf", n_text=TEXT.n_embd, shape=VISION)
        template = Path(folder) / "template.jinja"
        template.write_text(TEMPLATE)
        mib = [path.stat().st_size >> 20 for path in (model, projector)]
        print(f"text model {mib[0]} MiB, projector {mib[1]} MiB; {threads} threads, {options.rounds} rounds")

        def opened(name: str) -> AbstractContextManager[LlamaServer]:
            given = ("--parallel", 4, "--kv-unified", "--mmproj", projector, "--chat-template-file", template)
            log = Path(folder) / f"{name}.log"
            if name == OWN_SERVER:
                return own_server(model, settings, *given, longest=1024, log=log)
            return generating_server(program, model, settings, *given, "--jinja", "--no-warmup", log=log)

        for n_callers in options.callers:
            found: dict[str, list[list[float]]] = {OWN_SERVER: [], SERVER: []}
            for i in range(options.rounds):
                pictures = [photograph(size, size, seed=100 * i + caller) for caller in range(n_callers + 1)]
                for name in found if i % 2 == 0 else reversed(found):
                    time.sleep(PAUSE)
                    found[name].append(_measure(opened(name), pictures))
            _show(n_callers, found)
            results[str(n_callers)] = found
    return {"pixels": size, "threads": threads, "questions and the pause of a stream, ms; its tokens": results}


def _measure(opened: AbstractContextManager[LlamaServer], pictures: list[bytes]) -> list[float]:
    """The medians over the callers: milliseconds to the first token of the first and of the second question; then the
    longest pause of a stream, and its tokens, while the last picture is new."""
    try:
        with opened as server:
            # A question without a picture: what is done once is done.
            asyncio.run(_ask(server.port, [{"type": "text", "text": "Hello"}]))
            found = asyncio.run(_together(server.port, pictures[:-1]))
            time.sleep(PAUSE)
            return [*found, *asyncio.run(_beside(server.port, pictures[-1]))]
    except ServerError as error:
        raise BenchmarkError(str(error)) from error


async def _together(port: int, pictures: list[bytes]) -> list[float]:
    medians = []
    for question in QUESTIONS:
        asked = [_ask(port, _about(data, question)) for data in pictures]
        medians.append(1000 * statistics.median(await asyncio.gather(*asked)))
    return medians


def _about(data: bytes, question: str) -> list[Any]:
    """A content: a picture, and a question."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}
    return [picture, {"type": "text", "text": question}]


async def _beside(port: int, picture: bytes) -> list[float]:
    """Milliseconds of the longest pause of a stream until a question about a picture has its first token, and how many
    tokens of the stream came meanwhile."""
    times: list[float] = []
    stream = asyncio.ensure_future(_read(port, [{"type": "text", "text": "Go on."}], N_STREAMED, times))
    while len(times) < N_BEFORE:
        if stream.done():
            raise BenchmarkError("a stream ended before a picture was asked about")
        await asyncio.sleep(0.001)
    start = perf_counter()
    end = start + await _ask(port, _about(picture, QUESTIONS[0]))
    stream.cancel()
    meanwhile = [time for time in times if start <= time <= end]
    places = [start, *meanwhile, end]
    return [1000 * max(b - a for a, b in pairwise(places)), float(len(meanwhile))]


async def _ask(port: int, content: list[Any]) -> float:
    """Seconds to the end of an answer of one token."""
    start = perf_counter()
    ends = [choice async for choice in _choices(port, content, 1) if choice["finish_reason"]]
    if not ends:
        raise BenchmarkError("an answer did not end")
    return perf_counter() - start


async def _read(port: int, content: list[Any], n_tokens: int, times: list[float]) -> None:
    """Note when each piece of an answer came."""
    async for choice in _choices(port, content, n_tokens):
        # The role comes at once, in a chunk without text.
        if choice["delta"].get("content"):
            times.append(perf_counter())


async def _choices(port: int, content: list[Any], n_tokens: int) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a streamed answer."""
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": n_tokens, "temperature": 0}
    data = json.dumps({**body, "stream": True, "ignore_eos": True}).encode()
    async for line in lines_of(port, "/v1/chat/completions", data):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                yield choice


def _show(n_callers: int, found: dict[str, list[list[float]]]) -> None:
    """Print medians, and the ratio to llama-server within a round with its quartiles."""
    print(f"\n{f'{n_callers} callers':<24}{OWN_SERVER:>18}{SERVER:>18}   {OWN_SERVER} by {SERVER}")
    for i, title in enumerate(("first question, ms", "second question, ms", "pause of a stream, ms", "its tokens")):
        ours, theirs = ([one[i] for one in found[name]] for name in (OWN_SERVER, SERVER))
        line = f"{title:<24}{statistics.median(ours):>18.1f}{statistics.median(theirs):>18.1f}"
        if not all(theirs):
            print(line)
            continue
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        low, high = spread(ratios)
        print(f"{line}   {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    sys.exit(report(run, parse()))
