"""``llama-cffi pull | list | rm``: models from the Hugging Face hub, and those in the cache."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_cffi._util.progress import Bar
from llama_cffi.cli import console, options
from llama_cffi.cli.loading import HUB, web_address
from llama_cffi.cli.model_choice import HfToken, Offline

if TYPE_CHECKING:
    from llama_cffi.hub import CachedModel

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

    It is the cache of huggingface_hub: GGUF files that other programs downloaded are in the list too.
    """
    from llama_cffi.hub import cached

    models = cached()
    if as_json:
        console.print_json({"models": [_report(model) for model in models]})
    elif models:
        console.rows([(console.printable(model.name), _size(model)) for model in models])
    else:
        console.note("no models in the cache; llama-cffi pull fetches one")


@console.command
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{_FORMS}; the first means all of it.")],
    yes: Annotated[bool, options.option("-y", "--yes", help="Do not ask.")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Delete models from the cache, of every revision."""
    from llama_cffi.hub import cached, remove

    models = cached(name.removeprefix(HUB))
    if not models:
        console.fail(f"{console.one_line(name)} is not in the cache; llama-cffi list shows the cached models")
    console.rows([(console.printable(model.name), _size(model)) for model in models])
    if not yes and not typer.confirm("Delete?", err=True):
        raise typer.Exit(console.FAILURE)
    freed = remove(models)
    console.rows([("freed", console.size_text(freed))])


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
