"""Which libllama is used, and which are refused. A library stays loaded, so each case has its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llama_cffi._native import library, library_info
from llama_cffi.errors import LibraryError

ROOT = Path(__file__).resolve().parents[1]

SHOW = """
    from llama_cffi._native import library_info
    from llama_cffi.errors import LibraryError
    try:
        info = library_info()
    except LibraryError as error:
        print(error)
    else:
        print("loaded", info.source, info.path)
"""


def run(code: str, explicit: Path | None = None) -> str:
    env = {key: value for key, value in os.environ.items() if key != library.ENV_VAR}
    if explicit is not None:
        env[library.ENV_VAR] = str(explicit)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A copy of the libraries in use, laid out like build/libllama; returns its lib folder."""
    info = library_info()
    lib = tmp_path / "lib"
    lib.mkdir()
    for file in info.directory.iterdir():
        if file.name.startswith("lib"):
            # Hard copies: through links the loader would see the files that are in use already.
            (lib / file.name).write_bytes(file.read_bytes())
    (tmp_path / "stamp.json").write_text(json.dumps(info.stamp))
    return lib


@pytest.mark.parametrize("module", ["llama_cffi", "llama_cffi._native", "llama_cffi._native.library"])
def test_import_is_light(module: str) -> None:
    code = f"""
        import sys, {module}
        heavy = ("numpy", "ctypes", "logging", "_cffi_backend")
        print([name for name in sys.modules if name in heavy or name.startswith("llama_cffi._native._")])
    """
    assert run(code).strip() == "[]"


def test_unknown_attribute() -> None:
    import llama_cffi._native as native

    with pytest.raises(AttributeError, match="no attribute 'libb'"):
        _ = native.libb  # type: ignore[attr-defined]


def test_info_describes_what_is_loaded() -> None:
    info = library_info()
    assert info.path.parent == info.directory
    assert info.path.is_file()
    assert info.mode == "api"
    assert info.version
    assert info.commit == info.stamp["commit"]
    assert library_info() is info


def test_explicit_folder(installation: Path) -> None:
    output = run(SHOW, installation)
    assert output.startswith(f"loaded explicit {installation}")


def test_explicit_file(installation: Path) -> None:
    file = library._find(installation, "llama")
    assert file is not None
    assert run(SHOW, file).strip() == f"loaded explicit {file}"


def test_explicit_path_that_does_not_exist(tmp_path: Path) -> None:
    output = run(SHOW, tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere: no such file or folder" in output
    assert library.ENV_VAR in output
    assert str(library._BUILD_TREE) not in output


def test_explicit_folder_without_a_library(tmp_path: Path) -> None:
    assert f"{tmp_path}: no libllama in this folder" in run(SHOW, tmp_path)


def test_missing_stamp_lists_both_places(installation: Path) -> None:
    (installation.parent / "stamp.json").unlink()
    output = run(SHOW, installation)
    assert f"{installation}/stamp.json: no such file" in output
    assert f"{installation.parent}/stamp.json: no such file" in output


def test_stamp_inside_the_folder_is_found(installation: Path) -> None:
    (installation.parent / "stamp.json").rename(installation / "stamp.json")
    assert run(SHOW, installation).startswith("loaded explicit")


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_damaged_stamp(installation: Path, text: str) -> None:
    (installation.parent / "stamp.json").write_text(text)
    assert f"{installation.parent}/stamp.json: not a " in run(SHOW, installation)


def test_other_headers_are_refused(installation: Path) -> None:
    stamp = dict(library_info().stamp, header_hash="0" * 64)
    (installation.parent / "stamp.json").write_text(json.dumps(stamp))
    output = run(SHOW, installation)
    assert "belongs to headers with hash 0000" in output
    assert library_info().stamp["header_hash"] in output


def test_library_that_is_no_library(installation: Path) -> None:
    file = library._find(installation, "llama")
    assert file is not None
    file.write_text("not a shared object")
    output = run(SHOW, installation)
    assert output.count(str(file)) >= 1
    assert "cannot use libllama" in output


def test_missing_dependency_is_named(installation: Path) -> None:
    for file in installation.glob("libggml-base*"):
        file.unlink()
    assert "no libggml-base beside libllama" in run(SHOW, installation)


@pytest.mark.skipif(sys.platform != "linux", reason="relies on how glibc matches library names")
def test_another_libllama_in_the_process_is_noticed(installation: Path) -> None:
    info = library_info()
    code = f"""
        import ctypes
        ctypes.CDLL({str(info.path)!r})
    """
    output = run(textwrap.dedent(code) + textwrap.dedent(SHOW), installation)
    assert f"the extension was bound to {info.path} instead" in output


def test_failure_is_final(tmp_path: Path) -> None:
    code = """
        import os
        from llama_cffi._native import library
        from llama_cffi.errors import LibraryError
        for _ in range(2):
            try:
                from llama_cffi._native import lib
            except LibraryError as error:
                print("refused", "nowhere" in str(error))
            os.environ.pop(library.ENV_VAR, None)
    """
    assert run(code, tmp_path / "nowhere").split() == ["refused", "True"] * 2


def test_other_version_is_refused() -> None:
    from llama_cffi._native import ffi, lib

    other = ffi.new("char[]", b"9.9.9")
    fake = SimpleNamespace(
        llama_cffi_library_path=lib.llama_cffi_library_path,
        llama_version=lambda: other,
        LLAMA_CFFI_VERSION=lib.LLAMA_CFFI_VERSION,
        LLAMA_CFFI_HEADER_HASH=lib.LLAMA_CFFI_HEADER_HASH,
    )
    info = library_info()
    with pytest.raises(LibraryError, match=r"is llama\.cpp 9\.9\.9, but this build of llama_cffi needs"):
        library._verify(SimpleNamespace(ffi=ffi, lib=fake), info.path, info.source, info.stamp)


class PluginLibrary:
    """The real library, except that its CPU backend is a plugin that loading the folder may bring."""

    def __init__(self, *, has_plugin: bool) -> None:
        from llama_cffi._native import ffi, lib

        self._real = lib
        self._cpu = ffi.cast("ggml_backend_dev_t", 1) if has_plugin else ffi.NULL
        self._null = ffi.NULL
        self.folders: list[bytes] = []
        self.started = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def ggml_backend_dev_by_type(self, kind: int) -> Any:
        return self._cpu if self.folders else self._null

    def ggml_backend_load_all_from_path(self, folder: bytes) -> None:
        self.folders.append(folder)

    def llama_backend_init(self) -> None:
        self.started = True


def test_plugins_come_from_the_folder_of_the_library() -> None:
    from llama_cffi._native import ffi

    lib = PluginLibrary(has_plugin=True)
    info = library_info()
    library._initialise(SimpleNamespace(ffi=ffi, lib=lib), info.path, info.source)
    assert lib.folders == [os.fsencode(info.directory)]
    assert lib.started


def test_no_plugin_for_this_cpu_is_an_error() -> None:
    from llama_cffi._native import ffi

    info = library_info()
    module = SimpleNamespace(ffi=ffi, lib=PluginLibrary(has_plugin=False))
    with pytest.raises(LibraryError, match="no CPU backend in this folder runs on this CPU"):
        library._initialise(module, info.path, info.source)


def test_without_any_library_every_place_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.ENV_VAR, raising=False)
    monkeypatch.setattr(library, "_BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr(library, "_BUILD_TREE", tmp_path / "tree")
    with pytest.raises(LibraryError) as caught:
        library._choose()
    text = str(caught.value)
    assert f"{tmp_path}/bundled: no such folder (bundled)" in text
    assert f"{tmp_path}/tree: no such folder (build tree)" in text
    assert "scripts/build_libllama.py" in text


def test_a_damaged_bundle_does_not_fall_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.ENV_VAR, raising=False)
    monkeypatch.setattr(library, "_BUNDLED", tmp_path)
    with pytest.raises(LibraryError, match=r"\(bundled\)\nthe installation is damaged"):
        library._choose()


def test_versioned_names_are_found(tmp_path: Path) -> None:
    suffix = ".{}.dylib" if sys.platform == "darwin" else ".so.{}"
    for version in ("0.5.0", "0"):
        (tmp_path / f"libllama{suffix.format(version)}").touch()
    found = library._find(tmp_path, "llama")
    assert found is not None
    assert found.name == f"libllama{suffix.format('0')}"
    assert library._find(tmp_path, "ggml") is None


def test_threads_load_once() -> None:
    modules: list[Any] = []
    threads = [threading.Thread(target=lambda: modules.append(library.load())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(modules) == 8
    assert len(set(map(id, modules))) == 1
