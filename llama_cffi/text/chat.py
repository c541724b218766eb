"""How one model wants conversations: its templates, found by name, rendered and tokenised."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from llama_cffi.errors import TemplateError
from llama_cffi.text.messages import Message
from llama_cffi.text.prompt import PromptEncoder
from llama_cffi.text.template import ChatTemplate, Rendered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.model import Model

Template = str | os.PathLike[str] | None
"""The name of one of the model's templates, the Jinja text of another one, or its file; None is the model's default."""


class TemplateOptions(TypedDict, total=False):
    """What a template is given beside the messages."""

    template: Template
    tools: Sequence[Mapping[str, Any]] | None
    documents: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any]
    """The template's own variables, such as ``{"enable_thinking": False}``."""


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
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self._template(template).render(
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            **(variables or {}),
        )

    def source(self, template: Template = None) -> str:
        """The Jinja text of a template. Raises :class:`TemplateError` when there is none."""
        return self._source(template)

    def tokenize(self, rendered: Rendered, *, prefix: str = "") -> NDArray[np.int32]:
        """Token ids of a rendered conversation and the beginning of its reply; see :meth:`PromptEncoder.encode`."""
        return self._encoder.encode(rendered, prefix=prefix)

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return PromptEncoder(self._model.vocab)

    def _template(self, template: Template) -> ChatTemplate:
        source = self._source(template)
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


__all__ = ["ChatFormat", "Template", "TemplateOptions"]
