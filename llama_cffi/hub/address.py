"""Models by their address: downloading them into a cache, and finding their parts."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from llama_cffi._util.cache_folder import folder
from llama_cffi.errors import HubConnectionError, HubNameError, HubNotFoundError
from llama_cffi.hub.meter import Meter
from llama_cffi.hub.transfer import Transfer, facts_of, read_version
from llama_cffi.hub.web import WebFile, request

_PART = re.compile(r"(.*)-00001-of-(\d{5})\.gguf")
_MOST_PARTS = 1000
_SAFE = re.compile(r"[^A-Za-z0-9._+@-]")

_log = logging.getLogger("llama_cffi.hub")
_log.addHandler(logging.NullHandler())


def pull_address(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    offline: bool = False,
    progress: Callable[[float], object] | None = None,
) -> Path:
    """Download the model at an address into the cache, and return the path of its file, or of the first of several.

    ``url`` is ``https://host/path/model.gguf`` or http; of a split model it is the first part. ``#sha256=...`` at its
    end is compared with the file. A file in the cache is downloaded again only when the server has another one; when
    the server is not reached, the one in the cache is taken. ``offline``, or ``HF_HUB_OFFLINE`` in the environment,
    uses only the cache. ``headers`` go with each request, ``Authorization`` to the host of the address alone. The cache
    is the folder ``llama_cffi/models`` of the user's caches, which ``XDG_CACHE_HOME`` moves.

    An interrupted download goes on where it ended, also in another process, if the server still has the same file.
    Several processes may ask for one file: one of them downloads it. ``progress`` is called with the downloaded
    fraction; returning False cancels. Raises the subclasses of :class:`HubError`.
    """
    files = web_files(WebFile.parse(url, headers))
    if not offline:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    place = cache_folder(files[0])
    paths = [place / cached_name(file) for file in files]
    if offline:
        for file, path in zip(files, paths, strict=True):
            if not path.is_file():
                raise HubNotFoundError(f"{file.label} is not in the cache, and no server is asked when offline")
        return paths[0]
    meter = Meter(len(files), progress)
    for file, path in zip(files, paths, strict=True):
        _pull(file, path, meter)
    return paths[0]


def _pull(file: WebFile, path: Path, meter: Meter) -> None:
    meter.begin(1)
    transfer = Transfer(file, path, lambda n: meter.part(n, transfer.version.size), keep_facts=True)
    try:
        transfer.run(lambda: _is_current(file, path))
    except HubConnectionError as error:
        meter.raise_failure()
        known = read_version(facts_of(path))
        if not path.is_file() or known is None or file.sha256 not in (None, known.sha256):
            raise
        _log.warning("%s; the file in the cache is used", error.message)
    except BaseException:
        meter.raise_failure()
        raise
    meter.end()


def _is_current(file: WebFile, path: Path) -> bool:
    """Whether the server still has what is in the cache."""
    known = read_version(facts_of(path))
    if known is None:
        return False
    if known.size is not None and path.stat().st_size != known.size:
        return False
    if file.sha256 is not None:
        return file.sha256 == known.sha256  # the content that is asked for, whatever the server has
    conditions = {"If-None-Match": known.etag} if known.etag else {}
    if known.modified and not known.etag:
        conditions["If-Modified-Since"] = known.modified
    with request(file, conditions) as answer:
        if answer.status == 304:
            return True
        found = (answer.etag, answer.modified, answer.length)
        return known.can_resume and found == (known.etag, known.modified, known.size)


def web_files(first: WebFile) -> list[WebFile]:
    """Return the files of a model whose first one is given, as its name says how many there are.

    Raises :class:`HubNameError` for a part that is not the first.
    """
    parts = urlsplit(first.url)
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", parts.path) is None:
        return [first]
    found = _PART.fullmatch(parts.path)
    if found is None or not 1 <= int(found[2]) <= _MOST_PARTS:
        raise HubNameError(f"{first.label} is one part of a model: give the address of the first one")
    names = [f"{found[1]}-{i:05}-of-{found[2]}.gguf" for i in range(2, int(found[2]) + 1)]

    def at(address: str, path: str) -> str:
        return urlunsplit(urlsplit(address)._replace(path=path))

    rest = (replace(first, url=at(first.url, name), label=at(first.label, name), sha256=None) for name in names)
    return [first, *rest]


def cache_folder(file: WebFile) -> Path:
    """Return the folder of a file in the cache: one for each folder of a server."""
    parts = urlsplit(file.url)
    key = urlunsplit(parts._replace(path=parts.path.rpartition("/")[0]))
    return folder() / "models" / hashlib.sha256(key.encode()).hexdigest()[:24]


def cached_name(file: WebFile) -> str:
    """Return the name of a file in the cache."""
    name = _SAFE.sub("_", file.name).lstrip(".")[-200:]
    if not name or name.endswith((".part", ".json", ".lock")):
        name += ".gguf"
    return name


__all__ = ["cache_folder", "cached_name", "pull_address", "web_files"]
