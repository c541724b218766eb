"""``llama-cffi serve`` with processes for its models: several, or one that may sleep."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llama_cffi.cli import console
from llama_cffi.cli.loading import file_on_disk
from llama_cffi.cli.model_arguments import of_command
from llama_cffi.cli.model_catalog import adapter_names, catalog

if TYPE_CHECKING:
    from llama_cffi.server.guard import Guard
    from llama_cffi.server.router.managed import Entry
    from llama_cffi.server.router.pool import Pool
    from llama_cffi.server.settings import Settings

PROGRAM = "llama_cffi.cli.model_process"
_NOT_PASSED_ON = ("LLAMA_ARG_", "LLAMA_API_KEY", "LLAMA_CFFI_CONFIG")
"""Variables that the parent has read: what they say for a model is among its arguments."""
_WAIT_MORE = 10.0
"""Seconds that the parent gives a request beyond those that a model's process gives it, which has more to say."""
_OF_FILES = {
    "model": "a model beside these is a section of --models-preset with model = FILE",
    "hf_repo": "a model of the hub is a section [OWNER/REPO:QUANT] of --models-preset",
    "alias": "each model has the name of its file or section; alias = NAMES in its section adds names",
    "tags": "tags = WORDS stands in the section of a model",
    "lora": "an adapter is for one model: lora = FILE stands in its section",
    "control_vector": "a control vector is for one model: control-vector = FILE stands in its section",
    "model_draft": "a draft model is for one model: model-draft = FILE stands in its section",
}
"""What cannot be said of all models at once, and what to do instead."""


@dataclass(frozen=True)
class Several:
    """What the command was told about processes of models."""

    folder: Path | None
    preset: Path | None
    hub: bool
    max_models: int
    autoload: bool
    memory_limit: int | None
    """MiB."""
    sleep_seconds: float | None
    queue_timeout: float

    @property
    def many(self) -> bool:
        """Whether there are several models."""
        return self.folder is not None or self.preset is not None or self.hub

    @property
    def used(self) -> bool:
        """Whether models have processes of their own."""
        return self.many or self.sleep_seconds is not None


def check_together(ctx: Any, several: Several) -> None:
    """Raise ``typer.BadParameter`` for options that make no sense together."""
    if several.used and not hasattr(socket, "AF_UNIX"):
        raise typer.BadParameter("models with processes of their own need socket files, which this system has not")
    if several.memory_limit is not None and ctx.params.get("split_mode") not in (None, "layer"):
        raise typer.BadParameter(
            "the memory of a model is only known for --split-mode layer", param_hint=_flag(ctx, "memory_limit")
        )
    if several.many:
        for name, instead in _OF_FILES.items():
            if _was_given(ctx, name):
                raise typer.BadParameter(f"there are several models: {instead}", param_hint=_flag(ctx, name))
        return
    for name in ("models_max", "models_autoload"):
        if _was_given(ctx, name, ("COMMANDLINE",)):
            raise typer.BadParameter(
                "there is one model; --models-dir, --models-preset and --models-hub serve several",
                param_hint=_flag(ctx, name),
            )
    if several.memory_limit is not None and not several.used:
        raise typer.BadParameter(
            "it is checked before the process of a model loads it: with several models, or with "
            "--sleep-idle-seconds", param_hint=_flag(ctx, "memory_limit"),
        )  # fmt: skip


def make_pool(ctx: Any, several: Several, settings: Settings, file: str | None) -> tuple[Pool, Guard, str]:
    """Return the models of the command, none of which is loaded, their application, and words for them.

    ``file`` is that of an only one.
    """
    from llama_cffi.server.router.app import make_router
    from llama_cffi.server.router.pool import Pool, PoolOptions
    from llama_cffi.server.router.process import Command

    entries: Sequence[Entry]
    if file is None:
        entries, notes = catalog(ctx, several.folder, several.preset, several.hub)
        for one in notes:
            console.note(one)
    else:
        entries = [_only(ctx, file, settings)]
    environment = {name: text for name, text in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
    options = PoolOptions(
        max_models=several.max_models,
        autoload=several.autoload,
        sleep_seconds=several.sleep_seconds,
        memory_limit=None if several.memory_limit is None else several.memory_limit << 20,
        wait_seconds=several.queue_timeout,
        only=file is not None,
    )
    patient = replace(settings, request_timeout=settings.request_timeout + several.queue_timeout + _WAIT_MORE)
    pool = Pool(entries, patient, Command((sys.executable, "-m", PROGRAM), environment), options)

    def read_entries() -> Sequence[Entry]:
        try:
            return catalog(ctx, several.folder, several.preset, several.hub)[0]
        except typer.BadParameter as error:
            raise ValueError(error.format_message()) from None

    if several.many:
        pool.read_entries = read_entries
    return pool, make_router(pool), entries[0].id if options.only else f"{len(entries)} models"


def _only(ctx: Any, file: str, settings: Settings) -> Entry:
    from llama_cffi.server.router.managed import Entry

    created = int(file_on_disk(file).stat().st_mtime)
    far, near = of_command(ctx)
    names = settings.names or (Path(file).stem,)
    given = [text for one in {**far, **near}.values() for text in one]
    adapters = adapter_names(ctx.params["lora"] or ())
    return Entry(names[0], ("--model", file, *given), "command", created, names[1:], settings.tags, adapters)


def _was_given(ctx: Any, name: str, sources: tuple[str, ...] = ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in sources


def _flag(ctx: Any, name: str) -> str:
    param = next(one for one in ctx.command.params if one.name == name)
    flag: str = next(one for one in param.opts if one.startswith("--"))
    return flag


__all__ = ["PROGRAM", "Several", "check_together", "make_pool"]
