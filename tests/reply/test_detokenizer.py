"""The detokenizer: for every way of cutting the bytes, the text of decoding them at once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_cffi.reply.detokenizer import Detokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, cut at `places` (taken modulo the length; equal places give empty pieces)."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def join(pieces: list[bytes]) -> str:
    detokenizer = Detokenizer()
    return "".join([*map(detokenizer.feed, pieces), detokenizer.flush()])


# Mostly bytes that mean something to UTF-8: leads, continuations, and the edges of the allowed ranges.
utf8_like = st.lists(
    st.one_of(
        st.sampled_from(b"\x00A\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xed\xef\xf0\xf1\xf4\xf5\xfe\xff"),
        st.integers(0, 255),
    ),
    max_size=24,
).map(bytes)


@given(st.one_of(utf8_like, st.binary(max_size=40)), st.lists(st.integers(0, 100), max_size=10))
@example(b"\xed\xa0\x80", [1, 2])  # a surrogate, in three pieces
@example(b"\xf4\x90\x80\x80", [1, 2, 3])  # beyond U+10FFFF
@example(b"\xe2\x82A", [1, 2])
def test_every_cut_gives_the_text_of_decoding_at_once(data: bytes, places: list[int]) -> None:
    assert join(cut(data, places)) == data.decode("utf-8", "replace")
    assert join([data[i : i + 1] for i in range(len(data))]) == data.decode("utf-8", "replace")


@given(st.text(max_size=30), st.lists(st.integers(0, 200), max_size=10))
def test_valid_text_comes_back_whole_and_never_early(text: str, places: list[int]) -> None:
    detokenizer = Detokenizer()
    seen = ""
    fed = b""
    for piece in cut(text.encode(), places):
        fed += piece
        seen += detokenizer.feed(piece)
        assert seen.encode() + detokenizer.pending == fed
        assert len(detokenizer.pending) <= 3
    assert seen == text
    assert detokenizer.flush() == ""


@given(utf8_like, st.lists(st.integers(0, 100), max_size=10))
def test_feed_always_returns_valid_unicode(data: bytes, places: list[int]) -> None:
    detokenizer = Detokenizer()
    for piece in cut(data, places):
        detokenizer.feed(piece).encode("utf-8")  # raises on a lone surrogate
    detokenizer.flush().encode("utf-8")


def test_a_character_in_four_pieces_appears_with_its_last_byte() -> None:
    detokenizer = Detokenizer()
    assert [detokenizer.feed(bytes([byte])) for byte in "🦙".encode()] == ["", "", "", "🦙"]


def test_the_cut_off_end_is_one_replacement_and_the_next_stream_is_clean() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed("a🦙".encode()[:-1]) == "a"
    assert detokenizer.pending == "🦙".encode()[:-1]
    assert detokenizer.flush() == REPLACEMENT
    assert detokenizer.pending == b""
    assert detokenizer.flush() == ""
    assert detokenizer.feed(b"b") == "b"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff", REPLACEMENT),
        (b"\xff\xfe", REPLACEMENT * 2),
        (b"\xe2\x82A", REPLACEMENT + "A"),  # one maximal run, one replacement
        (b"\xed\xa0\x80", REPLACEMENT * 3),  # CESU-8 surrogates are never UTF-8, whatever follows
        (b"\xc0\x80", REPLACEMENT * 2),  # overlong
        (b"a\x80b", "a" + REPLACEMENT + "b"),
        (b"\x00", "\x00"),
    ],
)
def test_invalid_bytes(data: bytes, text: str) -> None:
    assert join([data]) == text
    assert join([bytes([byte]) for byte in data]) == text
