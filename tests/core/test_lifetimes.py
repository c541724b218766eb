"""Whoever is closed or dropped first: children go before their parents, nothing crashes, nothing is left."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.children import run_child
from tests.support.fuzz import Fuzzer

pytest_plugins = ["tests.support.models"]

KINDS = ("model", "context", "chain", "batch")

# Children tell on standard output in which order llama.cpp's objects were freed.
PREPARE = """
import gc, itertools, os, sys
from llama_cffi import Batch, Context, ContextOptions, Model, SamplerChain
from llama_cffi.core.sampler import Greedy, Penalties
from tests.support.releases import Releases

releases = Releases(all_named=True)
freed = releases.freed

def make(path):
    model = Model(path)
    context = Context(model, ContextOptions(n_ctx=32, n_batch=8, n_threads=1))
    chain = SamplerChain([Penalties(8, 1.1), Greedy()], model.vocab)
    batch = Batch(8)
    batch.extend([1, 300, 301], 0, output_last=True)
    context.decode(batch)
    chain.sample(context)
    for name, owner in (("model", model), ("context", context), ("chain", chain)):
        releases.name(owner.ptr, name)
    for pool in context._threads._pools.values():
        releases.name(pool.handle.ptr, "threads")
    # A context with few threads has a turn of its own.
    releases.name(context._threads.turn.ptr, "turn")
    return {"model": model, "context": context, "chain": chain, "batch": batch}

def check():
    assert sorted(freed) == ["chain", "context", "model", "threads", "turn"], freed
    # A closed context keeps its turn until it is dropped.
    assert [name for name in freed if name != "turn"][-1] == "model", freed
    assert freed.index("context") < freed.index("threads") < freed.index("turn"), freed
    releases.clear()
"""


def test_every_order_of_closing(model_path: Path) -> None:
    run_child(
        PREPARE
        + """
for order in itertools.permutations(("model", "context", "chain")):
    objects = make(sys.argv[1])
    for name in order:
        objects[name].close()
        objects[name].close()
        assert objects[name].closed
    objects.clear()
    check()
""",
        model_path,
    )


def test_every_order_of_dropping(model_path: Path) -> None:
    run_child(
        PREPARE
        + """
for order in itertools.permutations(("model", "context", "chain", "batch")):
    objects = make(sys.argv[1])
    for name in order:
        del objects[name]
    check()  # without a collection: reference counts alone must do
""",
        model_path,
    )


def test_every_mix_of_closing_and_dropping(model_path: Path) -> None:
    run_child(
        PREPARE
        + """
for order in itertools.permutations(("model", "context", "chain")):
    for ways in itertools.product((True, False), repeat=3):
        objects = make(sys.argv[1])
        for name, closing in zip(order, ways):
            if closing:
                objects[name].close()
            else:
                del objects[name]
        objects.clear()
        check()
""",
        model_path,
    )


def test_every_subset_in_a_cycle(model_path: Path) -> None:
    run_child(
        PREPARE
        + """
gc.disable()
kinds = ("model", "context", "chain", "batch")
for size in range(1, 5):
    for members in itertools.permutations(kinds, size):
        objects = make(sys.argv[1])
        cycle = [objects.pop(name) for name in members]
        cycle.append(cycle)
        objects.clear()
        del cycle
        gc.collect()
        check()
""",
        model_path,
    )


@pytest.mark.parametrize("where", ["globals", "cycle", "class", "closed context", "thread"])
def test_alive_at_exit(model_path: Path, where: str) -> None:
    out = run_child(
        PREPARE
        + """
import threading
# The last word: at exit every handle is freed, children first.
import atexit, weakref
kinds = ("model", "context", "chain", "batch")
where = sys.argv[2]
objects = make(sys.argv[1])
if where == "globals":
    model, context, chain, batch = objects.values()
elif where == "cycle":
    gc.disable()
    cycle = [*objects.values()]
    cycle.append(cycle)
    del cycle, objects
elif where == "class":
    class Holder:
        pass
    Holder.objects = objects
    Holder.me = Holder
elif where == "closed context":
    objects["context"].close()
elif where == "thread":
    keep = threading.Thread(target=threading.Event().wait, args=(0.2,), kwargs={})
    keep.held = objects
    keep.start()

class Reporter:
    # Freed after everything else of this module, and weakref's own exit hook has run by then.
    def __init__(self): self.freed, self.write = freed, os.write
    def __del__(self): self.write(1, " ".join(self.freed).encode())
sys.reporter = Reporter()
""",
        model_path,
        where,
    )
    order = out.split()
    assert sorted(order) == ["chain", "context", "model", "threads", "turn"]
    assert order.index("context") < order.index("model")
    assert order.index("context") < order.index("threads") < order.index("turn")
    assert order.index("chain") < order.index("model")


@pytest.mark.parametrize("order", [*itertools.permutations(("model", "context", "chain"))], ids="-".join)
def test_alive_at_exit_in_any_order(model_path: Path, order: tuple[str, ...]) -> None:
    """The order of a module's names is the order in which the interpreter clears them."""
    run_child(
        PREPARE
        + """
objects = make(sys.argv[1])
for name in sys.argv[2:]:
    globals()[name] = objects.pop(name)
del objects
""",
        model_path,
        *order,
    )


def test_llama_alive_at_exit(model_path: Path) -> None:
    out = run_child(
        """
        import sys
        from llama_cffi import Llama
        llm = Llama(sys.argv[1], n_ctx=64, n_threads=1)
        print(llm.generate("tana", max_tokens=3, seed=1).usage.completion_tokens)
        stream = llm.stream("tana", max_tokens=8, seed=1, repeat_penalty=1.1, grammar='root ::= [a-z ]*')
        next(stream)
        """,
        model_path,
    )
    assert out == "3\n"


def test_exit_out_of_a_callback(model_path: Path) -> None:
    run_child(
        """
        import sys
        from llama_cffi import Model
        try:
            Model(sys.argv[1], progress=lambda fraction: sys.exit(3))
        except SystemExit as error:
            assert error.code == 3
        """,
        model_path,
    )


@pytest.mark.parametrize("repetition", range(5))
def test_exit_while_a_daemon_thread_computes(model_path: Path, repetition: int) -> None:
    """The interpreter ends at another moment of the thread's work each time."""
    run_child(
        """
        import sys, threading, time
        from llama_cffi import Llama, LlamaCffiError
        llm = Llama(sys.argv[1], n_ctx=2048, n_threads=1)
        started = threading.Event()
        def work():
            try:
                for chunk in llm.stream("tana", seed=1, repeat_penalty=1.1):
                    started.set()
            except LlamaCffiError:
                pass  # the end of the interpreter aborts the decode
        threading.Thread(target=work, daemon=True).start()
        assert started.wait(10)
        time.sleep(int(sys.argv[2]) * 0.0007)
        """,
        model_path,
        repetition,
    )


@pytest.mark.parametrize("closing", ["context", "model"])
def test_closing_what_another_thread_computes_with(model_path: Path, closing: str) -> None:
    """The decode is aborted, then the context is freed: never under the thread that is inside."""
    out = run_child(
        """
        import sys, threading, time
        from llama_cffi import Batch, Context, ContextOptions, LlamaCffiError, Model
        for round in range(10):
            model = Model(sys.argv[1])
            context = Context(model, ContextOptions(n_ctx=2048, n_batch=2048, n_ubatch=2048, n_threads=1))
            batch = Batch(2048)
            batch.extend([300] * 2048, 0)
            ends = []
            inside = threading.Event()
            def work():
                inside.set()
                try:
                    context.decode(batch)
                    ends.append("done")
                except LlamaCffiError as error:
                    ends.append(type(error).__name__)
            thread = threading.Thread(target=work)
            thread.start()
            inside.wait(10)
            time.sleep(0.005)
            {"model": model, "context": context}[sys.argv[2]].close()
            assert context.closed
            thread.join()
            print(*ends)
        """,
        model_path,
        closing,
    )
    assert set(out.split()) <= {"AbortedError", "ClosedError", "done"}
    assert "AbortedError" in out


INSIDE = """
import sys, threading, time
import numpy as np
from llama_cffi import Context, ContextOptions, Llama, LlamaCffiError, Model, SamplerChain
from llama_cffi.core.sampler import Dist, TopP

logits = np.linspace(-5, 5, 512, dtype=np.float32)
calls = {
    "tokenize": lambda model, chain, llm: model.vocab.tokenize("tana nese " * 10_000),
    "context": lambda model, chain, llm: Context(model, ContextOptions(n_ctx=256, n_threads=1)).close(),
    "chain": lambda model, chain, llm: chain.apply(logits),
    "generate": lambda model, chain, llm: llm.generate("tana", max_tokens=20, repeat_penalty=1.1, logprobs=2),
}
closers = {"tokenize": (0,), "context": (0,), "chain": (1, 0), "generate": (2, 0)}
for round in range(10):
    model = Model(sys.argv[1])
    objects = (model, SamplerChain([TopP(0.9), Dist(1)], model.vocab), Llama(model, n_ctx=256, n_threads=1))
    ended = []
    def work():
        try:
            while True:
                calls[sys.argv[2]](*objects)
        except LlamaCffiError as error:
            ended.append(type(error).__name__)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.01 + round * 0.001)
    for i in closers[sys.argv[2]]:
        objects[i].close()
    for thread in threads:
        thread.join()
    assert len(ended) == 2
    print(*ended)
"""


@pytest.mark.parametrize("call", ["tokenize", "context", "chain", "generate"])
def test_closing_while_threads_are_inside(model_path: Path, call: str) -> None:
    out = run_child(INSIDE, model_path, call)
    assert set(out.split()) <= {"ClosedError", "BusyError", "AbortedError"}


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_forked_child_frees_nothing(model_path: Path) -> None:
    out = run_child(
        PREPARE
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: the very case
objects = make(sys.argv[1])
pid = os.fork()
if pid == 0:
    from llama_cffi.errors import ContextError
    try:
        objects["context"].decode(objects["batch"])
    except ContextError as error:
        print("child:", "another process" in str(error), flush=True)
    for name in ("chain", "context", "model"):
        objects[name].close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
freed.clear()
objects["context"].memory.clear()
objects["context"].decode(objects["batch"])
print("parent:", objects["context"].outputs.logits().shape[0])
""",
        model_path,
    )
    assert out == "child: True\nparent: 512\n"


FUZZ = """
import sys
from tests.support.fuzz import Fuzzer
fuzzer = Fuzzer(sys.argv[1], int(sys.argv[2]))
fuzzer.run(int(sys.argv[3]))
for name, count in sorted(fuzzer.seen.items()):
    print(count, name)
"""


def test_ten_thousand_random_steps(model_path: Path) -> None:
    """In a child, so that a crash is a failed test with a stack; 2,500 steps for each of four seeds."""
    seen: dict[str, int] = {}
    for seed in range(4):
        for line in run_child(FUZZ, model_path, seed, 2500, timeout=300).splitlines():
            count, name = line.split(" ", 1)
            seen[name] = seen.get(name, 0) + int(count)
    assert sum(seen.values()) == 10_000
    # The steps reached what they are meant to shake.
    for name in ("decode", "sample", "memory", "state", "logits", "close", "drop", "cycle", "chain call"):
        assert seen.get(name, 0) >= 50, (name, seen)


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_random_steps_that_shrink(model_path: Path, data: st.DataObject) -> None:
    """The same steps chosen by hypothesis: what fails here comes out as a short list of steps."""
    fuzzer = Fuzzer(model_path, data.draw(st.integers(0, 2**16)))
    for name in data.draw(st.lists(st.sampled_from(fuzzer.names), max_size=60)):
        fuzzer.step(name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow(model_path: Path) -> None:
    out = run_child(
        """
        import gc, sys
        from llama_cffi import Llama

        def rss():
            gc.collect()
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096 / 2**20

        for cycle in range(1, 201):
            with Llama(sys.argv[1], n_ctx=256, n_threads=1) as llm:
                llm.generate("tana nese", max_tokens=8, seed=cycle)
                llm.generate("tana", max_tokens=4, seed=cycle, repeat_penalty=1.1, grammar='root ::= [a-z ]+')
            if cycle in (20, 200):
                print(rss())
        """,
        model_path,
    )
    early, late = map(float, out.split())
    assert late - early < 5
