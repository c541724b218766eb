"""What callers give to the methods of ``Llama``, as type checkers see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llama_cffi.core.media.audio import Audio
    from llama_cffi.core.media.image import Image
    from llama_cffi.core.media.video import Video
    from llama_cffi.core.prompt import Prompt
    from llama_cffi.prompt.messages import Message

    Tokens = Sequence[int] | NDArray[np.int32]
    Messages = str | Sequence[Message]
    Texts = list[str] | tuple[str, ...]
    Prompts = list[str] | tuple[str, ...] | list[list[int]] | list[NDArray[np.int32]] | list[Prompt]
    Given = str | Tokens
    AnyPrompt = str | NDArray[np.int32] | Sequence[str | int | Image | Audio | Video]
    Embeddable = str | Image | Audio | Video | Sequence[AnyPrompt | Prompt | Image | Audio | Video]
