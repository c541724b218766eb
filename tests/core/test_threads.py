"""How many threads are the right number: affinity, hyperthreads, control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_cffi import Batch, Context, ContextOptions, Model
from llama_cffi._native import extras
from llama_cffi.core import threads
from llama_cffi.core.threads import cgroup_cpu_limit, default_thread_count, thread_count

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
    """CPU n and CPU n + cores are two threads of one core."""
    monkeypatch.setattr(threads, "_affinity", lambda: frozenset(range(cpus)))
    monkeypatch.setattr(threads, "_physical_core", lambda cpu: (str(cpu % cores),))
    monkeypatch.setattr(threads, "cgroup_cpu_limit", lambda: quota)
    assert default_thread_count() == expected


def test_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows do not tell which CPUs a process may use."""
    monkeypatch.setattr(threads, "_affinity", frozenset)
    monkeypatch.setattr(threads, "cgroup_cpu_limit", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert default_thread_count() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert default_thread_count() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_of_this_process() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_thread_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= default_thread_count() <= len(allowed)


def test_more_threads_than_cpus_are_lowered_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, asked, given in ((2, 512, 4), (2, 4, 4), (64, 64, 64), (64, 65, 64), (64, 512, 64)):
        monkeypatch.setattr(threads, "_affinity", lambda cpus=cpus: frozenset(range(cpus)))
        if asked == given:
            assert thread_count("n_threads", asked) == given
        else:
            with pytest.warns(RuntimeWarning, match=f"n_threads={asked} is more than the {given} threads"):
                assert thread_count("n_threads", asked) == given


def test_a_context_reports_the_threads_that_it_computes_with(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_affinity", lambda: frozenset(range(2)))
    with pytest.warns(RuntimeWarning, match="n_threads=512"):
        context = Context(model, ContextOptions(n_ctx=32, n_threads=512))
    with context:
        assert (context.n_threads, context.n_threads_batch) == (4, 4)


def test_threads_that_were_paused_compute_again(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Model(model_path) as model,
        Context(model, ContextOptions(n_ctx=64, n_threads=2, n_threads_batch=1)) as context,
    ):
        found = []
        for exported in (extras.exported, lambda name: None):
            monkeypatch.setattr(extras, "exported", exported)
            for _ in range(3):
                context.pause_threads()
                context.pause_threads()
                context.memory.clear()
                for pos in range(2):
                    batch = Batch(1)
                    batch.add(1 + pos, pos, 0, output=True)
                    context.decode(batch)
                found.append(context.outputs.logits(0).tolist())
        assert found == found[:1] * 6
