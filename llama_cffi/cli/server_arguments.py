"""The arguments of ``llama-cffi serve``: those of llama-server among its own, variables, and a file of settings."""

from __future__ import annotations

import configparser
import difflib
import importlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from llama_cffi.cli import arguments
from llama_cffi.cli.server_flags import BY_NAME, FLAGS, Flag
from llama_cffi.cli.wording import describe

CONFIG = "--config"
_META = "llama_cffi.taken"
_TRUTH = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


@dataclass
class Taken:
    """What was said with flags of llama-server that are no options of the command."""

    fields: dict[str, Any] = field(default_factory=dict)
    """Defaults of fields of requests."""
    notes: list[str] = field(default_factory=list)
    """What has no effect, and why."""
    given: list[tuple[Flag, list[str]]] = field(default_factory=list)
    """The flags of the command line with their values, in their order."""
    elsewhere: list[tuple[Flag, list[str]]] = field(default_factory=list)
    """Those of variables and of a file, which yield to them."""

    def take(self, name: str, flag: Flag, values: list[str]) -> None:
        """Take a flag with its values; ``typer.BadParameter`` for one that cannot be had."""
        if flag.kind == "refused":
            raise typer.BadParameter(f"is not taken here: {flag.word}", param_hint=name)
        if flag.kind == "ignored":
            self.notes.append(f"{name} has no effect: {flag.word}")
            return
        try:
            found = flag.value if not values else _read(flag, values[0])
        except (OSError, ValueError) as error:
            raise typer.BadParameter(describe(error), param_hint=name) from None
        self._set(flag.word, found)

    def _set(self, name: str, value: Any) -> None:
        if name == "reasoning":
            name, value = "chat_template_kwargs", value
        if name == "chat_template_kwargs":
            self.fields[name] = {**self.fields.get(name, {}), **value}
        elif name in _REPEATED:
            self.fields[name] = [*self.fields.get(name, ()), *value]
        else:
            self.fields[name] = value


class ServeCommand(TyperCommand):
    """A command of typer that knows every flag of llama-server."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        taken = ctx.meta[_META] = Taken()
        left, others, config = _split(args)
        settings = _read_config(Path(config)) if config is not None else {}
        given = {flag.word for _, flag, _ in others if flag.kind == "field"}
        for name, flag, values in _from_variables():
            if flag.word not in given:
                taken.take(name, flag, values)
                taken.elsewhere.append((flag, values))
                given.add(flag.word)
        first = Taken()
        defaults = self._config(settings, first)
        taken.notes += first.notes
        taken.elsewhere = [*first.elsewhere, *taken.elsewhere]
        taken.given = [(flag, values) for _, flag, values in others]
        for name, value in first.fields.items():
            if name not in given:
                taken.fields[name] = value
        for name, flag, values in others:
            taken.take(name, flag, values)
        if defaults:
            ctx.default_map = {**(ctx.default_map or {}), **defaults}
        rest: list[str] = super().parse_args(ctx, left)
        return rest

    def _config(self, settings: Mapping[str, Any], taken: Taken) -> dict[str, Any]:
        """Return the values of a file by the names of the command's parameters; those of other flags are taken."""
        spelled = spellings(self)
        found: dict[str, Any] = {}
        for key, value in settings.items():
            name = flag_of(key, spelled, CONFIG)
            if name in spelled:
                param, positive = spelled[name]
                found[str(param.name)] = _own_value(key, value, param, positive)
                continue
            flag = BY_NAME[name]
            values = value if isinstance(value, list) else [value]
            if not flag.n_values:
                if truth(key, value, CONFIG):
                    taken.take(name, flag, [])
                    taken.elsewhere.append((flag, []))
                continue
            for one in values:
                text = json.dumps(one) if isinstance(one, (dict, bool)) else str(one)
                taken.take(name, flag, [text])
                taken.elsewhere.append((flag, [text]))
        return found


def spellings(command: TyperCommand) -> dict[str, tuple[Any, bool]]:
    """Return the options of a command by their spellings, each with whether it is what the spelling says."""
    found: dict[str, tuple[Any, bool]] = {}
    for param in command.params:
        found.update((one, (param, True)) for one in param.opts)
        found.update((one, (param, False)) for one in param.secondary_opts)
    return found


def flag_of(key: str, spelled: Mapping[str, Any], place: str) -> str:
    """Return the flag that a setting of a file means; ``typer.BadParameter`` for none."""
    name = next((one for one in (f"--{key}", f"-{key}") if one in spelled or one in BY_NAME), None)
    name = name or f"--{key.replace('_', '-')}"
    if name == CONFIG or (name not in spelled and name not in BY_NAME):
        near = difflib.get_close_matches(name, list(spelled), 1) or difflib.get_close_matches(name, BY_NAME, 1)
        hint = f"; did you mean {near[0].lstrip('-')}?" if near else ""
        raise typer.BadParameter(f"there is no setting {key!r}{hint}", param_hint=place)
    return name


def taken_by(ctx: Any) -> Taken:
    """Return what a command was told with flags of llama-server."""
    found: Taken = ctx.meta[_META]
    return found


def _split(args: list[str]) -> tuple[list[str], list[tuple[str, Flag, list[str]]], str | None]:
    """Return the command's own arguments, the other flags with their values, and the file of settings."""
    left: list[str] = []
    others: list[tuple[str, Flag, list[str]]] = []
    config = os.environ.get("LLAMA_CFFI_CONFIG") or None
    i = 0
    while i < len(args):
        name, equals, value = args[i].partition("=") if args[i].startswith("-") else (args[i], "", "")
        if name == "--":
            return [*left, *args[i:]], others, config
        flag = BY_NAME.get(name)
        n_values = 1 if name == CONFIG else flag.n_values if flag is not None else 0
        n_more = max(0, n_values - bool(equals))
        values = [value] * bool(equals) + args[i + 1 : i + 1 + n_more]
        if name == CONFIG or (flag is not None and flag.kind != "own"):
            if len(values) < n_values and (flag is None or flag.kind != "refused"):
                raise typer.BadParameter("needs a value", param_hint=name)
            if flag is None:
                config = values[0]
            else:
                others.append((name, flag, values))
        else:
            left += args[i : i + 1 + n_more]
        i += 1 + n_more
    return left, others, config


def _from_variables() -> list[tuple[str, Flag, list[str]]]:
    found = []
    for flag in FLAGS:
        value = os.environ.get(flag.env) if flag.env else None
        if value:
            found.append((flag.env, flag, [value]))
    return found


# -- values


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _object(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(found, (dict, bool)):
        raise ValueError("must be a JSON object")
    return found


def _file(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: read(arguments.read_text(Path(text)))


def _reasoning(text: str) -> dict[str, bool]:
    if text not in ("on", "off", "auto"):
        raise ValueError(f"must be on, off or auto, got {text!r}")
    return {} if text == "auto" else {"enable_thinking": text == "on"}


def _biases(text: str) -> list[list[Any]]:
    return [[token, False if bias == float("-inf") else bias] for token, bias in arguments.logit_bias([text]).items()]


_REPEATED = ("dry_sequence_breakers", "stop", "logit_bias")
_READERS: Mapping[str, Callable[[str], Any]] = {
    "--dry-sequence-breaker": lambda text: [] if text == "none" else [arguments.unescape(text)],
    "--samplers": lambda text: [one.strip().replace("-", "_") for one in text.split(";") if one.strip()],
    "--sampler-seq": str,
    "--logit-bias": _biases,
    "--reverse-prompt": lambda text: [text],
    "--grammar": str,
    "--grammar-file": _file(str),
    "--json-schema": _object,
    "--json-schema-file": _file(_object),
    "--chat-template-kwargs": _object,
    "--reasoning-format": str,
    "--reasoning": _reasoning,
    "--reasoning-effort": str,
}
"""How the value of a flag is read that is no number."""


def _read(flag: Flag, text: str) -> Any:
    return _READERS.get(flag.name, _number)(text)


# -- the file


def _read_config(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file, or of lines ``name = value`` in a file of another name."""
    try:
        text = arguments.read_text(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(describe(error), param_hint=CONFIG) from None
    if path.suffix == ".toml":
        return _toml(text, path)
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(f"[serve]\n{text}" if not text.lstrip().startswith("[") else text)
    except configparser.Error as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint=CONFIG) from None
    return {key: value for section in parser.sections() for key, value in parser[section].items()}


def _toml(text: str, path: Path) -> dict[str, Any]:
    try:
        tomllib: Any = importlib.import_module("tomllib")
    except ModuleNotFoundError:
        raise typer.BadParameter("TOML needs Python 3.11; lines NAME = VALUE in a file x.ini do not",
                                 param_hint=CONFIG) from None  # fmt: skip
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint=CONFIG) from None
    tables = [key for key, value in found.items() if isinstance(value, dict) and f"--{key}" not in BY_NAME]
    if tables:
        raise typer.BadParameter(f"{path}: there is no table [{tables[0]}], all settings are at the top",
                                 param_hint=CONFIG)  # fmt: skip
    return found


def truth(key: str, value: Any, place: str) -> bool:
    """Return what a setting of yes or no says; ``typer.BadParameter`` for another word."""
    found = value if isinstance(value, bool) else _TRUTH.get(str(value).lower())
    if found is None:
        raise typer.BadParameter(f"{key} must be true or false, got {value!r}", param_hint=place)
    return found


def _own_value(key: str, value: Any, param: Any, positive: bool) -> Any:
    if getattr(param, "is_flag", False):
        return truth(key, value, CONFIG) is positive
    if param.multiple:
        return [str(one) for one in value] if isinstance(value, list) else [str(value)]
    if param.nargs != 1:
        return value if isinstance(value, list) else str(value).split()
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, (bool, dict)):
        raise typer.BadParameter(f"{key} must be a text or a number, got {value!r}", param_hint=CONFIG)
    return str(value)


__all__ = ["CONFIG", "ServeCommand", "Taken", "flag_of", "spellings", "taken_by", "truth"]
