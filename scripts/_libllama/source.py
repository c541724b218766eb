"""Where the source comes from: a folder, a git checkout, vendor/llama.cpp, or the pinned release."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .fetch import download_sdist, unpack_sdist
from .report import BuildError, say

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "vendor" / "llama.cpp"
BUILT_FOLDERS = ("cmake", "include", "src", "ggml")


@dataclass(frozen=True)
class Pin:
    """The llama.cpp release this checkout is made for (scripts/llama_cpp.json)."""

    version: str
    commit: str
    sdist_name: str
    sdist_version: str
    sha256: str
    folder: str

    @classmethod
    def read(cls, path: Path) -> Pin:
        data = json.loads(path.read_text(encoding="utf-8"))
        sdist = data["sdist"]
        return cls(data["version"], data["commit"], sdist["name"], sdist["version"], sdist["sha256"], sdist["folder"])


@dataclass(frozen=True)
class Source:
    """A llama.cpp tree. `identity` changes whenever what we would compile changes."""

    kind: str  # "pin", "vendor", "folder" or "git"
    path: Path
    commit: str
    identity: str


def tree_digest(path: Path) -> str:
    """sha256 over names and contents of everything that goes into the library."""
    files = [path / "CMakeLists.txt"]
    for folder in BUILT_FOLDERS:
        for base, folders, names in os.walk(path / folder):
            folders.sort()
            files += [Path(base, name) for name in sorted(names)]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            data = file.read_bytes()
            digest.update(f"{file.relative_to(path).as_posix()} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()


def from_folder(path: Path, kind: str = "folder", commit: str = "") -> Source:
    """A tree that is already there; BuildError when it is not llama.cpp."""
    path = path.resolve()
    for needed in ("CMakeLists.txt", "LICENSE", "include/llama.h", "ggml"):
        if not (path / needed).exists():
            raise BuildError(
                f"{path} is not a llama.cpp source tree: it has no {needed}",
                "give the top folder of a checkout: --source DIR (or unset LLAMA_CPP_SOURCE)",
            )
    return Source(kind, path, commit or _git_commit(path), tree_digest(path))


def pin_is_unpacked(pin: Pin) -> bool:
    """Whether vendor/llama.cpp holds the pinned release, unpacked by us."""
    marker = VENDOR / ".pin"
    return marker.is_file() and marker.read_text(encoding="utf-8").strip() == pin.sha256


def from_vendor_or_pin(pin: Pin) -> Source:
    """vendor/llama.cpp when somebody filled it, otherwise the pinned release, fetched into it."""
    populated = VENDOR.is_dir() and any(VENDOR.iterdir())
    if populated and not (VENDOR / ".pin").is_file():
        return from_folder(VENDOR, "vendor")
    if not pin_is_unpacked(pin):
        say(f"fetching llama.cpp {pin.version} ({pin.commit}) in {pin.sdist_name} {pin.sdist_version}")
        sdist = download_sdist(pin.sdist_name, pin.sdist_version, pin.sha256, ROOT / "build" / "download")
        unpack_sdist(sdist, pin.folder, VENDOR, pin.sha256)
        shutil.rmtree(sdist.parent, ignore_errors=True)
    return from_folder(VENDOR, "pin", pin.commit)


def from_git(url: str, ref: str) -> Source:
    """Check `ref` (tag, branch or commit) of `url` out into vendor/git-<key>; BuildError when git cannot."""
    git = shutil.which("git")
    if git is None:
        raise BuildError("--git needs git, which is not installed", "apt-get install git (or your system's way)")
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    path = ROOT / "vendor" / f"git-{key}"
    if not (path / ".git").is_dir():
        shutil.rmtree(path, ignore_errors=True)
        _git(git, path.parent, "init", "--quiet", str(path))
    say(f"fetching {ref} of {url}")
    _git(git, path, "fetch", "--quiet", "--depth", "1", url, ref, mend=f"git ls-remote {url} {ref}")
    _git(git, path, "checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")
    _git(git, path, "clean", "--quiet", "-ffdx")
    return from_folder(path, "git")


def _git(git: str, folder: Path, *args: str, mend: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [git, *args],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"git {args[0]} failed in {folder}", mend or f"rm -r {folder}", done.stderr.strip())


def _git_commit(path: Path) -> str:
    if not (path / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(
        ["git", "rev-parse", "--short=9", "HEAD"], cwd=path, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def source_version(path: Path) -> str:
    """llama.cpp's version as its CMakeLists.txt says it; "unknown" for releases older than such a version."""
    text = (path / "CMakeLists.txt").read_text(encoding="utf-8", errors="replace")
    parts = [re.search(rf"set\(LLAMA_VERSION_{part}\s+(\d+)\)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    if any(part is None for part in parts):
        return "unknown"
    version = ".".join(part.group(1) for part in parts if part)
    dev = re.search(r"option\(LLAMA_BUILD_IS_DEV\s+\"[^\"]*\"\s+ON\)", text)
    return f"{version}-dev" if dev else version
