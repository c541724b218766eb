"""Errors of the library in the words of the command line: flags for arguments, and one form for files."""

from __future__ import annotations

import errno
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from typer.models import OptionInfo

from llama_cffi.errors import LlamaCffiError

_PARAMETERS = {
    "chat_template": "template",
    "devices": "device",
    "dry_sequence_breakers": "dry_sequence_breaker",
    "dynatemp_exponent": "dynatemp_exp",
    "kv_overrides": "override_kv",
    "max_frames": "n_predict",
    "max_tokens": "n_predict",
    "mirostat_eta": "mirostat_lr",
    "mirostat_tau": "mirostat_ent",
    "n_batch": "batch_size",
    "n_ctx": "ctx_size",
    "n_threads": "threads",
    "n_threads_batch": "threads_batch",
    "n_ubatch": "ubatch_size",
    "priority": "prio",
    "priority_batch": "prio_batch",
    "sampler_order": "samplers",
    "typical_p": "typical",
}
"""Arguments of the library, and the parameters of the commands that set them under another name."""


def describe(error: BaseException, flags: Mapping[str, str] | None = None) -> str:
    """Return what a person is told of an error; ``flags`` are those of the command, by the arguments that they set."""
    if isinstance(error, LlamaCffiError):
        said = str(error)
        if not said.startswith(error.message):
            return said
        # What llama.cpp logged has words of its own.
        return in_flags(error.message, flags or {}) + said[len(error.message) :]
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return _of_file(error)
    return in_flags(str(error), flags or {})


def flags_of(command: Callable[..., Any]) -> dict[str, str]:
    """Return the flags of a command, by the names of the arguments that they set in the library."""
    hints = get_type_hints(command, include_extras=True)
    found = {}
    for name in inspect.signature(command).parameters:
        # Of the names inside Annotated, typer keeps the first as the default.
        options = [one for one in getattr(hints.get(name), "__metadata__", ()) if isinstance(one, OptionInfo)]
        names = [flag for one in options for flag in (one.default, *(one.param_decls or ()))]
        flags = [flag for flag in names if isinstance(flag, str) and flag.startswith("--")]
        if flags:
            found[name] = flags[0].partition("/")[0]
    return found | {ours: found[theirs] for ours, theirs in _PARAMETERS.items() if theirs in found}


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """Return a message with flags for the arguments that it names.

    A name is meant as an argument at the beginning of the message, in front of ``=``, and anywhere when it has an
    underscore, which no word of a sentence has.
    """

    def flag(found: re.Match[str]) -> str:
        name, sign, value = found["name"], found["sign"] or "", found["value"] or ""
        if name not in flags or not (sign or "_" in name or found.start() == 0):
            return found[0]
        return f"{flags[name]} {value}" if value else flags[name]

    pattern = r"""(?<![\w.'"/-])(?P<name>[a-z][a-z0-9_]*)(?:(?P<sign>=)(?P<value>[\w.'"-][^\s,;)]*)?|(?![\w'"/.-]))"""
    return re.sub(pattern, flag, message)


def _of_file(error: OSError) -> str:
    name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else str(error.filename)
    if error.errno == errno.ENOENT:
        folder = Path(name).parent
        return f"no such file: {name}" if folder.is_dir() else f"no such folder: {folder}"
    reason = str(error.strerror)
    return f"{reason[:1].lower()}{reason[1:]}: {name}"


__all__ = ["describe", "flags_of", "in_flags"]
