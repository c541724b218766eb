"""What the processes of several models are told: the flags of the command, and those of a preset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from llama_cffi.cli.server_arguments import Taken, flag_of, spellings, taken_by, truth
from llama_cffi.cli.server_flags import BY_NAME, FLAGS, Flag

Settings = dict[str, list[str]]
"""Arguments by what they set, so that those of a nearer place replace those of another."""

SERVERS_OWN = frozenset(
    (
        *("ctx", "config", "host", "port", "reuse_port", "socket_mode", "api_prefix", "api_key", "api_key_file"),
        *("ssl_key_file", "ssl_cert_file", "cors_origins", "allowed_hosts", "strict_model", "public_metrics"),
        *("access_log", "log_file", "log_jsonl", "hf_token", "offline", "models_dir", "models_preset", "models_hub"),
        *("models_max", "models_autoload", "memory_limit", "sleep_idle_seconds"),
    )
)
"""Options that are the parent's; models have none of them."""
OF_ONE_MODEL = frozenset(("model", "hf_repo", "hf_file", "alias", "tags"))
"""Options that say which model it is."""


def of_command(ctx: Any) -> tuple[Settings, Settings]:
    """Return what a command was told for its models: in variables or a file, and on the command line."""
    far: Settings = {}
    near: Settings = {}
    for param in ctx.command.params:
        if param.name in SERVERS_OWN | OF_ONE_MODEL:
            continue
        source = ctx.get_parameter_source(param.name)
        if source is not None and source.name != "DEFAULT" and param.name in ctx.params:
            place = near if source.name == "COMMANDLINE" else far
            place[param.name] = _spelled(param, ctx.params[param.name])
    taken = taken_by(ctx)
    return {**far, **_of_flags(taken.elsewhere)}, {**near, **_of_flags(taken.given)}


def of_section(command: Any, section: Mapping[str, str], place: str) -> tuple[Settings, list[str]]:
    """Return the settings of a preset's section, and notes about those without an effect.

    ``typer.BadParameter`` for a setting that there is not, or whose value cannot be had.
    """
    spelled = spellings(command)
    variables = {str(param.envvar): param for param in command.params if getattr(param, "envvar", None)}
    others = {flag.env: flag for flag in FLAGS if flag.env}
    found: Settings = {}
    notes: list[str] = []
    for key, value in section.items():
        if key in variables:
            param, positive = variables[key], True
        elif key in others:
            _merge(found, others[key], [value], place)
            continue
        else:
            name = flag_of(key, spelled, place)
            if name not in spelled:
                flag = BY_NAME[name]
                if flag.n_values or truth(key, value, place):
                    _merge(found, flag, value.split(maxsplit=flag.n_values - 1) if flag.n_values else [], place)
                continue
            param, positive = spelled[name]
        if param.name in SERVERS_OWN:
            notes.append(f"{place}: {key} has no effect: it is the server's, and not a model's")
        elif getattr(param, "is_flag", False):
            found[param.name] = _spelled(param, truth(key, value, place) is positive)
        elif param.multiple:
            found[param.name] = _spelled(param, [one for part in value.split(",") if (one := part.strip())])
        else:
            found[param.name] = _spelled(param, value.split() if param.nargs != 1 else value)
    return found, notes


def _of_flags(flags: Iterable[tuple[Flag, Sequence[str]]]) -> Settings:
    found: Settings = {}
    for flag, values in flags:
        found.setdefault(_kind(flag), []).extend([flag.name, *values])
    return found


def _merge(found: Settings, flag: Flag, values: list[str], place: str) -> None:
    try:
        Taken().take(flag.name, flag, values)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{flag.name}: {error.message}", param_hint=place) from None
    found.setdefault(_kind(flag), []).extend([flag.name, *values])


def _kind(flag: Flag) -> str:
    return f"field {flag.word}" if flag.kind == "field" else flag.name


def _spelled(param: Any, value: Any) -> list[str]:
    """Return the arguments that give an option a value."""
    if getattr(param, "is_flag", False):
        names = param.opts if value else param.secondary_opts
        return [_long(names)] if names else []
    if value is None:
        return []
    name = _long(param.opts)
    if param.multiple:
        return [text for one in value for text in (name, str(one))]
    return [name, *map(str, value)] if param.nargs != 1 else [name, str(value)]


def _long(names: Sequence[str]) -> str:
    return next((one for one in names if one.startswith("--")), names[0])


__all__ = ["OF_ONE_MODEL", "SERVERS_OWN", "Settings", "of_command", "of_section"]
