"""The same measurements of llama-cpp-python, by an interpreter that has it; `benchmarks/peers.py` runs it.

    python worker_llama_cpp_python.py MODEL TEST SETTINGS

TEST is ``greedy``, ``sampled``, ``prompt``, ``speculative`` or ``memory``, as in `worker_llama_cffi.py`; ``state``,
seconds of ``save_state`` and ``load_state`` after a prompt; or ``probe``, which prints the version and the libllama
that was loaded.
"""

from __future__ import annotations

import json
import os
import random
import sys
from time import perf_counter
from typing import Any

import llama_cpp  # type: ignore[import-not-found, unused-ignore]

FIRST_TEXT_TOKEN = 300
SAMPLING = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0, "seed": 1},
}


def open_model(path: str, settings: dict[str, Any], draft: Any = None) -> Any:
    """Its flash attention has no "auto"; on a CPU that means on."""
    return llama_cpp.Llama(
        path,
        n_ctx=settings["n_ctx"],
        n_batch=settings["n_batch"],
        n_ubatch=settings["n_ubatch"],
        n_threads=settings["threads"],
        n_threads_batch=settings["threads"],
        flash_attn=True,
        verbose=False,
        draft_model=draft,
    )


def stream(llm: Any, test: str, n: int) -> float:
    """Seconds for n streamed tokens from an empty memory."""
    llm.reset()
    start = perf_counter()
    count = sum(1 for _ in llm.create_completion([llm.token_bos()], max_tokens=n, stream=True, **SAMPLING[test]))
    seconds = perf_counter() - start
    # A chunk may hold several tokens when a character spans them; the last chunk carries only the reason.
    if not n // 2 <= count <= n + 1:
        raise SystemExit(f"{count} chunks came for {n} tokens")
    return seconds


def prompt(llm: Any, n: int, rng: random.Random) -> float:
    """Seconds from a prompt of n tokens to the first token after it."""
    tokens = [rng.randrange(FIRST_TEXT_TOKEN, llm.n_vocab()) for _ in range(n)]
    llm.reset()
    start = perf_counter()
    llm.create_completion(tokens, max_tokens=1, **SAMPLING["greedy"])
    return perf_counter() - start


def state(llm: Any, n: int, reps: int, rng: random.Random) -> dict[str, Any]:
    """Seconds of saving and restoring a context after a prompt of n tokens, and the bytes of llama.cpp's part."""
    prompt(llm, n, rng)
    save, restore = [], []
    for _ in range(reps):
        start = perf_counter()
        saved = llm.save_state()
        save.append(perf_counter() - start)
        start = perf_counter()
        llm.load_state(saved)
        restore.append(perf_counter() - start)
    return {"bytes": saved.llama_state_size, "save": save, "restore": restore}


def speculative(path: str, settings: dict[str, Any]) -> dict[str, list[float]]:
    """Tokens per second after the first chunk of each prompt, without drafts and with its prompt lookup, in turn.

    Two models in one process: a model has its drafts from the beginning.
    """
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # type: ignore[import-not-found, unused-ignore]

    lookup = LlamaPromptLookupDecoding(max_ngram_size=settings["ngram"], num_pred_tokens=settings["n_draft"])
    models = {"none": open_model(path, settings), "prompt lookup": open_model(path, settings, lookup)}
    n = settings["n_tokens"]
    rates: dict[str, list[float]] = {way: [] for way in models}
    for llm in models.values():
        stream(llm, "greedy", 16)
    for tokens in settings["prompts"]:
        for way, llm in models.items():
            llm.reset()
            chunks = llm.create_completion(tokens, max_tokens=n, stream=True, **SAMPLING["greedy"])
            next(chunks)
            start = perf_counter()
            for _ in chunks:
                pass
            rates[way].append((n - 1) / (perf_counter() - start))
    return rates


def main() -> None:
    path, test, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    if test == "probe":
        folder = os.environ.get("LLAMA_CPP_LIB_PATH")
        print(json.dumps({"version": llama_cpp.__version__, "library": folder or "its own"}))
        return
    rng = random.Random(settings["seed"])
    if test == "speculative":
        print(json.dumps(speculative(path, settings)))
        return
    llm = open_model(path, settings)
    if test == "state":
        print(json.dumps(state(llm, settings["n_prompt"], settings["reps"], rng)))
        return
    if test == "memory":
        prompt(llm, settings["n_prompt"], rng)
        stream(llm, "sampled", 16)
        print("ready", flush=True)
        sys.stdin.readline()
        return
    if test == "prompt":
        prompt(llm, settings["n_prompt"], rng)
        result = [prompt(llm, settings["n_prompt"], rng) for _ in range(settings["reps"])]
    else:
        stream(llm, test, 4)
        result = [stream(llm, test, settings["n_tokens"]) for _ in range(settings["reps"])]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
