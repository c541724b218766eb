"""Conversations, in the format that the model's own chat template gives them."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from functools import cached_property
from typing import TYPE_CHECKING

from llama_cffi.engine.request import Chunk, Completion
from llama_cffi.facade.generation import GenerateOptions, Generation
from llama_cffi.session import ChatSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from llama_cffi.text.chat import ChatFormat, ChatOptions
    from llama_cffi.text.messages import Message


class Chat(Generation):
    """The conversational methods of a :class:`~llama_cffi.llama.Llama`."""

    def chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        prefix: str = "",
        chat: ChatOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """Generate the reply to a conversation, in the format that the model's chat template gives it.

        ``messages`` are mappings with ``role`` and ``content``, or one text of the user. The reply continues
        ``prefix``, which the result does not repeat. ``chat`` holds template, tools, documents and the template's own
        variables; see :class:`~llama_cffi.text.chat.ChatOptions`. The rest is as in :meth:`generate`.

        What messages say is never read as control tokens. Raises :class:`MessageError` for malformed messages and
        :class:`TemplateError` for a model without a template, or one whose template refuses them.
        """
        tokens = self.tokenize_chat(messages, prefix=prefix, **(chat or {}))
        return self.generate(tokens, **options)

    def stream_chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        prefix: str = "",
        chat: ChatOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Chunk]:
        """:meth:`chat` as an iterator of chunks, as :meth:`stream` gives them."""
        tokens = self.tokenize_chat(messages, prefix=prefix, **(chat or {}))
        return self.stream(tokens, **options)

    def session(
        self,
        messages: SequenceOf[Message] = (),
        *,
        chat: ChatOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> ChatSession:
        """A conversation with a history, which can be saved, rewound and forked; see :class:`ChatSession`."""
        return ChatSession(self, messages, chat=chat, **options)

    def tokenize_chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        prefix: str = "",
        add_generation_prompt: bool = True,
        **options: Unpack[ChatOptions],
    ) -> NDArray[np.int32]:
        """Token ids of a conversation, int32 of shape ``(n,)``, without computing it; raises as :meth:`chat`."""
        rendered = self._format.render(messages, add_generation_prompt=add_generation_prompt, **options)
        return self._format.tokenize(rendered, prefix=prefix)

    def render_chat(
        self,
        messages: str | SequenceOf[Message],
        *,
        add_generation_prompt: bool = True,
        **options: Unpack[ChatOptions],
    ) -> str:
        """The conversation as the model's chat template writes it; raises as :meth:`chat`."""
        return self._format.render(messages, add_generation_prompt=add_generation_prompt, **options).text

    @cached_property
    def _format(self) -> ChatFormat:
        # jinja2 takes 40 ms to import, which who does not chat need not pay.
        from llama_cffi.text.chat import ChatFormat

        return ChatFormat(self.model)
