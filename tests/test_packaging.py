"""What an installation holds: a wheel built from the checkout, in an environment that knows nothing of it."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import build_backend

_WHERE = """
import json, llama_cffi
from llama_cffi import _native
from llama_cffi._native import lib
info = _native.library_info()
maps = open("/proc/self/maps").read().split() if __import__("sys").platform == "linux" else []
print(json.dumps({
    "package": llama_cffi.__file__,
    "library": str(info.path),
    "source": info.source,
    "mapped": sorted({path for path in maps if "libllama" in path or "libggml" in path}),
}))
"""

_LIFE = """
from llama_cffi import Llama
with Llama.demo() as llm:
    print(llm.generate("Once upon a time", max_tokens=16, temperature=0).text)
"""


def clean_environment() -> dict[str, str]:
    """The environment without what could lead back to the checkout or to its virtual environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "PYTHON"))}
    return {name: value for name, value in env.items() if name not in ("VIRTUAL_ENV", "LD_LIBRARY_PATH")}


def call(command: Sequence[str | Path], cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env or clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def make_wheel(checkout: Path, target: Path, **env: str) -> Path:
    environment = {**clean_environment(), **env}
    call([sys.executable, "-m", "build", "--wheel", "--outdir", target, checkout], target, environment)
    (path,) = target.glob("*.whl")
    return path


def install(wheel: Path, folder: Path) -> Path:
    """The interpreter of an empty virtual environment that got the wheel."""
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    call([interpreter, "-m", "pip", "install", "--quiet", wheel], folder)
    return interpreter


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(checkout, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("elsewhere") / "venv")


@pytest.mark.packaging
def test_wheel_is_for_this_platform_and_every_python(wheel: Path) -> None:
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version.count(".")) == ("llama_cffi", 2)
    assert (python, abi) == ("cp310", "abi3")
    assert platform != "any"


@pytest.mark.packaging
def test_wheel_holds_each_library_once_and_nothing_of_the_build(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        folder = "llama_cffi/_native/"
        libraries = [name for name in names if name.startswith(f"{folder}lib/lib")]
        stems = [Path(name).name.split(".")[0] for name in libraries]
        assert sorted(stems) == sorted(set(stems))
        assert {"libllama", "libmtmd", "libggml", "libggml-base"} <= set(stems)
        assert any(stem.startswith("libggml-cpu") for stem in stems)
        for needed in (
            "lib/stamp.json",
            "lib/LICENSE.llama.cpp",
            "_llama.abi3.so",
            "_mtmd.abi3.so",
            "_helpers.abi3.so",
        ):
            assert folder + needed in names
        for needed in ("py.typed", "models/demo.gguf", "cli/__init__.py", "server/page.html"):
            assert f"llama_cffi/{needed}" in names
        assert not [n for n in names if n.split("/")[0] not in ("llama_cffi", names[-1].split("/")[0])]
        assert not [name for name in names if name.startswith(f"{folder}helpers/")]
        assert archive.read(f"{folder}lib/LICENSE.llama.cpp").startswith(b"MIT License")


@pytest.mark.packaging
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF run paths")
def test_no_run_path_leaves_the_package(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    binaries = [path for path in tmp_path.rglob("*") if path.suffix == ".so" or ".so." in path.name]
    assert len(binaries) >= 6
    for path in binaries:
        dynamic = call(["readelf", "-d", path], tmp_path)
        run_paths = [line.split("[")[1].split("]")[0] for line in dynamic.splitlines() if "PATH" in line]
        assert all(path in ("$ORIGIN", "$ORIGIN/lib") for path in ":".join(run_paths).split(":") if path), path
        if path.name.startswith("_"):
            assert str(checkout).encode() not in path.read_bytes()


@pytest.mark.packaging
def test_installed_libraries_are_those_of_the_environment(python: Path, checkout: Path) -> None:
    said = json.loads(call([python, "-c", _WHERE], python.parent))
    home = python.parents[1]
    assert said["source"] == "bundled"
    for path in [said["package"], said["library"], *said["mapped"]]:
        assert home in Path(path).parents
        assert checkout not in Path(path).parents


@pytest.mark.packaging
def test_installed_package_writes_a_story(python: Path) -> None:
    command = python.parent / "llama-cffi"
    story = call([command, "generate", "Once upon a time", "-n", "24", "--temp", "0"], python.parent)
    assert len(story.split()) > 10
    assert call([python, "-c", _LIFE], python.parent).strip()
    said = call([command, "doctor"], python.parent)
    assert "bundled" in said
    assert "images and sound can be used" in said


@pytest.mark.packaging
def test_source_distribution_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    call([sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, checkout], tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    call(["tar", "xzf", sdist], tmp_path)
    (tree,) = (path for path in tmp_path.iterdir() if path.is_dir())
    env = {**clean_environment(), "LLAMA_CFFI_PREFIX": str(checkout / "build" / "libllama")}
    call([sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, tree], tmp_path, env)
    (built,) = tmp_path.glob("*.whl")
    assert built.name == wheel.name
    assert sorted(zipfile.ZipFile(built).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


# -- wheels that compile little or nothing, and need a library at run time


@pytest.fixture(scope="module")
def no_tools(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH that leads to no compiler, no cmake and nothing else."""
    return str(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module", params=["none", "helpers"])
def small(
    request: pytest.FixtureRequest, checkout: Path, no_tools: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The kind of build, and its wheel."""
    env = {"PATH": no_tools} if request.param == "none" else {}
    return request.param, make_wheel(checkout, tmp_path_factory.mktemp("dist"), LLAMA_CFFI_BUILD=request.param, **env)


@pytest.fixture(scope="module")
def small_python(small: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(small[1], tmp_path_factory.mktemp("elsewhere") / "venv")


_WITHOUT_A_LIBRARY = """
import llama_cffi
from llama_cffi.errors import LibraryError
try:
    llama_cffi.Llama.demo()
except LibraryError as error:
    print(error)
"""

_WITH_A_LIBRARY = """
import json
from llama_cffi import Llama
from llama_cffi._native import library_info
with Llama.demo() as llm:
    text = llm.generate("Once upon a time", max_tokens=16, temperature=0).text
info = library_info()
print(json.dumps({"text": text, "mode": info.mode, "helpers": info.helpers}))
"""


@pytest.mark.packaging
def test_a_small_wheel_holds_what_it_says(small: tuple[str, Path]) -> None:
    build, wheel = small
    tag = wheel.stem.split("-", 2)[2]
    assert tag == "py3-none-any" if build == "none" else tag.startswith("cp310-abi3-") and "any" not in tag
    with zipfile.ZipFile(wheel) as archive:
        names = [name.removeprefix("llama_cffi/_native/") for name in archive.namelist()]
    binaries = [name for name in names if ".so" in name or name.startswith("lib/")]
    assert binaries == ([] if build == "none" else ["_helpers.abi3.so"])
    generations = {name[len("abi/") : -len(".json")] for name in names if re.fullmatch(r"abi/[^/]+\.json", name)}
    generations -= {"index"}
    assert len(generations) > 10
    assert {f"abi/_{name.replace('.', '_')}.py" for name in generations - {"pinned"}} <= set(names)
    assert {"abi/index.json", "cdef/types.h", "cdef/media/mtmd.h", "pure/select.py"} <= set(names)


@pytest.mark.packaging
def test_a_small_wheel_without_a_library_says_how_to_get_one(small_python: Path, no_tools: str) -> None:
    said = call([small_python, "-c", _WITHOUT_A_LIBRARY], small_python.parent, {"PATH": no_tools})
    assert "no usable libllama" in said
    assert "(bundled)" in said
    assert "LLAMA_CFFI_LIB=" in said


@pytest.mark.packaging
def test_a_small_wheel_writes_with_a_library_of_the_users(
    small: tuple[str, Path], small_python: Path, checkout: Path, no_tools: str, python: Path, tmp_path: Path
) -> None:
    env = {
        "PATH": no_tools,
        "LLAMA_CFFI_LIB": str(checkout / "build" / "libllama" / "lib"),
        "XDG_CACHE_HOME": str(tmp_path),
    }
    said = json.loads(call([small_python, "-c", _WITH_A_LIBRARY], small_python.parent, env))
    full = json.loads(call([python, "-c", _WITH_A_LIBRARY], python.parent))
    assert (said["mode"], said["helpers"]) == ("abi", "python" if small[0] == "none" else "compiled")
    assert (full["mode"], full["helpers"]) == ("api", "compiled")
    assert said["text"] == full["text"] != ""


@pytest.mark.packaging
def test_the_source_distribution_builds_without_tools(checkout: Path, no_tools: str, tmp_path: Path) -> None:
    call([sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, checkout], tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if re.search(r"_native/abi/_(?!_)", name)]
        archive.extractall(tmp_path, filter="data")
    (tree,) = (path for path in tmp_path.iterdir() if path.is_dir())
    wheel = make_wheel(tree, tmp_path, LLAMA_CFFI_BUILD="none", PATH=no_tools)
    assert wheel.name.endswith("-py3-none-any.whl")


def test_an_in_place_build_is_not_where_wheels_are_made(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import setuptools
    import setuptools.command.build_ext

    given: dict[str, Any] = {}
    folders: dict[bool, str] = {}
    monkeypatch.setenv("LLAMA_CFFI_BUILD", "none")
    with monkeypatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **options: given.update(options))
        runpy.run_path(str(checkout / "setup.py"))
        patch.setattr(setuptools.command.build_ext.build_ext, "run", lambda self: None)
        for in_place in (False, True):
            command = given["cmdclass"]["build_ext"](setuptools.Distribution())
            command.inplace = in_place
            command.ensure_finalized()
            command.run()
            folders[in_place] = command.build_lib
    assert Path(folders[True]) != Path(folders[False])
    assert Path(folders[False]) not in Path(folders[True]).parents


def test_an_unknown_build_is_an_error(checkout: Path, tmp_path: Path) -> None:
    done = setup_py(checkout, tmp_path, LLAMA_CFFI_BUILD="some")
    assert done.returncode == 1
    assert "LLAMA_CFFI_BUILD=some is none of full, helpers, none" in done.stderr


@pytest.mark.parametrize(
    ("env", "tools"),
    [
        ({}, True),
        ({"LLAMA_CFFI_BUILD": "full"}, True),
        ({"LLAMA_CFFI_PREFIX": "somewhere"}, False),
        ({"LLAMA_CFFI_BUILD": "helpers"}, False),
        ({"LLAMA_CFFI_BUILD": "none"}, False),
    ],
)
def test_only_who_builds_libllama_needs_cmake(
    env: dict[str, str], tools: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LLAMA_CFFI_BUILD", "LLAMA_CFFI_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert ("ninja" in build_backend._tools()) == tools


def setup_py(checkout: Path, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--inplace", "--build-temp", str(tmp_path)]
    return subprocess.run(
        command, cwd=checkout, env={**clean_environment(), **env}, capture_output=True, text=True, check=False
    )


def test_a_prefix_that_is_not_finished_is_refused(checkout: Path, tmp_path: Path) -> None:
    done = setup_py(checkout, tmp_path, LLAMA_CFFI_PREFIX=str(tmp_path))
    assert done.returncode == 1
    assert "holds no finished build" in done.stderr
    assert "scripts/build_libllama.py --prefix" in done.stderr


def test_an_editable_build_refuses_a_prefix_it_would_not_run_with(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "stamp.json").write_text("{}")
    done = setup_py(checkout, tmp_path, LLAMA_CFFI_PREFIX=str(tmp_path))
    assert done.returncode == 1
    assert "unset LLAMA_CFFI_PREFIX" in done.stderr


def test_ci_runs_the_commands_of_the_readme(checkout: Path) -> None:
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    ci = (checkout / ".ci" / "run").read_text(encoding="utf-8")
    (command,) = (line.partition(" || ")[0] for line in ci.splitlines() if "&& pytest" in line)
    assert f"{command}\n" in readme
