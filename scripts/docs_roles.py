"""Sphinx roles in docstrings, as cross-references of the documentation site.

The docstrings say ``:class:`X```, ``:meth:`Y``` and so on, which Sphinx, IDEs and notebooks understand. mkdocs reads
Markdown: this extension of griffe turns each role into a link to what it names. A name that neither the package nor
Python has is reported as a warning, which ``mkdocs build --strict`` makes an error.
"""

from __future__ import annotations

import builtins
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)(\(\))?`")
_LITERAL = re.compile(r"^( *)(.*?) ?::$", re.MULTILINE)
_OTHERS = {"jinja2", "numpy", "pydantic", *sys.stdlib_module_names, *dir(builtins)}

_log = logging.getLogger("mkdocs.plugins.docs_roles")


class RolesExtension(griffe.Extension):
    """Rewrites the docstrings of a package once all of it is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite every docstring of the package."""
        for one in _objects(pkg, set()):
            if one.docstring is not None:
                one.docstring.value = rewrite(one.docstring.value, one, pkg)
        options, values = (pkg[f"engine.sampling_params.{name}"] for name in ("SamplingKwargs", "SamplingParams"))
        for name, key in options.members.items():
            # Said once in the code, shown at both places.
            if key.docstring is None and name in values.members:
                key.docstring = values.members[name].docstring


def _objects(one: griffe.Object, seen: set[str]) -> Iterator[griffe.Object]:
    if one.path in seen:
        return
    seen.add(one.path)
    yield one
    for member in one.members.values():
        if not member.is_alias:
            yield from _objects(member, seen)


def rewrite(text: str, scope: griffe.Object, package: griffe.Module) -> str:
    """Return a docstring as Markdown: roles as links, ``::`` before an indented block left out."""

    def link(found: re.Match[str]) -> str:
        short, name = found[1] == "~", found[2]
        shown = name.rpartition(".")[2] if short else name
        path = resolve(name, scope, package)
        if path is None:
            if name.partition(".")[0] not in _OTHERS:
                _log.warning("%s: nothing is called %s", scope.path, name)
            return f"`{shown}`"
        return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'

    text = _LITERAL.sub(lambda found: f"{found[1]}{found[2]}:" if found[2] else "", text)
    return _ROLE.sub(link, text)


def resolve(name: str, scope: griffe.Object, package: griffe.Module) -> str | None:
    """Return the full path of what a name in a docstring of ``scope`` means, or None.

    It is looked for where Python would: in the class, its bases, the module and its imports; then among the public
    names, the errors, and at last by its full path.
    """
    first, *rest = name.split(".")
    if first == package.name:
        return _member(package, rest)
    here: griffe.Object | None = scope
    while here is not None:
        if found := _member(here, [first, *rest]):
            return found
        here = here.parent
    return _member(package, ["errors", first, *rest]) or _anywhere(package, [first, *rest])


def _member(start: griffe.Object, names: list[str]) -> str | None:
    one: griffe.Object | griffe.Alias = start
    for name in names:
        try:
            if one.is_alias:
                one = one.final_target
            members = one.all_members if one.is_class else one.members
            if name not in members:
                return None
            one = members[name]
        except (griffe.AliasResolutionError, griffe.CyclicAliasError):
            return None
    try:
        return str(one.canonical_path)
    except (griffe.AliasResolutionError, griffe.CyclicAliasError):
        return None


_by_name: dict[str, list[griffe.Object]] = {}


def _anywhere(package: griffe.Module, names: list[str]) -> str | None:
    """Return the one class or function of the package that has this name, wherever it is."""
    if not _by_name:
        for one in _objects(package, set()):
            if one.parent is None or one.parent.is_module:
                _by_name.setdefault(one.name, []).append(one)
    paths = {path for one in _by_name.get(names[0], ()) if (path := _member(one, names[1:]))}
    return min(paths) if paths else None
