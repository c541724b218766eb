"""The text generator of the demo model: reproducible, fully expanded, and true to its names."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest
from demo_plots import PLOTS, Plot
from demo_stories import BOYS, GIRLS, Message, documents, tell, world

NAMES = frozenset((*GIRLS, *BOYS))


def test_same_seed_same_documents() -> None:
    first, second, other = (list(islice(documents(seed), 50)) for seed in (3, 3, 4))
    assert first == second
    assert first != other


@pytest.mark.parametrize("casts", [0, 1, 3])
@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.theme)
def test_every_plot_is_told_cleanly(plot: Plot, casts: int) -> None:
    rng = random.Random(1)
    for _ in range(8):
        grammar = world(rng, plot, casts)
        text = tell(grammar, plot)
        assert not re.search(r"[\[\]{}|_]|  | [,.!?]|[,.!?][,.]", text), text
        assert not re.search(r"\b[Aa] [aeiou]", text), text
        known = {grammar.slots["n"], grammar.slots["f"], *grammar.slots.get("grand", "").split()}
        assert set(re.findall(r"\w+", text)) & NAMES <= known, text
        assert text[0].isupper()
        assert text[-1] in '.!?"'


def test_the_hero_keeps_one_pronoun_where_nobody_else_has_one() -> None:
    plot = next(plot for plot in PLOTS if plot.theme == "going fishing")
    rng = random.Random(1)
    for _ in range(50):
        words = set(re.findall(r"[a-z]+", tell(world(rng, plot, 0), plot).lower()))
        assert not (words & {"he", "his", "him"} and words & {"she", "her"})


def test_dialogues_take_turns_and_most_documents_differ() -> None:
    sample = list(islice(documents(1), 2000))
    assert len(set(sample)) > 1800
    dialogues = [document for document in sample if not isinstance(document, str)]
    assert 300 < len(dialogues) < 500
    for dialogue in dialogues:
        turns: list[Message] = [message for message in dialogue if message.role != "system"]
        assert [message.role for message in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert all(message.content for message in turns)
