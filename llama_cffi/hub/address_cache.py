"""Models from addresses that are in the cache, also those whose download was interrupted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from llama_cffi._util.cache_folder import folder
from llama_cffi.errors import HubStorageError
from llama_cffi.hub.choice import Candidate, candidates
from llama_cffi.hub.transfer import facts_of, only_one, part_of, read_version, storing
from llama_cffi.hub.web import WebFile

_ENDS = re.compile(r"\.part\.json$|\.part$|\.json$|\.lock$")
_FIRST = re.compile(r"-\d{5}-of-(?=\d{5}\.gguf)")


@dataclass(frozen=True, slots=True)
class CachedAddress:
    """A model in the cache that comes from an address.

    ``name`` is the address without secrets, of the first file where there are several; the path in the cache where it
    is not known. ``files`` are those that are complete, ``missing`` the names of the others, which were not downloaded
    to their ends. ``size`` are the bytes of all of it on the disk, ``unfinished`` those among them of interrupted
    downloads, and ``expected`` the bytes of the complete model, None where that is not known.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    size: int
    missing: tuple[str, ...] = ()
    unfinished: int = 0
    expected: int | None = None


def cached_addresses(address: str | None = None) -> list[CachedAddress]:
    """Return the models in the cache that come from addresses: all, or those of one.

    ``address`` is what was downloaded, or a name of the list. Raises nothing for a cache that is not there.
    """
    from llama_cffi.hub.address import cache_folder

    models = folder() / "models"
    found: list[CachedAddress] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for place in sorted(models.iterdir()):
            found += _in_folder(place)
    if address is not None:
        known = [one for one in found if one.name == address]
        if not known:
            file = WebFile.parse(address)
            place = cache_folder(file)
            known = [one for one in found if one.folder == place and one.name == file.label]
        found = known
    return sorted(found, key=lambda one: (one.name, one.folder))


def remove_addresses(models: Iterable[CachedAddress]) -> int:
    """Delete models from the cache, also what was downloaded of unfinished ones; return the number of freed bytes.

    A process that has a model open keeps what it has, and the disk gets the bytes back when it is closed. Raises
    :class:`HubStorageError` for a model that another process or thread is downloading, of which nothing is deleted, and
    where the system refuses.
    """
    freed = 0
    for model in models:
        names = dict.fromkeys((*(file.name for file in model.files), *model.missing))
        targets = [model.folder / name for name in names]
        with storing(model.folder):
            with ExitStack() as locks:
                for target in targets:
                    locks.enter_context(only_one(target, partial(_refuse, model)))
                freed += sum(map(_delete, targets))
            with suppress(OSError):  # it has other files
                model.folder.rmdir()
    return freed


def _delete(target: Path) -> int:
    freed = 0
    part = part_of(target)
    for path in (target, facts_of(target), part, facts_of(part)):
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            freed += size
    return freed


def _refuse(model: CachedAddress) -> NoReturn:
    raise HubStorageError(f"{model.name} is being downloaded by another process or thread: end that first")


def _in_folder(place: Path) -> list[CachedAddress]:
    try:
        names = {_ENDS.sub("", file.name) for file in place.iterdir() if file.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return []
    # Of a download that has never begun there is an empty part.
    present = {name for name in names if (place / name).is_file() or _size(part_of(place / name))}
    others = [Candidate((name,)) for name in sorted(present) if not name.lower().endswith(".gguf")]
    return [_model(place, one) for one in (*candidates(present), *others)]


def _model(place: Path, found: Candidate) -> CachedAddress:
    targets = [place / name for name in (*found.files, *found.missing)]
    complete = [target for target in sorted(targets) if target.is_file()]
    versions = [read_version(facts_of(one)) or read_version(facts_of(part_of(one))) for one in targets]
    sizes = [
        _size(target) or (version.size if version is not None else None)
        for target, version in zip(targets, versions, strict=True)
    ]
    address = next((one.address for one in versions if one is not None and one.address), None)
    unfinished = sum(_size(part_of(target)) for target in targets)
    return CachedAddress(
        str(targets[0]) if address is None else _FIRST.sub("-00001-of-", address),
        place,
        tuple(complete),
        sum(map(_size, complete)) + unfinished,
        tuple(target.name for target in sorted(targets) if target not in complete),
        unfinished,
        None if None in sizes else sum(size for size in sizes if size is not None),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


__all__ = ["CachedAddress", "cached_addresses", "remove_addresses"]
