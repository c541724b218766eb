"""The markdown of the chat page beside that of markdown-it, and texts of chance that are no markdown."""

from __future__ import annotations

import random
from html.parser import HTMLParser
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tests.support.chromium import Page
from tests.support.page_script import grown, rendered

pytest_plugins = ["tests.support.page_fixtures"]

Tree = list[Any]
JUDGE = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])


class TreeBuilder(HTMLParser):
    """The elements of a text of HTML, as :func:`tests.support.page_script.rendered` has them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root: Tree = ["root", {}]
        self._open = [self.root]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node: Tree = [tag, dict(attrs)]
        self._open[-1].append(node)
        if tag not in ("br", "hr"):
            self._open.append(node)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("br", "hr"):
            assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].append(data)


def plain(nodes: list[Any], *, ours: bool) -> list[Any]:
    """What both have in common: no attributes but addresses and first numbers, and text without the space around it."""
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, str):
            if found and isinstance(found[-1], str):
                found[-1] += node
            else:
                found.append(node)
            continue
        name, attributes, *inner = node
        if name in ("tbody", "p") or (ours and name == "div"):
            # Items of tight lists are no paragraphs there, and are ones here.
            found += [*(["\n"] if name == "p" else []), *inner_of(inner, ours)]
            continue
        if ours and name == "figure":
            name, inner = "pre", [["code", {}, inner[1][2][2] if len(inner[1][2]) > 2 else ""]]
        if ours and name[0] == "h" and name[1:].isdigit():
            name = f"h{max(1, int(name[1:]) - 1)}"
        kept = {key: attributes[key] for key in ("href", "start") if key in attributes}
        if kept.get("start") == "1":
            del kept["start"]
        found.append([name, kept, *inner_of(inner, ours)])
    return joined(found)


def inner_of(nodes: list[Any], ours: bool) -> list[Any]:
    return plain(nodes, ours=ours)


def joined(nodes: list[Any]) -> list[Any]:
    """Texts side by side as one, with single spaces; those without any letters are left out."""
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, str) and found and isinstance(found[-1], str):
            found[-1] += node
        else:
            found.append(node)
    texts = [" ".join(one.split()) if isinstance(one, str) else one for one in found]
    return [one for one in texts if one]


def theirs(text: str) -> list[Any]:
    return plain(TreeBuilder(JUDGE.render(text)).root[2:], ours=False)


WORDS = ["a", "bee", "sea 3", "x_y", "1.5", "5 * 3", "<b>", "&", "é", "日本", "!", "(so)", "a|b", "~", "C#", "\\*"]
ADDRESSES = ["https://e.com/", "http://e.com/a?b=c&d", "https://e.com/a_(b)", "https://e.com/x_y_z"]


class Writer:
    """Writes markdown as models do."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def words(self, n: int = 4) -> str:
        return " ".join(self.random.choice(WORDS) for _ in range(self.random.randint(1, n)))

    def inline(self, depth: int = 2) -> str:
        return " ".join(self.span(depth) for _ in range(self.random.randint(1, 4)))

    def span(self, depth: int) -> str:
        kind = self.random.randrange(9)
        if kind == 0:
            return f"`{self.random.choice(['x', 'a b', '**x**', '<i>', 'f(x)[0]'])}`"
        if kind == 1:
            return f"[{self.random.choice(['link', 'a *b* c', '`f`'])}]({self.random.choice(ADDRESSES)})"
        if kind in (2, 3, 4) and depth:
            mark = "**" if kind == 2 else "*" if kind == 3 else "~~"
            inner = self.random.choice(["bold", "two words", "x `y` z", "é"])
            return f"{mark}{inner}{mark}"
        return self.words()

    def block(self, depth: int = 2) -> list[str]:
        kind = self.random.randrange(9)
        if kind == 0:
            return [f"{'#' * self.random.randint(1, 5)} {self.inline()}"]
        if kind == 1:
            return ["```py", *(f"{' ' * self.random.randrange(5)}{self.words()}" for _ in range(3)), "```"]
        if kind in (2, 3) and depth:
            return self.items(kind == 3, depth)
        if kind == 4 and depth:
            return [f"> {line}".rstrip() for line in self.blocks(depth - 1)]
        if kind == 5:
            rows = [" | ".join(self.cell() for _ in range(3)) for _ in range(3)]
            return [f"| {rows[0]} |", "|---|:-:|--:|", *(f"| {row} |" for row in rows[1:])]
        if kind == 6:
            return ["---"]
        return [self.start(), *(self.start() for _ in range(self.random.randrange(3)))]

    def start(self) -> str:
        """A line that begins nothing else than a paragraph."""
        return f"The {self.inline()}"

    def cell(self) -> str:
        return self.random.choice(["a", "**b**", "`c`", "", "1.5", "[d](https://e.com/)"])

    def items(self, ordered: bool, depth: int) -> list[str]:
        found: list[str] = []
        first = self.random.choice([1, 1, 3])
        for i in range(self.random.randint(1, 3)):
            mark = f"{first + i}. " if ordered else "- "
            inner = [self.start()]
            if self.random.random() < 0.4:
                inner += self.items(self.random.random() < 0.5, depth - 1) if depth > 1 else []
            if self.random.random() < 0.2:
                inner += ["", *self.block(0)]
            found += [(mark if j == 0 else " " * len(mark)) + line if line else "" for j, line in enumerate(inner)]
        return found

    def blocks(self, depth: int = 2) -> list[str]:
        found: list[str] = []
        for _ in range(self.random.randint(1, 4)):
            # Two lists side by side are one there.
            found += [*self.block(depth), "", "The end of it.", ""]
        return found[:-1]


def compare(page: Page, seeds: range) -> None:
    texts = ["\n".join(Writer(seed).blocks()) for seed in seeds]
    for seed, text, ours in zip(seeds, texts, rendered(page, texts), strict=True):
        assert plain(ours, ours=True) == theirs(text), f"seed {seed}\n{text}"


def test_the_same_as_markdown_it(page: Page) -> None:
    compare(page, range(200))


@pytest.mark.fuzz
def test_much_the_same_as_markdown_it(page: Page) -> None:
    for begin in range(1000, 11_000, 1000):
        compare(page, range(begin, begin + 1000))


ALPHABET = [
    *"*_`~[]()!<>#-+|\\\n\n  \t:.=1a",
    "http://e.com",
    "https://",
    "```",
    "**",
    "- ",
    "1. ",
    "> ",
    "| a |\n|-|\n",
    "javascript:",
]
_NAMES = (
    "h2 h3 h4 h5 h6 p br hr strong em s code pre a ul ol li blockquote div table thead tbody tr th td figure "
    "figcaption button svg path"
)
TAGS = frozenset(_NAMES.split())


def noise(seed: int) -> list[str]:
    chance = random.Random(seed)
    return [chance.choice(ALPHABET) for _ in range(chance.randint(1, 120))]


def elements(nodes: list[Any]) -> list[Tree]:
    found: list[Tree] = []
    for node in nodes:
        if not isinstance(node, str):
            found += [node, *elements(node[2:])]
    return found


def check_noise(page: Page, seeds: range) -> None:
    pieces = [noise(seed) for seed in seeds]
    for seed, parts, (before, after) in zip(seeds, pieces, grown(page, pieces), strict=True):
        place = f"seed {seed}: {''.join(parts)!r}"
        for tree in (before, after):
            for name, attributes, *_ in elements(tree):
                assert name in TAGS, place
                assert attributes.keys() <= {
                    "href",
                    "target",
                    "rel",
                    "class",
                    "tabindex",
                    "start",
                    "type",
                    "viewBox",
                    "d",
                }
                assert attributes.get("href", "https://").startswith(("https://", "http://")), place
        text = "".join(parts)
        if "```" not in text and "~~~" not in text:  # of the words behind these, only the first ones are shown
            assert text_of(after).count("a") >= text.count("a") - address_letters(after), place


def text_of(nodes: list[Any]) -> str:
    return "".join(one if isinstance(one, str) else text_of(one[2:]) for one in nodes)


def address_letters(nodes: list[Any]) -> int:
    return sum(attributes.get("href", "").count("a") for _, attributes, *_ in elements(nodes))


def test_texts_of_chance_are_shown(page: Page) -> None:
    check_noise(page, range(100))


@pytest.mark.fuzz
def test_many_texts_of_chance_are_shown(page: Page) -> None:
    for begin in range(1000, 6_000, 1000):
        check_noise(page, range(begin, begin + 1000))
