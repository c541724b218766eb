"""What every test can ask for. Nothing is downloaded here: what is missing is skipped with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure, and a run that fails must fail again: examples come from the test, not from chance.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

ROOT = Path(__file__).resolve().parents[1]


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
