"""Loading a model for a command: the demo model by default, and a percentage while a person waits."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

import llama_cffi
from llama_cffi._util.progress import Bar
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.adapters import additions
from llama_cffi.cli.placement import ContextMemory, Placement

if TYPE_CHECKING:
    from llama_cffi.hub.web import WebFile

HUB = "hf:"
"""How the name of a model on the hub begins where a file could stand."""
_SPEC_TYPE = "--spec-type"
_PATIENCE = 0.5
"""Seconds of loading after which the percentage appears."""


def load(path: Path | None, *, context: ContextMemory | None = None, **settings: Any) -> llama_cffi.Llama:
    """Open the model, which may be named as hf:owner/repo:Q4_K_M, or the demo model with a line that says so.

    `settings` are those of `Llama`.
    """
    file = model_file(path)
    if context is not None:
        context.add_to(settings, file)
    progress = Percentage() if sys.stderr.isatty() else None
    try:
        return llama_cffi.Llama(file, progress=progress, **settings)
    finally:
        if progress is not None:
            progress.clear()


def projector_source(model: Path | None, mmproj: str | None, *, wanted: bool = False) -> str | Path | None:
    """What `Llama(mmproj=)` takes for ``--mmproj``: ``auto`` by default where it is ``wanted``.

    The projector of a model that is named as on the hub is fetched from there. Raises the errors of `pull_projector`.
    """
    if mmproj is None:
        return projector_source(model, "auto") if wanted else None
    if mmproj != "auto":
        return Path(_file(mmproj))
    name = "" if model is None else str(model)
    if not name.startswith(HUB):
        return mmproj
    from llama_cffi.hub import pull_projector

    with Bar("fetching") as bar:
        return pull_projector(name.removeprefix(HUB), progress=bar)


def read_media(
    images: Sequence[Path] | None, sounds: Sequence[Path] | None
) -> list[llama_cffi.Image | llama_cffi.Audio]:
    """Return the images and sounds of ``--image`` and ``--audio``; raises :class:`MediaError`."""
    return [
        *(llama_cffi.Image(path) for path in images or ()),
        *(llama_cffi.Audio(path) for path in sounds or ()),
    ]


def draft_source(path: Path | None, kind: options.DraftType | None) -> str | Path | llama_cffi.DraftHeads | None:
    """What `Llama(draft=)` takes for ``--model-draft`` and ``--spec-type``; a file is looked at, but not loaded.

    Raises the errors of :class:`GGUFFile`, ``typer.BadParameter`` for wrong usage.
    """
    if kind is None and path is None:
        return None
    if kind == "ngram-simple":
        if path is not None:
            raise typer.BadParameter("the text itself drafts; --model-draft is for draft-simple", param_hint=_SPEC_TYPE)
        return "lookup"
    if kind == "none":
        return None
    if kind == "draft-mtp" and path is None:
        return llama_cffi.DraftHeads()
    if path is None:
        raise typer.BadParameter("there is no --model-draft for it", param_hint=_SPEC_TYPE)
    file = Path(_file(str(path)))
    architecture = llama_cffi.GGUFFile(file).architecture
    if kind is not None and (kind == "draft-eagle3") != (architecture == "eagle3"):
        raise typer.BadParameter(f"{file.name} is an {architecture} model", param_hint=_SPEC_TYPE)
    return llama_cffi.DraftHeads(model=file) if kind == "draft-mtp" else file


def load_embedder(
    path: Path | None,
    *,
    lora: Sequence[str] | None,
    placement: Placement,
    rpc: str | None,
    isolate: bool | None,
    n_ctx: int | Literal["auto"] | None,
    n_batch: int,
    n_ubatch: int,
    n_threads: int | None,
) -> llama_cffi.Llama:
    """Open the model of a command that embeds, with its adapters; the arguments are options as they were given."""
    added = additions(lora, None, None)
    threads = arguments.positive(n_threads)
    llm = load(
        path,
        n_ctx=n_ctx,
        n_batch=n_batch,
        n_ubatch=min(n_ubatch, n_batch),
        n_threads=threads,
        n_threads_batch=threads,
        rpc=arguments.rpc(rpc),
        isolate=isolate,
        model_options=placement.options(),
    )
    try:
        added.apply(llm)
    except BaseException:
        llm.close()
        raise
    return llm


def load_vocabulary(path: Path | None) -> llama_cffi.Model:
    """Open only the vocabulary of the model, or of the demo model with a line that says so."""
    return llama_cffi.Model(model_file(path), llama_cffi.ModelOptions(vocab_only=True))


def model_file(path: Path | None) -> str:
    """Return the model's file, fetched if it is named as on the hub, or the demo model's with a line that says so."""
    return _file(str(path)) if path is not None else _demo()


def _file(name: str) -> str:
    if (address := web_address(name)) is not None:
        from llama_cffi.hub import pull_address

        with Bar("fetching") as bar:
            return str(pull_address(address, progress=bar))
    if not name.startswith(HUB):
        return name
    from llama_cffi.hub import pull

    with Bar("fetching") as bar:
        return str(pull(name.removeprefix(HUB), progress=bar))


def file_on_disk(model: str) -> Path:
    """Return the file of a model: itself, or the archive that a path leads into.

    Raises :class:`ModelFileError` for a path that is neither.
    """
    from llama_cffi.core.archive import ArchiveMember
    from llama_cffi.core.gguf import check_gguf_file

    member = None if Path(model).is_file() else ArchiveMember.of_path(model)
    if member is not None:
        return Path(member.archive)
    check_gguf_file(Path(model))
    return Path(model)


def remote_model(name: str) -> list[WebFile] | None:
    """Return the remote files of a model that is named as on the hub or by an address; None for one on this machine.

    A model of the hub is on this machine when only the cache is to be used. Raises the errors of `pull`.
    """
    if (address := web_address(name)) is not None:
        from llama_cffi.hub.headers import files_at

        return files_at(address)
    if not name.startswith(HUB):
        return None
    from llama_cffi.hub.headers import is_offline, remote_files

    if is_offline():
        return None
    return remote_files(name.removeprefix(HUB))


def web_address(name: str | Path) -> str | None:
    """Return the address that stands where a file could stand; None for a file. A path has lost one of its slashes."""
    found = re.fullmatch(r"(https?):/+(.*)", str(name), re.DOTALL | re.IGNORECASE)
    return f"{found[1]}://{found[2]}" if found else None


def _demo() -> str:
    from llama_cffi.runtime import demo_path

    console.note("no --model: using the demo model, a tiny writer of short stories")
    return demo_path()


class Percentage:
    """A progress callback that rewrites one line of standard error."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = -1

    def __call__(self, fraction: float) -> bool:
        percent = int(fraction * 100)
        if percent != self._shown and time.monotonic() - self._start > _PATIENCE:
            self._shown = percent
            print(f"\rloading {percent} %", end="", file=sys.stderr, flush=True)
        return True

    def clear(self) -> None:
        if self._shown >= 0:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
