"""libmtmd beside a libllama: opened at its first use, checked, and missed by media alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cffi._native import abi, media_library
from llama_cffi._native.abi import media
from llama_cffi._native.probe import probe
from tests.support.children import ROOT

LIBRARIES = ROOT / "build" / "libllama" / "lib"
LIBMTMD = next(iter(sorted(LIBRARIES.glob("libmtmd.so.*"))), None)
pytestmark = pytest.mark.skipif(LIBMTMD is None, reason="build/libllama has no libmtmd: run scripts/build_libllama.py")

PROGRAM = """
import json, sys
from pathlib import Path
from llama_cffi import features
from llama_cffi._native import binding, media_lib
from llama_cffi.errors import UnsupportedError
binding.has("llama_decode")
def mapped():
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    return sorted(path for path in paths if Path(path).name.startswith(("libmtmd", "libllama")))
found = {"mapped first": mapped(), "media": bool(features["media"]), "vocab": bool(features["vocab"])}
try:
    found["vision"] = bool(media_lib.mtmd_support_vision)
except UnsupportedError as error:
    found["error"] = str(error)
try:
    features["media"].require()
except UnsupportedError as error:
    found["required"] = str(error)
found["mapped"] = mapped()
from llama_cffi._native import media_library
found["mode"] = media_library.status().mode
print(json.dumps(found))
"""


def run(folder: Path | None = None, **environment: str) -> dict[str, object]:
    """What the program says with the library of a folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    if folder is not None:
        env["LLAMA_CFFI_LIB"] = str(folder)
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def copy_libraries(target: Path, *, media: bool = True) -> Path:
    """The libraries of the build tree in another folder, each under the name that others ask for."""
    target.mkdir()
    for path in LIBRARIES.iterdir():
        if not path.is_symlink() and (media or "mtmd" not in path.name):
            shutil.copy2(path, target / path.name)
    return target


def test_text_does_without_it() -> None:
    found = run()
    assert [Path(str(path)).name for path in found["mapped first"]] == ["libllama.so.0"]  # type: ignore[attr-defined]
    assert found["media"] is found["vision"] is True
    assert len(found["mapped"]) == 2  # type: ignore[arg-type]


def test_both_modes_use_it(tmp_path: Path) -> None:
    if not os.environ.get("LLAMA_CFFI_BINDING"):
        assert run()["mode"] == "api"
    assert run(LLAMA_CFFI_BINDING="abi")["mode"] == "abi"
    found = run(copy_libraries(tmp_path / "lib"))
    assert found["vision"] is True
    assert all(str(tmp_path) in path for path in found["mapped"])  # type: ignore[attr-defined]


def test_a_library_without_it_does_everything_else(tmp_path: Path) -> None:
    folder = copy_libraries(tmp_path / "lib", media=False)
    found = run(folder)
    assert (found["media"], found["vocab"], found["mode"]) == (False, True, None)
    for said in (found["error"], found["required"]):
        assert f"there is no libmtmd beside {folder}" in str(said)


def test_one_of_another_libllama_is_refused(tmp_path: Path) -> None:
    assert LIBMTMD is not None
    folder = copy_libraries(tmp_path / "lib")
    other = folder / LIBMTMD.name
    other.write_bytes(other.read_bytes().replace(b"libllama.so.0", b"libllama.so.7"))
    found = run(folder)
    assert found["media"] is False
    assert "was built with libllama.so.7, not with libllama.so.0" in str(found["error"])


def test_one_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    assert LIBMTMD is not None
    folder = copy_libraries(tmp_path / "lib")
    for content in (b"not a library", LIBMTMD.read_bytes()[:100_000]):
        (folder / LIBMTMD.name).unlink()
        (folder / LIBMTMD.name).write_bytes(content)
        found = run(folder)
        assert (found["media"], found["vocab"]) == (False, True)
        assert "images and sound cannot be used" in str(found["error"])


def test_renamed_copies_have_theirs(tmp_path: Path) -> None:
    program = """
import ctypes, json, sys
from pathlib import Path
for name in ("ggml-base", "ggml-cpu", "ggml-rpc", "ggml", "llama", "mtmd"):
    ctypes.CDLL(str(Path(sys.argv[1], f"lib{name}.so.0")))
from llama_cffi._native import media_lib
from llama_cffi._native import media_library
assert media_lib.mtmd_default_marker
print(media_library.status().path)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program, str(LIBRARIES)], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path / "llama_cffi" / "private") in done.stdout


@pytest.fixture(scope="module")
def fingerprint() -> abi.Fingerprint:
    """What the libmtmd of the build shows."""
    assert LIBMTMD is not None
    return probe(LIBMTMD, functions=media.DEFAULTS, symbols=media.functions(), kind="libmtmd")


def test_the_build_is_what_is_known(fingerprint: abi.Fingerprint) -> None:
    assert media.differences(fingerprint) == []
    assert len(fingerprint.images["mtmd_context_params_default"]) == 2 * 96


def test_every_change_of_a_default_or_a_place_is_seen(fingerprint: abi.Fingerprint) -> None:
    name = "mtmd_context_params_default"
    image = fingerprint.images[name]
    for place in range(0, len(image), 2):
        if image[place : place + 2] == ".." or 32 <= place // 2 < 40:
            continue  # padding, and the address of the marker
        other = f"{int(image[place : place + 2], 16) ^ 0xFF:02x}"
        changed = {**fingerprint.images, name: image[:place] + other + image[place + 2 :]}
        assert media.differences(abi.Fingerprint(None, changed, fingerprint.symbols)), place // 2
    for longer in ("01", "00" * 24 + "01"):
        changed = {**fingerprint.images, name: image + longer}
        assert media.differences(abi.Fingerprint(None, changed, fingerprint.symbols))


def test_a_missing_function_is_named(fingerprint: abi.Fingerprint) -> None:
    symbols = fingerprint.symbols - {"mtmd_batch_encode"}
    assert media.differences(abi.Fingerprint(None, fingerprint.images, symbols)) == ["mtmd_batch_encode is missing"]


def test_the_state_of_this_process() -> None:
    found = media_library.status()
    assert (found.problem, found.path is not None) == ("", True)
