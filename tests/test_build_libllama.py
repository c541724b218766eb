"""scripts/build_libllama.py on a tiny source tree: what it makes, when it does nothing, how it fails."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from _libllama import cmake, fetch, install, kernels, report, source, stamp, toolchain
from tests.support.fake_llama_cpp import Checkout, pack, write_tree

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fake tree needs a POSIX compiler")


@pytest.fixture
def fake(checkout: Path, tmp_path: Path) -> Checkout:
    return Checkout.make(checkout / "scripts", tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree")


def answer(prefix: Path) -> int:
    """What the installed libllama returns, asked in a process of its own: libraries stay loaded here."""
    library = prefix / "lib" / ("libllama.9.dylib" if sys.platform == "darwin" else "libllama.so.9")
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).llama_answer())"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def the_tree(fake: Checkout) -> Path:
    (tree,) = (fake.root / "build").glob("cmake-*")
    return tree


def test_pinned_release_is_fetched_built_and_stamped(fake: Checkout) -> None:
    done = fake.run()
    assert done.returncode == 0, done.stderr
    assert answer(fake.prefix) == 42
    assert fake.pip_log.read_text().split()[:4] == ["download", "--no-deps", "--no-binary", "fake"]
    data = json.loads((fake.prefix / "stamp.json").read_text())
    assert (data["version"], data["commit"], data["source_kind"]) == ("9.8.7-dev", "abc123", "pin")
    assert data["header_hash"] == stamp.header_hash(fake.prefix / "include")
    assert data["request"]["backends"] == ["cpu"]
    assert (fake.prefix / "LICENSE").read_text() == "terms\n"
    assert not (fake.root / "vendor" / "llama.cpp" / ".git").exists()
    assert not (fake.root / "build" / "download").exists()


def test_libmtmd_is_built_where_the_source_has_it_and_it_was_not_turned_off() -> None:
    flag = "-DLLAMA_BUILD_MTMD="
    assert cmake.targets([]) == cmake.targets([flag + "ON", flag + "OFF"]) == ["llama"]
    assert cmake.targets(["-DGGML_RPC=ON", flag + "ON"]) == ["llama", "mtmd"]


def test_libraries_are_real_files_under_the_name_they_are_loaded_by(fake: Checkout) -> None:
    assert fake.run().returncode == 0
    real = {path.name for path in (fake.prefix / "lib").iterdir() if not path.is_symlink()}
    assert real == set(json.loads((fake.prefix / "stamp.json").read_text())["libraries"])
    assert len(real) == 2
    moved = fake.prefix.rename(fake.root / "moved")  # run paths are relative
    shutil.rmtree(fake.root / "build")
    assert answer(moved) == 42


def test_equal_stamp_has_nothing_to_do(fake: Checkout) -> None:
    assert fake.run().returncode == 0
    before = (fake.prefix / "stamp.json").stat().st_mtime_ns
    done = fake.run()
    assert done.returncode == 0
    assert "up to date" in done.stdout
    assert (fake.prefix / "stamp.json").stat().st_mtime_ns == before
    assert len(fake.pip_log.read_text().splitlines()) == 1


def test_force_installs_again(fake: Checkout) -> None:
    assert fake.run().returncode == 0
    before = (fake.prefix / "stamp.json").stat().st_mtime_ns
    assert "installed" in fake.run("--force").stdout
    assert (fake.prefix / "stamp.json").stat().st_mtime_ns != before


def test_changed_source_and_changed_flags_and_a_lost_library_are_rebuilt(fake: Checkout, tree: Path) -> None:
    assert fake.run("--source", str(tree)).returncode == 0
    (tree / "ggml" / "src" / "ggml.c").write_text("int ggml_answer(void) { return 43; }\n")
    assert "installed" in fake.run("--source", str(tree)).stdout
    assert answer(fake.prefix) == 43
    done = fake.run("--source", str(tree), "--cmake-arg=-DCMAKE_C_FLAGS=-DX")
    assert "installed" in done.stdout
    options = json.loads((fake.prefix / "stamp.json").read_text())["options"]
    assert options == ["--cmake-arg=-DCMAKE_C_FLAGS=-DX", "--source", str(tree)]
    next((fake.prefix / "lib").glob("libllama*9*")).unlink()
    assert "installed" in fake.run(*options).stdout


def test_a_library_that_the_source_no_longer_makes_is_not_installed(fake: Checkout, tree: Path) -> None:
    recipe = (tree / "CMakeLists.txt").read_text()
    more = "add_library(ggml-old ggml/src/ggml.c)\ntarget_link_libraries(llama PRIVATE ggml-old)\n"
    (tree / "CMakeLists.txt").write_text(recipe + more)
    assert fake.run("--source", str(tree)).returncode == 0
    assert list((fake.prefix / "lib").glob("*ggml-old*"))
    (tree / "CMakeLists.txt").write_text(recipe.replace("VERSION 9.8.7", "VERSION 9.8.8"))
    assert fake.run("--source", str(tree)).returncode == 0
    assert len(json.loads((fake.prefix / "stamp.json").read_text())["libraries"]) == 2
    assert answer(fake.prefix) == 42


def test_source_by_environment_and_populated_vendor_win_over_the_pin(fake: Checkout, tree: Path) -> None:
    assert "installed" in fake.run(LLAMA_CPP_SOURCE=str(tree)).stdout
    shutil.copytree(tree, fake.root / "vendor" / "llama.cpp")
    done = fake.run("--force")
    assert "vendor" in done.stdout
    assert json.loads((fake.prefix / "stamp.json").read_text())["source_kind"] == "vendor"
    assert not fake.pip_log.exists()


def test_a_moved_pin_replaces_what_was_unpacked(fake: Checkout, tree: Path) -> None:
    assert fake.run().returncode == 0
    (tree / "ggml" / "src" / "ggml.c").write_text("int ggml_answer(void) { return 7; }\n")
    fake.publish(tree)
    assert fake.run().returncode == 0
    assert answer(fake.prefix) == 7
    assert len(fake.pip_log.read_text().splitlines()) == 2


def has_kernels(prefix: Path) -> bool:
    (library,) = (path for path in (prefix / "lib").glob("libggml-base*") if not path.is_symlink())
    code = f"import ctypes; print(hasattr(ctypes.CDLL({str(library)!r}), 'ggml_kernels'))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "True\n"


def test_kernels_are_in_unless_they_are_not_wanted(fake: Checkout) -> None:
    def built(*options: str) -> tuple[bool, bool, list[str]]:
        assert "installed" in fake.run(*options).stdout
        made = json.loads((fake.prefix / "stamp.json").read_text())
        assert str(fake.root) not in json.dumps(made)
        return has_kernels(fake.prefix), made["request"]["kernels"] is not None, made["options"]

    assert built() == (True, True, [])
    assert built("--no-kernels") == (False, False, ["--no-kernels"])
    assert "up to date" in fake.run("--no-kernels").stdout
    assert built() == (True, True, [])


def test_changed_kernels_are_built(fake: Checkout) -> None:
    assert fake.run().returncode == 0
    before = json.loads((fake.prefix / "stamp.json").read_text())["request"]["kernels"]
    (fake.root / "kernels" / "more.h").write_text("// more\n")
    assert "installed" in fake.run().stdout
    assert json.loads((fake.prefix / "stamp.json").read_text())["request"]["kernels"] != before


def test_a_llama_cpp_that_the_kernels_do_not_fit_is_refused(fake: Checkout, tree: Path) -> None:
    traits = tree / "ggml" / "src" / "ggml-cpu" / "traits.h"
    traits.write_text(traits.read_text().replace("int n_threads, ", ""))
    done = fake.run("--source", str(tree))
    assert done.returncode == 1
    assert "traits.h has no `bool ggml_cpu_extra_work_size(int n_threads," in done.stderr
    assert "--no-kernels" in done.stderr
    traits.unlink()
    assert "there is no ggml/src/ggml-cpu/traits.h" in fake.run("--source", str(tree)).stderr
    assert fake.run("--source", str(tree), "--no-kernels").returncode == 0


def test_the_pinned_release_is_one_that_the_kernels_fit(checkout: Path) -> None:
    if not (checkout / "vendor" / "llama.cpp" / ".pin").is_file():
        pytest.skip("the pinned release is not unpacked; scripts/build_libllama.py does that")
    kernels.check(checkout / "vendor" / "llama.cpp")


def test_prefix_elsewhere(fake: Checkout, tmp_path: Path) -> None:
    assert fake.run("--prefix", str(tmp_path / "else" / "where")).returncode == 0
    assert answer(tmp_path / "else" / "where") == 42
    assert not fake.prefix.exists()


def git(folder: Path, *command: str) -> None:
    name = ["-c", "user.name=t", "-c", "user.email=t@t.invalid", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *name, *command], cwd=folder, check=True, capture_output=True)


def test_git_checkout_of_a_tag(fake: Checkout, tree: Path) -> None:
    (tree / ".git").unlink()
    git(tree, "init")
    git(tree, "add", ".")
    git(tree, "commit", "-m", "one")
    git(tree, "tag", "b1")
    (tree / "ggml" / "src" / "ggml.c").write_text("int ggml_answer(void) { return 2; }\n")
    git(tree, "commit", "-a", "-m", "two")
    git(tree, "tag", "b2")
    for ref, expected in (("b2", 2), ("b1", 42)):
        done = fake.run("--git", tree.as_uri(), "--ref", ref)
        assert done.returncode == 0, done.stderr
        assert answer(fake.prefix) == expected
    data = json.loads((fake.prefix / "stamp.json").read_text())
    assert data["source_kind"] == "git"
    assert len(data["commit"]) == 9
    done = fake.run("--git", tree.as_uri(), "--ref", "b3")
    assert done.returncode == 1
    assert "git ls-remote" in done.stderr
    assert answer(fake.prefix) == 42


def test_tool_runs_with_the_library_of_the_prefix_and_leaves_its_stamp(fake: Checkout) -> None:
    assert fake.run().returncode == 0
    library = next((fake.prefix / "lib").glob("libllama*9*")).resolve()
    before = (fake.prefix / "stamp.json").stat().st_mtime_ns, library.stat().st_mtime_ns
    done = fake.run("--tool", "llama-bench")
    assert done.returncode == 0, done.stderr
    assert ((fake.prefix / "stamp.json").stat().st_mtime_ns, library.stat().st_mtime_ns) == before
    shutil.rmtree(the_tree(fake))
    said = subprocess.run([fake.prefix / "bin" / "llama-bench"], capture_output=True, text=True, check=True)
    number, path = said.stdout.split(maxsplit=1)
    assert number == "43"
    assert Path(path).resolve() == library
    assert "installed" not in fake.run("--tool", "llama-bench").stdout
    assert "have them again: --tool llama-bench" in fake.run("--force").stdout
    assert not (fake.prefix / "bin").exists()


def test_unknown_tool(fake: Checkout) -> None:
    done = fake.run("--tool", "llama-no-such")
    assert done.returncode == 1
    assert "llama-no-such" in done.stderr
    assert answer(fake.prefix) == 42


def test_wrong_hash_is_refused_and_the_file_deleted(fake: Checkout) -> None:
    with Path(fake.env["FAKE_SDIST"]).open("ab") as file:
        file.write(b"more")
    done = fake.run()
    assert done.returncode == 1
    assert "is not the pinned file" in done.stderr
    assert "pip cache remove fake" in done.stderr
    assert not list((fake.root / "build" / "download").iterdir())
    assert not (fake.root / "vendor" / "llama.cpp").exists()
    assert not fake.prefix.exists()


def test_no_network(fake: Checkout) -> None:
    done = fake.run(FAKE_PIP_ERROR="ERROR: No matching distribution found for fake==1")
    assert done.returncode == 1
    assert "could not download fake==1" in done.stderr
    assert "No matching distribution" in done.stderr
    assert "--source DIR" in done.stderr
    assert fake.run().returncode == 0


def test_missing_compiler(fake: Checkout, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = fake.run(PATH=str(tmp_path / "empty"))
    assert done.returncode == 1
    assert "no C compiler found" in done.stderr
    assert "to mend it: " in done.stderr
    assert "Traceback" not in done.stderr


def test_named_compiler_that_is_missing(fake: Checkout) -> None:
    done = fake.run(CXX="no-such-c++")
    assert done.returncode == 1
    assert "CXX=no-such-c++" in done.stderr


def test_missing_cmake_names_the_pip_command() -> None:
    with pytest.raises(report.BuildError, match=r"pip install cmake ninja"):
        toolchain._python_tool("no-such-cmake", "CMAKE_BIN_DIR")


def test_cmake_failure_is_told_and_leaves_no_prefix(fake: Checkout) -> None:
    done = fake.run("--cmake-arg=-DBREAK_CONFIGURE=ON")
    assert done.returncode == 1
    assert "cmake could not configure" in done.stderr
    assert "asked to break" in done.stderr
    assert "rm -r" in done.stderr
    assert not fake.prefix.exists()
    assert fake.run().returncode == 0


def test_compile_error_keeps_the_old_prefix(fake: Checkout, tree: Path) -> None:
    assert fake.run("--source", str(tree)).returncode == 0
    good = (tree / "src" / "llama.c").read_text()
    (tree / "src" / "llama.c").write_text("#error broken on purpose\n")
    done = fake.run("--source", str(tree))
    assert done.returncode == 1
    assert "broken on purpose" in done.stderr
    assert answer(fake.prefix) == 42
    (tree / "src" / "llama.c").write_text(good)
    assert fake.run("--source", str(tree)).returncode == 0


def test_full_disk_is_named_while_compiling(fake: Checkout, tree: Path) -> None:
    (tree / "src" / "llama.c").write_text("#error No space left on device\n")
    done = fake.run("--source", str(tree))
    assert done.returncode == 1
    assert "no space left on the disk" in done.stderr
    assert "free about" in done.stderr


def test_full_disk_while_installing_keeps_the_old_prefix(fake: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fake.run().returncode == 0

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(report.BuildError, match="no space left"):
        install.install(the_tree(fake), fake.root / "vendor" / "llama.cpp", fake.prefix, {})
    monkeypatch.undo()
    assert answer(fake.prefix) == 42
    assert [path.name for path in fake.prefix.parent.glob(".libllama*")] == []


def test_a_prefix_without_a_stamp_is_not_trusted(fake: Checkout) -> None:
    (fake.prefix / "lib").mkdir(parents=True)
    (fake.prefix / "lib" / "libllama.so.9").write_text("half a library")
    (fake.prefix.with_name(".libllama.installing")).mkdir()
    assert "installed" in fake.run().stdout
    assert answer(fake.prefix) == 42


@pytest.mark.parametrize("whole_group", [True, False], ids=["ctrl-c", "sigterm"])
def test_interrupted_build_resumes(fake: Checkout, tree: Path, whole_group: bool) -> None:
    gate = tree / "gate"
    (tree / "wait.sh").write_text(f"touch {tree}/reached; while [ ! -e {gate} ]; do sleep 0.05; done; touch gate.h")
    with (tree / "CMakeLists.txt").open("a") as file:
        file.write(f"add_custom_command(OUTPUT gate.h COMMAND sh {tree}/wait.sh DEPENDS ggml-base)\n")
        file.write("add_custom_target(gate DEPENDS gate.h)\nadd_dependencies(llama gate)\n")
    command = fake.command("--source", str(tree))
    child = subprocess.Popen(command, env=fake.env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tree / "reached").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if whole_group:
        os.killpg(child.pid, signal.SIGINT)
    else:
        child.terminate()
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert errors == "interrupted; the same command goes on from here\n"
    assert not fake.prefix.exists()
    (finished,) = the_tree(fake).rglob("ggml.c.o")
    before = finished.stat().st_mtime_ns
    gate.touch()
    assert fake.run("--source", str(tree)).returncode == 0
    assert finished.stat().st_mtime_ns == before
    assert answer(fake.prefix) == 42


def test_two_runs_at_once_take_turns(fake: Checkout) -> None:
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(fake.command(), env=fake.env, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    said = sorted((out for out, _ in outputs), key=lambda out: "waiting for it" in out)
    assert "installed" in said[0]
    assert "waiting for it" in said[1]
    assert "up to date" in said[1]
    assert len(fake.pip_log.read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["../../evil", "/evil"])
def test_unsafe_archive_names_are_refused(tree: Path, tmp_path: Path, name: str) -> None:
    archive = tmp_path / "bad.tar.gz"
    pack(tree, archive, "top", {f"top/{name}": "x"})
    with pytest.raises(report.BuildError, match="unsafe name"):
        fetch.unpack_sdist(archive, "top", tmp_path / "out" / "deep", "m")
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "evil").exists()


def test_truncated_archive_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "short.tar.gz"
    pack(tree, archive, "top")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(report.BuildError, match="cannot be unpacked"):
        fetch.unpack_sdist(archive, "top", tmp_path / "out", "m")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.unpacking").exists()


def test_a_folder_that_is_not_llama_cpp(fake: Checkout, tmp_path: Path) -> None:
    done = fake.run("--source", str(tmp_path))
    assert done.returncode == 1
    assert "is not a llama.cpp source tree" in done.stderr


@pytest.mark.parametrize(
    "options",
    [["--git", "x"], ["--ref", "x"], ["--git", "x", "--ref", "y", "--source", "z"], ["--jobs", "0"]],
)
def test_contradicting_options(fake: Checkout, options: list[str]) -> None:
    assert fake.run(*options).returncode == 2


def test_help_names_every_option(fake: Checkout) -> None:
    text = fake.run("--help").stdout
    for option in (
        "source",
        "git",
        "ref",
        "backend",
        "portable",
        "no-kernels",
        "cmake-arg",
        "tool",
        "prefix",
        "jobs",
        "force",
    ):
        assert f"--{option}" in text


def test_missing_backend_compiler(fake: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(report.BuildError, match="nvcc"):
        toolchain.choose_backends("cuda")
    assert toolchain.choose_backends("cpu") == ("cpu",)
    assert toolchain.choose_backends("auto")[0] == "cpu"


def test_portable_builds_every_cpu_variant_and_no_native_one(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text("project(llama)")
    src = source.Source("folder", tmp_path, "c", "i")
    flags = cmake.cmake_flags(src, ["cpu"], True, ["-DGGML_RPC=OFF"])
    assert {"-DGGML_NATIVE=OFF", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON"} <= set(flags)
    assert flags[-1] == "-DGGML_RPC=OFF"
    assert "-DGGML_OPENMP=OFF" in flags


def test_the_binding_hashes_the_same_headers(checkout: Path, tree: Path) -> None:
    pytest.importorskip("cffi")
    include = tree / "all"
    include.mkdir()
    for folder in ("include", "ggml/include"):
        for header in (tree / folder).glob("*.h"):
            shutil.copy(header, include)
    binding = runpy.run_path(str(checkout / "llama_cffi" / "_native" / "binding_build.py"))
    assert binding["header_hash"](include) == stamp.header_hash(include)


def test_the_pin_file_names_a_whole_release(checkout: Path) -> None:
    pin = source.Pin.read(checkout / "scripts" / "llama_cpp.json")
    assert len(pin.sha256) == 64
    assert pin.folder.endswith("/vendor/llama.cpp")
    assert pin.sdist_version in pin.folder
    assert ctypes.c_uint64(int(pin.commit, 16)).value
