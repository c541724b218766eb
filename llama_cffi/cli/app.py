"""The typer application. Imports neither numpy nor the extension: commands do that when they run."""

from __future__ import annotations

import os
from typing import Annotated

import typer

import llama_cffi
from llama_cffi.cli.batch import batch
from llama_cffi.cli.bench import bench
from llama_cffi.cli.chat import chat
from llama_cffi.cli.completion import VARIABLE, completion, know_shells
from llama_cffi.cli.doctor import doctor
from llama_cffi.cli.embed import embed
from llama_cffi.cli.generate import generate
from llama_cffi.cli.info import info
from llama_cffi.cli.models import list_models, pull, rm
from llama_cffi.cli.perplexity import perplexity
from llama_cffi.cli.quantize import quantize
from llama_cffi.cli.rerank import rerank
from llama_cffi.cli.rpc_server import rpc_server
from llama_cffi.cli.serve import serve
from llama_cffi.cli.server_arguments import ServeCommand
from llama_cffi.cli.speak import speak
from llama_cffi.cli.tokenize import tokenize
from llama_cffi.cli.transcribe import transcribe

app = typer.Typer(
    name="llama-cffi",
    help="Run GGUF models with llama.cpp.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # with this many options, panels leave the help texts no room
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llama-cffi {llama_cffi.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run GGUF models with llama.cpp."""


app.command()(generate)
app.command()(chat)
app.command(cls=ServeCommand, context_settings={"help_option_names": ["-h", "--help", "--usage"]})(serve)
app.command("rpc-server")(rpc_server)
app.command()(batch)
app.command()(bench)
app.command()(perplexity)
app.command()(quantize)
app.command()(embed)
app.command()(rerank)
app.command()(transcribe)
app.command()(speak)
app.command()(tokenize)
app.command()(pull)
app.command("list")(list_models)
app.command()(rm)
app.command()(info)
app.command()(doctor)
app.command()(completion)

if VARIABLE in os.environ:
    know_shells()
