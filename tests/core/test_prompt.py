"""Prompts as cells: equality, positions and cuts, with media that nobody made."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi.core.prompt import Media, Prompt, common_prefix, reusable

pieces = st.builds(
    lambda name, n, less: Media(bytes([name]) * 16, n, max(1, n - less)),
    st.integers(0, 3),
    st.integers(1, 6),
    st.integers(0, 5),
)
contents = st.lists(st.one_of(st.integers(0, 3), pieces), max_size=12)


def naive_positions(parts: list[int | Media]) -> list[int]:
    """The position of each cell, piece by piece."""
    found, position = [], 0
    for part in parts:
        if isinstance(part, Media):
            found += [position] * part.n_cells
            position += part.n_positions
        else:
            found.append(position)
            position += 1
    return [*found, position]


@given(contents)
def test_positions(parts: list[int | Media]) -> None:
    prompt = Prompt(parts)
    wanted = naive_positions(parts)
    assert [prompt.position(cell) for cell in range(len(prompt) + 1)] == wanted
    assert prompt.n_positions == wanted[-1]
    assert prompt.position(len(prompt) + 5) == wanted[-1] + 5


@given(contents)
def test_boundaries_cut_no_media(parts: list[int | Media]) -> None:
    prompt = Prompt(parts)
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + (part.n_cells if isinstance(part, Media) else 1))
    for n in range(len(prompt) + 3):
        cut = prompt.boundary(n)
        assert cut == (n if n > len(prompt) else max(end for end in ends if end <= n))
        if n <= len(prompt):
            first = prompt.first(n)
            assert first == Prompt(parts[: ends.index(cut)])
            assert first.media == Prompt(parts[: ends.index(cut)]).media


@given(contents, contents)
def test_equal_cells_are_equal_content(a: list[int | Media], b: list[int | Media]) -> None:
    one, other = Prompt(a), Prompt(b)
    same = [part.cell if isinstance(part, Media) else part for part in a for _ in range(getattr(part, "n_cells", 1))]
    assert list(one) == same
    assert (one == other) == (tuple(one) == tuple(other))
    if one == other:
        assert hash(one) == hash(other)
        assert one.digest() == other.digest()
    elif one.digest() == other.digest():
        raise AssertionError("two contents with one digest")


@given(contents, contents, contents)
def test_reuse_ends_where_nothing_is_cut(shared: list[int | Media], a: list[int | Media], b: list[int | Media]) -> None:
    held, prompt = Prompt(shared + a), Prompt([*shared, *b, 7])
    n = reusable(held, prompt)
    assert n <= common_prefix(held, prompt)
    assert n < len(prompt)
    assert prompt.boundary(n) == n
    assert n >= min(len(Prompt(shared)), len(prompt) - 1)
    assert reusable(held, prompt, can_cut=False) in (0, len(held))


@given(contents, contents)
def test_prompts_are_added_and_pickled(a: list[int | Media], b: list[int | Media]) -> None:
    both = Prompt(a) + Prompt(b)
    assert both == Prompt(a + b)
    assert both.media == Prompt(a + b).media
    assert Prompt(a) + Prompt([5, 6]) == Prompt([*a, 5, 6])
    again = pickle.loads(pickle.dumps(both))
    assert again == both
    assert (type(again), again.media) == (Prompt, both.media)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="digest must be 16 bytes"):
        Media(b"short", 4, 4)
    with pytest.raises(ValueError, match="n_positions=5"):
        Media(bytes(16), 4, 5)


def test_a_digest_is_the_same_in_every_process() -> None:
    code = (
        "from llama_cffi.core.prompt import Media, Prompt;"
        "print(Prompt([1, 2, Media(bytes(range(16)), 3, 2), 70000]).digest())"
    )
    found = {subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(2)}
    assert found == {Prompt([1, 2, Media(bytes(range(16)), 3, 2), 70000]).digest() + "\n"}


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30), st.booleans())
def test_the_common_beginning_is_the_same_by_arrays(a: list[int], b: list[int], media: bool) -> None:
    first, second = Prompt(a), Prompt([*a[: len(a) // 2], Media(bytes(16), 2, 1), *b] if media else [*a[:5], *b])
    assert first.n_shared(second) == second.n_shared(first) == common_prefix(first, second)


def test_a_memory_with_an_image_at_its_end_may_report_fewer_positions() -> None:
    image = Media(b"x" * 16, 6, 3)
    assert Prompt([1, 2]).least_positions == Prompt([1, 2]).n_positions == 2
    assert (Prompt([1, image]).least_positions, Prompt([1, image]).n_positions) == (2, 4)
    assert Prompt([1, image, 2]).least_positions == Prompt([1, image, 2]).n_positions == 5


def test_what_is_only_compared_needs_no_content() -> None:
    prompt = Prompt([1, Media(b"x" * 16, 6, 3, object()), 2])
    bare = prompt.without_content()
    assert (bare, bare.media, bare.media[0].media.content) == (prompt, prompt.media, None)
    assert bare.without_content() is bare
