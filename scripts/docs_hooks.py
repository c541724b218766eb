"""Hooks of mkdocs: the decisions in the navigation, and a last look at every page."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

_LEFT = re.compile(r":[a-z]+:(?:`|<code>)")
_UNKNOWN = re.compile(r'<code class="unknown">([^<]*)</code>')
_log = logging.getLogger("mkdocs.plugins.docs_hooks")


def on_config(config: Any) -> Any:
    """Put the files that a pattern in the navigation means in its place, in the order of their names."""
    config.nav = expand(config.nav, Path(config.docs_dir))
    return config


def expand(nav: Any, folder: Path) -> Any:
    """Return a navigation whose patterns are files below ``folder``."""
    if isinstance(nav, dict):
        return {title: expand(below, folder) for title, below in nav.items()}
    if not isinstance(nav, list):
        return nav
    expanded: list[Any] = []
    for one in nav:
        if isinstance(one, str) and "*" in one:
            expanded += sorted(path.relative_to(folder).as_posix() for path in folder.glob(one))
        else:
            expanded.append(expand(one, folder))
    return expanded


def on_page_content(html: str, *, page: Any, **kwargs: Any) -> str:
    """Warn of roles of Sphinx that are left on a page, and of names in roles that nothing has."""
    for found in _UNKNOWN.finditer(html):
        _log.warning("%s: nothing is called %s", page.file.src_path, found[1])
    for found in _LEFT.finditer(html):
        _log.warning("%s: a role is left: %s", page.file.src_path, html[found.start() : found.end() + 40])
    return html
