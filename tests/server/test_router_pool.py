"""Several models: which are loaded, which make room, which sleep, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import stat
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from llama_cffi.server.problem import Problem
from llama_cffi.server.router.managed import Failure, ManagedModel
from llama_cffi.server.router.pool import Lease, Pool
from tests.support.pools import entry, pool, run


async def refused(asked: Coroutine[Any, Any, Lease]) -> Problem:
    with pytest.raises(Problem) as caught:
        await asked
    return caught.value


def statuses(pool: Pool) -> dict[str, str]:
    return {name: one.status for name, one in pool.models.items()}


async def used(pool: Pool, name: str) -> None:
    """Let a request use a model."""
    (await pool.lease(pool.find(name))).release()


async def loaded(pool: Pool, name: str) -> Failure | None:
    """Wait for the end of loading."""
    changing = pool.models[name].changing
    assert changing is not None
    return await changing


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_model_used_longest_ago_makes_room_and_one_in_use_never_does() -> None:
    async def main() -> None:
        async with pool(entry("a"), entry("b"), entry("c"), entry("d"), max_models=2) as models:
            await used(models, "a")
            lease = await models.lease(models.find("b"))
            await used(models, "c")
            assert statuses(models) == {"a": "unloaded", "b": "loaded", "c": "loaded", "d": "unloaded"}
            await used(models, "d")
            assert statuses(models) == {"a": "unloaded", "b": "loaded", "c": "unloaded", "d": "loaded"}
            lease.release()
            await used(models, "d")
            await used(models, "a")
            assert statuses(models) == {"a": "loaded", "b": "unloaded", "c": "unloaded", "d": "loaded"}
            assert models.keeper.evictions == {"a": 1, "c": 1, "b": 1}

    run(main)


def test_where_all_are_in_use_a_request_waits() -> None:
    async def main() -> None:
        async with pool(entry("a"), entry("b"), max_models=1) as models:
            lease = await models.lease(models.find("a"))
            gone = asyncio.ensure_future(models.lease(models.find("b")))
            waiting = asyncio.ensure_future(models.lease(models.find("b")))
            while models.models["b"].process is None:
                await asyncio.sleep(0.005)
            gone.cancel()
            lease.release()
            (await waiting).release()
            assert statuses(models) == {"a": "unloaded", "b": "loaded"}
            # Nothing is loaded for requests that have gone.
            failure = await models.keeper.start(models.find("a"))
            assert failure is not None
            assert failure.abandoned
            assert statuses(models) == {"a": "unloaded", "b": "loaded"}

    run(main)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_models": 1}, "--models-max is 1"),
        ({"memory_limit": 30 << 20}, "it needs 20 MiB, --memory-limit is 30 MiB, and others in use have 11 MiB"),
    ],
)
def test_a_model_for_which_there_is_no_room_is_refused_with_the_reason(options: Any, reason: str) -> None:
    async def main() -> None:
        sizes = (entry("a", size=11), entry("b", size=20), entry("c", size=5))
        async with pool(*sizes, wait_seconds=0.1, **options) as models:
            for name in ("c", "a"):
                models.keeper.want(models.find(name))
                await loaded(models, name)
            lease = await models.lease(models.find("a"))
            models.keeper.want(models.find("b"))
            failure = await loaded(models, "b")
            assert failure is not None
            assert failure.message == f"there is no room for the model 'b': {reason}; in use: a"
            # No model was evicted for nothing.
            assert statuses(models)["c"] == ("loaded" if "memory_limit" in options else "unloaded")
            lease.release()

    run(main)


def test_the_memory_of_all_models_stays_below_the_limit() -> None:
    async def main() -> None:
        sizes = (entry("a", size=40), entry("b", size=30), entry("c", size=70), entry("d", size=101))
        async with pool(*sizes, max_models=0, memory_limit=100 << 20) as models:
            await used(models, "a")
            await used(models, "b")
            problem = await refused(models.lease(models.find("d")))
            assert problem.message == "the model 'd' needs 101 MiB, and --memory-limit is 100 MiB"
            assert (problem.status, problem.code) == (503, "memory_limit")
            assert statuses(models) == {"a": "loaded", "b": "loaded", "c": "unloaded", "d": "unloaded"}
            await used(models, "c")  # b may stay
            assert statuses(models) == {"a": "unloaded", "b": "loaded", "c": "loaded", "d": "unloaded"}

    run(main)


def test_a_model_sleeps_and_is_woken() -> None:
    async def main() -> None:
        async with pool(entry("a"), sleep_seconds=0.2) as models:
            model = models.find("a")
            lease = await models.lease(model)
            pid = lease.process.pid
            await asyncio.sleep(0.5)
            assert model.status == "loaded"  # in use
            lease.release()
            # What does not count does not keep it awake.
            peek = await models.lease(model, counts=False)
            await asyncio.sleep(0.3)
            peek.release()
            while statuses(models)["a"] != "sleeping":
                await models.keeper.change(5)
            assert not alive(pid)
            problem = await refused(models.lease(model, autoload=False))
            assert (problem.status, problem.code) == (400, "model_not_loaded")
            await used(models, "a")
            assert (model.status, model.n_loads) == ("loaded", 2)

    run(main)


def test_a_process_that_dies_is_started_again_with_longer_and_longer_pauses() -> None:
    async def main() -> None:
        async with pool(entry("a"), entry("b")) as models:
            model = models.find("a")
            other = await models.lease(models.find("b"))
            for n in range(3):
                lease = await models.lease(model)
                os.kill(lease.process.pid, signal.SIGKILL)
                await asyncio.wait({lease.process.exited})
                await asyncio.sleep(0)
                lease.release()
                assert (model.status, model.n_crashes) == ("failed", n + 1)
                pause = model.retry_at - time.monotonic()
                assert 2.0 ** (n - 1) * 0.5 < pause <= 2.0 ** (n - 1) if n else pause <= 0
                if n:
                    problem = await refused(models.lease(model))
                    assert (problem.status, problem.code) == (503, "model_crashed")
                    assert "signal SIGKILL, as the system ends a process when memory runs out" in problem.message
                    assert "the fake begins a" in problem.message
                    assert int(problem.headers["Retry-After"]) >= 1
                    model.retry_at = 0.0
            models.keeper.want(model)  # by hand at once
            await used(models, "a")
            assert model.n_failures == 0
            assert other.process.exited.done() is False
            other.release()

    run(main)


def test_a_model_that_cannot_be_loaded_says_why() -> None:
    async def main() -> None:
        async with pool(entry("a", fail=3)) as models:
            several = [models.lease(models.find("a")) for _ in range(5)]
            problems = [await refused(one) for one in several]
            assert {one.code for one in problems} == {"model_failed"}
            assert "exit code 3" in problems[0].message
            assert "it cannot be loaded 3" in problems[0].message
            assert models.models["a"].told()["exit_code"] == 3
            assert models.models["a"].n_failures == 1  # one attempt for all of them

    run(main)


def test_an_unloaded_model_finishes_what_it_answers() -> None:
    async def main() -> None:
        async with pool(entry("a"), entry("b", stop_timeout=0.2)) as models:
            lease = await models.lease(models.find("a"))
            task = models.keeper.unload(models.find("a"))
            again = asyncio.ensure_future(models.lease(models.find("a")))
            await asyncio.sleep(0.1)
            assert statuses(models)["a"] == "unloading"
            assert not lease.process.exited.done()
            lease.release()
            await task
            assert lease.process.exited.result() == 0
            second = await again  # asks the next process
            assert second.process.pid != lease.process.pid
            second.release()
            # One that takes longer is ended.
            stuck = await models.lease(models.find("b"))
            await models.keeper.unload(models.find("b"))
            assert stuck.process.exited.done()
            stuck.release()
            assert (statuses(models)["b"], models.models["b"].n_active) == ("unloaded", 0)

    run(main)


def test_unloading_ends_loading() -> None:
    async def main() -> None:
        async with pool(entry("a", delay=60)) as models:
            model = models.find("a")
            models.keeper.want(model)
            while model.process is None:
                await asyncio.sleep(0.005)
            process = model.process
            with pytest.raises(Problem, match="loading already"):
                models.keeper.want(model)
            await models.keeper.unload(model)
            assert (model.status, process.exited.done()) == ("unloaded", True)

    run(main)


def test_a_request_waits_no_longer_than_the_queue_timeout() -> None:
    async def main() -> None:
        async with pool(entry("a", delay=60), wait_seconds=0.3) as models:
            problem = await refused(models.lease(models.find("a")))
            assert (problem.status, problem.code) == (503, "queue_timeout")
            assert models.models["a"].status == "loading"

    run(main)


def test_without_autoload_a_model_is_loaded_by_hand() -> None:
    async def main() -> None:
        async with pool(entry("a"), autoload=False) as models:
            problem = await refused(models.lease(models.find("a")))
            assert problem.code == "model_not_loaded"
            models.keeper.want(models.find("a"))
            await used(models, "a")

    run(main)


def test_names() -> None:
    async def main() -> None:
        async with pool(entry("a", aliases=("x", "y")), entry("b")) as models:
            assert models.find("x").id == models.find("y").id == models.find("a").id == "a"
            for name, status, code in (("z", 404, "model_not_found"), (None, 400, "missing_model")):
                with pytest.raises(Problem) as caught:
                    models.find(name)
                assert (caught.value.status, caught.value.code) == (status, code)
        async with pool(entry("a"), only=True) as models:
            assert models.find("anything").id == models.find(None).id == "a"
            assert statuses(models) == {"a": "loaded"}

    run(main)


def test_the_folder_is_private_and_gone_afterwards() -> None:
    async def main() -> None:
        async with pool(entry("a")) as models:
            await used(models, "a")
            process = models.models["a"].process
            assert process is not None
            folder = process.path.parent
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not folder.exists()
        assert not alive(process.pid)

    run(main)


def test_other_models_may_be_offered_while_some_are_in_use() -> None:
    async def main() -> None:
        async with pool(entry("a"), entry("b"), entry("c"), max_models=2) as models:
            before = models.find("a")
            lease = await models.lease(before)
            await used(models, "b")
            process = models.models["b"].process
            models.replace([entry("b", aliases=("x",)), entry("d")])
            assert models.models["b"].process is process  # the same as before
            assert models.find("x").id == "b"
            with pytest.raises(Problem, match="does not exist"):
                models.find("a")
            assert not lease.process.exited.done()
            await used(models, "d")  # b makes room: a counts still
            assert statuses(models) == {"b": "unloaded", "d": "loaded"}
            lease.release()
            assert before.changing is not None
            await before.changing
            assert lease.process.exited.done()
            problem = await refused(models.lease(before))
            assert problem.code == "model_not_found"
            models.replace([entry("d", size=11)])
            assert models.models["d"].status == "unloading"
            await used(models, "d")

    run(main)


def test_pauses_between_attempts() -> None:
    model = ManagedModel(entry("a"), lambda _: None)
    pauses = []
    for _ in range(9):
        model.status = "loading"
        model.fail(Failure("x", "y"))
        pauses.append(round(model.retry_at - time.monotonic()))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    model.status, model.loaded_at = "loaded", time.monotonic() - 61
    model.fail(Failure("x", "y"))
    assert model.retry_at - time.monotonic() <= 0


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(6))
def test_random_orders_of_everything(seed: int) -> None:
    """Loading, unloading, requests and killed processes in any order: no request hangs, and nothing is left over."""
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def use(models: Pool, name: str) -> str:
        try:
            lease = await models.lease(models.find(name))
        except Problem as problem:
            return str(problem.code)
        try:
            await asyncio.sleep(chance.random() * 0.05)
            running = [one for one in models.models.values() if one.granted]
            assert len(running) <= 2
            assert sum(one.memory for one in running) <= 100 << 20
        finally:
            lease.release()
        return "answered"

    async def main() -> None:
        sizes = [entry(name, size=size, delay=0.01) for name, size in zip("abcd", (60, 30, 50, 40), strict=True)]
        options: dict[str, Any] = {"max_models": 2, "memory_limit": 100 << 20, "sleep_seconds": 0.3}
        pids = set()
        async with pool(*sizes, wait_seconds=20, settings={"drain_timeout": 0.1}, **options) as models:
            asked: list[asyncio.Task[str]] = []
            for _ in range(200):
                name = chance.choice("abcd")
                model = models.models[name]
                if model.process is not None:
                    pids.add(model.process.pid)
                match chance.randrange(12):
                    case 0:
                        if model.status in ("loading", "loaded"):
                            models.keeper.unload(model)
                    case 1:
                        if model.status not in ("loading", "loaded"):
                            models.keeper.want(model)
                    case 2:
                        if model.process is not None:
                            model.process.kill()
                    case 3:
                        if asked:
                            asked[chance.randrange(len(asked))].cancel()
                    case _:
                        model.retry_at = 0.0
                        asked.append(asyncio.ensure_future(use(models, name)))
                await asyncio.sleep(chance.random() * 0.03)
            done = await asyncio.gather(*asked, return_exceptions=True)
            known = {"answered", "model_crashed", "model_failed", "models_busy", "model_not_loaded", "queue_timeout"}
            assert {one for one in done if isinstance(one, str)} <= known
            assert all(isinstance(one, (str, asyncio.CancelledError)) for one in done), done
            assert done.count("answered") > 20
            assert all(one.n_active == one.n_waiting == 0 for one in models.models.values())
        assert not [pid for pid in pids if alive(pid)]

    asyncio.run(asyncio.wait_for(main(), 120))
