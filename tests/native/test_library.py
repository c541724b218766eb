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

from llama_cffi._native import companions, library, library_info, search_paths
from llama_cffi.errors import LibraryError

ROOT = Path(__file__).resolve().parents[2]

SHOW = """
    from llama_cffi._native import library_info
    from llama_cffi.errors import LibraryError
    try:
        info = library_info()
    except LibraryError as error:
        print(error)
    else:
        print("loaded", info.source, info.mode, info.path)
"""


def run(code: str, explicit: Path | None = None, **variables: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_CFFI_")} | variables
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
    assert info.mode in ("api", "abi")
    assert (info.generation is None) == (info.mode == "api")
    assert info.version
    assert info.commit == info.stamp.get("commit", "")
    assert library_info() is info


def test_explicit_folder(installation: Path) -> None:
    output = run(SHOW, installation)
    assert output.startswith(f"loaded explicit api {installation}")


def test_explicit_file(installation: Path) -> None:
    file = companions.find(installation)
    assert file is not None
    assert run(SHOW, file).strip() == f"loaded explicit api {file}"


def test_explicit_path_that_does_not_exist(tmp_path: Path) -> None:
    output = run(SHOW, tmp_path / "nowhere")
    assert f"{tmp_path}/nowhere: no such file or folder" in output
    assert library.ENV_VAR in output
    assert str(search_paths.BUILD_TREE) not in output


def test_explicit_folder_without_a_library(tmp_path: Path) -> None:
    assert f"{tmp_path}: no libllama in this folder" in run(SHOW, tmp_path)


def test_stamp_inside_the_folder_is_found(installation: Path) -> None:
    (installation.parent / "stamp.json").rename(installation / "stamp.json")
    assert run(SHOW, installation).startswith("loaded explicit api")


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"commit": "somebody else\'s"}'])
def test_a_library_without_a_stamp_of_ours_is_bound_by_its_fingerprint(installation: Path, text: str | None) -> None:
    stamp = installation.parent / "stamp.json"
    stamp.unlink() if text is None else stamp.write_text(text)
    assert run(SHOW, installation).startswith(f"loaded explicit abi {installation}")


def test_a_library_of_other_headers_is_bound_by_its_fingerprint(installation: Path) -> None:
    stamp = dict(library_info().stamp, header_hash="0" * 64)
    (installation.parent / "stamp.json").write_text(json.dumps(stamp))
    assert run(SHOW, installation).startswith("loaded explicit abi")


def test_api_mode_is_refused_for_a_library_of_other_headers(installation: Path) -> None:
    stamp = dict(library_info().stamp, header_hash="0" * 64)
    (installation.parent / "stamp.json").write_text(json.dumps(stamp))
    output = run(SHOW, installation, LLAMA_CFFI_BINDING="api")
    assert "belongs to headers with hash 0000" in output
    assert library_info().stamp["header_hash"] in output


def test_the_mode_can_be_chosen(installation: Path) -> None:
    assert run(SHOW, installation, LLAMA_CFFI_BINDING="abi").startswith("loaded explicit abi")
    assert run(SHOW, installation, LLAMA_CFFI_BINDING="api").startswith("loaded explicit api")
    assert 'LLAMA_CFFI_BINDING must be "api" or "abi", not \'fast\'' in run(
        SHOW, installation, LLAMA_CFFI_BINDING="fast"
    )


def test_library_that_is_no_library(installation: Path) -> None:
    file = companions.find(installation)
    assert file is not None
    file.write_text("not a shared object")
    output = run(SHOW, installation)
    assert output.count(str(file)) >= 1
    assert "no usable libllama" in output or "it is text, not a library" in output


def test_missing_dependency_is_named(installation: Path) -> None:
    for file in installation.glob("libggml-base*"):
        file.unlink()
    assert "libggml-base" in run(SHOW, installation)


@pytest.mark.skipif(sys.platform != "linux", reason="relies on how glibc matches library names")
def test_another_libllama_in_the_process_is_kept_apart(installation: Path, tmp_path: Path) -> None:
    info = library_info()
    code = f"""
        import ctypes
        other = ctypes.CDLL({str(info.path)!r})
        before = other.llama_max_devices()
        import llama_cffi
        with llama_cffi.Llama.demo(n_seq_max=1) as llm:
            text = llm.generate("Once upon a time", max_tokens=8, temperature=0.0).text
        from llama_cffi._native import library_info
        print(library_info().mode, library_info().path, len(text) > 8, other.llama_max_devices() == before)
    """
    output = run(code, installation, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert output.split() == ["abi", str(companions.find(installation)), "True", "True"]
    assert list((tmp_path / "cache" / "llama_cffi" / "private").glob("*/libllama.so*"))
    # API mode knows its library by name alone.
    output = run(
        f"import ctypes\nctypes.CDLL({str(info.path)!r})\n{textwrap.dedent(SHOW)}",
        installation,
        LLAMA_CFFI_BINDING="api",
    )
    assert f"the extension was bound to {info.path} instead" in output


@pytest.mark.skipif(sys.platform != "linux", reason="relies on how glibc matches library names")
def test_a_copy_that_another_user_could_have_written_is_refused(installation: Path, tmp_path: Path) -> None:
    code = f"import ctypes\nctypes.CDLL({str(library_info().path)!r})\n{textwrap.dedent(SHOW)}"
    assert run(code, installation, XDG_CACHE_HOME=str(tmp_path / "cache")).startswith("loaded")
    copied = next((tmp_path / "cache" / "llama_cffi" / "private").glob("*/libllama.so*"))
    copied.chmod(0o666)
    output = run(code, installation, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert f"cannot be trusted: {copied} can be written by other users; remove {copied.parent}" in output


@pytest.mark.parametrize("part", ["llama", "ggml-base"])
@pytest.mark.parametrize("moment", ["before", "while"])
def test_the_library_that_is_opened_is_the_one_that_was_probed(installation: Path, part: str, moment: str) -> None:
    code = f"""
        import os, shutil
        from llama_cffi._native import compatibility, library
        from pathlib import Path

        def swapping(function):
            def swap(*args, **options):
                result = function(*args, **options)
                for path in Path({str(installation)!r}).glob("lib{part}.so*"):
                    shutil.copy2(path, f"{{path}}.twin")
                    os.replace(f"{{path}}.twin", path)
                return result
            return swap

        if {moment!r} == "before":
            compatibility.check_library = swapping(compatibility.check_library)
        else:
            library._open_all = swapping(library._open_all)
    """
    output = run(f"{textwrap.dedent(code)}\n{textwrap.dedent(SHOW)}", installation, LLAMA_CFFI_BINDING="abi")
    assert "was changed after it was checked" in output
    assert f"lib{part}.so" in output


@pytest.mark.skipif(sys.platform != "linux", reason="relies on how glibc matches library names")
def test_no_copy_can_be_kept(installation: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = f"import ctypes\nctypes.CDLL({str(library_info().path)!r})\n{textwrap.dedent(SHOW)}"
    output = run(code, installation, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "has the names of another llama.cpp in this process, and a renamed copy cannot be kept" in output


@pytest.mark.skipif(sys.platform != "linux", reason="relies on how glibc matches library names")
@pytest.mark.parametrize("mode", ["api", "abi"])
def test_nothing_is_shown_to_other_libraries(installation: Path, mode: str) -> None:
    code = """
        import ctypes
        from llama_cffi._native import library_info
        library_info()
        print(hasattr(ctypes.CDLL(None), "llama_decode"), hasattr(ctypes.CDLL(None), "ggml_nelements"))
    """
    assert run(code, installation, LLAMA_CFFI_BINDING=mode).split() == ["False", "False"]


def test_failure_is_final(tmp_path: Path) -> None:
    code = """
        import os
        from llama_cffi._native import lib, library
        from llama_cffi.errors import LibraryError
        for _ in range(2):
            try:
                lib.llama_decode
            except LibraryError as error:
                print("refused", "nowhere" in str(error))
            os.environ.pop(library.ENV_VAR, None)
    """
    assert run(code, tmp_path / "nowhere").split() == ["refused", "True"] * 2


@pytest.mark.usefixtures("api_mode")
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


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
@pytest.mark.parametrize("place", [".", "ggml/backends0"])
def test_plugins_come_from_the_folder_of_the_library(place: str, tmp_path: Path) -> None:
    from llama_cffi._native import ffi

    lib = PluginLibrary(has_plugin=True)
    plugin = lay(tmp_path / place, "libggml-cpu-haswell.so")
    lay(tmp_path, "libggml.so")
    library._initialize(SimpleNamespace(ffi=ffi, lib=lib), tmp_path / "libllama.so", "system")
    assert lib.folders == [os.fsencode(plugin.parent)]
    assert lib.started


def test_no_plugin_for_this_cpu_is_an_error() -> None:
    from llama_cffi._native import ffi

    info = library_info()
    module = SimpleNamespace(ffi=ffi, lib=PluginLibrary(has_plugin=False))
    with pytest.raises(LibraryError, match="no CPU backend in this folder runs on this CPU"):
        library._initialize(module, info.path, info.source)


@pytest.fixture
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a libllama in any place."""
    monkeypatch.delenv(library.ENV_VAR, raising=False)
    monkeypatch.setattr(search_paths, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr(search_paths, "BUILD_TREE", tmp_path / "tree")
    monkeypatch.setattr(search_paths, "_STANDARD", (str(tmp_path / "usr" / "lib"),))
    monkeypatch.setattr(search_paths, "_named_folders", list)
    monkeypatch.setattr(search_paths, "_cached_folders", list)
    return tmp_path


def lay(folder: Path, name: str = "libllama.so") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    return folder / name


def test_without_any_library_every_place_is_listed(no_library: Path) -> None:
    with pytest.raises(LibraryError) as caught:
        search_paths.choose()
    text = str(caught.value)
    assert f"{no_library}/bundled: no such folder (bundled)" in text
    assert f"{no_library}/tree: no such folder (build tree)" in text
    assert f"{no_library}/usr/lib: no such folder (system)" in text
    for way in ("pip install llama-cffi", "LLAMA_CFFI_LIB=", "use_library(path)", "scripts/build_libllama.py"):
        assert way in text


def test_import_works_without_any_library_and_the_first_use_says_what_is_missing(tmp_path: Path) -> None:
    code = f"""
        import llama_cffi
        from pathlib import Path
        from llama_cffi._native import search_paths
        search_paths.BUNDLED = search_paths.BUILD_TREE = Path({str(tmp_path)!r}, "none")
        search_paths._system_folders = lambda: []
        model = "llama_cffi/models/demo.gguf"
        Llama, Model = llama_cffi.Llama, llama_cffi.Model
        for use in (lambda: Llama(model), lambda: Model(model), lambda: Llama(model)):
            try:
                use()
            except llama_cffi.LlamaCffiError as error:
                print(str(error).splitlines()[0], "There are three ways to get one" in str(error))
    """
    assert run(code).splitlines() == ["no usable libllama: True"] * 3


def test_the_order_of_places(no_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = lay(no_library / "usr" / "lib")
    assert search_paths.choose()[0] == system
    tree = lay(no_library / "tree")
    assert search_paths.choose() == (tree, "build tree")
    bundled = lay(no_library / "bundled")
    assert search_paths.choose() == (bundled, "bundled")
    named = lay(no_library / "named")
    monkeypatch.setenv(library.ENV_VAR, str(named.parent))
    assert search_paths.choose() == (named, "explicit")
    given = lay(no_library / "given")
    assert search_paths.choose(given)[0] == given
    assert [one.path for one in search_paths.candidates()] == [named]


@pytest.mark.parametrize("place", ["bundled", "tree"])
def test_a_damaged_place_does_not_fall_back(place: str, no_library: Path) -> None:
    lay(no_library / "usr" / "lib")
    (no_library / place).mkdir()
    with pytest.raises(LibraryError, match="the installation is damaged" if place == "bundled" else "in the checkout"):
        search_paths.choose()


def test_system_folders_come_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("loader", "conda/lib", "brew/lib"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}/loader::relative")
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    monkeypatch.setenv("HOMEBREW_PREFIX", str(tmp_path / "brew"))
    found = list(search_paths._system_folders())
    expected = [tmp_path / name for name in ("conda/lib", "brew/lib")]
    if sys.platform == "linux":
        expected.insert(0, tmp_path / "loader")
    assert [path for path in found if path in expected] == expected
    assert len(set(found)) == len(found)


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["libllama.so.0.5.0", "libllama.so.0"], "libllama.so.0"),
        (["libllama.so", "libllama.b7.so"], "libllama.so"),
        (["libllama.b8390.so", "libllama-common.so", "libllama_x.so", "libggml.so"], "libllama.b8390.so"),
        (["libllama.b7347.so.0.0.1", "libllama.b7347.so.0", "libllama.b7347.so"], "libllama.b7347.so"),
        (["libllama.v0.5.0.so"], "libllama.v0.5.0.so"),
        (["libllama.so.txt", "libllama.a"], None),
    ],
)
def test_names_under_which_a_library_is_found(names: list[str], found: str | None, tmp_path: Path) -> None:
    for name in names:
        lay(tmp_path, name)
    path = companions.find(tmp_path)
    assert (path.name if path else None) == found


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
def test_several_builds_in_one_folder_are_for_the_user_to_choose_from(no_library: Path) -> None:
    folder = lay(no_library / "usr" / "lib", "libllama.b1.so").parent
    lay(folder, "libllama.b2.so")
    with pytest.raises(LibraryError, match=r"several builds of libllama: libllama\.b1\.so, libllama\.b2\.so"):
        search_paths.choose()


# -- use_library()


def test_use_library(installation: Path) -> None:
    code = """
        import llama_cffi
        from llama_cffi._native import library_info
        llama_cffi.use_library(FOLDER)
        llama_cffi.use_library(FOLDER)
        def refused(path):
            try:
                llama_cffi.use_library(path)
            except llama_cffi.LlamaCffiError as error:
                return str(error)
        print(refused(OTHER))
        info = library_info()
        print(info.source, info.path)
        llama_cffi.use_library(info.path)
        print(refused(OTHER))
    """
    code = f"FOLDER, OTHER = {str(installation)!r}, {str(library_info().directory)!r}\n" + textwrap.dedent(code)
    first, loaded, second = run(code).splitlines()
    file = companions.find(installation)
    assert first == second == f"use_library() has already chosen {file}, and a process can use only one libllama"
    assert loaded == f"explicit {file}"


def test_use_library_comes_before_the_environment(installation: Path) -> None:
    code = f"import llama_cffi\nllama_cffi.use_library({str(installation)!r})\n" + textwrap.dedent(SHOW)
    assert run(code, Path("/nowhere")).startswith("loaded explicit")


def test_use_library_after_the_first_use(installation: Path) -> None:
    code = f"""
        import llama_cffi
        from llama_cffi._native import library_info
        path = library_info().path
        llama_cffi.use_library(path)
        try:
            llama_cffi.use_library({str(installation)!r})
        except llama_cffi.LlamaCffiError as error:
            print(error)
    """
    assert "is already in use: call use_library() before the first use" in run(code)


def test_use_library_after_a_refusal(installation: Path, tmp_path: Path) -> None:
    code = textwrap.dedent(SHOW) + f"import llama_cffi\nllama_cffi.use_library({str(installation)!r})\n"
    output = run(code + textwrap.dedent(SHOW), tmp_path / "nowhere")
    assert "no such file or folder" in output
    assert output.splitlines()[-1].startswith("loaded explicit")


def test_use_library_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="no such file or folder"):
        library.use_library(tmp_path / "none")
    with pytest.raises(LibraryError, match="no libllama in this folder"):
        library.use_library(tmp_path)


def test_threads_load_once() -> None:
    modules: list[Any] = []
    threads = [threading.Thread(target=lambda: modules.append(library.load())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(modules) == 8
    assert len(set(map(id, modules))) == 1
