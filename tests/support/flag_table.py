"""The tables in docs/serve-flags.md: ``python -m tests.support.flag_table`` writes them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import OptionInfo

from llama_cffi.cli.serve import serve
from llama_cffi.cli.server_flags import FLAGS, Kind

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "serve-flags.md"
NAMES = ("own", "field", "ignored", "refused")


def options() -> dict[str, tuple[tuple[str, ...], OptionInfo, Any]]:
    """The options of the command by the names of its parameters: spellings, what typer knows, default."""
    hints = get_type_hints(serve, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(serve).parameters.items():
        for one in getattr(hints[name], "__metadata__", ()):
            if isinstance(one, OptionInfo):
                # Of the names inside Annotated, typer keeps the first as the default.
                texts = [text for text in (one.default, *(one.param_decls or ())) if isinstance(text, str)]
                names = tuple(part.strip() for text in texts for part in text.split("/") if part.strip())
                found[name] = names, one, parameter.default
    return found


def own_table() -> str:
    """One line for each option of the command."""
    lines = ["| flag | variable | default | |\n", "|---|---|---|---|\n"]
    for names, option, default in options().values():
        values = f" {option.metavar}" if option.metavar else ""
        flags = ", ".join(f"`{name}`" for name in sorted(names, key=lambda name: (name.startswith("--"), len(name))))
        variable = f"`{option.envvar}`" if option.envvar else ""
        shown = option.show_default if isinstance(option.show_default, str) else _default(default)
        lines.append(f"| {flags}{_cell(values)} | {variable} | {_cell(shown)} | {_cell(option.help or '')} |\n")
    return "".join(lines)


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def flag_table(kind: Kind) -> str:
    """One line for each flag of llama-server with which the same is done."""
    title = {"own": "", "field": "default of the field", "ignored": "why", "refused": "instead"}[kind]
    lines = [f"| flag | {title} |\n", "|---|---|\n"]
    for flag in FLAGS:
        if flag.kind == kind:
            names = ", ".join(f"`{name}`" for name in flag.names)
            word = f"`{flag.word}`" if kind == "field" else _cell(flag.word)
            lines.append(f"| {names} | {word} |\n")
    return "".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def tables() -> dict[str, str]:
    """All tables by the name of their place in the document."""
    kinds = [kind for kind in get_args(Kind) if kind != "own"]
    return {"own": own_table(), **{kind: flag_table(kind) for kind in kinds}}


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"


def written(document: str, name: str) -> str:
    """A table as the document has it."""
    begin, end = _marks(name)
    return document.partition(begin)[2].partition(end)[0]


def main() -> None:
    """Write the tables into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, table in tables().items():
        begin, end = _marks(name)
        text = text.replace(begin + written(text, name) + end, begin + table + end)
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
