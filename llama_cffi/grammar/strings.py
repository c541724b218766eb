"""The strings that schemas leave."""

from __future__ import annotations

from collections.abc import Iterator

from llama_cffi.grammar.automaton import Automaton
from llama_cffi.grammar.document import Node
from llama_cffi.grammar.formats import FORMATS, KNOWN_FORMATS, MAX_LENGTHS, format_pattern
from llama_cffi.grammar.keywords import at
from llama_cffi.grammar.pattern import Pattern, PatternError
from llama_cffi.grammar.shapes import ShapeReader, Text, highest, lowest


def text_shapes(reader: ShapeReader, atoms: list[Node]) -> Iterator[Text]:
    """Yield the strings that all of the schemas leave, as one shape or none.

    Raises :class:`SchemaError` for patterns and values of ``format`` that are not supported.
    """
    low, high, patterns = lowest(atoms, "minLength"), highest(atoms, "maxLength"), []
    for node in atoms:
        if "pattern" in node.value:
            patterns.append(reader.pattern(node, node.value["pattern"], "pattern"))
        if "format" in node.value:
            found = _format(node, node.value["format"], strict=reader.document.strict)
            patterns.extend([] if found is None else [found])
            longest = MAX_LENGTHS.get(node.value["format"])
            high = longest if high is None else min(high, longest or high)
    text = Text(low, high, tuple(dict.fromkeys(patterns)))
    if (high is None or low <= high) and not _empty(text):
        yield text


def _format(node: Node, name: str, *, strict: bool) -> Pattern | None:
    found = format_pattern(name)
    if found is None and (strict or name in KNOWN_FORMATS):
        raise at(node.pointer, "format", f"{name!r} is not asserted; only {', '.join(FORMATS)} are")
    return found


def _empty(text: Text) -> bool:
    """Whether no string is left, as far as that is found out in little time."""
    if any(pattern.empty for pattern in text.patterns):
        return True
    if len(text.patterns) + (text.low > 0 or text.high is not None) < 2:
        return False
    try:
        return text_automaton(text, lengths=False).empty or not text_automaton(text, lengths=False).has_length(
            text.low, text.high
        )
    except PatternError:
        return False


def text_automaton(text: Text, *, lengths: bool = True) -> Automaton:
    """Return the strings of a shape as an automaton; :class:`PatternError` when it is too large."""
    patterns = list(text.patterns)
    if not patterns or (lengths and (text.low > 0 or text.high is not None)):
        patterns.append(Pattern.lengths(text.low, text.high))
    found = patterns[0].automaton
    for pattern in patterns[1:]:
        found = found.both(pattern.automaton)
    return found


__all__ = ["text_automaton", "text_shapes"]
