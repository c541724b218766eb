"""What every test can ask for. Nothing is downloaded here: what is missing is skipped with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine is no failure, and a run that fails must fail again: examples come from the test, not from chance.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "how libllama is bound: by the compiled extension, or by declarations of its binary interface"
    parser.addoption("--binding", choices=("api", "abi"), default="api", help=help_text)
    help_text = "the devices of the tests in tests/gpu: RPC servers that they start, or those of a Vulkan library"
    parser.addoption("--gpu", choices=("rpc", "vulkan"), default="rpc", help=help_text)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the mode before anything is imported, for this process and the children of tests."""
    own_processors()
    # API mode is what the package chooses itself; said aloud, it would refuse the other libraries that tests use.
    os.environ.pop("LLAMA_CFFI_BINDING", None)
    if config.getoption("--binding") == "abi":
        os.environ["LLAMA_CFFI_BINDING"] = "abi"


_ALL: set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def own_processors() -> None:
    """Give each worker of pytest-xdist its share of the processors; see :func:`all_processors`.

    ggml's threads spin while they wait for each other: two workers with two threads each on two processors take many
    times as long as with one thread each.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        processors = sorted(_ALL)
        count = min(len(processors), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        os.sched_setaffinity(0, processors[int(worker.removeprefix("gw")) % count :: count])


@pytest.fixture
def all_processors() -> Iterator[None]:
    """Let a test that computes with several threads have all processors, also in a worker of pytest-xdist."""
    if not _ALL:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _ALL)
    yield
    os.sched_setaffinity(0, own)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file together with ``-n``: they share models and servers."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture
def api_mode(request: pytest.FixtureRequest) -> None:
    """Skips a test that is about the compiled extension when this run does without it."""
    if request.config.getoption("--binding") == "abi":
        pytest.skip("this is about the compiled extension, and this run has --binding=abi")


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def assets() -> Path:
    """Models and reference outputs: LLAMA_CFFI_TEST_ASSETS, or shared/assets beside the checkout."""
    folder = Path(os.environ.get("LLAMA_CFFI_TEST_ASSETS", ROOT.parent / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"no test assets in {folder} (set LLAMA_CFFI_TEST_ASSETS)")
    return folder
