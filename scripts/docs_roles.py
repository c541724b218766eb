"""Sphinx roles in docstrings, as cross-references of the documentation site.

The docstrings say ``:class:`X```, ``:meth:`Y``` and so on, which Sphinx, IDEs and notebooks understand. mkdocs reads
Markdown: this extension of griffe turns each role into a link to what it names. A name that neither the package nor
Python has is marked, and ``docs_hooks.py`` warns of it when it comes to a page.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")
_LITERAL = re.compile(r"^( *)(.*?) ?::$", re.MULTILINE)
_OTHERS = {"jinja2", "numpy", "pydantic", *sys.stdlib_module_names, *dir(builtins)}


class RolesExtension(griffe.Extension):
    """Rewrites the docstrings of a package once all of it is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite every docstring of the package."""
        roles = Roles(pkg)
        for one in roles.objects:
            if one.docstring is not None:
                one.docstring.value = roles.rewrite(one.docstring.value, one)
        options, values = (pkg[f"engine.sampling_params.{name}"] for name in ("SamplingKwargs", "SamplingParams"))
        for name, key in options.members.items():
            # Said once in the code, shown at both places.
            if key.docstring is None and name in values.members:
                key.docstring = values.members[name].docstring


class Roles:
    """The roles in the docstrings of one package."""

    def __init__(self, package: griffe.Module) -> None:
        self.package = package
        self.objects = list(_objects(package, set()))
        self._by_name: dict[str, list[griffe.Object]] = {}
        for one in self.objects:
            if one.parent is None or one.parent.is_module:
                self._by_name.setdefault(one.name, []).append(one)

    def rewrite(self, text: str, scope: griffe.Object) -> str:
        """Return the docstring of ``scope`` as Markdown: roles as links, and no ``::`` before an indented block."""

        def link(found: re.Match[str]) -> str:
            short, name = found[1] == "~", found[2]
            shown = name.rpartition(".")[2] if short else name.lstrip(".")
            path = self.resolve(name, scope)
            if path is None:
                known = name.lstrip(".").partition(".")[0] in _OTHERS
                return f"`{shown}`" if known else f'<code class="unknown">{shown}</code>'
            return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'

        text = _LITERAL.sub(lambda found: f"{found[1]}{found[2]}:" if found[2] else "", text)
        return _ROLE.sub(link, text)

    def resolve(self, name: str, scope: griffe.Object) -> str | None:
        """Return the full path of what a name in the docstring of ``scope`` means, or None.

        It is looked for where Python would: in the class, its bases, the module and its imports; then among the errors,
        and at last among the classes and functions of all modules.
        """
        names = name.lstrip(".").split(".")
        if names[0] == self.package.name:
            return _member(self.package, names[1:])
        here: griffe.Object | None = scope
        while here is not None:
            if found := _member(here, names):
                return found
            here = here.parent
        if found := _member(self.package, ["errors", *names]):
            return found
        paths = {path for one in self._by_name.get(names[0], ()) if (path := _member(one, names[1:]))}
        return min(paths, default=None)


def _objects(one: griffe.Object, seen: set[str]) -> Iterator[griffe.Object]:
    if one.path in seen:
        return
    seen.add(one.path)
    yield one
    for member in one.members.values():
        if not member.is_alias:
            yield from _objects(member, seen)


def _member(start: griffe.Object, names: list[str]) -> str | None:
    one: griffe.Object | griffe.Alias = start
    for name in names:
        try:
            if one.is_alias:
                one = one.final_target
            members = one.all_members if one.is_class else one.members
        except (griffe.AliasResolutionError, griffe.CyclicAliasError):
            return None
        if name not in members:
            return None
        one = members[name]
    try:
        return str(one.canonical_path)
    except (griffe.AliasResolutionError, griffe.CyclicAliasError):
        return str(one.target_path)  # imported from another package, whose code is not read
