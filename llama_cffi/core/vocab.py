"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_cffi._native import binding, ffi, guard, lib
from llama_cffi._util.arguments import check_flag
from llama_cffi._util.process_bound import ProcessBound
from llama_cffi._util.scalars import as_int
from llama_cffi._util.shown import shown
from llama_cffi.core.long_text import stack_to_tokenize
from llama_cffi.core.strings import to_text
from llama_cffi.core.vocab_types import TokenAttr, VocabType
from llama_cffi.errors import NativeError, TokenError, TokenizeError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llama_cffi._native.gate import SharedGate
    from llama_cffi._native.handle import Handle

_INT32_MIN = -(2**31)
_MAX_TEXT = 2**31 - 1


class Vocab(ProcessBound):
    """The vocabulary of a :class:`~llama_cffi.core.model.Model`: a view that lives as long as its model.

    Tokenizing is thread-safe.
    """

    _instead_of_pickling = "it is a part of its Model; open that one's file in each process"
    _instead_of_copying = "it is a part of its Model, and any number of threads may use one"

    __slots__ = ("__weakref__", "_eog_tokens", "_gate", "_handle", "_pieces", "_pre", "_ptr", "_special_pieces",
                 "n_tokens", "type")  # fmt: skip

    def __init__(self, handle: Handle, gate: SharedGate, pre: str | None = None) -> None:
        self._handle = handle
        self._gate = gate
        self._ptr = lib.llama_model_get_vocab(handle.ptr)
        self.n_tokens: int = lib.llama_vocab_n_tokens(self._ptr)
        self.type = VocabType(lib.llama_vocab_type(self._ptr))
        self._pieces: dict[int, bytes] = {}
        self._special_pieces: dict[int, bytes] = {}
        self._eog_tokens: tuple[int, ...] | None = None
        self._pre = pre if pre is not None else _pre_tokenizer(handle.ptr)

    @property
    def handle(self) -> Handle:
        """The owner of the model that the vocabulary is part of."""
        return self._handle

    @property
    def gate(self) -> SharedGate:
        """``with vocab.gate:`` keeps other threads from closing the model meanwhile."""
        return self._gate

    @property
    def ptr(self) -> Any:
        """The ``llama_vocab *``; :class:`ClosedError` when the model is closed."""
        self._handle.ptr  # noqa: B018 - raises when the model is closed
        return self._ptr

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        return f"<Vocab {self.type.name} n_tokens={self.n_tokens}>"

    # -- text and tokens

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> NDArray[np.int32]:
        """Return the token ids of a text, int32 of shape ``(n,)``.

        ``add_special`` adds BOS, EOS or SEP if the model uses them. ``parse_special`` converts the text of control
        tokens to those tokens; do not use it for text from users. Raises :class:`TokenizeError` for lone surrogates, a
        model without a tokenizer, texts above 2 GiB and, where the vocabulary is one of BPE, 4,000,000 characters
        without a line break. Wraps ``llama_tokenize``.
        """
        add_special, parse_special = check_flag("add_special", add_special), check_flag("parse_special", parse_special)
        if isinstance(text, str):
            try:
                data = text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise TokenizeError(
                    f"the text holds a lone surrogate {error.object[error.start]!r} at index {error.start}: "
                    "it is not valid Unicode"
                ) from None
        elif isinstance(text, bytes):
            data = text
        else:
            raise TypeError(f"text must be str or bytes, not {type(text).__name__}")
        if self.type is VocabType.NONE:
            raise TokenizeError("this model has no tokenizer; pass token ids")
        if len(data) > _MAX_TEXT:
            raise TokenizeError(f"the text has {len(data)} bytes; llama.cpp takes at most {_MAX_TEXT}")
        stack = self.stack_for(text)
        # A token covers at least one byte in nearly every vocabulary, and at most a few specials are added.
        room = len(data) + 8
        for _ in range(2):
            tokens = np.empty(room, dtype=np.int32)
            buffer = ffi.from_buffer(tokens)
            try:
                with self._gate:
                    n = guard.call_int_deep(
                        stack, "llama_tokenize", self.ptr, data, len(data), buffer, room, add_special, parse_special
                    )
            except NativeError as error:
                raise TokenizeError(f"llama.cpp cannot tokenize the text: {error.message}", log=error.log) from error
            if n >= 0:
                return tokens[:n].copy() if n < room // 2 else tokens[:n]
            if n == _INT32_MIN:
                raise TokenizeError("the text has more than 2**31 - 1 tokens")
            room = -n
        raise TokenizeError(f"llama.cpp could not tokenize the text (needs {room} tokens)")

    def stack_for(self, text: str | bytes) -> int:
        """Return the bytes of stack that tokenizing a text may take; 0 where it takes no more than any text."""
        return 0 if self.type in _FLAT else stack_to_tokenize(text, self._pre)

    def detokenize(
        self,
        tokens: Sequence[int] | NDArray[np.int32],
        *,
        remove_special: bool = False,
        unparse_special: bool = True,
    ) -> bytes:
        """Return bytes of a token sequence; usually UTF-8, cut points inside a character excepted.

        ``remove_special`` drops the BOS and EOS that the model would add; ``unparse_special`` writes control
        tokens out as text. Raises :class:`TokenError` for ids outside the vocabulary. Wraps ``llama_detokenize``.
        """
        remove_special = check_flag("remove_special", remove_special)
        unparse_special = check_flag("unparse_special", unparse_special)
        ids = self.check_tokens(tokens)
        if self.type is VocabType.NONE:
            raise TokenizeError("this model has no tokenizer")
        if not len(ids):
            return b""
        room = 8 * len(ids) + 16
        for _ in range(2):
            text = ffi.new("char[]", room)
            with self._gate:
                n = guard.call_int(
                    "llama_detokenize",
                    self.ptr,
                    ffi.from_buffer(ids),
                    len(ids),
                    text,
                    room,
                    remove_special,
                    unparse_special,
                )
            if n >= 0:
                return bytes(ffi.buffer(text, n))
            room = -n
        raise TokenizeError("llama.cpp could not detokenize the tokens")

    def check_tokens(self, tokens: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the same ids as a contiguous int32 array; :class:`TokenError` names the first that is not a token."""
        if not isinstance(tokens, (Sequence, np.ndarray)) or isinstance(tokens, (str, bytes)):
            raise TypeError(f"tokens must be a sequence of ints, not {type(tokens).__name__}")
        try:
            array = np.asarray(tokens)
        except (ValueError, OverflowError):
            raise TokenError("tokens must be a one-dimensional sequence of integers") from None
        if array.ndim != 1:
            raise TokenError(f"tokens must be one-dimensional, not of shape {array.shape}")
        if not array.size:
            return np.empty(0, dtype=np.int32)
        if array.dtype.kind not in "iu":
            raise TokenError(f"tokens must be integers, not {array.dtype}")
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self.n_tokens:
            index = int(np.argmax((array < 0) | (array >= self.n_tokens)))
            raise TokenError(
                f"token {int(array[index])} at index {index} is outside the vocabulary of {self.n_tokens} tokens"
            )
        return np.ascontiguousarray(array, dtype=np.int32)

    def piece(self, token: int, *, special: bool = True) -> bytes:
        """Return the bytes of one token, not always valid UTF-8 alone.

        Control tokens give their text, or ``b""`` with ``special=False``. Wraps ``llama_token_to_piece``.
        """
        cache = self._special_pieces if special else self._pieces
        found = cache.get(token)
        if found is not None:
            return found
        self._check(token)
        if self.type is VocabType.NONE:
            raise TokenizeError("this model has no tokenizer")
        room = 64
        while True:
            buffer = ffi.new("char[]", room)
            with self._gate:
                # Not guarded, which costs three times as much: a loaded vocabulary has every piece ready.
                n = lib.llama_token_to_piece(self.ptr, token, buffer, room, 0, special)
            if n >= 0:
                break
            room = -n
        cache[token] = piece = bytes(ffi.buffer(buffer, n))
        return piece

    def pieces(self) -> list[bytes]:
        """Return the bytes of every token, as :meth:`piece` gives them, in one pass. Wraps ``llama_token_to_piece``."""
        ptr, to_piece, buffer, out = self._typed(0), lib.llama_token_to_piece, ffi.new("char[]", 256), []
        view = ffi.buffer(buffer)
        with self._gate:
            for token in range(self.n_tokens):
                n = to_piece(ptr, token, buffer, 256, 0, True)
                out.append(view[:n] if n >= 0 else self.piece(token))
        return out

    def attrs(self) -> NDArray[np.int32]:
        """Return the attributes of every token, bits of :class:`TokenAttr`, int32 of shape ``(n_tokens,)``."""
        ptr, attr = self._typed(0), lib.llama_vocab_get_attr
        with self._gate:
            return np.fromiter((attr(ptr, token) for token in range(self.n_tokens)), np.int32, self.n_tokens)

    @property
    def eog_tokens(self) -> tuple[int, ...]:
        """Every token that ends a generation; the first time, a pass over the whole vocabulary.

        Wraps ``llama_vocab_is_eog``.
        """
        ptr, is_eog = self._typed(0), lib.llama_vocab_is_eog
        if self._eog_tokens is None:
            with self._gate:
                self._eog_tokens = tuple(token for token in range(self.n_tokens) if is_eog(ptr, token))
        return self._eog_tokens

    # -- single tokens

    def text(self, token: int) -> str:
        """Return the token as it is written in the vocabulary, for example ``"▁the"``. Wraps
        ``llama_vocab_get_text``."""
        with self._gate:
            return to_text(lib.llama_vocab_get_text(self._typed(token), token))

    def score(self, token: int) -> float:
        """Return the token's score in the vocabulary. Wraps ``llama_vocab_get_score``."""
        return float(lib.llama_vocab_get_score(self._typed(token), token))

    def attr(self, token: int) -> TokenAttr:
        """Return the token's attributes. Wraps ``llama_vocab_get_attr``."""
        return TokenAttr(lib.llama_vocab_get_attr(self._typed(token), token))

    def is_eog(self, token: int) -> bool:
        """Return whether the token ends generation (EOS, EOT, ...). Wraps ``llama_vocab_is_eog``."""
        self._check(token)
        return bool(lib.llama_vocab_is_eog(self.ptr, token))

    def is_control(self, token: int) -> bool:
        """Return whether the token is a control token, which renders as no text. Wraps ``llama_vocab_is_control``."""
        self._check(token)
        return bool(lib.llama_vocab_is_control(self.ptr, token))

    @property
    def control_tokens(self) -> dict[str, int]:
        """The text of every control token with its id; a pass over the whole vocabulary."""
        control = int(TokenAttr.CONTROL | TokenAttr.UNKNOWN)
        with self._gate:
            ptr = self._typed(0)
            found = [token for token in range(self.n_tokens) if lib.llama_vocab_get_attr(ptr, token) & control]
            texts = [to_text(lib.llama_vocab_get_text(ptr, token)) for token in found]
        return {text: token for text, token in zip(texts, found, strict=True) if text}

    # -- special tokens; None where the vocabulary has none

    @property
    def bos(self) -> int | None:
        """Beginning of sequence."""
        return _optional(lib.llama_vocab_bos(self.ptr))

    @property
    def eos(self) -> int | None:
        """End of sequence."""
        return _optional(lib.llama_vocab_eos(self.ptr))

    @property
    def eot(self) -> int | None:
        """End of turn."""
        return _optional(lib.llama_vocab_eot(self.ptr))

    @property
    def sep(self) -> int | None:
        """Sentence separator."""
        return _optional(lib.llama_vocab_sep(self.ptr))

    @property
    def nl(self) -> int | None:
        """Newline."""
        return _optional(lib.llama_vocab_nl(self.ptr))

    @property
    def pad(self) -> int | None:
        """Padding."""
        return _optional(lib.llama_vocab_pad(self.ptr))

    @property
    def mask(self) -> int | None:
        """Mask."""
        return _optional(lib.llama_vocab_mask(self.ptr))

    @property
    def fim_pre(self) -> int | None:
        """Fill-in-the-middle: before the prefix."""
        return _optional(lib.llama_vocab_fim_pre(self.ptr))

    @property
    def fim_suf(self) -> int | None:
        """Fill-in-the-middle: before the suffix."""
        return _optional(lib.llama_vocab_fim_suf(self.ptr))

    @property
    def fim_mid(self) -> int | None:
        """Fill-in-the-middle: before the middle."""
        return _optional(lib.llama_vocab_fim_mid(self.ptr))

    @property
    def fim_pad(self) -> int | None:
        """Fill-in-the-middle: padding."""
        return _optional(lib.llama_vocab_fim_pad(self.ptr))

    @property
    def fim_rep(self) -> int | None:
        """Fill-in-the-middle: before a repository name."""
        return _optional(lib.llama_vocab_fim_rep(self.ptr))

    @property
    def fim_sep(self) -> int | None:
        """Fill-in-the-middle: before a file name."""
        return _optional(lib.llama_vocab_fim_sep(self.ptr))

    @property
    def add_bos(self) -> bool:
        """Whether the model uses BOS before a text."""
        return bool(lib.llama_vocab_get_add_bos(self.ptr))

    @property
    def add_eos(self) -> bool:
        """Whether the model uses EOS after a text."""
        return bool(lib.llama_vocab_get_add_eos(self.ptr))

    @property
    def add_sep(self) -> bool:
        """Whether the model uses SEP after a text."""
        return bool(lib.llama_vocab_get_add_sep(self.ptr))

    @property
    def suppress_tokens(self) -> tuple[int, ...]:
        """Tokens that must never be sampled, by the model's metadata. Wraps ``llama_vocab_get_suppress_tokens``."""
        n = ffi.new("int32_t *")
        tokens = lib.llama_vocab_get_suppress_tokens(self.ptr, n)
        return tuple(ffi.unpack(tokens, n[0])) if tokens != ffi.NULL and n[0] > 0 else ()

    @property
    def known_suppress_tokens(self) -> tuple[int, ...]:
        """The same as ``suppress_tokens``, and empty for a library that does not read them."""
        return self.suppress_tokens if binding.has("llama_vocab_get_suppress_tokens") else ()

    def _check(self, token: int) -> None:
        number = as_int(token)
        if number is None:
            raise TokenError(f"a token must be an int, got {shown(token)}")
        if not 0 <= number < self.n_tokens:
            raise TokenError(f"token {token} is outside the vocabulary of {self.n_tokens} tokens")

    def _typed(self, token: int) -> Any:
        self._check(token)
        if self.type is VocabType.NONE:
            # llama.cpp asserts on every per-token question to a vocabulary without tokens.
            raise UnsupportedError("this model has no vocabulary entries")
        return self.ptr


_FLAT = frozenset({VocabType.SPM, VocabType.WPM, VocabType.UGM, VocabType.RWKV, VocabType.PLAMO2})
"""Tokenizers that do not recurse by the length of a text."""


def _pre_tokenizer(model: Any) -> str:
    buffer = ffi.new("char[]", 128)
    n = lib.llama_model_meta_val_str(model, b"tokenizer.ggml.pre", buffer, len(buffer))
    return to_text(buffer) if n > 0 else ""


def _optional(token: int) -> int | None:
    return token if token >= 0 else None


__all__ = ["TokenAttr", "Vocab", "VocabType"]
