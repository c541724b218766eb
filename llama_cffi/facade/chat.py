"""Conversations, in the format that the model's own chat template gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from llama_cffi.facade.generation import GenerateOptions, Generation
from llama_cffi.facade.stream import Stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.engine.request import Request
    from llama_cffi.facade.reply import Reply, ReplyChunk
    from llama_cffi.facade.session import ChatSession
    from llama_cffi.facade.tool_loop import OnError, ToolLoop, ToolResult, ToolRun
    from llama_cffi.facade.turn import Turn
    from llama_cffi.prompt.chat import ChatFormat, Template, TemplateOptions
    from llama_cffi.prompt.messages import Message
    from llama_cffi.prompt.template import Rendered
    from llama_cffi.prompt.tools import Tool


class ChatOptions(GenerateOptions, total=False):
    """What every conversing call takes beside its messages: :class:`GenerateOptions`, and these."""

    prefix: str
    """How the reply begins; the result does not repeat it."""
    tools: SequenceOf[Tool | Callable[..., Any] | Mapping[str, Any]]
    """What the model may call: typed functions, :class:`Tool` values, or definitions as in OpenAI's API."""
    tool_choice: str | Mapping[str, Any]
    """``"auto"`` (the default), ``"none"``, ``"required"``, or the one tool to call: by its name, or as OpenAI's API
    has it."""
    parallel_tool_calls: bool
    """Whether a reply may hold several calls (the default)."""
    reasoning_budget: int | None
    """Most tokens of reasoning; then it is ended. None is no limit, 0 is none at all."""
    reply_format: str | None
    """Name of the format of replies; None finds it in the template."""
    template: Template
    """Name of one of the model's templates, or the Jinja text or file of another one."""
    documents: SequenceOf[Mapping[str, Any]] | None
    """Texts that the reply is to be about, for templates that take them."""
    variables: Mapping[str, Any]
    """The template's own variables, such as ``{"enable_thinking": False}``."""


class ToolOptions(ChatOptions, total=False):
    """What the calls take that run tools: :class:`ChatOptions`, and these."""

    max_rounds: int
    """How often calls are answered, at most; 10 by default."""
    on_error: OnError
    """Whether an exception of a tool is raised (the default) or reported to the model."""


class Chat(Generation):
    """The conversational methods of a :class:`~llama_cffi.llama.Llama`."""

    def chat(self, messages: str | SequenceOf[Message], **options: Unpack[ChatOptions]) -> Reply:
        """Generate the reply to a conversation, in the format that the model's chat template gives it.

        ``messages`` are mappings with ``role`` and ``content``, or one text of the user. The options are those of
        :class:`ChatOptions` and :class:`GenerateOptions`. With ``tools`` the reply may call some of them
        (``reply.tool_calls``), with arguments that their schemas allow; with ``schema`` the answer is one of its kind.

        What messages say is never read as control tokens. Raises, before anything is computed, :class:`MessageError`
        for malformed messages, :class:`TemplateError` for a model without a template or one whose template refuses
        them, :class:`ToolError` and :class:`SchemaError`; :class:`IncompleteOutput` when a call or a structured answer
        was cut; and the rest as :meth:`generate`.
        """
        reply = None
        for chunk in self.stream_chat(messages, **options):
            reply = chunk.completion
        return cast("Reply", reply)

    def stream_chat(self, messages: str | SequenceOf[Message], **options: Unpack[ChatOptions]) -> Iterator[ReplyChunk]:
        """:meth:`chat` as an iterator of chunks with more text, reasoning or calls; the last one has the whole reply.

        What :meth:`chat` raises before computing is raised by this call. Closing the iterator cancels.
        """
        from llama_cffi.facade.turn import ReplyStream

        engine = self._open_engine()
        turn, request = self._turn(messages, **options)
        return ReplyStream(Stream(engine, request), turn)

    def run_tools(self, messages: str | SequenceOf[Message], **options: Unpack[ToolOptions]) -> ToolRun:
        """:meth:`chat`, calling the tools that replies ask for, until one asks for none.

        The options are those of :class:`ToolOptions` and :class:`ChatOptions`; ``tools`` must be functions, or have
        some. The model is told of arguments that do not fit; what else a tool raises reaches the caller unless
        ``on_error="report"``. A ``tool_choice`` that demands a call holds for the first reply. Raises
        :class:`ToolError` for tools that cannot be called, :class:`ToolLimitError`, and the rest as :meth:`chat`.
        """
        return self._tool_loop(messages, **options).run()

    def stream_tools(
        self, messages: str | SequenceOf[Message], **options: Unpack[ToolOptions]
    ) -> Iterator[ReplyChunk | ToolResult]:
        """:meth:`run_tools` as an iterator of the chunks of all replies, and of each tool's result in between."""
        return iter(self._tool_loop(messages, **options))

    def _tool_loop(self, messages: str | SequenceOf[Message], **options: Any) -> ToolLoop:
        from llama_cffi.facade.tool_loop import ToolLoop
        from llama_cffi.prompt.messages import as_messages

        return ToolLoop(self.stream_chat, as_messages(messages), options.pop("tools", ()), **options)

    def session(self, messages: SequenceOf[Message] = (), **options: Unpack[ChatOptions]) -> ChatSession:
        """A conversation with a history, which can be saved, rewound and forked; see :class:`ChatSession`."""
        from llama_cffi.facade.session import ChatSession

        return ChatSession(self, messages, **options)

    def tokenize_chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        prefix: str = "",
        add_generation_prompt: bool = True,
        **options: Unpack[TemplateOptions],
    ) -> NDArray[np.int32]:
        """Token ids of a conversation, int32 of shape ``(n,)``, without computing it; raises as :meth:`chat`."""
        rendered = self._render(messages, add_generation_prompt=add_generation_prompt, **options)
        return self._format.tokenize(rendered, prefix=prefix)

    def render_chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        add_generation_prompt: bool = True,
        **options: Unpack[TemplateOptions],
    ) -> str:
        """The conversation as the model's chat template writes it; raises as :meth:`chat`."""
        return self._render(messages, add_generation_prompt=add_generation_prompt, **options).text

    def _render(
        self,
        messages: str | SequenceOf[Message],
        *,
        tools: SequenceOf[Tool | Callable[..., Any] | Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Rendered:
        described = None
        if tools is not None:
            from llama_cffi.prompt.tools import check_tools

            described = [tool.as_dict() for tool in check_tools(tools)]
        return self._format.render(messages, tools=described, **options)

    def _turn(
        self,
        messages: str | SequenceOf[Message],
        *,
        prefix: str = "",
        tools: SequenceOf[Tool | Callable[..., Any] | Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        reasoning_budget: int | None = None,
        reply_format: str | None = None,
        template: Template = None,
        documents: SequenceOf[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        schema: Any = None,
        **options: Any,
    ) -> tuple[Turn, Request]:
        from llama_cffi.facade.turn import prepare_turn

        if refused := [name for name in ("echo", "heal") if options.get(name)]:
            raise ValueError(f"{refused[0]}= is for prompts; a reply begins as prefix= says")
        structure = self._structure(schema)
        turn = prepare_turn(
            self._format,
            self.model.vocab,
            messages,
            prefix=prefix,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            reasoning_budget=reasoning_budget,
            reply_format=reply_format,
            template=template,
            documents=documents,
            variables=variables,
            structure=structure,
        )
        request = self._request(turn.tokens, **options)
        return turn, replace(request, constraint=turn.constraint, visible=turn.visible)

    @cached_property
    def _format(self) -> ChatFormat:
        # jinja2 takes 40 ms to import, which who does not chat need not pay.
        from llama_cffi.prompt.chat import ChatFormat

        return ChatFormat(self.model)
