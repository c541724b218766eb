"""What is kept in the cache is believed only where no other user can have written it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_cffi._native import cache

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")

DATA = {"a": [1, "x"]}
STRANGER = 54_321


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a cache, as it was kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = cache.folder() / "probes" / "one.json"
    cache.write(path, DATA)
    assert cache.read(path) == DATA
    return path


def test_what_is_kept_is_closed_to_others(kept: Path) -> None:
    for path in (kept, kept.parent, cache.folder(), cache.folder().parent):
        assert path.stat().st_mode & 0o077 == 0, path


SPOILED: dict[str, Callable[[Path], None]] = {
    "file of everybody": lambda path: path.chmod(0o666),
    "file of a group": lambda path: path.chmod(0o620),
    "folder of everybody": lambda path: path.parent.chmod(0o777),
    "folder above": lambda path: cache.folder().parent.chmod(0o707),
}
GIVEN: dict[str, Callable[[Path], None]] = {
    "file": lambda path: os.chown(path, STRANGER, -1),
    "folder": lambda path: os.chown(path.parent, STRANGER, -1),
    "folder above": lambda path: os.chown(cache.folder().parent, STRANGER, -1),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_others_can_write_is_not_believed(kept: Path, spoil: Callable[[Path], None]) -> None:
    spoil(kept)
    assert cache.read(kept) is None
    assert "can be written by other users" in (cache.distrust(kept) or "")


@needs_root
@pytest.mark.parametrize("give", GIVEN.values(), ids=GIVEN)
def test_what_belongs_to_another_user_is_not_believed(kept: Path, give: Callable[[Path], None]) -> None:
    give(kept)
    assert cache.read(kept) is None
    assert f"belongs to user {STRANGER}" in (cache.distrust(kept) or "")


@needs_root
def test_a_link_to_a_file_of_another_user_is_not_believed(kept: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    os.chown(other, STRANGER, -1)
    moved = kept.rename(other / "one.json")
    kept.symlink_to(moved)
    assert cache.read(kept) is None


def test_a_folder_with_the_sticky_bit_is_as_good_as_a_closed_one(kept: Path) -> None:
    cache.folder().parent.chmod(0o1777)
    assert cache.read(kept) == DATA


def test_an_open_folder_of_the_cache_is_closed_and_what_was_in_it_written_anew(kept: Path) -> None:
    kept.parent.chmod(0o777)
    kept.chmod(0o666)
    cache.write(kept, {"b": 2})
    assert cache.read(kept) == {"b": 2}
    # What is above the folder of this package is not its business.
    cache.folder().parent.chmod(0o777)
    cache.write(kept, {"c": 3})
    assert cache.folder().parent.stat().st_mode & 0o777 == 0o777
    assert cache.read(kept) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"x"', "\ud800"])
def test_damage_is_as_if_nothing_were_kept(kept: Path, text: str) -> None:
    kept.write_text(text, encoding="utf-8", errors="surrogatepass")
    assert cache.read(kept) is None


def test_a_pipe_is_not_waited_for(kept: Path) -> None:
    kept.unlink()
    os.mkfifo(kept)
    assert cache.read(kept) is None
