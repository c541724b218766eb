"""The roles of docstrings become links."""

from __future__ import annotations

from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe")

from docs_roles import Roles  # noqa: E402

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
from elsewhere.deep import Thing
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
        ("shapes.Shape", ".fill", "pack.paint.fill"),
        ("paint.fill", "Box.side", "pack.shapes.Square.side"),
        ("paint.fill", "Thing", "elsewhere.deep.Thing"),
        ("shapes.Shape", "side", None),
        ("shapes.Shape", "pack.shapes.Circle", None),
        ("shapes.Shape", "Circle", None),
    ],
)
def test_a_name_is_found_where_python_would_look(package: object, scope: str, name: str, path: str | None) -> None:
    roles = Roles(package)  # type: ignore[arg-type, unused-ignore]
    assert roles.resolve(name, package[scope]) == path  # type: ignore[index]


def test_roles_become_links_or_code(package: object) -> None:
    roles, scope = Roles(package), package["shapes.Square"]  # type: ignore[arg-type, index, unused-ignore]
    text = "A :class:`~pack.shapes.Shape`; :meth:`double`, :func:`time.monotonic`, ``:attr:`` and :class:`ValueError`."
    assert roles.rewrite(text, scope) == (
        'A <autoref optional identifier="pack.shapes.Shape"><code>Shape</code></autoref>; '
        '<autoref optional identifier="pack.shapes.Square.double"><code>double</code></autoref>, `time.monotonic`, '
        "``:attr:`` and `ValueError`."
    )
    assert roles.rewrite(":class:`Circle`", scope) == '<code class="unknown">Circle</code>'


def test_the_mark_of_a_block_is_left_out(package: object) -> None:
    roles, scope = Roles(package), package["shapes"]  # type: ignore[arg-type, index, unused-ignore]
    assert roles.rewrite("Do this::\n\n    x = 1\n", scope) == "Do this:\n\n    x = 1\n"
    assert roles.rewrite("::\n\n    x = 1\n", scope) == "\n\n    x = 1\n"
