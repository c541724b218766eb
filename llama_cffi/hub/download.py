"""Downloading a model by its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llama_cffi._util.files import sha256_of
from llama_cffi.errors import HubChecksumError, HubConnectionError, HubError, HubNotFoundError, HubStorageError
from llama_cffi.hub.cache import discard, find, listed
from llama_cffi.hub.choice import choose
from llama_cffi.hub.meter import Meter
from llama_cffi.hub.name import HubName
from llama_cffi.hub.projector import choose_projector
from llama_cffi.hub.remote import Listing, RemoteFile, list_files, require_package, translated, web_file
from llama_cffi.hub.transfer import Transfer


def pull(
    name: str | HubName,
    *,
    revision: str | None = None,
    offline: bool = False,
    recheck: bool = False,
    progress: Callable[[float], object] | None = None,
) -> Path:
    """Download a model into huggingface_hub's cache, and return the path of its file, or of the first of several.

    ``name`` is ``owner/repo``, ``owner/repo:Q4_K_M`` or ``owner/repo/path/file.gguf``. Without a quantization it is
    Q4_K_M if the repository has that, else its only model. All parts of a split model are downloaded; files in the
    cache are not downloaded again. ``revision`` is a branch, tag or commit. ``offline``, or ``HF_HUB_OFFLINE`` in the
    environment, uses only the cache. ``progress`` is called with the downloaded fraction; returning False cancels.

    A download goes on where it ended, after a broken connection, an interrupted call and a crash. Several processes may
    ask for one file: one of them downloads it. The SHA-256 of each downloaded file is compared with the hub's; that of
    files in the cache, which other programs may have written, only with ``recheck``, which downloads damaged files
    again. Raises the
    subclasses of :class:`HubError`, and :class:`UnsupportedError` without huggingface_hub.
    """
    wanted = name if isinstance(name, HubName) else HubName.parse(name)
    require_package()
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return find(wanted, revision)
    listing = list_files(wanted, revision)
    files = choose(wanted, listing.files, "on the hub").files
    missing = [file for file in files if not _usable(wanted, file, listing, recheck=recheck)]
    _check_space(wanted, sum(listing.files[file].size or 0 for file in missing))
    meter = Meter(sum(listing.files[file].size or 0 for file in files), progress)
    paths = []
    for file in files:
        meter.begin(listing.files[file].size or 0)
        paths.append(_fetch(wanted, file, revision, listing, meter, check=file in missing))
        meter.end()
    return paths[0]


def pull_projector(
    name: str | HubName,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: Callable[[float], object] | None = None,
) -> Path:
    """Download the projector that belongs to a model, with which it takes images or sound, and return its path.

    It is found by its name among the files of the model's repository; see :func:`choose_projector`. The arguments and
    the errors are those of :func:`pull`; :class:`HubNotFoundError` also where the repository has no projector.
    """
    wanted = name if isinstance(name, HubName) else HubName.parse(name)
    require_package()
    from huggingface_hub import constants

    offline = offline or constants.HF_HUB_OFFLINE
    files = listed(wanted, revision)[1] if offline else list(list_files(wanted, revision).files)
    place = "in the cache" if offline else "on the hub"
    found = choose_projector(choose(wanted, files, place).first, files)
    if found is None:
        raise HubNotFoundError(f"in {wanted.repo} {place} there is no projector (mmproj) of {wanted}")
    return pull(HubName(wanted.repo, file=found), revision=revision, offline=offline, progress=progress)


def _usable(name: HubName, file: str, listing: Listing, *, recheck: bool) -> bool:
    """Whether the cache holds the file; a damaged one is deleted from it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name.repo, file, revision=listing.commit)
    if not isinstance(found, str):
        return False
    if _damage(Path(found), listing.files[file], hashed=recheck):
        discard({Path(found)})
        return False
    return True


def _fetch(name: HubName, file: str, revision: str | None, listing: Listing, meter: Meter, *, check: bool) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        _fetch_content(name, file, listing, meter)
        with translated(name, revision):
            # By the revision's name, not by its commit: so the cache learns what the name means, for offline use.
            path = Path(hf_hub_download(name.repo, file, revision=revision, tqdm_class=meter.counter()))
    except HubError:
        meter.raise_failure()
        raise
    if listing.commit not in path.parts:
        raise HubConnectionError(f"{name.repo} changed, or the connection broke, between two requests: try again")
    if check and (damage := _damage(path, listing.files[file], hashed=True)):
        discard({path})
        raise HubChecksumError(f"{name.repo}/{file} was downloaded damaged and was deleted: {damage}")
    meter.raise_failure()  # a download on threads of its own may go on after its progress bar failed
    return path


def _fetch_content(name: HubName, file: str, listing: Listing, meter: Meter) -> None:
    """Put the content of a file where huggingface_hub finds it: its own downloads begin anew after a restart."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    announced = listing.files[file]
    if announced.sha256 is None or announced.size is None:
        return
    content = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name.repo, repo_type="model"), "blobs")
    # Access, which needs what only huggingface_hub knows to say, is its business.
    with suppress(HubNotFoundError):
        remote = web_file(name, file, listing)
        Transfer(remote, content / announced.sha256, meter.at, size=announced.size).run()


def _damage(path: Path, announced: RemoteFile, *, hashed: bool) -> str:
    """How the file differs from what the hub announced; "" if it does not."""
    size = path.stat().st_size
    if announced.size is not None and size != announced.size:
        return f"{size} bytes instead of {announced.size}"
    if hashed and announced.sha256 is not None:
        with open(path, "rb") as file:
            digest = sha256_of(file)
        if digest != announced.sha256:
            return f"SHA-256 {digest} instead of {announced.sha256}"
    return ""


def _check_space(name: HubName, needed: int) -> None:
    """Refuse before hours of download what cannot fit. Raises HubStorageError."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HubStorageError(f"{name} needs {needed:,} bytes in {constants.HF_HUB_CACHE}, where {free:,} are free")


__all__ = ["pull", "pull_projector"]
