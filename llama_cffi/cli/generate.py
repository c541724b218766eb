"""``llama-cffi generate``: continue a prompt, streaming to the terminal."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import llama_cffi
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.adapters import additions
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import draft_source, load, projector_source, read_media
from llama_cffi.cli.placement import CONTEXT_MEMORY, PLACEMENT, ContextMemory, Placement

if TYPE_CHECKING:
    from llama_cffi import Audio, Completion, Image, Llama


@console.command
@takes(Placement, ContextMemory)
def generate(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="The text to continue.")] = None,
    prompt_option: Annotated[
        str | None, options.option("-p", "--prompt", metavar="TEXT", help="Another way to give PROMPT.")
    ] = None,
    file: Annotated[
        Path | None,
        options.option("-f", "--file", metavar="FILE", help="Read the prompt from a file; - is standard input."),
    ] = None,
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
    stop: Annotated[
        list[str] | None,
        options.option("-r", "--reverse-prompt", "--stop", metavar="TEXT", help="End before this text. Repeatable."),
    ] = None,
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
    model: options.Model = None,
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
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    seed: options.Seed = -1,
    repeat_last_n: options.RepeatLastN = None,
    repeat_penalty: options.RepeatPenalty = None,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    top_n_sigma: options.TopNSigma = -1.0,
    xtc_probability: options.XtcProbability = None,
    xtc_threshold: options.XtcThreshold = None,
    typical: options.Typical = 1.0,
    dynatemp_range: options.DynatempRange = 0.0,
    dynatemp_exp: options.DynatempExp = 1.0,
    mirostat: options.Mirostat = None,
    mirostat_lr: options.MirostatLr = None,
    mirostat_ent: options.MirostatEnt = None,
    dry_multiplier: options.DryMultiplier = 0.0,
    dry_base: options.DryBase = 1.75,
    dry_allowed_length: options.DryAllowedLength = 2,
    dry_penalty_last_n: options.DryPenaltyLastN = 64,
    dry_sequence_breaker: options.DrySequenceBreaker = None,
    adaptive_target: options.AdaptiveTarget = -1.0,
    adaptive_decay: options.AdaptiveDecay = 0.9,
    samplers: options.Samplers = None,
    model_sampling: options.ModelSampling = True,
    logit_bias: options.LogitBias = None,
    ignore_eos: options.IgnoreEos = False,
    grammar: options.Grammar = None,
    grammar_file: options.GrammarFile = None,
) -> None:
    """Continue a prompt with a model.

    Standard input that is not a terminal is read, too: it is appended to PROMPT after a blank line, or is the prompt.

    The text goes to standard output, everything else to standard error. On a terminal, control characters
    in the text are shown as symbols; a pipe or a file gets the text as it is.
    """
    if grammar is not None and grammar_file is not None:
        raise typer.BadParameter("give either --grammar or --grammar-file")
    placement.options()
    stops = [arguments.unescape(text) if escape else text for text in stop or ()]
    text = arguments.prompt_text(prompt, prompt_option, file, escape=escape, more=True)
    if grammar_file is not None:
        grammar = arguments.read_text(grammar_file)
    # Before loading, which may take minutes: wrong values must not wait for it.
    sampling = given_sampling(
        temperature=None if temperature is None else max(temperature, 0.0),
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=None if seed in (-1, 2**32 - 1) else seed,
        repeat_last_n=repeat_last_n,
        repeat_penalty=repeat_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        top_n_sigma=top_n_sigma,
        xtc_probability=xtc_probability,
        xtc_threshold=xtc_threshold,
        typical_p=typical,
        dynatemp_range=dynatemp_range,
        dynatemp_exponent=dynatemp_exp,
        mirostat=mirostat,
        mirostat_tau=mirostat_ent,
        mirostat_eta=mirostat_lr,
        dry_multiplier=dry_multiplier,
        dry_base=dry_base,
        dry_allowed_length=dry_allowed_length,
        dry_penalty_last_n=dry_penalty_last_n,
        dry_sequence_breakers=arguments.breakers(dry_sequence_breaker),
        adaptive_target=adaptive_target,
        adaptive_decay=adaptive_decay,
        sampler_order=None if samplers is None else arguments.sampler_order(samplers),
        logit_bias=arguments.logit_bias(logit_bias or ()),
        grammar=grammar,
    )
    added = additions(lora, control_vector, control_vector_layer_range)
    draft = draft_source(model_draft, spec_type)
    media = read_media(image, audio)
    n_threads = arguments.positive(threads)
    llm = load(
        model,
        n_seq_max=1,  # the whole context belongs to this prompt
        draft=draft,
        mmproj=projector_source(model, mmproj, wanted=bool(media)),
        n_ctx=ctx_size,
        n_batch=batch_size,
        n_ubatch=min(ubatch_size, batch_size),
        n_threads=n_threads,
        n_threads_batch=arguments.positive(threads_batch) or n_threads,
        rpc=arguments.rpc(rpc),
        isolate=isolate,
        model_sampling=model_sampling,
        model_options=placement.options(),
        context=context,
    )
    with llm:
        added.apply(llm)
        if ignore_eos:
            sampling = without_end(sampling, llm)
        request: dict[str, Any] = {
            "max_tokens": n_predict if n_predict >= 0 else None,
            "stop": stops,
            "overflow": "shift" if context_shift and n_predict != -2 else "stop",
            **sampling,
        }
        if as_json:
            completion = llm.generate([*media, text] if media else text, **request)
            console.print_json(report(llm, completion))
        else:
            shown = sys.stdout.isatty() if display_prompt is None else display_prompt
            completion = _stream(llm, text, media, request, show_prompt=shown)
        if sys.stderr.isatty() and not as_json if show_timings is None else show_timings:
            console.note(summary(completion))


def given_sampling(**fields: Any) -> dict[str, Any]:
    """The sampling parameters that were given; raises :class:`SamplerError` for wrong ones."""
    given = {name: value for name, value in fields.items() if value is not None}
    llama_cffi.SamplingParams(**given)
    return given


def without_end(sampling: dict[str, Any], llm: Llama) -> dict[str, Any]:
    """The same, but no token is chosen that ends a generation."""
    ends = dict.fromkeys(llm.model.vocab.eog_tokens, float("-inf"))
    return {**sampling, "logit_bias": {**sampling.get("logit_bias", {}), **ends}}


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
