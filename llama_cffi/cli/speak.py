"""``llama-cffi speak``: a text read aloud, as a WAV file."""

from __future__ import annotations

import errno
import os
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
    from llama_cffi import SpeechStream

_USUAL = "the author's"
"""What a sampling parameter is by default: models that speak differ in it."""


@console.command
@takes(ModelChoice, Placement)
def speak(
    output: Annotated[
        Path, options.option("-o", "--output", metavar="FILE", help="The WAV file to write; - for standard output.")
    ],
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The text; standard input without one, or with -.")
    ] = None,
    prompt: Annotated[str | None, options.prompt("TEXT")] = None,
    file: Annotated[Path | None, options.text_file("the text")] = None,
    voice: Annotated[
        Path | None,
        options.option(
            "--voice", "--tts-speaker-file", metavar="FILE",
            help="A sound whose voice is imitated: WAV, MP3 or FLAC, some seconds of one person.",
        ),
    ] = None,
    language: Annotated[
        str | None,
        options.option("-l", "--language", "--tts-lang", metavar="NAME",
                       help="The language of the text, such as de, for models that speak several."),
    ] = None,
    n_predict: Annotated[
        int,
        options.option("-n", "--n-predict", "--predict", metavar="N", min=-1, env="N_PREDICT",
                       help="The most frames, of which there are 12.5 a second; -1 for no limit."),
    ] = -1,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    choice: ModelChoice = MODEL,
    mmproj: options.Mmproj = "auto",
    placement: Placement = PLACEMENT,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    temperature: Annotated[float | None, options.temperature(_USUAL)] = None,
    top_k: Annotated[int | None, options.top_k(_USUAL)] = None,
    top_p: Annotated[float | None, options.top_p(_USUAL)] = None,
    min_p: Annotated[float | None, options.min_p(_USUAL)] = None,
    seed: options.Seed = -1,
) -> None:  # fmt: skip
    """Read a text aloud into a WAV file.

    The model needs a projector with a generator of speech, which is looked for in its folder.
    """
    if as_json and str(output) == "-":
        raise typer.BadParameter("standard output cannot have both the sound and --json", param_hint="--output")
    if text == "-" and file is None:
        text, file = None, Path("-")
    to_file = str(output) != "-"
    if to_file:
        _check_target(output)  # before computing, which takes long
    said = arguments.prompt_text(text, prompt, file, what="text")
    sound = None if voice is None else llama_cffi.Audio(voice)
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
    with (
        llm,
        llm.stream_speech(
            said,
            voice=sound,
            language=language,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed_of(seed),
            max_frames=n_predict if n_predict >= 0 else None,
        ) as stream,
    ):
        spoken = stream.result()
        if to_file:
            spoken.save(output)
        else:
            sys.stdout.buffer.write(spoken.wav())
            sys.stdout.buffer.flush()
        if to_file and sys.stderr.isatty() and not as_json:
            console.note(f"{spoken.seconds:.1f} seconds in {output}")
        if as_json:
            console.print_json(_report(output, spoken, stream))


def _check_target(file: Path) -> None:
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))


def _report(file: Path, sound: llama_cffi.Audio, stream: SpeechStream) -> dict[str, Any]:
    return {
        "file": str(file),
        "seconds": round(sound.seconds, 3),
        "sample_rate": sound.sample_rate,
        "finish_reason": str(stream.finish_reason),
        "prompt_tokens": stream.n_prompt,
        "frames": stream.n_frames,
    }
