"""Which models there are for a server of several: in a folder, in a preset, and in the cache of the hub."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llama_cffi.cli import arguments
from llama_cffi.cli.arguments import scaled_file
from llama_cffi.cli.model_arguments import Settings, of_command, of_section
from llama_cffi.cli.server_arguments import truth
from llama_cffi.cli.wording import describe
from llama_cffi.errors import HubNameError

if TYPE_CHECKING:
    from llama_cffi.server.router.managed import Entry, Source

DIR, PRESET = "--models-dir", "--models-preset"
_EVERY = "*"
_STARTUP, _STOP, _DEDUP, _VERSION = "load-on-startup", "stop-timeout", "dedup-cache-models", "version"
_MAX_ID = 256


@dataclass
class _Found:
    """A model before its preset is known."""

    source: Source
    settings: Settings
    created: int
    aliases: list[str] = field(default_factory=list)


def catalog(ctx: Any, folder: Path | None, preset: Path | None, hub: bool) -> tuple[list[Entry], list[str]]:
    """Return the models that a command serves, and notes about what has no effect.

    ``typer.BadParameter`` for a folder or a preset that cannot be used, OSError for a file that cannot be read.
    """
    from llama_cffi.server.router.managed import Entry

    sections = read_preset(preset) if preset is not None else {}
    found = {**(_in_folder(folder) if folder is not None else {}), **(_in_cache() if hub else {})}
    far, near = of_command(ctx)
    notes: list[str] = []
    common = _section(ctx, sections.pop(_EVERY, {}), f"{PRESET} [{_EVERY}]", notes)
    entries = []
    for name in [*found, *(one for one in sections if one not in found)]:
        place = f"{PRESET} [{name}]"
        own = _section(ctx, sections.get(name, {}), place, notes)
        base = found.get(name) or _of_preset(name, own.settings, place)
        _check_name(name, place)
        settings = {**far, **base.settings, **common.settings, **own.settings, **near}
        names = _texts(settings.pop("alias", []))
        for one in names:
            _check_name(one, place)
        tags = _texts(settings.pop("tags", []))
        given = [text for one in settings.values() for text in one]
        _check(ctx, given, place)
        entries.append(
            Entry(
                name, tuple(given), base.source, base.created,
                aliases=tuple(dict.fromkeys(one for one in (*names, *base.aliases) if one != name)), tags=tuple(tags),
                adapters=adapter_names(settings.get("lora", [])[1::2]),
                load_on_startup=own.startup if own.startup is not None else bool(common.startup),
                stop_timeout=own.stop if own.stop is not None else common.stop,
            )
        )  # fmt: skip
    if not entries:
        places = [str(one) for one in (folder, preset) if one is not None] + ["the cache of the hub"] * hub
        raise typer.BadParameter(f"there is no model in {' and '.join(places)}")
    _check_unique(entries)
    return _without_doubtful(entries), notes


def read_preset(path: Path) -> dict[str, dict[str, str]]:
    """Return the sections of a preset: lines ``name = value`` below lines ``[model]``, comments after ; and #.

    What precedes the first section is about the file.
    """
    try:
        text = arguments.read_text(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(describe(error), param_hint=PRESET) from None
    found: dict[str, dict[str, str]] = {}
    head: dict[str, str] = {}
    section = head
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in ";#":
            continue
        place = f"{path}, line {number}"
        if stripped.startswith("["):
            name = stripped[1:].partition("]")[0].strip()
            if "]" not in stripped or not name:
                raise typer.BadParameter(f"{place}: a section is [NAME], got {stripped[:80]!r}", param_hint=PRESET)
            if name in found:
                raise typer.BadParameter(f"{place}: there are two sections [{name}]", param_hint=PRESET)
            section = found[name] = {}
            continue
        key, equals, value = (part.strip() for part in stripped.partition("="))
        if not equals or not key:
            raise typer.BadParameter(f"{place}: a setting is NAME = VALUE, got {stripped[:80]!r}", param_hint=PRESET)
        if key in section:
            raise typer.BadParameter(f"{place}: {key} is set twice", param_hint=PRESET)
        section[key] = value
    for key in head:
        if key != _VERSION or head[key] != "1":
            raise typer.BadParameter(
                f"{path}: only version = 1 stands before the first section, got {key} = {head[key]}", param_hint=PRESET
            )
    return found


# -- a section


@dataclass
class _Section:
    settings: Settings
    startup: bool | None
    stop: float | None


def _section(ctx: Any, given: Mapping[str, str], place: str, notes: list[str]) -> _Section:
    section = dict(given)
    startup, stop = section.pop(_STARTUP, None), section.pop(_STOP, None)
    if section.pop(_DEDUP, None) is not None:
        notes.append(f"{place}: {_DEDUP} has no effect: a model of the preset and one of the cache are two")
    try:
        seconds = None if stop is None else float(stop)
    except ValueError:
        seconds = -1.0
    if seconds is not None and not 0 <= seconds < 1e6:
        raise typer.BadParameter(f"{_STOP} must be seconds, got {stop!r}", param_hint=place)
    settings, more = of_section(ctx.command, section, place)
    notes += more
    return _Section(settings, None if startup is None else truth(_STARTUP, startup, place), seconds)


def _of_preset(name: str, settings: Settings, place: str) -> _Found:
    """Return a model that a preset alone names."""
    from llama_cffi.hub import HubName

    if name == _EVERY:
        raise typer.BadParameter("is for all models", param_hint=place)
    file = settings.get("model")
    if file is not None:
        if not file[1].startswith(("hf:", "https://", "http://")) and not Path(file[1]).is_file():
            raise typer.BadParameter(f"there is no model file {file[1]}", param_hint=place)
        return _Found("preset", {}, _changed(Path(file[1])))
    if "hf_repo" in settings:
        return _Found("preset", {}, int(time.time()))
    try:
        HubName.parse(name)
    except HubNameError:
        raise typer.BadParameter(
            f"is neither in {DIR} nor a name on the hub, and has no model = FILE", param_hint=place
        ) from None
    return _Found("preset", {"hf_repo": ["--hf-repo", name]}, int(time.time()))


def _check(ctx: Any, given: list[str], place: str) -> None:
    """Raise what the model's process would say of its arguments."""
    try:
        ctx.command.make_context("serve", list(given))
    except typer.BadParameter as error:
        raise typer.BadParameter(error.format_message(), param_hint=place) from None


# -- places


def _in_folder(folder: Path) -> dict[str, _Found]:
    """Return the models in a folder: its files, and those of its folders, which may be in parts."""
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}", param_hint=DIR)
    found = _models_of(folder, "")
    for inner in sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")):
        models = _models_of(inner, f"{inner.name}/")
        if len(models) == 1:
            models = {inner.name: next(iter(models.values()))}
        for name, one in models.items():
            if name in found:
                raise typer.BadParameter(f"{folder} has two models {name}", param_hint=DIR)
            found[name] = one
    return found


def _models_of(folder: Path, prefix: str) -> dict[str, _Found]:
    from llama_cffi.hub.choice import candidates

    files = [one.name for one in folder.iterdir() if one.is_file() and not one.name.startswith(".")]
    found = {}
    for one in candidates(name for name in files if not name.lower().startswith("mmproj")):
        if one.missing:
            raise typer.BadParameter(f"{folder / one.first} lacks {', '.join(one.missing)}", param_hint=DIR)
        file = folder / one.first
        stem = file.name[: -len(".gguf")]
        name = prefix + (stem.rpartition("-of-")[0].rpartition("-")[0] if len(one.files) > 1 else stem)
        found[name] = _Found("models_dir", {"model": ["--model", str(file)]}, _changed(file))
    return found


def _in_cache() -> dict[str, _Found]:
    """Return the models in the cache of the hub; the name of a repository with one of them means that."""
    from llama_cffi.hub import cached

    models = {one.name: one for one in cached() if not one.missing and "mmproj" not in one.name.lower()}
    repositories: dict[str, list[str]] = {}
    for name in models:
        repositories.setdefault("/".join(name.split("/")[:2]), []).append(name)
    found = {}
    for repository, names in repositories.items():
        for name in names:
            file = models[name].files[0]
            aliases = [repository] if len(names) == 1 else []
            found[name] = _Found("hub", {"model": ["--model", str(file)]}, _changed(file), aliases)
    return found


def _changed(file: Path) -> int:
    try:
        return int(file.stat().st_mtime)
    except OSError:
        return int(time.time())


def _texts(given: list[str]) -> list[str]:
    return [one for part in (given[1] if given else "").split(",") if (one := part.strip())]


def _check_name(name: str, place: str) -> None:
    if len(name) > _MAX_ID or not name.isprintable():
        raise typer.BadParameter(f"a name has at most {_MAX_ID} printable characters", param_hint=place)


def _check_unique(entries: list[Entry]) -> None:
    seen: dict[str, str] = {}
    for one in entries:
        for name in (one.id, *one.aliases):
            if name in seen:
                raise typer.BadParameter(f"{name!r} is a name of both {seen[name]!r} and {one.id!r}")
            seen[name] = one.id


def adapter_names(files: Iterable[str]) -> tuple[str, ...]:
    """Return the names by which the adapters of ``--lora`` can be asked for."""
    return tuple(dict.fromkeys(scaled_file(one, "--lora")[0].stem for one in files))


def _without_doubtful(entries: list[Entry]) -> list[Entry]:
    """Return the models without names of adapters that mean something else, too."""
    count = Counter(name for one in entries for name in (one.id, *one.aliases, *one.adapters))
    return [replace(one, adapters=tuple(name for name in one.adapters if count[name] == 1)) for one in entries]


__all__ = ["adapter_names", "catalog", "read_preset"]
