"""``llama-cffi completion``: what a shell needs to complete commands, options and files."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.completion import get_completion_inspect_parameters, shell_complete

from llama_cffi.cli import console

PROGRAM = "llama-cffi"
VARIABLE = "_LLAMA_CFFI_COMPLETE"
"""What the script sets when it asks the program for completions."""

Shell = Literal["bash", "zsh", "fish", "powershell"]
SHELLS = ("bash", "zsh", "fish", "powershell")


@console.command
def completion(
    ctx: typer.Context,
    shell: Annotated[
        Shell | None,
        typer.Argument(metavar="SHELL", help="By default, the shell that the variable SHELL names."),
    ] = None,
) -> None:
    """Print a script that completes commands in a shell.

    \b
    in ~/.bashrc:  eval "$(llama-cffi completion bash)"
    in ~/.zshrc:   eval "$(llama-cffi completion zsh)"    (after compinit)
    for fish:      llama-cffi completion fish > ~/.config/fish/completions/llama-cffi.fish
    """
    known = shell or Path(os.environ.get("SHELL", "")).name
    if known not in SHELLS:
        raise typer.BadParameter(f"give one of {', '.join(SHELLS)}", param_hint="SHELL")
    know_shells()
    command: Any = ctx.find_root().command
    with redirect_stdout(io.StringIO()) as script:
        shell_complete(command, {}, PROGRAM, VARIABLE, f"source_{known}")
    print(script.getvalue().strip())  # zsh reads "#compdef" of a file only in its first line


def know_shells() -> None:
    """Let typer answer what the scripts ask, which it does only when it knows the shells."""
    get_completion_inspect_parameters()


__all__ = ["PROGRAM", "SHELLS", "VARIABLE", "completion", "know_shells"]
