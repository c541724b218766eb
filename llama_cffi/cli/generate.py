"""``llama-cffi generate``: continue a prompt, streaming to the terminal."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.adapters import additions
from llama_cffi.cli.form import FORM, Form
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import draft_source, load, projector_source, read_media
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import CONTEXT_MEMORY, PLACEMENT, ContextMemory, Placement
from llama_cffi.cli.sampling import SAMPLING, Sampling
from llama_cffi.errors import IncompleteOutput

if TYPE_CHECKING:
    from llama_cffi import Audio, Completion, Image, Llama


@console.command
@takes(ModelChoice, Placement, ContextMemory, Sampling, Form)
def generate(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="The text to continue.")] = None,
    prompt_option: Annotated[str | None, options.prompt("PROMPT")] = None,
    file: Annotated[Path | None, options.text_file("the prompt")] = None,
    n_predict: Annotated[
        int,
        options.option(
            "-n",
            "--n-predict",
            "--predict",
            metavar="N",
            min=-2,
            env="N_PREDICT",
            help="The most tokens to generate; -1 for no limit, -2 until the context is full.",
        ),
    ] = -1,
    stop: options.Stop = None,
    escape: Annotated[
        bool,
        options.option("-e", "--escape/--no-escape", help="Read \\n, \\t, \\xHH ... in PROMPT and stop texts."),
    ] = False,
    display_prompt: Annotated[
        bool | None,
        options.option(
            "--display-prompt/--no-display-prompt",
            show_default="on a terminal",
            help="Print the prompt first.",
        ),
    ] = None,
    show_timings: Annotated[
        bool | None,
        options.option(
            "--show-timings/--no-show-timings",
            env="SHOW_TIMINGS",
            show_default="on a terminal",
            help="End with a line about tokens and speed.",
        ),
    ] = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    choice: ModelChoice = MODEL,
    placement: Placement = PLACEMENT,
    context: ContextMemory = CONTEXT_MEMORY,
    mmproj: options.Mmproj = None,
    image: options.Images = None,
    audio: options.Sounds = None,
    rpc: options.Rpc = None,
    isolate: options.Isolate = None,
    lora: options.Lora = None,
    control_vector: options.ControlVector = None,
    control_vector_layer_range: options.LayerRange = None,
    model_draft: options.ModelDraft = None,
    spec_type: options.SpecType = None,
    ctx_size: options.CtxSize = None,
    batch_size: options.BatchSize = 2048,
    ubatch_size: options.UbatchSize = 512,
    threads: options.Threads = None,
    threads_batch: options.ThreadsBatch = None,
    context_shift: options.ContextShift = False,
    sampling: Sampling = SAMPLING,
    form: Form = FORM,
) -> None:
    """Continue a prompt with a model.

    Standard input that is not a terminal is read, too: it is appended to PROMPT after a blank line, or is the prompt.

    The text goes to standard output, everything else to standard error. On a terminal, control characters
    in the text are shown as symbols; a pipe or a file gets the text as it is.
    """
    placement.options()
    stops = [arguments.unescape(text) if escape else text for text in stop or ()]
    text = arguments.prompt_text(prompt, prompt_option, file, escape=escape, more=True)
    # Before loading, which may take minutes: wrong values must not wait for it.
    schema, grammar = form.read()
    given = sampling.given(grammar=grammar)
    added = additions(lora, control_vector, control_vector_layer_range)
    draft = draft_source(model_draft, spec_type)
    media = read_media(image, audio)
    n_threads = arguments.positive(threads)
    name = choice.name()
    llm = load(
        name,
        n_seq_max=1,  # the whole context belongs to this prompt
        draft=draft,
        mmproj=projector_source(name, mmproj, wanted=bool(media)),
        n_ctx=ctx_size,
        n_batch=batch_size,
        n_ubatch=min(ubatch_size, batch_size),
        n_threads=n_threads,
        n_threads_batch=arguments.positive(threads_batch) or n_threads,
        rpc=arguments.rpc(rpc),
        isolate=isolate,
        model_sampling=sampling.model_sampling,
        model_options=placement.options(),
        context=context,
    )
    with llm:
        added.apply(llm)
        request: dict[str, Any] = {
            "max_tokens": n_predict if n_predict >= 0 else None,
            "stop": stops,
            "overflow": "shift" if context_shift and n_predict != -2 else "stop",
            "schema": schema,
            **sampling.of(llm, given),
        }
        if as_json:
            completion = _print_report(llm, [*media, text] if media else text, request)
        else:
            shown = sys.stdout.isatty() if display_prompt is None else display_prompt
            completion = _stream(llm, text, media, request, show_prompt=shown)
        if sys.stderr.isatty() and not as_json if show_timings is None else show_timings:
            console.note(summary(completion))


def _print_report(llm: Llama, prompt: Any, request: dict[str, Any]) -> Completion:
    """Print the text as plain data, also one that was cut; that raises :class:`IncompleteOutput` afterwards."""
    try:
        completion: Completion = llm.generate(prompt, **request)
    except IncompleteOutput as error:
        console.print_json({**report(llm, error.completion), "partial": error.partial})
        raise
    console.print_json(report(llm, completion))
    return completion


def _stream(
    llm: Llama, prompt: str, media: list[Image | Audio], request: dict[str, Any], *, show_prompt: bool
) -> Completion:
    """Print the text as it comes."""
    completion = None
    chunks = llm.stream(
        [*media, prompt] if media else prompt, **request
    )  # a prompt that is refused is refused here, before it is shown
    if show_prompt:
        _write(prompt, "1")
    for chunk in chunks:
        _write(chunk.text)
        completion = chunk.completion or completion
    if completion is None:
        raise RuntimeError("the stream ended without a completion")
    if sys.stdout.isatty() and not completion.text.endswith("\n"):
        print()
    return completion


def _write(text: str, codes: str = "") -> None:
    if not text:
        return
    if sys.stdout.isatty():
        text = console.style(console.printable(text), codes) if codes else console.printable(text)
    sys.stdout.write(text)
    sys.stdout.flush()


def report(llm: Llama, completion: Completion) -> dict[str, Any]:
    """The completion as plain data."""
    timings, drafts = completion.timings, completion.speculation
    return {
        "text": completion.text,
        "tokens": list(completion.tokens),
        "finish_reason": str(completion.finish_reason),
        "stop_sequence": completion.stop_sequence,
        "parsed": completion.parsed,
        "usage": dataclasses.asdict(completion.usage),
        "timings": {
            **dataclasses.asdict(timings),
            "prefill_tokens_per_second": timings.prefill_tokens_per_second,
            "decode_tokens_per_second": timings.decode_tokens_per_second,
        },
        "speculation": None if drafts is None else {**dataclasses.asdict(drafts), "acceptance": drafts.acceptance},
        "seed": completion.seed,
        "model": {"path": str(llm.model.path), "description": llm.model.desc},
    }


def summary(completion: Completion) -> str:
    """One line about the tokens and the time they took."""
    usage, timings, drafts = completion.usage, completion.timings, completion.speculation
    right = f"{drafts.acceptance:.0%} of {drafts.drafted_tokens} drafted; " if drafts is not None else ""
    return (
        f"prompt: {usage.prompt_tokens} tokens, {timings.prefill_tokens_per_second:.0f} per second; "
        f"text: {usage.completion_tokens} tokens, {timings.decode_tokens_per_second:.0f} per second; {right}"
        f"ended by {completion.finish_reason}; seed {completion.seed}"
    )
