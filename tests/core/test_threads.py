"""How many threads are the right number, and why: affinity, hyperthreads, kinds of cores, control groups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llama_cffi import Batch, Context, ContextOptions, Model
from llama_cffi._native import extras
from llama_cffi._native.abort import AbortFlag
from llama_cffi._native.helpers import lib
from llama_cffi.core import cpu_topology, threads
from llama_cffi.core.cpu_topology import CpuTopology, cgroup_cpu_limit, cpu_list, numa_nodes, read_topology
from llama_cffi.core.threads import ThreadChoice, choose_threads, default_thread_count, thread_choice, thread_count

pytest_plugins = ["tests.support.models"]


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def limit_v2(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


def limit_v1(folder: Path, quota: int, period: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def read(root: Path, membership: Path) -> float | None:
    return cgroup_cpu_limit(str(root), str(membership))


def test_no_control_groups(tmp_path: Path, membership: Path) -> None:
    assert read(tmp_path, membership) is None
    membership.write_text("0::/\n")
    assert read(tmp_path, membership) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("50000 100000\n", 0.5), ("", None), ("x y\n", None)],
)
def test_version_2(tmp_path: Path, membership: Path, text: str, expected: float | None) -> None:
    membership.write_text("0::/app\n")
    limit_v2(tmp_path / "app", text)
    assert read(tmp_path, membership) == expected


def test_the_smallest_limit_above_counts(tmp_path: Path, membership: Path) -> None:
    membership.write_text("0::/a/b/c\n")
    limit_v2(tmp_path / "a", "300000 100000")
    limit_v2(tmp_path / "a" / "b", "max 100000")
    limit_v2(tmp_path / "a" / "b" / "c", "800000 100000")
    assert read(tmp_path, membership) == 3.0
    limit_v2(tmp_path / "a" / "other", "100000 100000")
    assert read(tmp_path, membership) == 3.0


def test_a_container_whose_path_is_the_hosts(tmp_path: Path, membership: Path) -> None:
    membership.write_text("0::/docker/0123\n")
    limit_v2(tmp_path, "200000 100000")
    assert read(tmp_path, membership) == 2.0


@pytest.mark.parametrize(("quota", "expected"), [(250_000, 2.5), (-1, None), (0, None)])
def test_version_1(tmp_path: Path, membership: Path, quota: int, expected: float | None) -> None:
    membership.write_text("5:memory:/app\n4:cpu,cpuacct:/app\n")
    limit_v1(tmp_path / "cpu,cpuacct" / "app", quota, 100_000)
    limit_v1(tmp_path / "memory" / "app", 100_000, 100_000)
    assert read(tmp_path, membership) == expected


def test_both_versions_at_once(tmp_path: Path, membership: Path) -> None:
    membership.write_text("2:cpu:/app\n0::/app\n")
    limit_v1(tmp_path / "cpu" / "app", 400_000, 100_000)
    limit_v2(tmp_path / "app", "300000 100000")
    assert read(tmp_path, membership) == 3.0


def topology(cpus: int, cores: int, quota: float | None = None, **more: Any) -> CpuTopology:
    """CPU n and CPU n + cores are two threads of one core."""
    return CpuTopology(n_online=cpus, cores={cpu: str(cpu % cores) for cpu in range(cpus)}, quota=quota, **more)


@pytest.mark.parametrize(
    ("cpus", "cores", "quota", "expected"),
    [
        (8, 8, None, 8),
        (8, 4, None, 4),
        (64, 32, 2.0, 2),
        (64, 32, 2.9, 2),
        (64, 32, 0.5, 1),
        (2, 2, 16.0, 2),
        (4096, 4096, None, 512),
    ],
)
def test_the_default(
    monkeypatch: pytest.MonkeyPatch, cpus: int, cores: int, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(threads, "read_topology", lambda: topology(cpus, cores, quota))
    assert default_thread_count() == expected


def test_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows do not tell which CPUs a process may use."""
    monkeypatch.setattr(cpu_topology, "affinity", frozenset)
    monkeypatch.setattr(cpu_topology, "cgroup_cpu_limit", lambda *_: None)
    monkeypatch.setattr(cpu_topology, "_sysctl", lambda name: 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert default_thread_count() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_thread_count() == 1


def test_the_cores_that_macos_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"hw.physicalcpu": 10, "hw.perflevel0.physicalcpu": 8}
    monkeypatch.setattr(cpu_topology, "affinity", frozenset)
    monkeypatch.setattr(cpu_topology, "cgroup_cpu_limit", lambda *_: None)
    monkeypatch.setattr(cpu_topology, "_sysctl", lambda name: told.get(name, 0))
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert choose_threads(read_topology()) == ThreadChoice(8, "10 CPUs; hybrid: 8 of 10 are performance cores")
    told = {"hw.physicalcpu": 4}
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert choose_threads(read_topology()) == ThreadChoice(4, "8 CPUs; SMT: they are 4 cores")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_of_this_process() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_thread_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= default_thread_count() <= len(allowed)


# -- the reason


class Machine:
    """Files of /proc and /sys as Linux has them."""

    def __init__(self, root: Path, n_cpus: int, n_cores: int) -> None:
        self.root = root
        self.n_cpus = n_cpus
        self.cpus = root / "sys/devices/system/cpu"
        for cpu in range(n_cpus):
            self.write(self.cpus / f"cpu{cpu}/topology/physical_package_id", "0")
            self.write(self.cpus / f"cpu{cpu}/topology/die_id", "0")
            self.write(self.cpus / f"cpu{cpu}/topology/core_id", cpu % n_cores)

    def write(self, path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def choice(self, monkeypatch: pytest.MonkeyPatch, allowed: str | None = None, mask: str = "") -> ThreadChoice:
        monkeypatch.setattr(os, "cpu_count", lambda: self.n_cpus)
        found = read_topology(str(self.root), cpu_list(allowed if allowed is not None else f"0-{self.n_cpus - 1}"))
        return choose_threads(found, sorted(cpu_list(mask)))


def test_one_thread_for_each_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, 16, 8)
    assert machine.choice(monkeypatch) == ThreadChoice(8, "16 CPUs; SMT: they are 8 cores")
    assert Machine(tmp_path / "b", 4, 4).choice(monkeypatch) == ThreadChoice(4, "4 CPUs")
    assert Machine(tmp_path / "c", 1, 1).choice(monkeypatch) == ThreadChoice(1, "1 CPU")


def test_affinity_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, 16, 8)
    reason = "the affinity of the process has 3 CPUs of 16; SMT: they are 2 cores"
    assert machine.choice(monkeypatch, "0,1,8") == ThreadChoice(2, reason)
    assert machine.choice(monkeypatch, "5") == ThreadChoice(1, "the affinity of the process has 1 CPU of 16")


def test_a_mask_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, 16, 8)
    assert machine.choice(monkeypatch, mask="0-3") == ThreadChoice(4, "the CPU mask has 4 CPUs of 16")
    reason = "the CPU mask has 2 CPUs of 16; SMT: they are 1 core"
    assert machine.choice(monkeypatch, mask="0,8") == ThreadChoice(1, reason)


def test_sockets_have_cores_of_the_same_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, 8, 4)
    for cpu in range(4, 8):
        machine.write(machine.cpus / f"cpu{cpu}/topology/physical_package_id", "1")
    assert machine.choice(monkeypatch).n == 8
    for cpu in range(8):
        (machine.cpus / f"cpu{cpu}/topology/die_id").unlink()
    assert machine.choice(monkeypatch).n == 8


def test_performance_cores_of_an_intel_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six cores with two hardware threads each, and eight efficiency cores."""
    machine = Machine(tmp_path, 20, 20)
    for cpu in range(12):
        machine.write(machine.cpus / f"cpu{cpu}/topology/core_id", cpu // 2)
    machine.write(tmp_path / "sys/devices/cpu_core/cpus", "0-11")
    machine.write(tmp_path / "sys/devices/cpu_atom/cpus", "12-19")
    reason = "20 CPUs; SMT: they are 14 cores; hybrid: 6 of 14 are performance cores"
    assert machine.choice(monkeypatch) == ThreadChoice(6, reason)
    # A process that has only efficiency cores computes with these.
    reason = "the affinity of the process has 4 CPUs of 20"
    assert machine.choice(monkeypatch, "12-15") == ThreadChoice(4, reason)
    assert machine.choice(monkeypatch, mask="12-19").n == 8


def test_performance_cores_of_an_arm_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, 8, 8)
    for cpu in range(8):
        machine.write(machine.cpus / f"cpu{cpu}/cpu_capacity", 325 if cpu < 4 else 1024 if cpu == 7 else 871)
    assert machine.choice(monkeypatch) == ThreadChoice(4, "8 CPUs; hybrid: 4 of 8 are performance cores")
    for cpu in range(8):
        machine.write(machine.cpus / f"cpu{cpu}/cpu_capacity", 1024)
    assert machine.choice(monkeypatch) == ThreadChoice(8, "8 CPUs")


def test_a_quota_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, 8, 8)
    machine.write(tmp_path / "proc/self/cgroup", "0::/app")
    limit_v2(tmp_path / "sys/fs/cgroup/app", "250000 100000")
    assert machine.choice(monkeypatch) == ThreadChoice(2, "8 CPUs; the control group's quota is 2.5 CPUs")
    # A limit that is no limit here is not mentioned.
    assert machine.choice(monkeypatch, "0-1") == ThreadChoice(2, "the affinity of the process has 2 CPUs of 8")
    machine.write(tmp_path / "proc/self/cgroup", "4:cpu,cpuacct:/app")
    limit_v1(tmp_path / "sys/fs/cgroup/cpu,cpuacct/app", 50_000, 100_000)
    assert machine.choice(monkeypatch) == ThreadChoice(1, "8 CPUs; the control group's quota is 0.5 CPUs")


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    found = read_topology(str(tmp_path), frozenset(range(3)))
    assert choose_threads(found) == ThreadChoice(3, "3 CPUs")
    assert not numa_nodes(str(tmp_path))


@pytest.mark.parametrize("text", ["x", "1-", "1-2-3", "a-b"])
def test_a_damaged_list_of_cpus_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    machine = Machine(tmp_path, 4, 4)
    machine.write(tmp_path / "sys/devices/cpu_core/cpus", text)
    machine.write(tmp_path / "sys/devices/cpu_atom/cpus", "0")
    machine.write(tmp_path / "sys/devices/system/node/node0/cpulist", text)
    assert machine.choice(monkeypatch) == ThreadChoice(4, "4 CPUs")
    assert not numa_nodes(str(tmp_path))


def test_numa_nodes(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 4, 4)
    machine.write(tmp_path / "sys/devices/system/node/node0/cpulist", "0-1")
    machine.write(tmp_path / "sys/devices/system/node/node1/cpulist", "2,3")
    machine.write(tmp_path / "sys/devices/system/node/node2/cpulist", "")  # memory without CPUs
    assert numa_nodes(str(tmp_path)) == {0: {0, 1}, 1: {2, 3}}


def test_what_the_caller_gives_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "read_topology", lambda: topology(8, 8))
    monkeypatch.setattr(threads, "usable_cpus", lambda: 8)
    assert thread_choice("n_threads", 3) == ThreadChoice(3, "n_threads=3 was given")
    first = thread_choice("n_threads", None)
    assert first == ThreadChoice(8, "8 CPUs")
    assert thread_choice("n_threads_batch", None, first) is first
    with pytest.warns(RuntimeWarning, match="n_threads=9 is more than the 8 threads"):
        assert thread_choice("n_threads", 9) == ThreadChoice(8, "n_threads=9 was given, which is too many for 8 CPUs")
    with pytest.warns(RuntimeWarning, match="n_threads=8 is more than the 6 threads"):
        assert thread_choice("n_threads", 8, mask=range(6)).n == 6
    assert str(first) == "8 (8 CPUs)"


def test_more_threads_than_cpus_are_lowered_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, asked, given in ((2, 512, 4), (2, 4, 4), (64, 64, 64), (64, 65, 64), (64, 512, 64)):
        monkeypatch.setattr(threads, "usable_cpus", lambda cpus=cpus: cpus)
        if asked == given:
            assert thread_count("n_threads", asked) == given
        else:
            with pytest.warns(RuntimeWarning, match=f"n_threads={asked} is more than the {given} threads"):
                assert thread_count("n_threads", asked) == given


def test_a_context_reports_the_threads_that_it_computes_with(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: 2)
    with pytest.warns(RuntimeWarning, match="n_threads=512"):
        context = Context(model, ContextOptions(n_ctx=32, n_threads=512))
    with context:
        assert (context.n_threads, context.n_threads_batch) == (4, 4)
        assert context.threads.reason == "n_threads=512 was given, which is too many for 2 CPUs"


def test_threads_that_were_paused_compute_again(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, found = ContextOptions(n_ctx=64, n_threads=2, n_threads_batch=1), []
    with Model(model_path) as model:
        for exported in (extras.exported, lambda name: None):
            monkeypatch.setattr(extras, "exported", exported)
            with Context(model, options) as context:
                for _ in range(3):
                    pause_threads(context)
                    context.memory.clear()
                    for pos in range(2):
                        batch = Batch(1)
                        batch.add(1 + pos, pos, 0, output=True)
                        context.decode(batch)
                    found.append(context.outputs.logits(0).tolist())
        assert found == found[:1] * 6


def pause_threads(context: Context) -> None:
    """As an encoding does, twice."""
    turn = context.turn.native
    assert lib.lch_turn_take(turn, AbortFlag().native) == 0
    lib.lch_turn_pause(turn)
    lib.lch_turn_pause(turn)
    lib.lch_turn_give(turn)
