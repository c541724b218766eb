"""What choosing tokens from candidates that the device finds takes, beside choosing from all logits.

    python benchmarks/backend_sampling.py [--file MODEL.gguf] [--rpc HOST:PORT] [--n-gpu-layers N] [--tokens N]
        [--threads N]

Both ways take turns, text by text, with the sampling of the package's defaults and greedily. The time of each token is
taken; of a machine that does other things too, the tenth percentile says more than the median. Both must choose the
same tokens. Without a file, the model has random weights, 6 layers and 128,256 tokens: few layers for many logits, the
best case of choosing on the device.

For a GPU without one, name the software device: GGML_VK_VISIBLE_DEVICES=0 and a Vulkan library in LLAMA_CFFI_LIB.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llama_cffi import ContextOptions, Llama, Model, ModelOptions  # noqa: E402
from tests.support.random_model import Shape, write_random_model  # noqa: E402

N_ROUNDS = 4
SHAPE = Shape(n_layer=6, n_embd=288, n_head=6, n_ff=768, n_vocab=128_256)


def timed(llm: Llama, n: int, **options: Any) -> tuple[list[int], list[float]]:
    """The tokens of a text, and the milliseconds of each after the first."""
    tokens: list[int] = []
    times: list[float] = []
    last = None
    for chunk in llm.stream([1, 300, 301], max_tokens=n, **options):
        now = perf_counter()
        if last is not None:
            times.append((now - last) * 1e3)
        last = now
        tokens += chunk.tokens
    return tokens, times


def measure(model: Model, n: int, n_threads: int | None) -> None:
    """Print a line for each way."""
    ways = {
        name: Llama(
            model, context_options=ContextOptions(n_ctx=1024, n_threads=n_threads, backend_sampling=on), n_seq_max=1
        )
        for name, on in (("all logits", False), ("candidates", True))
    }
    print(model.placement)
    kinds: tuple[dict[str, Any], ...] = ({"temperature": 0}, {"seed": 1})
    for options in kinds:
        times: dict[str, list[float]] = {name: [] for name in ways}
        texts = []
        for _ in range(N_ROUNDS):
            for name, llm in ways.items():
                tokens, found = timed(llm, n, **options)
                texts.append(tokens)
                times[name] += found
        for name, found in times.items():
            low, median = statistics.quantiles(found, n=10)[0], statistics.median(found)
            print(f"{options!s:20} {name:12} {low:8.3f} ms  median {median:8.3f} ms")
        print(f"{options!s:20} the same tokens: {all(text == texts[0] for text in texts)}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure choosing tokens on the device.")
    parser.add_argument("--file", type=Path, metavar="GGUF")
    parser.add_argument("--rpc", metavar="HOST:PORT")
    parser.add_argument("--n-gpu-layers", type=int)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, help="default: what the package would take")
    given = parser.parse_args()
    options = ModelOptions(rpc=[given.rpc] if given.rpc else (), n_gpu_layers=given.n_gpu_layers)
    with tempfile.TemporaryDirectory() as folder:
        file = given.file or write_random_model(Path(folder) / "random.gguf", SHAPE)
        with Model(file, options) as model:
            measure(model, given.tokens, given.threads)


if __name__ == "__main__":
    main()
