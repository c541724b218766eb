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

from .headers import call

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "abi-sources"
SDIST = "llama-cpp-python"
NPM = "node-llama-cpp"

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
        ["git", "-C", str(path), "log", "-1", "--abbrev=9", "--format=%h %cs"],
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
    with tarfile.open(sdist) as archive:
        members = {}
        for member in archive:
            _, _, inner = member.name.partition("/")
            if member.isfile() and inner == "CHANGELOG.md":
                members[inner] = member
            elif member.isfile() and inner.startswith("vendor/llama.cpp/"):
                members[inner.removeprefix("vendor/llama.cpp/")] = member
        _keep({name: archive.extractfile(member) for name, member in members.items() if _wanted(name)}, target)


def _wanted(name: str) -> bool:
    return name == "CHANGELOG.md" or KEPT.fullmatch(name) is not None


def _keep(files: dict[str, object], target: Path) -> None:
    fresh = target.with_name(target.name + ".unpacking")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, file in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(file.read())  # type: ignore[attr-defined]
    fresh.rename(target)


def _sdist_source(path: Path, version: str) -> Source:
    commit = commit_in_changelog((path / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    return Source(path, commit[:9] or f"{SDIST}-{version}", commit[:9], "", version)


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
    at = call(["git", "-C", str(git), "log", "-1", "--all", "--abbrev=9", "--format=%h %cs"], "git log").strip()
    names = call(["git", "-C", str(git), "ls-tree", "-r", "--name-only", at.split()[0]], "git ls-tree").splitlines()
    whole = bundle.parent / "tree.tar"
    kept = [name for name in names if _wanted(name)]
    call(["git", "-C", str(git), "archive", "--output", str(whole), at.split()[0], "--", *kept], "git archive")
    with tarfile.open(whole) as archive:
        members = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        _keep(dict(members), target)
    (target / "COMMIT").write_text(at + "\n", encoding="utf-8")
