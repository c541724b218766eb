"""One model and several processes or threads, as docs/processes.md says."""

from __future__ import annotations

import ast
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cffi import Completion
from tests.support.children import run_child
from tests.support.processes import generate, generate_on_threads

PROMPTS = ["Once upon a time", "The little dog", "A big red ball", "Lily and Tom"]

FORK = """
import asyncio, os, signal, sys, threading, warnings
from llama_cffi import AsyncLlama, Llama
from llama_cffi.core.sampler import PythonSampler
from llama_cffi.errors import ContextError

warnings.simplefilter("ignore", DeprecationWarning)  # a fork with threads is what this is about

class Waiting(PythonSampler):
    selects = True

    def apply(self, candidates):
        inside.wait()
        leave.wait()
        candidates.select(0)

def hold_the_model():
    with llm.model.gate:
        inside.wait()
        leave.wait()

def refused(call):
    try:
        call()
    except ContextError as error:
        return "created in another process" in str(error)
    return False

inside, leave = threading.Barrier(3, timeout=60), threading.Barrier(3, timeout=60)
llm = Llama.demo(n_ctx=256, n_threads=2, driver="thread" if sys.argv[1] == "worker" else "inline")
tasks = AsyncLlama(llm) if sys.argv[1] == "worker" else None
if tasks is not None:
    asyncio.run(tasks.generate("x", max_tokens=1))
llm.embed("a text")
before = llm.generate("Once", max_tokens=4, temperature=0).text
stream = llm.stream("Once", max_tokens=50)
next(stream)
threads = []
if sys.argv[1] == "busy":
    # One thread computes, which holds the context and the engine; another one keeps the model from being closed.
    compute = lambda: llm.generate("x", max_tokens=1, samplers=(Waiting(),))
    threads = [threading.Thread(target=target) for target in (compute, hold_the_model)]
    for thread in threads:
        thread.start()
    inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)  # what waits for a thread of the parent would wait for ever
    calls = {
        "generate": lambda: llm.generate("Once", max_tokens=4),
        "stream": lambda: list(stream),
        "embed": lambda: llm.embed("a text"),
        "fork": lambda: llm.fork(),
        "memory": lambda: llm.context.memory.clear(),
        "chat": lambda: llm.chat("Hello", max_tokens=4),
        "score": lambda: llm.score("Once", [" upon"]),
        "perplexity": lambda: llm.perplexity("Once upon a time", n_ctx=4),
        "similarity": lambda: llm.similarity("a", "b"),
        "state_bytes": lambda: llm.state_bytes(),
        "logits": lambda: llm.context.outputs.logits(0),
    }
    if tasks is not None:
        calls |= {
            "async generate": lambda: asyncio.run(tasks.generate("x")),
            "async stream": lambda: asyncio.run(anext(tasks.stream("x"))),
            "async embed": lambda: asyncio.run(tasks.embed("x")),
            "async score": lambda: asyncio.run(tasks.score("x", ["y"])),
        }
    print([name for name, call in calls.items() if not refused(call)])
    print(len(llm.tokenize("Once upon")) > 1, llm.model.architecture, "Hi" in llm.render_chat("Hi"), llm.adapters)
    del stream, calls
    if tasks is not None:
        asyncio.run(tasks.aclose())
    llm.close()
    llm.model.close()
    print("closed:", llm.closed)
    sys.exit(0)
status = os.waitpid(child, 0)[1]
if threads:
    leave.wait()
for thread in threads:
    thread.join()
print("parent:", status, llm.generate("Once", max_tokens=4, temperature=0).text == before, next(stream).text != "")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("parent", ["idle", "busy", "worker"])
@pytest.mark.usefixtures("all_processors")
def test_a_forked_child_is_told_and_its_parent_goes_on(parent: str) -> None:
    out = run_child(FORK, parent).splitlines()
    assert out == ["[]", "True llama True {}", "closed: True", "parent: 0 True True"]


def test_spawned_processes_open_the_model_each_and_results_come_back() -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map_async(generate, PROMPTS, chunksize=1).get(timeout=120)
    for prompt, result in zip(PROMPTS, results, strict=True):
        same(result, generate(prompt))


def test_threads_share_one_llama() -> None:
    alone = [generate(prompt) for prompt in PROMPTS]
    for result, expected in zip(generate_on_threads(PROMPTS), alone, strict=True):
        assert result.tokens == expected.tokens


def same(result: Completion, expected: Completion) -> None:
    """Equal but for the time it took."""
    assert type(result) is Completion
    assert (result.text, result.tokens, result.logprobs, result.finish_reason, result.usage) == (
        expected.text, expected.tokens, expected.logprobs, expected.finish_reason, expected.usage
    )  # fmt: skip


def test_the_program_of_the_page_runs(checkout: Path, tmp_path: Path) -> None:
    page = (checkout / "docs" / "processes.md").read_text(encoding="utf-8")
    # The first one: the others need no process of their own, and run with all pages.
    program, *_ = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", path],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(ast.literal_eval(done.stdout)) == 2
