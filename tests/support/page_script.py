"""The functions of the chat page's script, to be called in a browser: it is a module, which shows none of them."""

from __future__ import annotations

import json
from typing import Any

from tests.support.chat_page import FILE
from tests.support.chromium import Page

_TREE = """
    const treeOf = (node) => (node.nodeType === 3 ? node.data
        : [node.localName, Object.fromEntries([...node.attributes].map((one) => [one.name, one.value])),
            ...[...node.childNodes].map(treeOf)]);
"""


def sections(*names: str) -> str:
    """The text of some sections of the script, each from its line ``// -- NAME`` to the next one."""
    script = FILE.read_text(encoding="utf-8").partition('<script type="module">')[2].partition("</script>")[0]
    found = {part.partition("\n")[0]: part for part in script.split("\n// -- ")[1:]}
    return "".join(f"\n// -- {found[name]}" for name in names)


def rendered(page: Page, texts: list[str]) -> list[Any]:
    """What the page makes of texts of markdown: elements are lists of a name, attributes and what is in them."""
    code = sections("elements", "markdown, as elements and text nodes")
    body = f"""
        return {json.dumps(texts)}.map((text) => blocksOf(text.split("\\n"), 0).map(treeOf));
    """
    found: list[Any] = page.evaluate(f"(() => {{ {_TREE} {code} {body} }})()")
    return found


def grown(page: Page, pieces: list[list[str]]) -> list[list[Any]]:
    """What the page shows of texts that came in pieces, at their end: before, and after it knows that it is the end."""
    code = sections("elements", "markdown, as elements and text nodes")
    body = f"""
        return {json.dumps(pieces)}.map((parts) => {{
            const root = document.createElement("div");
            const view = new Markdown(root);
            let text = "";
            for (const part of parts) view.show((text += part), false);
            const before = [...root.childNodes].map(treeOf);
            view.show(text, true);
            return [before, [...root.childNodes].map(treeOf)];
        }});
    """
    found: list[list[Any]] = page.evaluate(f"(() => {{ {_TREE} {code} {body} }})()")
    return found


__all__ = ["grown", "rendered", "sections"]
