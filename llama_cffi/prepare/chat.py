"""Prepares conversations: the request to the model, the constraint of the reply, and the reader of the reply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llama_cffi.core.prompt import Media, Prompt
from llama_cffi.errors import SamplerError, SchemaError, ToolError
from llama_cffi.grammar.after_text import AfterText
from llama_cffi.grammar.all_of import AllOf
from llama_cffi.grammar.guidance import GuidanceConstraint
from llama_cffi.grammar.native import NativeConstraint
from llama_cffi.grammar.prefixed import Prefixed
from llama_cffi.grammar.reasoning_budget import ReasoningBudget
from llama_cffi.prepare.generation import compile_structure, make_request
from llama_cffi.prepare.prepared import Defaults, Prepared
from llama_cffi.prepare.tool_schemas import loosened_tools
from llama_cffi.prompt.media_parts import PlacedMedium
from llama_cffi.prompt.tools import Tool, check_tools
from llama_cffi.reply.format import ReplyRules, ToolSpec
from llama_cffi.reply.lark import quoted
from llama_cffi.reply.reply_reader import ReplyPlan, ReplyReader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi.core.vocab import Vocab
    from llama_cffi.grammar.matcher import Constraint
    from llama_cffi.grammar.validation import Validator
    from llama_cffi.options import ChatOptions
    from llama_cffi.prepare.model_formats import ModelFormats
    from llama_cffi.prompt.template import Rendered
    from llama_cffi.reply.reply import ReplyChunk
    from llama_cffi.spec import ChatSpec, RenderSpec

_CONTENT = "content"
"""Name of the grammar that an answer follows, among those of a reply."""


def prepare_chat(spec: ChatSpec, formats: ModelFormats, defaults: Defaults) -> Prepared[ReplyChunk]:
    """Prepare a reply; raises the errors of :meth:`Llama.chat` before computing."""
    options, vocab = spec.options, formats.vocab
    given_tools = options.get("tools")
    tools = check_tools(() if given_tools is None else given_tools)
    specs, choice = _choose_tools(tools, options.get("tool_choice") or "auto")
    # It becomes a part of the grammar of the reply, which alone is compiled.
    structure = compile_structure(options, vocab, now=False)
    asked = formats.chat.ask(
        spec.messages,
        tools,
        options.get("reply_format"),
        template=options.get("chat_template"),
        documents=options.get("documents"),
        variables=options.get("chat_template_kwargs"),
    )
    reply = asked.reply
    validators: dict[str, Validator] = {}
    if options.get("on_unsupported") == "annotate" and choice != "none":
        specs, validators = loosened_tools(reply, specs)
    rules = ReplyRules(
        tools=specs,
        choice=choice,
        parallel=options.get("parallel_tool_calls") is not False,
        content=None if structure is None else f"@{_CONTENT}",
        reasoning=reply.state(asked.rendered.text),
    )
    prefix = options.get("prefix") or ""
    prompt = _prompt(asked.rendered, prefix, formats)
    keep = options.get("on_incomplete") == "return"
    plan = ReplyPlan(reply, rules, structure, prefix, keep, validators)
    hold = _Hold(plan, asked.source, vocab, formats.chat.controls)
    given, constraint = hold.constraint(options)
    controls = formats.chat.controls
    request = make_request(
        prompt,
        given,
        formats,
        defaults,
        constraint=constraint,
        visible=frozenset(controls[text] for text in reply.controls if text in controls),
    )
    return Prepared(request, ReplyReader(plan, vocab))


def render(spec: RenderSpec, formats: ModelFormats) -> Rendered:
    """Return the conversation as its template writes it; raises the errors of :meth:`Llama.chat`."""
    options = spec.options
    tools = options.get("tools")
    return formats.chat.render(
        spec.messages,
        tools=None if tools is None else [tool.as_dict() for tool in check_tools(tools)],
        template=options.get("chat_template"),
        documents=options.get("documents"),
        variables=options.get("chat_template_kwargs"),
        add_generation_prompt=options.get("add_generation_prompt") is not False,
    )


def tokenize_chat(spec: RenderSpec, formats: ModelFormats) -> NDArray[np.int32]:
    """Return the conversation as tokens, int32 of shape ``(n,)``, with -1 for each cell of media; raises the errors of
    :meth:`Llama.chat`.

    They are the tokens before a reply: tools that the template does not support are described in messages.
    """
    options = spec.options
    given = options.get("tools")
    tools = check_tools(() if given is None else given)
    if tools and options.get("add_generation_prompt") is not False:
        asked = formats.chat.ask(
            spec.messages,
            tools,
            None,
            template=options.get("chat_template"),
            documents=options.get("documents"),
            variables=options.get("chat_template_kwargs"),
        )
        rendered = asked.rendered
    else:
        rendered = render(spec, formats)
    cells = _prompt(rendered, options.get("prefix") or "", formats)
    return np.array([max(cell, -1) for cell in cells] if cells.media else cells, dtype=np.int32)


def _prompt(rendered: Rendered, prefix: str, formats: ModelFormats) -> Prompt:
    """A rendered conversation as cells."""
    parts: list[int | Media] = []
    for part in formats.chat.tokenize_parts(rendered, prefix=prefix):
        if isinstance(part, PlacedMedium):
            parts += formats.media.parts(part.medium, part.place, before=parts)
        else:
            parts += part.tolist()
    return Prompt(parts)


@dataclass(frozen=True)
class _Hold:
    """What holds a reply to its plan."""

    plan: ReplyPlan
    source: str
    """The chat template's text."""
    vocab: Vocab
    controls: Mapping[str, int]

    def constraint(self, options: ChatOptions) -> tuple[ChatOptions, Constraint | None]:
        """Return what holds the reply, and the options that are left to the engine."""
        rules, thinking = self.plan.rules, self.plan.format.thinking
        held = rules
        if rules.reasoning == "auto" and thinking and thinking.optional and thinking.end.strip() not in self.source:
            # A model whose template knows no reasoning answers at once, where it is held to a call or to a schema.
            held = replace(rules, reasoning="off")
        constraint = self._of_rules(held)
        grammar = options.get("grammar")
        if grammar is not None and thinking is not None and rules.reasoning == "open":
            # The engine would hold the reasoning to it, and not the answer.
            if constraint is not None:
                raise SamplerError("a grammar and another constraint cannot be used together")
            inner = NativeConstraint(self.vocab, grammar, options.get("grammar_root") or "root")
            constraint = AfterText(inner, thinking.end, self.vocab)
            left = {name: value for name, value in options.items() if name not in ("grammar", "grammar_root")}
            options = left  # type: ignore[assignment]
        budget = options.get("reasoning_budget")
        if budget is not None and thinking is not None and rules.reasoning != "off":
            start = "" if rules.reasoning == "open" else thinking.start
            limit = ReasoningBudget(budget, start, thinking.end, self.vocab)
            constraint = limit if constraint is None else AllOf((constraint, limit))
        if self.plan.prefix and constraint is not None:
            given = self.vocab.tokenize(self.plan.prefix, add_special=False, parse_special=True)
            constraint = Prefixed(constraint, given.tolist())
        return options, constraint

    def _of_rules(self, rules: ReplyRules) -> Constraint | None:
        reply, structure, thinking = self.plan.format, self.plan.structure, self.plan.format.thinking
        if structure is not None and not isinstance(structure.constraint, GuidanceConstraint):
            if rules.tools and rules.choice != "none":
                raise SchemaError(
                    "a grammar that llama.cpp enforces cannot be used with tools: use GBNF(..., engine='llguidance')"
                )
            if thinking is not None and rules.reasoning == "open":
                return AfterText(structure.constraint, thinking.end, self.vocab)
            return structure.constraint
        lark = reply.grammar(rules, self._token)
        if lark is None:
            return None
        grammars: list[dict[str, Any]] = [{"lark_grammar": lark}]
        if structure is not None and isinstance(structure.constraint, GuidanceConstraint):
            first, *rest = json.loads(structure.constraint.grammar)["grammars"]
            grammars += [{**first, "name": _CONTENT}, *rest]
        return GuidanceConstraint(self.vocab, json.dumps({"grammars": grammars}))

    def _token(self, text: str) -> str:
        return f"<[{self.controls[text]}]>" if text in self.controls else quoted(text)


def _choose_tools(
    tools: tuple[Tool, ...], choice: str | Mapping[str, Any]
) -> tuple[tuple[ToolSpec, ...], Literal["auto", "required", "none"]]:
    """The tools that may be called, and whether one must be."""
    specs = tuple(ToolSpec(tool.name, tool.parameters) for tool in tools)
    if choice == "none" or (choice == "auto" and not specs):
        return specs, "none"
    if choice == "auto":
        return specs, "auto"
    if choice == "required":
        if not specs:
            raise ToolError("tool_choice='required', but there are no tools")
        return specs, "required"
    name: Any = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice
    chosen = tuple(spec for spec in specs if spec.name == name)
    if not chosen:
        names = ", ".join(spec.name for spec in specs) or "none"
        raise ToolError(f"tool_choice={choice!r} is neither auto, none or required nor one of the tools: {names}")
    return chosen, "required"


__all__ = ["prepare_chat", "render", "tokenize_chat"]
