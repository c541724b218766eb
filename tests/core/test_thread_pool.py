"""Pools of threads: shared by contexts, placed as asked, gone with their last user; and turns."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Batch, Context, ContextOptions, Llama, Model, ModelOptions
from llama_cffi.core import numa, thread_options, thread_pool
from llama_cffi.core.cpu_topology import affinity, cpu_list, cpu_ranges
from llama_cffi.core.thread_options import ThreadOptions, check_mask
from llama_cffi.errors import AbortedError, BusyError, InUseError, UnsupportedError

pytest_plugins = ["tests.support.models"]

TASKS = Path("/proc/self/task")
CPUS = sorted(affinity())
needs_linux = pytest.mark.skipif(not TASKS.is_dir(), reason="only Linux tells about threads")
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="one CPU has nothing to share")

ALL = len(CPUS) or 1
"""As many threads as there are CPUs: what contexts share."""


def tasks() -> set[int]:
    return {int(task.name) for task in TASKS.iterdir()}


def allowed(task: int) -> str:
    status = (TASKS / str(task) / "status").read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith("Cpus_allowed_list"))


def policy(task: int) -> tuple[int, int]:
    # The 36th and 37th fields behind the name.
    fields = (TASKS / str(task) / "stat").read_text().rpartition(")")[2].split()
    return int(fields[38]), int(fields[37])


def options(**more: Any) -> ContextOptions:
    return ContextOptions(**{"n_ctx": 64, "n_batch": 16, "n_threads": ALL, **more})


def compute(context: Context, n: int = 1) -> None:
    context.memory.clear()
    batch = Batch(n)
    batch.extend([1] * n, 0, 0)
    context.decode(batch)


def eventually(question: Callable[[], bool]) -> bool:
    for _ in range(400):
        if question():
            return True
        time.sleep(0.005)
    return False


def live_pools() -> set[Any]:
    return {key for key, one in tuple(thread_pool._pools.items()) if one() is not None}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = live_pools()
    yield
    gc.collect()
    assert not live_pools() - before


# -- sharing


@needs_linux
@needs_two
def test_contexts_with_all_threads_share_a_pool(model: Model) -> None:
    before = tasks()
    with Context(model, options()) as one:
        mine = tasks() - before
        assert len(mine) == ALL - 1
        with Context(model, options()) as other:
            assert tasks() - before == mine
            assert one.threads.shared
            assert other.threads.shared
            for context in (one, other, one):
                compute(context)
        compute(one)
        assert tasks() - before == mine
    assert eventually(lambda: not tasks() - before)


@needs_linux
def test_small_contexts_compute_on_their_own(model: Model) -> None:
    small = options(n_threads=max(1, ALL // 2))
    with Context(model, small) as one, Context(model, small) as other:
        assert one.threads.shared == (2 * one.n_threads > ALL)
        pools = [set(map(id, context._threads._pools.values())) for context in (one, other)]
        assert one.threads.shared or not pools[0] & pools[1]
    with Context(model, options(), own_threads=True) as one:
        assert not one.threads.shared


def test_a_draft_computes_with_the_threads_of_its_target(model: Model) -> None:
    small = options(n_threads=1)
    with Context(model, small, own_threads=True) as one, Context(model, small, threads_of=one) as other:
        assert list(one._threads._pools.values()) == list(other._threads._pools.values())


@needs_linux
def test_many_models_opened_and_closed_leave_no_threads(model: Model) -> None:
    before = tasks()
    for i in range(6):
        llm = Llama(model, n_ctx=64)
        if i % 2:
            llm.context.set_threads(1 + i % 3)
            compute(llm.context, 2)
            llm.close()
        del llm
    gc.collect()
    assert eventually(lambda: not tasks() - before)


@needs_linux
def test_a_pool_is_gone_with_its_last_user_also_in_a_cycle(model: Model) -> None:
    before = tasks()
    one, other = Context(model, options()), Context(model, options())
    one.cycle, other.cycle = other, one  # type: ignore[attr-defined]
    compute(one)
    del one, other
    gc.collect()
    assert eventually(lambda: not tasks() - before)


def test_a_pool_that_is_in_use_cannot_be_closed(model: Model) -> None:
    with Context(model, options()) as context:
        pool = next(iter(context._threads._pools.values()))
        with pytest.raises(InUseError, match="a Context computes with it"):
            pool.handle.close()
        compute(context)


# -- turns


@needs_two
def test_two_models_of_one_process_generate_at_once(model: Model) -> None:
    """Their texts are those of each alone: nothing of one gets into the computation of the other."""
    with Llama(model, n_ctx=256) as one, Llama(model, n_ctx=256) as other:
        assert one.threads.shared
        prompts = [[1, 20 + i] for i in range(4)]
        expected = [one.generate(prompt, max_tokens=24, temperature=0).tokens for prompt in prompts]
        found: dict[tuple[int, int], Any] = {}

        def run(number: int, llm: Llama) -> None:
            for i, prompt in enumerate(prompts):
                found[number, i] = llm.generate(prompt, max_tokens=24, temperature=0, reuse=False).tokens

        threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate((one, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [found[number, i] for number in (0, 1) for i in range(4)] == 2 * expected


@pytest.fixture
def taken(model: Model) -> Iterator[tuple[Context, Callable[[], None]]]:
    """A context whose turn another thread has, and what ends that."""
    from llama_cffi._native.helpers import lib

    with Context(model, options()) as context:
        turn = context._threads.turn
        assert turn is not None
        begun, done = threading.Event(), threading.Event()

        def hold() -> None:
            from llama_cffi._native.abort import AbortFlag

            assert lib.lch_turn_take(turn.native, AbortFlag().native) == 0
            begun.set()
            done.wait(30)
            lib.lch_turn_give(turn.native)

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        begun.wait(30)
        try:
            yield context, done.set
        finally:
            done.set()
            thread.join(30)


def step(context: Context) -> int:
    from llama_cffi.core.selection import TokenSelector

    context.memory.clear()
    selector = TokenSelector(context.outputs, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, seed=0)
    result = context.stepper(selector)(1, 0, 0)
    if result < 0:
        context.step_failed(result)
    return result


@pytest.mark.parametrize("call", [step, compute])
def test_a_computation_waits_for_its_turn(taken: Any, call: Callable[[Context], object]) -> None:
    context, give = taken
    done = threading.Event()

    def run() -> None:
        call(context)
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert eventually(lambda: context._threads.turn.n_waiting == 1)
    assert not done.is_set()
    give()
    assert done.wait(30)
    thread.join(30)


@pytest.mark.parametrize("call", [step, compute])
def test_a_thread_that_waits_can_be_stopped(taken: Any, call: Callable[[Context], object]) -> None:
    context, _ = taken
    threading.Timer(0.05, context.abort).start()
    with pytest.raises(AbortedError, match="aborted"):
        call(context)
    assert context._threads.turn.n_waiting == 0


def test_a_deadline_ends_the_wait(taken: Any) -> None:
    context, _ = taken
    context.memory.clear()
    batch = Batch(2)
    batch.extend([1, 1], 0, 0)
    with pytest.raises(AbortedError, match="deadline"):
        context.decode(batch, deadline=time.monotonic() + 0.05)


def test_closing_ends_the_wait(taken: Any) -> None:
    context, _ = taken
    failed: list[BaseException] = []

    def run() -> None:
        try:
            compute(context)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert eventually(lambda: context._threads.turn.n_waiting == 1)
    context.close()
    thread.join(30)
    assert len(failed) == 1
    assert not thread.is_alive()


@pytest.mark.parametrize("call", [step, compute])
def test_a_computation_inside_of_another_one_is_refused(model: Model, call: Callable[[Context], object]) -> None:
    """As a signal handler would make it, in the middle of a graph of the same threads."""
    from llama_cffi._native.abort import AbortFlag
    from llama_cffi._native.helpers import lib

    with Context(model, options()) as context:
        turn = context._threads.turn
        assert turn is not None
        assert lib.lch_turn_take(turn.native, AbortFlag().native) == 0
        try:
            with pytest.raises(BusyError, match="in the middle of a computation"):
                call(context)
        finally:
            lib.lch_turn_give(turn.native)
        call(context)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_pools_of_its_own() -> None:
    code = (
        "import os, sys\n"
        "from llama_cffi import Llama\n"
        "llm = Llama.demo(n_ctx=64)\n"
        "text = llm.generate('Once', max_tokens=4, temperature=0).text\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    other = Llama.demo(n_ctx=64)\n"
        "    assert other.generate('Once', max_tokens=4, temperature=0).text == text\n"
        "    sys.exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "llm.generate('Twice', max_tokens=4)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- CPUs and priority


def placed_threads(model: Model, n: int = 2, **more: Any) -> tuple[Context, list[int]]:
    before = tasks()
    context = Context(model, options(n_threads=n, **more))
    compute(context)
    return context, sorted(tasks() - before)


@needs_linux
@needs_two
def test_a_mask_is_where_threads_run(model: Model) -> None:
    mine = os.sched_getaffinity(0)
    context, threads = placed_threads(model, 3, cpu_mask=[CPUS[1]])
    with context:
        assert len(threads) == 2
        assert {allowed(task) for task in threads} == {str(CPUS[1])}
        assert os.sched_getaffinity(0) == mine
        assert context.threads.reason == "n_threads=3 was given"


@needs_linux
@needs_two
def test_a_strict_mask_gives_each_thread_its_cpu(model: Model) -> None:
    seen: list[set[int]] = []
    mask = CPUS[:2]
    context, threads = placed_threads(model, 2, cpu_mask=mask, cpu_strict=True)
    with context:
        assert [allowed(task) for task in threads] == [str(mask[0])]
        with context._threads._options.applied(2):
            seen.append(os.sched_getaffinity(0))
        assert seen == [{mask[1]}]
        assert os.sched_getaffinity(0) == set(CPUS)


@needs_linux
@needs_two
def test_the_calling_thread_is_placed_while_it_computes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[int, ...]] = []
    real = thread_options._place

    def place(cpus: tuple[int, ...], priority: Any) -> None:
        places.append(cpus)
        real(cpus, priority)

    monkeypatch.setattr(thread_options, "_place", place)
    with Context(model, options(cpu_mask=[CPUS[0]], n_threads=1)) as context:
        assert places == [(CPUS[0],)]
        places.clear()
        compute(context, 3)
        step(context)
        assert places == 2 * [(CPUS[0],)]
        assert os.sched_getaffinity(0) == set(CPUS)


@needs_linux
@needs_two
def test_prompts_may_have_cpus_of_their_own(model: Model) -> None:
    before = tasks()
    with Context(
        model, options(n_threads=2, n_threads_batch=2, cpu_mask=CPUS[:1], cpu_mask_batch=CPUS[1:2])
    ) as context:
        compute(context, 3)
        compute(context)
        assert sorted(allowed(task) for task in tasks() - before) == [str(CPUS[0]), str(CPUS[1])]


@needs_linux
def test_a_low_priority_is_for_batch_work(model: Model) -> None:
    context, threads = placed_threads(model, priority="low")
    with context:
        assert {policy(task) for task in threads} == {(os.SCHED_BATCH, 0)}
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_priority_that_is_not_allowed_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(UnsupportedError, match=r"priority='high': .* CAP_SYS_NICE, .* at least 80"):
        Context(model, options(priority="high"))


@needs_linux
def test_a_priority_that_is_allowed_is_set(model: Model) -> None:
    try:
        ThreadOptions(priority="medium").check()
    except UnsupportedError:
        pytest.skip("this system allows no real-time scheduling")
    n = max(1, min(2, len(CPUS) - 1))
    context, threads = placed_threads(model, n, priority="medium")
    with context:
        assert [policy(task) for task in threads] == [(os.SCHED_FIFO, 40)] * (n - 1)
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


@needs_linux
def test_real_time_threads_leave_a_cpu(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)
    for more in ({"n_threads": 2}, {"n_threads": 1, "n_threads_batch": 2, "priority_batch": "high"}):
        given = {"cpu_mask": CPUS[:2], "cpu_mask_batch": CPUS[:2], "priority": "high", **more}
        with pytest.raises(UnsupportedError, match=r"priority='high': 2 real-time threads .* of [12] CPUs .*=1"):
            Context(model, options(**given))


@needs_linux
def test_a_cpu_that_is_not_there_is_refused(model: Model) -> None:
    mine = os.sched_getaffinity(0)
    with pytest.raises(
        UnsupportedError, match=r"cpu_mask: the system has no CPU 510, 511 for this process; it may use"
    ):
        Context(model, options(cpu_mask="510-511"))
    with pytest.raises(UnsupportedError, match="has no CPU 511"):
        Context(model, options(cpu_mask=[CPUS[0], 511]))
    for data in (b"0", bytearray(1)):
        with pytest.raises(TypeError, match="not byte"):
            Context(model, options(cpu_mask=data))
    assert os.sched_getaffinity(0) == mine


def test_a_system_without_placement_refuses_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    for given in ({"cpu_mask": [0]}, {"priority": "low"}):
        with pytest.raises(UnsupportedError, match="does not let a thread be placed"):
            Context(model, options(**given))


def test_a_library_without_pools_computes_without_options(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> Any:
        raise UnsupportedError("the CPU backend has no thread pools")

    monkeypatch.setattr(thread_pool, "pool_functions", lacking)
    with Context(model, options()) as context:
        compute(context)
        assert not context._threads._pools
    with pytest.raises(UnsupportedError, match="has no thread pools"):
        Context(model, options(poll=0))


@pytest.mark.parametrize(
    ("value", "cpus"),
    [("0-3,8", (0, 1, 2, 3, 8)), ("0x5", (0, 2)), ("0XF0", (4, 5, 6, 7)), ("3", (3,)), ([2, 0, 2], (0, 2))],
)
def test_masks(value: Any, cpus: tuple[int, ...]) -> None:
    assert check_mask("cpu_mask", value) == cpus


@pytest.mark.parametrize(
    "value",
    [
        *("", "0x", "0xg", "3-", "-3", "a", "1,,2", "5-1", "0,5-1", "0x0", "512", "0-99999"),
        *([], [-1], [512], [0.5], [True], ["1"]),
    ],
)
def test_bad_masks(value: Any) -> None:
    with pytest.raises(ValueError, match="cpu_mask"):
        check_mask("cpu_mask", value)


def test_bytes_are_not_the_numbers_of_cpus() -> None:
    for value in (b"0-3", bytearray(b"3"), 3):
        with pytest.raises(TypeError, match="cpu_mask must be a text or numbers of CPUs"):
            check_mask("cpu_mask", value)


def test_bad_options(model: Model) -> None:
    bad: list[dict[str, Any]] = [{"poll": 101}, {"poll": -1}, {"poll": None}, {"priority": "urgent"}, {"cpu_mask": "x"}]
    for given in bad + [{f"{name}_batch": value} for one in bad for name, value in one.items() if value is not None]:
        name = next(iter(given))
        with pytest.raises(ValueError, match=name):
            Context(model, options(**given))
    with pytest.raises(TypeError, match="cpu_mask"):
        Context(model, options(cpu_mask=3))
    with pytest.raises((TypeError, ValueError), match="cpu_strict"):
        options(cpu_strict="yes")


def test_ranges() -> None:
    assert cpu_ranges([8, 0, 1, 3, 2]) == "0-3,8"
    assert cpu_ranges([]) == ""
    assert cpu_list(cpu_ranges([8, 0, 1, 3, 2])) == {0, 1, 2, 3, 8}


# -- for a while


@needs_two
def test_threads_are_fewer_for_a_while(model: Model) -> None:
    with Context(model, options(n_threads=2)) as context:
        context.lower_threads(1, "other work")
        use = context.threads
        assert (use.n, use.n_batch, use.lowered, context.n_threads) == (1, 1, "other work", 2)
        assert str(use) == "1 (n_threads=2 was given; other work)"
        compute(context)
        compute(context, 3)
        context.lower_threads(None)
        assert (context.threads.n, context.threads.lowered) == (2, None)
        compute(context)
        assert str(context.threads) == "2 (n_threads=2 was given)"
        for limit in (0, -1, 0.5, True):
            with pytest.raises(ValueError, match="limit must be an int from 1"):
                context.lower_threads(limit)  # type: ignore[arg-type]
        assert context.thread_limit is None
        compute(context)


def test_a_fork_has_the_reason_too(model: Model) -> None:
    with Llama(model, n_ctx=64) as llm, llm.fork() as twin:
        assert twin.threads == llm.threads
        llm.context.set_threads(1)
        with llm.fork() as other:
            assert (other.threads.n, other.threads.reason) == (1, "n_threads=1 was given")


# -- NUMA


@pytest.fixture
def no_strategy(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A process that has no strategy, and the calls that it would make."""
    calls: list[int] = []
    monkeypatch.setattr(numa, "_numa", numa._Numa())

    class Lib:
        def __getattr__(self, name: str) -> Any:
            from llama_cffi._native import lib

            return calls.append if name == "llama_numa_init" else getattr(lib, name)

    monkeypatch.setattr(numa, "lib", Lib())
    return calls


def nodes(root: Path, *lists: str, cpu: int = 0) -> str:
    for i, text in enumerate(lists):
        folder = root / f"sys/devices/system/node/node{i}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(text)
    (root / "proc/thread-self").mkdir(parents=True)
    (root / "proc/thread-self/stat").write_text("1 (a) b) R " + " ".join("0" for _ in range(35)) + f" {cpu} 0 0\n")
    return str(root)


@needs_linux
def test_a_strategy_is_set_once(tmp_path: Path, no_strategy: list[int]) -> None:
    root = nodes(tmp_path, "0", "1", cpu=1)
    numa.use_numa("isolate", root)
    numa.use_numa("isolate", root)
    numa.use_numa(None, root)
    assert len(no_strategy) == 1
    assert numa.numa_places_threads()
    with pytest.raises(UnsupportedError, match="numa='distribute': this process computes with numa='isolate'"):
        numa.use_numa("distribute", root)


@needs_linux
@needs_two
def test_an_isolated_process_has_the_threads_of_its_node(tmp_path: Path, no_strategy: list[int], model: Model) -> None:
    numa.use_numa("isolate", nodes(tmp_path, str(CPUS[0]), str(CPUS[1]), cpu=CPUS[1]))
    with Context(model, ContextOptions(n_ctx=32)) as context:
        assert context.n_threads == 1
        compute(context)
    with pytest.raises(UnsupportedError, match="NUMA strategy, by which ggml places its threads"):
        Context(model, options(cpu_mask=CPUS[:1]))


@needs_linux
def test_one_node_needs_no_strategy(tmp_path: Path, no_strategy: list[int], model_path: str) -> None:
    numa.use_numa("distribute", nodes(tmp_path, "0-1"))
    assert not no_strategy
    assert not numa.numa_places_threads()
    Model(model_path, ModelOptions(numa="distribute")).close()


def test_bad_strategies(no_strategy: list[int], model_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="numa must be one of 'distribute', 'isolate', 'numactl', got 'mirror'"):
        Model(model_path, ModelOptions(numa="mirror"))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match="Linux only"):
        numa.use_numa("distribute")


def test_no_warning_of_ggml_is_printed(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), suppress(UnsupportedError):
        warnings.simplefilter("error")
        with Context(model, options(cpu_mask=CPUS or None, cpu_strict=True, priority="low", poll=0)) as context:
            compute(context)
            compute(context, 3)
    assert capfd.readouterr().err == ""
