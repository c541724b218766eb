"""``llama-cffi pull | list | rm``: models from the Hugging Face hub and from addresses, and those in the cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_cffi._util.progress import Bar
from llama_cffi.cli import console, options
from llama_cffi.cli.loading import HUB, web_address
from llama_cffi.cli.model_choice import HfToken, Offline

if TYPE_CHECKING:
    from llama_cffi.hub import CachedAddress, CachedModel

_FORMS = "OWNER/REPO, OWNER/REPO:Q4_K_M or OWNER/REPO/FILE.gguf"


@console.command
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{_FORMS}, or https://....")],
    revision: Annotated[
        str | None, options.option("--revision", metavar="NAME", help="A branch, tag or commit.")
    ] = None,
    token: HfToken = None,
    offline: Offline = False,
    recheck: Annotated[
        bool, options.option("--recheck", help="Check files in the cache too, and download damaged ones again.")
    ] = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:  # fmt: skip
    """Download a model from the Hugging Face hub or an address.

    Without a quantization it is Q4_K_M, if the repository has that. Files in the cache are not downloaded again.
    """
    from llama_cffi.hub import cached, pull_address
    from llama_cffi.hub import pull as fetch

    if web_address(name) is not None:
        from llama_cffi.hub.web import WebFile

        if revision is not None or recheck:
            raise typer.BadParameter("is for models of the hub", param_hint="--recheck" if recheck else "--revision")
        with Bar("fetching") as bar:
            path = pull_address(name, offline=offline, progress=bar)
        label, size = WebFile.parse(name).label, path.stat().st_size
        if as_json:
            console.print_json({"name": label, "size": size, "path": str(path)})
        else:
            console.rows([("name", label), ("size", console.size_text(size)), ("path", str(path))])
        return
    if token is not None:
        os.environ["HF_TOKEN"] = token
    name = name.removeprefix(HUB)
    with Bar("fetching") as bar:
        path = fetch(name, revision=revision, offline=offline, recheck=recheck, progress=bar)
    model = next((model for model in cached(name) if model.files[0] == path), None)
    if model is None:
        console.fail(f"{path} exists, but huggingface_hub cannot read the cache that contains it")
    if as_json:
        console.print_json(_report(model))
        return
    console.rows([("name", model.name), ("size", _size(model)), ("path", str(path))])


@console.command
def list_models(as_json: options.Json = False, verbose: options.Verbose = False) -> None:
    """List the models in the cache.

    Models of the Hugging Face hub are in the cache of huggingface_hub: GGUF files that other programs downloaded are in
    the list too. Models from addresses are in a cache of llama-cffi; unfinished downloads are in the list, too.
    """
    from llama_cffi.errors import UnsupportedError
    from llama_cffi.hub import cached, cached_addresses

    addresses = cached_addresses()
    try:
        models = cached()
    except UnsupportedError:  # without huggingface_hub there are no others
        if not addresses:
            raise
        models = []
    if as_json:
        console.print_json({"models": [*map(_report, models), *map(_address_report, addresses)]})
    elif models or addresses:
        rows = [(model.name, _size(model)) for model in models] + [(one.name, _address_size(one)) for one in addresses]
        console.rows([(console.printable(name), size) for name, size in rows])
    else:
        console.note("no models in the cache; llama-cffi pull fetches one")


@console.command
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{_FORMS}, or https://...; the first means all of it.")],
    yes: Annotated[bool, options.option("-y", "--yes", help="Do not ask.")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Delete models from the cache, of every revision.

    So is what is there of an unfinished download from an address. A process that uses a model keeps it; a model that is
    being downloaded is not deleted.
    """
    from llama_cffi.hub import cached, cached_addresses, remove, remove_addresses

    address = web_address(name)
    if address is not None or Path(name).is_absolute():
        addresses = cached_addresses(address or name)
        _confirm(name, [(one.name, _address_size(one)) for one in addresses], yes)
        freed = remove_addresses(addresses)
    else:
        models = cached(name.removeprefix(HUB))
        _confirm(name, [(model.name, _size(model)) for model in models], yes)
        freed = remove(models)
    console.rows([("freed", console.size_text(freed))])


def _confirm(name: str, found: list[tuple[str, str]], yes: bool) -> None:
    if not found:
        console.fail(f"{console.one_line(name)} is not in the cache; llama-cffi list shows the cached models")
    console.rows([(console.printable(one), size) for one, size in found])
    if not yes and not typer.confirm("Delete?", err=True):
        raise typer.Exit(console.FAILURE)


def _size(model: CachedModel) -> str:
    parts = f", {len(model.files)} files" if len(model.files) > 1 else ""
    missing = f", {len(model.missing)} missing" if model.missing else ""
    return f"{console.size_text(model.size)}{parts}{missing}"


def _report(model: CachedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "commit": model.commit,
        "files": [str(path) for path in model.files],
        "size": model.size,
        "missing": list(model.missing),
    }


def _address_size(model: CachedAddress) -> str:
    text = console.size_text(model.size)
    if model.missing:
        text += f" of {console.size_text(model.expected)}" if model.expected is not None else ""
        return f"{text}, download unfinished"
    parts = f", {len(model.files)} files" if len(model.files) > 1 else ""
    return f"{text}{parts}{', another version unfinished' if model.unfinished else ''}"


def _address_report(model: CachedAddress) -> dict[str, Any]:
    return {
        "name": model.name,
        "commit": None,
        "files": [str(path) for path in model.files],
        "size": model.size,
        "missing": list(model.missing),
        "unfinished": model.unfinished,
        "expected": model.expected,
    }
