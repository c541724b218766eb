"""Dependencies point down only, and each thing has the one home that the design gives it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "llama_cffi"

LAYERS = (
    "errors",
    "_util",
    "hub",
    "_native",
    "core",
    "grammar",
    "reply",
    "prompt",
    "engine",
    "options",
    "spec",
    "prepare",
    "runtime",
    "stream",
    "answers",
    "tool_loop",
    "chat_session",
    "llama",
    "cli",
)
"""From the bottom to the top. ``__init__`` re-exports names and belongs to none."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    return LAYERS.index(module.split(".")[1])


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything imported, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printers == {"cli"}


def test_one_file_starts_threads() -> None:
    starters = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("Thread", "ThreadPoolExecutor")
    }
    assert starters == {"llama_cffi._util.worker"}


def test_only_core_owns_handles() -> None:
    owners = {
        name_of(path).split(".")[1]
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Handle"
    }
    assert owners == {"core"}


def test_no_finalizer_other_than_weakref() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__del__"]
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "gc"]
        assert "atexit" not in [module for module, _ in imports(path)]
