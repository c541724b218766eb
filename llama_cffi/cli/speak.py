"""``llama-cffi speak``: a text read aloud, as a WAV file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import llama_cffi
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import load, projector_source
from llama_cffi.cli.placement import PLACEMENT, Placement

if TYPE_CHECKING:
    from llama_cffi import SpeechStream


@console.command
@takes(Placement)
def speak(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads it from standard input.")],
    output: Annotated[
        Path, options.option("-o", "--output", metavar="FILE", help="The WAV file to write; - for standard output.")
    ],
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
    model: options.Model = None,
    mmproj: options.Mmproj = "auto",
    placement: Placement = PLACEMENT,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    temperature: Annotated[
        float | None,
        options.option("--temp", "--temperature", metavar="N", env="TEMPERATURE",
                       help="0 always takes the most likely token."),
    ] = None,
    top_k: Annotated[int | None, options.option("--top-k", metavar="N", env="TOP_K", help="See generate.")] = None,
    top_p: Annotated[float | None, options.option("--top-p", metavar="P", help="See generate.")] = None,
    min_p: Annotated[float | None, options.option("--min-p", metavar="P", help="See generate.")] = None,
    seed: options.Seed = -1,
) -> None:  # fmt: skip
    """Read a text aloud into a WAV file; with --json print an object with its numbers.

    The model must speak: it needs a projector with a generator of speech, which is looked for beside it.
    """
    if as_json and str(output) == "-":
        raise typer.BadParameter("standard output cannot have both the sound and --json", param_hint="--output")
    said = sys.stdin.read() if text == "-" else text
    sound = None if voice is None else llama_cffi.Audio(voice)
    llm = load(
        model,
        mmproj=projector_source(model, mmproj),
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
            seed=None if seed in (-1, 2**32 - 1) else seed,
            max_frames=n_predict if n_predict > 0 else None,
        ) as stream,
    ):
        spoken = stream.result()
        if str(output) == "-":
            sys.stdout.buffer.write(spoken.wav())
            sys.stdout.buffer.flush()
        else:
            spoken.save(output)
        if as_json:
            console.print_json(_report(output, spoken, stream))


def _report(file: Path, sound: llama_cffi.Audio, stream: SpeechStream) -> dict[str, Any]:
    return {
        "file": str(file),
        "seconds": round(sound.seconds, 3),
        "sample_rate": sound.sample_rate,
        "finish_reason": str(stream.finish_reason),
        "prompt_tokens": stream.n_prompt,
        "frames": stream.n_frames,
    }
