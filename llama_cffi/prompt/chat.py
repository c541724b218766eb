"""How one model wants conversations: its templates, found by name, rendered and tokenised."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from llama_cffi.errors import TemplateError
from llama_cffi.prompt.encoder import PromptEncoder
from llama_cffi.prompt.messages import Message, as_messages, check_messages
from llama_cffi.prompt.template import ChatTemplate, Rendered
from llama_cffi.prompt.tool_instructions import add_tool_instructions
from llama_cffi.reply.formats import detect, find
from llama_cffi.reply.formats.generic import GENERIC

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.model import Model
    from llama_cffi.prompt.tools import Tool
    from llama_cffi.reply.format import ReplyFormat

Template = str | os.PathLike[str] | None
"""The name of one of the model's templates, the Jinja text of another one, or its file; None is the model's default."""


class TemplateOptions(TypedDict, total=False):
    """What a template is given beside the messages."""

    template: Template
    tools: Sequence[Tool | Callable[..., Any] | Mapping[str, Any]] | None
    documents: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any]
    """The template's own variables, such as ``{"enable_thinking": False}``."""


class Asked(NamedTuple):
    """A conversation that waits for a reply."""

    rendered: Rendered
    reply: ReplyFormat
    source: str
    """The template's text."""


class ChatFormat:
    """The chat templates of a model, compiled when first used."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._templates: dict[str, ChatTemplate] = {}

    def render(
        self,
        messages: str | Sequence[Message],
        *,
        template: Template = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> Rendered:
        """The conversation as text; a single str is one message of the user. Raises as :meth:`ChatTemplate.render`."""
        return self._compiled(self._source(template)).render(
            as_messages(messages),
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            **(variables or {}),
        )

    def ask(
        self,
        messages: str | Sequence[Message],
        tools: Sequence[Tool],
        reply_format: str | None,
        *,
        template: Template = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Asked:
        """The conversation up to where a reply begins, and the format that the reply will have.

        A template that does not tell the model of the tools is helped: then they are described in words, and calls
        are plain JSON, unless ``reply_format`` names another format. With tools, a template of the model that is named
        ``tool_use`` is the default. Raises as :meth:`render`, and :class:`ValueError` for an unknown format.
        """
        if template is None and tools and self._model.chat_template("tool_use") is not None:
            template = "tool_use"
        source = self._source(template)
        reply = find(reply_format) if reply_format is not None else detect(source)
        asked = as_messages(messages)
        compiled = self._compiled(source)

        def render(words: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> Rendered:
            return compiled.render(words, tools=tools, documents=documents, **(variables or {}))

        if not tools:
            return Asked(render(asked), reply, source)
        described = [tool.as_dict() for tool in tools]
        rendered = _attempt(partial(render, asked, tools=described))
        if isinstance(rendered, Rendered) and rendered.text != render(asked).text:
            return Asked(rendered, reply, source)
        checked = check_messages(asked)
        if reply_format is None:
            reply = GENERIC
        instructions = reply.instructions(described) or GENERIC.instructions(described)
        told = _attempt(partial(render, add_tool_instructions(checked, instructions)))
        if isinstance(told, TemplateError):
            # Some templates know no system message.
            told = _attempt(partial(render, add_tool_instructions(checked, instructions, role="user")))
        if isinstance(told, TemplateError):
            raise rendered if isinstance(rendered, TemplateError) else told
        return Asked(told, reply, source)

    @property
    def controls(self) -> Mapping[str, int]:
        """Texts of the vocabulary's control tokens, with their ids."""
        return self._encoder.controls

    def tokenize(self, rendered: Rendered, *, prefix: str = "") -> NDArray[np.int32]:
        """Token ids of a rendered conversation and the beginning of its reply; see :meth:`PromptEncoder.encode`."""
        return self._encoder.encode(rendered, prefix=prefix)

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return PromptEncoder(self._model.vocab)

    def _compiled(self, source: str) -> ChatTemplate:
        if source not in self._templates:
            self._templates[source] = self._encoder.template(source)
        return self._templates[source]

    def _source(self, template: Template) -> str:
        if isinstance(template, os.PathLike):
            try:
                return Path(template).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise TemplateError(f"cannot read the chat template {os.fspath(template)}: {error}") from error
        if template is not None and ("{" in template or "\n" in template):
            return template
        source = self._model.chat_template(template)
        if source is None:
            which = "no chat template" if template is None else f"no chat template named {template!r}"
            raise TemplateError(
                f"{self._model.path.name} has {which}: give one with template=, as Jinja text or a path"
            )
        return source


def _attempt(render: Callable[[], Rendered]) -> Rendered | TemplateError:
    try:
        return render()
    except TemplateError as error:
        return error


__all__ = ["ChatFormat", "Template", "TemplateOptions"]
