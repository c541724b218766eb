"""What llama.cpp says about a vocabulary and its tokens."""

from __future__ import annotations

import enum


class VocabType(enum.IntEnum):
    """Tokenizer families (``enum llama_vocab_type``)."""

    NONE = 0
    SPM = 1
    BPE = 2
    WPM = 3
    UGM = 4
    RWKV = 5
    PLAMO2 = 6
    TEST = 7


class TokenAttr(enum.IntFlag):
    """Attributes of a token (``enum llama_token_attr``)."""

    UNDEFINED = 0
    UNKNOWN = 1 << 0
    UNUSED = 1 << 1
    NORMAL = 1 << 2
    CONTROL = 1 << 3
    USER_DEFINED = 1 << 4
    BYTE = 1 << 5
    NORMALIZED = 1 << 6
    LSTRIP = 1 << 7
    RSTRIP = 1 << 8
    SINGLE_WORD = 1 << 9


__all__ = ["TokenAttr", "VocabType"]
