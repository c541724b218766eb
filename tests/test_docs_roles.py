"""The roles of docstrings become links."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

griffe = pytest.importorskip("griffe")

from docs_roles import Roles, on_page_content  # noqa: E402

PACKAGE = {
    "__init__.py": "from pack.shapes import Square",
    "errors.py": "class Wrong(Exception):\n    pass",
    "shapes.py": """
class Shape:
    def area(self): ...

class Square(Shape):
    side = 1

    def double(self): ...
""",
    "paint.py": """
from pack.shapes import Square as Box

def fill(box): ...
""",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("package")
    (folder / "pack").mkdir()
    for name, text in PACKAGE.items():
        Path(folder, "pack", name).write_text(text)
    return griffe.load("pack", search_paths=[folder], allow_inspection=False)


@pytest.mark.parametrize(
    ("scope", "name", "path"),
    [
        ("shapes.Square.double", "side", "pack.shapes.Square.side"),
        ("shapes.Square.double", "area", "pack.shapes.Shape.area"),
        ("shapes.Shape", "Square", "pack.shapes.Square"),
        ("shapes.Shape", "Square.double", "pack.shapes.Square.double"),
        ("shapes.Shape", "pack.paint.fill", "pack.paint.fill"),
        ("shapes.Shape", "pack.Square", "pack.shapes.Square"),
        ("shapes.Shape", "Wrong", "pack.errors.Wrong"),
        ("shapes.Shape", "fill", "pack.paint.fill"),
        ("paint.fill", "Box.side", "pack.shapes.Square.side"),
        ("shapes.Shape", "side", None),
        ("shapes.Shape", "pack.shapes.Circle", None),
        ("shapes.Shape", "Circle", None),
    ],
)
def test_a_name_is_found_where_python_would_look(package: object, scope: str, name: str, path: str | None) -> None:
    roles = Roles(package)  # type: ignore[arg-type, unused-ignore]
    assert roles.resolve(name, package[scope]) == path  # type: ignore[index]


def test_roles_become_links_or_code(package: object, caplog: pytest.LogCaptureFixture) -> None:
    roles, scope = Roles(package), package["shapes.Square"]  # type: ignore[arg-type, index, unused-ignore]
    text = "A :class:`~pack.shapes.Shape`; :meth:`double`, :func:`time.monotonic`, ``:attr:`` and :class:`ValueError`."
    assert roles.rewrite(text, scope) == (
        'A <autoref optional identifier="pack.shapes.Shape"><code>Shape</code></autoref>; '
        '<autoref optional identifier="pack.shapes.Square.double"><code>double</code></autoref>, `time.monotonic`, '
        "``:attr:`` and `ValueError`."
    )
    assert not caplog.records
    assert roles.rewrite(":class:`Circle`", scope) == "`Circle`"
    assert "pack.shapes.Square: nothing is called Circle" in caplog.text


def test_the_mark_of_a_block_is_left_out(package: object) -> None:
    roles, scope = Roles(package), package["shapes"]  # type: ignore[arg-type, index, unused-ignore]
    assert roles.rewrite("Do this::\n\n    x = 1\n", scope) == "Do this:\n\n    x = 1\n"
    assert roles.rewrite("::\n\n    x = 1\n", scope) == "\n\n    x = 1\n"


def test_a_role_that_is_left_on_a_page_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_path="page.md"))
    with caplog.at_level(logging.WARNING):
        on_page_content("<p>Raises <code>X</code>: no.</p>", page=page)
        assert not caplog.records
        on_page_content("<p>Raises :class:<code>Some thing</code></p>", page=page)
    assert "page.md: a role is left: :class:<code>Some thing" in caplog.text
