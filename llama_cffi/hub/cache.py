"""Models that are in huggingface_hub's cache."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_cffi.errors import HubNotFoundError, HubStorageError
from llama_cffi.hub.choice import candidates, choose
from llama_cffi.hub.name import HubName
from llama_cffi.hub.remote import require_package

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, HFCacheInfo


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model in the cache.

    ``name`` is its name with the file, ``commit`` the revision that it is of, ``files`` its files, the first one for
    llama.cpp, ``size`` their bytes together, ``missing`` the parts of a split model that the cache lacks.
    """

    name: str
    commit: str
    files: tuple[Path, ...]
    size: int
    missing: tuple[str, ...] = ()


def cached(name: str | HubName | None = None) -> list[CachedModel]:
    """Return the GGUF files in the cache, by name: all, or those that ``name`` fits, of every revision.

    Raises HubNameError, and UnsupportedError without huggingface_hub.
    """
    wanted = HubName.parse(name) if isinstance(name, str) else name
    found = []
    for repo in _repositories(_scan()):
        if wanted is not None and repo.repo_id != wanted.repo:
            continue
        for revision in repo.revisions:
            sizes = {_inside(revision, file.file_path): file.size_on_disk for file in revision.files}
            for candidate in candidates(sizes):
                # A repository's plain name means all of it here, also what is no model by itself.
                if wanted is None or wanted == HubName(wanted.repo) or candidate.fits(wanted):
                    paths = tuple(revision.snapshot_path / file for file in candidate.files)
                    size = sum(sizes[file] for file in candidate.files)
                    model = f"{repo.repo_id}/{candidate.first}"
                    found.append(CachedModel(model, revision.commit_hash, paths, size, candidate.missing))
    return sorted(found, key=lambda model: (model.name, model.commit))


def find(name: HubName, revision: str | None) -> Path:
    """Return the first file of the model with this name in the cache.

    Without a ``revision``, the one that was last fetched as ``main``. Raises HubNotFoundError and HubChoiceError.
    """
    folder, files = listed(name, revision)
    return folder / choose(name, files, "in the cache").first


def listed(name: HubName, revision: str | None) -> tuple[Path, list[str]]:
    """Return the folder of a repository's revision in the cache, and the files that are in it; raises as find."""
    repo = next((repo for repo in _repositories(_scan()) if repo.repo_id == name.repo), None)
    if repo is None:
        raise HubNotFoundError(f"{name.repo} is not in the cache, and the hub is not queried when offline")
    wanted = revision or "main"
    there = [entry for entry in repo.revisions if wanted in entry.refs or wanted == entry.commit_hash]
    if not there:
        raise HubNotFoundError(
            f"revision {wanted!r} of {name.repo} is not in the cache, and the hub is not queried when offline"
        )
    return there[0].snapshot_path, [_inside(there[0], file.file_path) for file in there[0].files]


def remove(models: Iterable[CachedModel]) -> int:
    """Delete models from the cache, and return the number of freed bytes.

    Other files of their repositories are kept, and so are files that another revision shares. Raises HubStorageError.
    """
    return discard({path for model in models for path in model.files})


def discard(paths: set[Path]) -> int:
    """Delete files from the cache by their paths in it, and revisions that hold nothing else."""
    info = _scan()
    if info is None:
        return 0
    # As huggingface_hub writes them: the folders resolved, the link to the content not.
    paths = {path.parent.resolve() / path.name for path in paths}
    revisions, files = [], []
    for repo in info.repos:
        for revision in repo.revisions:
            chosen = [file for file in revision.files if file.file_path in paths]
            if chosen and len(chosen) == len(revision.files):
                revisions.append(revision.commit_hash)
            else:
                files += chosen
    freed = 0
    try:
        # One after the other: each searches the whole cache for other revisions that need a file.
        if files:
            strategy = info.delete_files(*files)
            freed += strategy.expected_freed_size
            strategy.execute()
        if revisions and (info := _scan()) is not None:
            strategy = info.delete_revisions(*revisions)
            freed += strategy.expected_freed_size
            strategy.execute()
    except OSError as error:
        raise HubStorageError(f"the cache could not be changed: {error}") from error
    left = [path for path in paths if path.exists()]
    if left:  # huggingface_hub only logs what it could not delete
        raise HubStorageError(f"could not delete {', '.join(map(str, left))}")
    return freed


def _scan() -> HFCacheInfo | None:
    require_package()
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return None


def _repositories(info: HFCacheInfo | None) -> list[CachedRepoInfo]:
    return [] if info is None else [repo for repo in info.repos if repo.repo_type == "model"]


def _inside(revision: CachedRevisionInfo, path: Path) -> str:
    return path.relative_to(revision.snapshot_path).as_posix()


__all__ = ["CachedModel", "cached", "discard", "find", "listed", "remove"]
