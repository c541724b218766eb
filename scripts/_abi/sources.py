"""Where a release's source comes from: a folder, a source distribution, or a package that carries one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _libllama.report import BuildError, say
from llama_cffi._native.abi.derive.headers import call

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "abi-sources"
SDIST = "llama-cpp-python"
NPM = "node-llama-cpp"

_TREE = "vendor/llama.cpp/"
_GIT = ".git/modules/vendor/llama.cpp/"  # where the sdist keeps the history of its submodule, cut to one commit
_LOG_FORMAT = ("--abbrev=9", "--format=%h %cs")

# All that is read of a tree: the public headers, the library's own sources, and the version.
KEPT = re.compile(r"(include|ggml/include)/[^/]+\.h|src/llama[^/]*\.(cpp|h)|(ggml/)?CMakeLists\.txt")


@dataclass(frozen=True)
class Source:
    """A llama.cpp tree and what is known of its place in time."""

    path: Path
    name: str
    commit: str = ""
    date: str = ""
    origin: str = ""


def locate(text: str) -> Source:
    """The tree that an argument names: a folder, an sdist, a version X.Y.Z of llama-cpp-python, or npm:X.Y.Z.

    A download is cut down to what is read here and kept in build/abi-sources; BuildError when it fails.
    """
    path = Path(text)
    if path.is_dir():
        return _from_folder(path)
    if text.endswith(".tar.gz"):
        if not path.is_file():
            raise BuildError(f"there is no file {text}", "give the path of a source distribution")
        version = path.name.removesuffix(".tar.gz").rpartition("-")[2]
        return _from_sdist(path, version)
    if re.fullmatch(r"\d+\.\d+\.\d+", text):
        return _from_pip(text)
    if found := re.fullmatch(r"npm:(\d+\.\d+\.\d+)", text):
        return _from_npm(found[1])
    raise BuildError(
        f"{text} is no folder, no .tar.gz and no version", "give for example 0.3.36, npm:3.22.1 or ../llama.cpp"
    )


def version_of(path: Path) -> str:
    """llama.cpp's own version as its CMakeLists.txt says it, without "-dev"; "" for older trees."""
    try:
        text = (path / "CMakeLists.txt").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    parts = [re.search(rf"set\(LLAMA_VERSION_{part}\s+(\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return "" if None in parts else ".".join(part[1] for part in parts if part)


def _from_folder(path: Path) -> Source:
    done = subprocess.run(
        ["git", "-C", str(path), "log", "-1", *_LOG_FORMAT],
        capture_output=True,
        text=True,
        check=False,
    )
    in_git = done.returncode == 0 and (path / ".git").exists()
    commit, _, date = done.stdout.strip().partition(" ") if in_git else ("", "", "")
    return Source(path.resolve(), commit or path.resolve().name, commit, date)


def _from_pip(version: str) -> Source:
    target = CACHE / version
    if not target.is_dir():
        say(f"fetching {SDIST} {version}")
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", SDIST]
            call([*command, "--dest", folder, f"{SDIST}=={version}"], "pip download")
            (sdist,) = Path(folder).glob("*.tar.gz")
            _unpack_sdist(sdist, target)
    return _sdist_source(target, version)


def _from_sdist(sdist: Path, version: str) -> Source:
    target = CACHE / version
    if not target.is_dir():
        _unpack_sdist(sdist, target)
    return _sdist_source(target, version)


def _unpack_sdist(sdist: Path, target: Path) -> None:
    files: dict[str, bytes] = {}
    git: dict[str, bytes] = {}
    changelog = ""
    with tarfile.open(sdist) as archive:
        for member in archive:
            if not member.isfile() or (file := archive.extractfile(member)) is None:
                continue
            _, _, name = member.name.partition("/")
            in_git, in_tree = name.removeprefix(_GIT), name.removeprefix(_TREE)
            if in_git != name and re.match(r"HEAD$|shallow$|objects/", in_git):
                git[in_git] = file.read()
            elif in_tree != name and KEPT.fullmatch(in_tree):
                files[in_tree] = file.read()
            elif name == "CHANGELOG.md":
                changelog = file.read().decode()
    known = _head(git) if "HEAD" in git else commit_in_changelog(changelog, target.name)[:9]
    files["COMMIT"] = f"{known}\n".encode()
    _keep(files, target)


def _head(git: dict[str, bytes]) -> str:
    """Commit and date of a submodule's git folder, of which only the objects are taken over: its config is not ours."""
    with tempfile.TemporaryDirectory() as folder:
        call(["git", "init", "--quiet", "--bare", folder], "git init")
        for name in git.keys() - {"HEAD"}:
            path = Path(folder, name)
            if Path(folder).resolve() not in path.resolve().parents:
                raise BuildError(f"the archive holds an unsafe name: {name!r}", "do not use this archive")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(git[name])
        head = git["HEAD"].decode().strip()
        if not re.fullmatch(r"[0-9a-f]{40}", head):
            raise BuildError(f"the sdist's submodule is at {head!r}, not at a commit", "give another version")
        return call(["git", "--git-dir", folder, "log", "-1", *_LOG_FORMAT, head], "git log").strip()


def _keep(files: dict[str, bytes], target: Path) -> None:
    fresh = target.with_name(target.name + ".unpacking")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, data in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(data)
    fresh.rename(target)


def _sdist_source(path: Path, version: str) -> Source:
    commit, _, date = (path / "COMMIT").read_text(encoding="utf-8").strip().partition(" ")
    return Source(path, commit or f"{SDIST}-{version}", commit, date, version)


def commit_in_changelog(text: str, version: str) -> str:
    """The llama.cpp commit that a llama-cpp-python version carries: the newest one named up to that version."""
    _, _, rest = text.partition(f"## [{version}]")
    found = re.search(r"llama\.cpp@([0-9a-f]{7,40})", rest)
    return found[1] if found else ""


def _from_npm(version: str) -> Source:
    target = CACHE / f"npm-{version}"
    if not target.is_dir():
        say(f"fetching {NPM} {version}")
        with tempfile.TemporaryDirectory() as folder:
            call(["npm", "pack", "--silent", "--pack-destination", folder, f"{NPM}@{version}"], "npm pack")
            (package,) = Path(folder).glob("*.tgz")
            bundle = Path(folder, "release.bundle")
            with tarfile.open(package) as archive:
                for name, place in (("gitRelease.bundle", bundle), ("binariesGithubRelease.json", bundle.parent / "r")):
                    file = archive.extractfile(f"package/llama/{name}")
                    if file is None:
                        raise BuildError(f"{NPM} {version} carries no {name}", "give another version")
                    place.write_bytes(file.read())
            _unpack_bundle(bundle, target)
            release = re.findall(r'"release": *"([^"]+)"', (bundle.parent / "r").read_text(encoding="utf-8"))[0]
            (target / "RELEASE").write_text(
                f"{release} {(target / 'COMMIT').read_text(encoding='utf-8')}", encoding="utf-8"
            )
    name, commit, date = (target / "RELEASE").read_text(encoding="utf-8").split()
    return Source(target, name, commit, date, f"npm:{version}")


def _unpack_bundle(bundle: Path, target: Path) -> None:
    git = bundle.parent / "git"
    call(["git", "clone", "--quiet", "--bare", str(bundle), str(git)], "git clone")
    at = call(["git", "-C", str(git), "log", "-1", "--all", *_LOG_FORMAT], "git log").strip()
    commit = at.split()[0]
    names = call(["git", "-C", str(git), "ls-tree", "-r", "--name-only", commit], "git ls-tree").splitlines()
    tree = bundle.parent / "tree.tar"
    kept = [name for name in names if KEPT.fullmatch(name)]
    call(["git", "-C", str(git), "archive", "--output", str(tree), commit, "--", *kept], "git archive")
    files = {"COMMIT": f"{at}\n".encode()}
    with tarfile.open(tree) as archive:
        for member in archive:
            if member.isfile() and (data := archive.extractfile(member)) is not None:
                files[member.name] = data.read()
    _keep(files, target)
