"""Listing the files of a repository on the hub, and translating the errors of huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llama_cffi.errors import (
    HubConnectionError,
    HubNameError,
    HubNotFoundError,
    HubStorageError,
    UnsupportedError,
)
from llama_cffi.hub.name import HubName
from llama_cffi.hub.web import WebFile


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub announces it; ``sha256`` is None for one that is not in large file storage."""

    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit, by path."""

    commit: str
    files: dict[str, RemoteFile]


def require_package() -> None:
    """Raise UnsupportedError where huggingface_hub is not installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise UnsupportedError(
            "models by name need the package huggingface_hub: pip install 'llama-cffi[hub]'"
        ) from None


def list_files(name: HubName, revision: str | None) -> Listing:
    """Ask the hub. Raises HubNotFoundError and HubConnectionError."""
    from huggingface_hub import HfApi

    with translated(name, revision):
        info = HfApi().model_info(name.repo, revision=revision, files_metadata=True)
    files = {
        entry.rfilename: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else None)
        for entry in info.siblings or ()
        if entry.rfilename.isprintable()  # names are shown: no repository may steer the terminal
    }
    if not info.sha:
        raise HubConnectionError(f"{endpoint()} is not a model hub: it did not report the commit of {name.repo}")
    return Listing(info.sha, files)


def web_file(name: HubName, file: str, listing: Listing) -> WebFile:
    """Return a file of a repository as it is fetched over HTTP."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(name.repo, file, revision=listing.commit)
    headers = {key.title(): value for key, value in build_hf_headers().items()}
    return WebFile(url, headers, f"{name.repo}/{file}", listing.files[file].sha256)


@contextmanager
def translated(name: HubName, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into the errors of this package."""
    from huggingface_hub import errors

    # The package that speaks HTTP changed its name between releases; its errors have one base.
    transport: type[BaseException] = next(base for base in errors.HfHubHTTPError.__bases__ if base is not OSError)
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubNotFoundError(
            f"{name.repo} is open only to users who agreed to its terms on {endpoint()}: do so, "
            "and give a token with HF_TOKEN or `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubNotFoundError(
            f"there is no repository {name.repo} on {endpoint()}, or it is private and HF_TOKEN gives no access to it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubNotFoundError(f"{name.repo} has no revision {revision!r}") from error
    except errors.RemoteEntryNotFoundError as error:
        raise HubNotFoundError(f"{name.repo} no longer has the file that it listed: {error}") from error
    except errors.HFValidationError as error:
        raise HubNameError(f"{name}: {error}") from error
    except errors.HfHubHTTPError as error:
        raise HubConnectionError(f"{endpoint()} refused {name}: {error}") from error
    except (errors.LocalEntryNotFoundError, errors.FileMetadataError, transport, ConnectionError) as error:
        cause = error.__cause__ or error
        raise HubConnectionError(f"{name} could not be fetched from {endpoint()}: {cause}") from error
    except OSError as error:
        if error.errno is None:  # huggingface_hub's own finding about the length of what came
            raise HubConnectionError(f"{name} was not downloaded completely: {error}") from error
        raise HubStorageError(f"{name} could not be stored: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise HubConnectionError(f"{name} could not be fetched, or {endpoint()} is not a model hub: {error}") from error


def endpoint() -> str:
    """Return the address of the hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


__all__ = ["Listing", "RemoteFile", "endpoint", "list_files", "require_package", "translated", "web_file"]
