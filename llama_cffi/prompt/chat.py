"""The chat templates of one model: found by name, rendered and tokenized."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_cffi.errors import TemplateError
from llama_cffi.prompt.encoder import PromptEncoder
from llama_cffi.prompt.messages import Message, as_messages, check_messages
from llama_cffi.prompt.template import ChatTemplate, Rendered, TemplateWarning
from llama_cffi.prompt.tool_instructions import add_tool_instructions
from llama_cffi.reply.formats import detect, find
from llama_cffi.reply.formats.generic import GENERIC

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.model import Model
    from llama_cffi.prompt.media_parts import PlacedMedium
    from llama_cffi.prompt.tools import Tool
    from llama_cffi.reply.format import ReplyFormat

Template = str | os.PathLike[str] | None
"""The name of one of the model's templates, the Jinja text of another one, or its file; None is the model's default."""


class ChatPrompt(NamedTuple):
    """A conversation up to where a reply begins, and the format that the reply will have."""

    rendered: Rendered
    reply: ReplyFormat
    """The format."""
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
        """Return the conversation as text; a single str is one message of the user.

        Raises the errors of :meth:`ChatTemplate.render`.
        """
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
    ) -> ChatPrompt:
        """Return the conversation up to where a reply begins, and the format that the reply will have.

        If the template does not write the tools, they are described in a message, and calls are plain JSON, unless
        ``reply_format`` names another format; for a template that has a place for tools, a :class:`TemplateWarning`
        says so. With tools, a template of the model that is named ``tool_use`` is the default. Raises the errors of
        :meth:`render`, and :class:`ValueError` for an unknown format.
        """
        if template is None and tools and self._model.chat_template("tool_use") is not None:
            template = "tool_use"
        source = self._source(template)
        reply = find(reply_format) if reply_format is not None else detect(source)
        asked = as_messages(messages)
        compiled = self._compiled(source)
        options = {"documents": documents, **(variables or {})}
        if not tools:
            return ChatPrompt(compiled.render(asked, **options), reply, source)
        described = [tool.as_dict() for tool in tools]
        error: TemplateError | None = None
        if compiled.mentions_tools:
            try:
                rendered = compiled.render(asked, tools=described, **options)
                if rendered.tools_written or rendered.text != compiled.render_plain(asked, **options):
                    return ChatPrompt(rendered, reply, source)
            except TemplateError as raised:
                error = raised
        if reply_format is None:
            reply = GENERIC
        instructions = reply.instructions(described) or GENERIC.instructions(described)
        checked = check_messages(asked)
        role = "system" if compiled.traits.takes_system else "user"
        try:
            told = compiled.render(add_tool_instructions(checked, instructions, role=role), **options)
        except TemplateError as raised:
            raise error or raised from None
        if compiled.mentions_tools:
            reason = "does not write the tools" if error is None else f"raises: {error.message}"
            warnings.warn(
                f"the chat template {reason}; the tools, their calls and their results are described in messages",
                TemplateWarning,
                stacklevel=2,
            )
        return ChatPrompt(told, reply, source)

    @property
    def controls(self) -> Mapping[str, int]:
        """Texts of the vocabulary's control tokens, with their ids."""
        return self._encoder.controls

    def tokenize_parts(self, rendered: Rendered, *, prefix: str = "") -> list[NDArray[np.int32] | PlacedMedium]:
        """Token ids, and the media between them; see :meth:`PromptEncoder.encode_parts`."""
        return self._encoder.encode_parts(rendered, prefix=prefix)

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
                return Path(template).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                if isinstance(error, FileNotFoundError):
                    raise TemplateError(f"no such file: {os.fspath(template)}") from error
                reason = (isinstance(error, OSError) and error.strerror) or error
                raise TemplateError(f"cannot read the chat template {os.fspath(template)}: {reason}") from error
        if template is not None and ("{" in template or "\n" in template):
            return template
        source = self._model.chat_template(template)
        if source is None:
            which = "no chat template" if template is None else f"no chat template named {template!r}"
            raise TemplateError(
                f"{self._model.name} has {which}: give one with chat_template=, as Jinja text or a path"
            )
        return source


__all__ = ["ChatFormat", "ChatPrompt", "Template"]
