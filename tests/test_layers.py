"""Dependencies point down only, and each thing has the one home that the design gives it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "llama_cffi"

LAYERS = (
    "errors",
    "_util",
    "hub",
    "_native",
    "core",
    "samplers",
    "grammar",
    "reply",
    "prompt",
    "given",
    "engine",
    "otel",
    "option_checks",
    "options",
    "spec",
    "prepare",
    "model_load",
    "runtime",
    "isolation",
    "reopening",
    "stream",
    "answers",
    "speech",
    "tool_loop",
    "chat_session",
    "open_model",
    "llama",
    "aio",
    "server",
    "cli",
    "__main__",
)
"""From the bottom to the top. ``__init__`` re-exports names and belongs to none."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


KNOWN_CIRCLES: list[set[str]] = []
"""Modules that still import each other. The list may only become shorter: nothing is added to it."""

MAX_LINES = 400
"""A longer file is cut by what its parts know."""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer_of(module: str) -> int:
    return LAYERS.index(module.split(".")[1])


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything imported, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"llama_cffi.{alias.name}"
                is_module = node.module == "llama_cffi" and alias.name in LAYERS
                yield (inner, "") if is_module else (node.module or "", alias.name)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    mine = name_of(path)
    for module, _ in imports(path):
        if module.startswith("llama_cffi."):
            assert layer_of(module) <= layer_of(mine), f"{mine} imports {module}"
        elif module == "llama_cffi":
            # The package itself re-exports everything, so only what stands above it all may import it.
            assert layer_of(mine) == LAYERS.index("cli") or mine.startswith("llama_cffi._native"), mine


@cache
def import_graph() -> Mapping[str, frozenset[str]]:
    """The modules of the package that each module imports, also inside functions and under TYPE_CHECKING."""
    modules = {name_of(path): path for path in MODULES}
    graph = {}
    for name, path in modules.items():
        # "from package import module" imports the module; any other name comes from the package itself.
        found = (f"{module}.{one}" if f"{module}.{one}" in modules else module for module, one in imports(path))
        graph[name] = frozenset(found) & modules.keys() - {name}
    return graph


def circles(graph: Mapping[str, frozenset[str]]) -> list[set[str]]:
    """Each group of modules that can all be reached from each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {name: reached(name) for name in graph}
    groups = [
        frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]
    ]
    return [set(group) for group in dict.fromkeys(groups)]


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"e"}, "g": {"a"}}
    assert circles({name: frozenset(found) for name, found in graph.items()}) == [{"b", "c"}, {"e", "f"}]
    assert "llama_cffi.core.memory" in import_graph()["llama_cffi.core.context"]
    assert "llama_cffi._native.guard" in import_graph()["llama_cffi.core.memory"]


def test_no_modules_import_each_other() -> None:
    known = [{f"llama_cffi.{name}" for name in circle} for circle in KNOWN_CIRCLES]
    found = circles(import_graph())
    for circle in found:
        assert any(circle <= one for one in known), f"these import each other: {sorted(circle)}"
    for one in known:
        assert one in found, f"KNOWN_CIRCLES has {sorted(one)}, found were {found}: leave there only what is left"


def test_no_file_is_long() -> None:
    kinds = {".py", ".h", ".hpp", ".cpp", ".inc"}
    # The declarations of the ABI generations are made by the build.
    files = [path for path in PACKAGE.rglob("*") if path.suffix in kinds and not path.match("abi/_[!_]*.py")]
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_bytes().splitlines()) for path in files}
    assert len(lines) > 300
    assert {name: n for name, n in lines.items() if n > MAX_LINES} == {}


def test_errors_import_nothing_of_the_package() -> None:
    assert not [module for module, _ in imports(PACKAGE / "errors.py") if module.startswith("llama_cffi")]


def test_only_native_and_core_touch_ffi_and_lib() -> None:
    users = {
        name_of(path).split(".")[1]
        for path in MODULES
        for module, name in imports(path)
        if module.startswith("llama_cffi._native") and (name in ("ffi", "lib") or "_helpers" in module)
    }
    assert users == {"_native", "core"}


def test_nobody_below_the_command_line_prints() -> None:
    printers = {
        name_of(path).split(".")[1]
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printers == {"cli"}


def test_one_file_starts_threads() -> None:
    starters = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in ("Thread", "ThreadPoolExecutor")
    }
    assert starters == {"llama_cffi._util.worker"}


def test_only_core_owns_handles() -> None:
    owners = {
        name_of(path).split(".")[1]
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Handle"
    }
    assert owners == {"core"}


def test_no_finalizer_other_than_weakref() -> None:
    for path in MODULES:
        tree = tree_of(path)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__del__"]
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "gc"]
        assert "atexit" not in [module for module, _ in imports(path)]
