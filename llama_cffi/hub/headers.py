"""The remote files of a model by its name, for reading the beginnings of them."""

from __future__ import annotations

from llama_cffi.hub.address import web_files
from llama_cffi.hub.choice import choose
from llama_cffi.hub.name import HubName
from llama_cffi.hub.remote import list_files, require_package, web_file
from llama_cffi.hub.web import WebFile


def remote_files(name: str | HubName, *, revision: str | None = None) -> list[WebFile]:
    """Return the files of a model on the hub, by a name as :func:`pull` takes it. Raises the errors of ``pull``."""
    wanted = name if isinstance(name, HubName) else HubName.parse(name)
    require_package()
    listing = list_files(wanted, revision)
    return [web_file(wanted, file, listing) for file in choose(wanted, listing.files, "on the hub").files]


def is_offline() -> bool:
    """Return whether the environment says that only the cache is to be used."""
    require_package()
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def files_at(url: str) -> list[WebFile]:
    """Return the files of a model at an address. Raises :class:`HubNameError`."""
    return web_files(WebFile.parse(url))


__all__ = ["files_at", "is_offline", "remote_files"]
