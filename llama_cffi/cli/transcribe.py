"""``llama-cffi transcribe``: the text of files with sound."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import llama_cffi
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import load, projector_source
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import PLACEMENT, Placement
from llama_cffi.cli.sampling import seed_of

if TYPE_CHECKING:
    from llama_cffi import Completion


@console.command
@takes(ModelChoice, Placement)
def transcribe(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files with sound: WAV, MP3 or FLAC.")],
    prompt: Annotated[
        str, options.option("-p", "--prompt", metavar="TEXT", help="What to ask for instead of the text of the sound.")
    ] = "",
    language: Annotated[
        str, options.option("-l", "--language", metavar="NAME", help="The language that is spoken, such as de.")
    ] = "",
    n_predict: Annotated[
        int,
        options.option(
            "-n", "--n-predict", "--predict", metavar="N", min=-1, env="N_PREDICT",
            help="The most tokens of a text; -1 for no limit.",
        ),
    ] = -1,
    template: options.ChatTemplateFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    choice: ModelChoice = MODEL,
    mmproj: options.Mmproj = "auto",
    placement: Placement = PLACEMENT,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    temperature: Annotated[float, options.temperature(True)] = 0.0,
    seed: options.Seed = -1,
) -> None:  # fmt: skip
    """Write down what is said in sound files.

    Each line is the text of one file; with --json, each line is an object. The model needs a projector for sound, which
    is looked for in its folder. Several files are computed at the same time.
    """
    from llama_cffi.prompt.transcription import transcription_messages

    sounds = [llama_cffi.Audio(path) for path in files]
    name = choice.name()
    llm = load(
        name,
        mmproj=projector_source(name, mmproj),
        n_ctx=ctx_size,
        n_threads=arguments.positive(threads),
        rpc=arguments.rpc(rpc),
        isolate=isolate,
        model_options=placement.options(),
    )
    with llm:
        source = arguments.read_text(template) if template is not None else llm.model.chat_template()
        said = [transcription_messages(one, prompt=prompt, language=language, template=source) for one in sounds]
        # All of them are asked for before the first is read: they are computed together.
        streams = [
            llm.stream_chat(
                messages,
                chat_template=None if template is None else source,
                max_tokens=n_predict if n_predict >= 0 else None,
                temperature=max(temperature, 0.0),
                seed=seed_of(seed),
            )
            for messages in said
        ]
        for file, stream in zip(files, streams, strict=True):
            reply = stream.result()
            if as_json:
                console.print_json(_report(file, reply))
            else:
                print(_on_a_line(reply.text))


def _report(file: Path, reply: Completion) -> dict[str, Any]:
    return {
        "file": str(file),
        "text": reply.text,
        "finish_reason": str(reply.finish_reason),
        "prompt_tokens": reply.usage.prompt_tokens,
        "completion_tokens": reply.usage.completion_tokens,
    }


def _on_a_line(text: str) -> str:
    line = " ".join(text.split())
    return console.printable(line) if sys.stdout.isatty() else line
