"""``llama-cffi chat``: talk with a model at a terminal, or get one answer."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import llama_cffi
from llama_cffi.cli import arguments, console, options
from llama_cffi.cli.adapters import additions
from llama_cffi.cli.form import FORM, Form
from llama_cffi.cli.generate import report
from llama_cffi.cli.groups import takes
from llama_cffi.cli.loading import draft_source, load, projector_source, read_media
from llama_cffi.cli.model_choice import MODEL, ModelChoice
from llama_cffi.cli.placement import CONTEXT_MEMORY, PLACEMENT, ContextMemory, Placement
from llama_cffi.cli.sampling import SAMPLING, Sampling
from llama_cffi.cli.wording import describe, flags_of
from llama_cffi.errors import IncompleteOutput

if TYPE_CHECKING:
    from llama_cffi.chat_session import ChatSession
    from llama_cffi.prompt.messages import Content
    from llama_cffi.prompt.tools import Tool
    from llama_cffi.reply.reply import Reply


@console.command
@takes(ModelChoice, Placement, ContextMemory, Sampling, Form)
def chat(
    message: Annotated[str | None, typer.Argument(metavar="MESSAGE", help="Answer this message and exit.")] = None,
    prompt: Annotated[str | None, options.prompt("MESSAGE")] = None,
    file: Annotated[Path | None, options.text_file("MESSAGE")] = None,
    system: Annotated[
        str | None,
        options.option("-sys", "--system", "--system-prompt", metavar="TEXT", help="The system message."),
    ] = None,
    system_file: Annotated[
        Path | None,
        options.option("-sysf", "--system-prompt-file", metavar="FILE", help="Read the system message from a file."),
    ] = None,
    tools: Annotated[
        Path | None,
        options.option("--tools", metavar="FILE", help="The model may call the functions of this Python file."),
    ] = None,
    load_from: Annotated[
        Path | None, options.option("--load", metavar="FILE", help="Continue a saved conversation.")
    ] = None,
    template: options.ChatTemplate = None,
    template_file: options.ChatTemplateFile = None,
    reply_format: Annotated[
        str | None,
        options.option(
            "--reply-format", metavar="NAME", help="The reply format; by default detected from the template."
        ),
    ] = None,
    reasoning_budget: Annotated[
        int,
        options.option(
            "--reasoning-budget", metavar="N", min=-1, help="The most tokens of reasoning; -1 for no limit."
        ),
    ] = -1,
    show_reasoning: Annotated[
        bool, options.option("--show-reasoning/--no-show-reasoning", help="Show the reasoning of the model, dimmed.")
    ] = True,
    n_predict: Annotated[
        int,
        options.option(
            "-n",
            "--n-predict",
            "--predict",
            metavar="N",
            min=-1,
            env="N_PREDICT",
            help="The most tokens of an answer; -1 for no limit.",
        ),
    ] = -1,
    stop: options.Stop = None,
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
    """Hold a conversation with a model, or get one answer.

    On a terminal it shows answers in Markdown; /help lists commands, Ctrl-C stops an answer and Ctrl-D ends. With
    MESSAGE, or when standard input is not a terminal, it prints one answer. Standard input that is not a terminal is
    appended to MESSAGE after a blank line.
    """
    from llama_cffi.reply.formats import find

    text = _message(message, prompt, file)
    if as_json and text is None:
        raise typer.BadParameter("--json gives one answer: say MESSAGE, or give it on standard input")
    if template is not None and template_file is not None:
        raise typer.BadParameter("give either --chat-template or --chat-template-file")
    if system is not None and system_file is not None:
        raise typer.BadParameter("give either --system or --system-prompt-file")
    # Before loading, which may take minutes: wrong values must not wait for it.
    wanted, grammar = form.read()
    if tools is not None and grammar is not None:
        raise typer.BadParameter("a grammar leaves no room for calls: give either --tools or a grammar")
    if system_file is not None:
        system = arguments.read_text(system_file)
    if template_file is not None:
        template = arguments.read_text(template_file)
    if load_from is not None:
        load_from.open("rb").close()
    if reply_format is not None:
        find(reply_format)
    callable_tools = () if tools is None else _load_tools(tools)
    given = sampling.given()
    added = additions(lora, control_vector, control_vector_layer_range)
    draft = draft_source(model_draft, spec_type)
    media = read_media(image, audio)
    n_threads = arguments.positive(threads)
    name = choice.name()
    llm = load(
        name,
        n_seq_max=1,  # the whole context belongs to this conversation
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
        session = llm.session(
            [{"role": "system", "content": system}] if system else [],
            chat_template=template,
            reply_format=reply_format,
            reasoning_budget=reasoning_budget if reasoning_budget >= 0 else None,
            max_tokens=n_predict if n_predict >= 0 else None,
            stop=stop or (),
            schema=wanted if grammar is None else llama_cffi.GBNF(grammar),
            overflow="shift" if context_shift else "stop",
            **sampling.of(llm, given),
        )
        if load_from is not None:
            session.load(load_from)
        if text is None:
            # prompt_toolkit and rich are for people; a pipe does not wait for them to be imported.
            from llama_cffi.cli.conversation import Conversation

            told = partial(describe, flags=flags_of(chat))
            shown = Conversation(session, tools=callable_tools, show_reasoning=show_reasoning, describe=told)
            shown.media = media
            shown.run()
        elif as_json:
            try:
                console.print_json(_answer_report(llm, session, [*media, text] if media else text, callable_tools))
            except IncompleteOutput as error:
                # What there is goes out, and the error says that it is not all.
                console.print_json({**_reply_report(llm, error.completion), "partial": error.partial})
                raise
        else:
            _print_answer(session, [*media, text] if media else text, callable_tools)


def _message(argument: str | None, option: str | None, file: Path | None) -> str | None:
    """What to answer; None when a person is to be asked."""
    given = argument is not None or option is not None or file is not None
    if not given and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        return None
    return arguments.prompt_text(argument, option, file, more=True, what="message")


def _load_tools(path: Path) -> tuple[Tool, ...]:
    from llama_cffi.cli.tool_file import load_tools

    return load_tools(path)


def _print_answer(session: ChatSession, text: Content, tools: tuple[Tool, ...]) -> None:
    """The answer alone, as it comes."""
    from llama_cffi.tool_loop import ToolResult

    written = ""
    for event in session.stream_tools(text, tools=tools, on_error="report") if tools else session.stream_chat(text):
        if isinstance(event, ToolResult):
            console.note(f"{event.call.name}: {console.one_line(event.content)}")
        elif event.text:
            written = event.text
            sys.stdout.write(console.printable(written) if sys.stdout.isatty() else written)
            sys.stdout.flush()
    if sys.stdout.isatty() and not written.endswith("\n"):
        print()


def _answer_report(
    llm: llama_cffi.Llama, session: ChatSession, text: Content, tools: tuple[Tool, ...]
) -> dict[str, Any]:
    """The answer as plain data."""
    if not tools:
        return _reply_report(llm, session.chat(text))
    run = session.run_tools(text, tools=tools, on_error="report")
    results = [{"name": one.call.name, "content": one.content, "failed": one.error is not None} for one in run.results]
    return {**_reply_report(llm, run.reply), "tool_results": results}


def _reply_report(llm: llama_cffi.Llama, reply: Reply) -> dict[str, Any]:
    return {
        **report(llm, reply),
        "reasoning": reply.reasoning,
        "tool_calls": [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in reply.tool_calls],
    }
