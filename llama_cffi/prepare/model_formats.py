"""The prompt formats of one model: everything that preparation needs of it, created at its first use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_cffi.core.media.projector import Projector
    from llama_cffi.core.model import Model
    from llama_cffi.grammar.piece_index import PieceIndex
    from llama_cffi.prepare.media import MediaFormat
    from llama_cffi.prompt.chat import ChatFormat
    from llama_cffi.prompt.infill import InfillFormat
    from llama_cffi.prompt.pairs import PairFormat


class ModelFormats:
    """The formats of a model. Any thread may use them."""

    def __init__(self, model: Model, projector: Projector | None = None) -> None:
        self.model = model
        self.vocab = model.vocab
        self._projector = projector

    @cached_property
    def media(self) -> MediaFormat:
        """Images and sound."""
        from llama_cffi.prepare.media import MediaFormat

        return MediaFormat(self._projector, self.model.name)

    @cached_property
    def chat(self) -> ChatFormat:
        """Conversations."""
        # jinja2 takes 40 ms to import, which a program that does not chat need not pay.
        from llama_cffi.prompt.chat import ChatFormat

        return ChatFormat(self.model)

    @cached_property
    def infill(self) -> InfillFormat:
        """Fill-in-the-middle prompts."""
        from llama_cffi.prompt.infill import InfillFormat

        return InfillFormat(self.vocab)

    @cached_property
    def pairs(self) -> PairFormat:
        """Pairs of a query and a document."""
        from llama_cffi.prompt.pairs import PairFormat

        return PairFormat(self.vocab, self.model.chat_template("rerank"))

    @cached_property
    def author_sampling(self) -> Mapping[str, Any]:
        """The fields of sampling parameters that the author of the model recommends."""
        from llama_cffi.engine.author_sampling import author_sampling

        return author_sampling(self.model.metadata)

    @cached_property
    def pieces(self) -> PieceIndex:
        """Tokens by the beginning of their text."""
        from llama_cffi.grammar.piece_index import PieceIndex

        return PieceIndex(self.vocab)


__all__ = ["ModelFormats"]
