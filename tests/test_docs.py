"""The code on the pages of the documentation runs as it stands, and every public name has some."""

from __future__ import annotations

import ast
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from docs_hooks import expand, on_page_content

import llama_cffi
from llama_cffi import errors, options
from llama_cffi._native import abi
from llama_cffi.cli import console, conversation
from llama_cffi.cli.app import app
from llama_cffi.reply.formats import FORMATS
from llama_cffi.runtime import demo_path
from tests.support.media_kinds import TEMPLATE
from tests.support.media_models import QWEN2VL_SHAPE, write_text_model, write_vision_projector
from tests.support.pictures import scene

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
REFERENCE = sorted((DOCS / "reference").glob("*.md"))

_BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Runs the files given one after another, each as a program of its own.
_DRIVER = """
import os, runpy, sys
if hasattr(os, "sched_setaffinity"):
    # One core, so one thread: on a busy machine threads that wait for each other take most of the time.
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[os.getpid() % len(cpus)]})
for path in sys.argv[1:]:
    runpy.run_path(path, run_name="__main__")
    print("\\n== done:", path)
"""
_DONE = "\n== done:"


def blocks(page: Path, *, skipped: bool = False) -> list[str]:
    """The Python blocks of a page that run, or those that are marked as not run."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for mark, code in found if bool(mark) is skipped and not code.startswith("--8<--")]


ALL = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
PAGES = [page for page in ALL if blocks(page)]


def write_seeing_model(folder: Path) -> None:
    """What the pages about images call a model, its projector and pictures."""
    write_text_model(folder / "gemma-3-4b-it-Q4_K_M.gguf", "qwen2vl", QWEN2VL_SHAPE, template=TEMPLATE)
    write_vision_projector(folder / "mmproj-gemma-3-4b-it-f16.gguf")
    for i, name in enumerate(("cat", "dog", "photo")):
        scene(40, 32, i).save(folder / f"{name}.jpg")


# Loading the library takes longer than most blocks, so the pages of a folder share a process.
@pytest.mark.parametrize("folder", [ROOT, DOCS, DOCS / "reference"], ids=["README", "guides", "reference"])
def test_the_code_on_the_pages_runs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(demo_path())  # what the README calls the reader's model
    write_seeing_model(tmp_path)
    files = []
    for page in PAGES:
        if page.parent == folder:
            for i, code in enumerate(blocks(page)):
                files.append(tmp_path / f"{page.stem}_{i}.py")  # a traceback names it
                files[-1].write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _DRIVER, *map(str, files)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(_DONE) == len(files) > 1


@pytest.mark.conformance
def test_the_code_on_the_pages_has_the_types_that_it_uses(tmp_path: Path) -> None:
    files = []
    for page in ALL:
        for i, code in enumerate((*blocks(page), *blocks(page, skipped=True))):
            files.append(tmp_path / f"{page.stem.replace('-', '_').lower()}_{page.parent.name}_{i}.py")
            files[-1].write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--config-file=", *map(str, files)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, timeout=900
    )
    errors = [line for line in done.stdout.splitlines() if line.startswith(tuple(file.name for file in files))]
    assert errors == [], "\n".join(errors)
    assert " source files" in done.stdout


def test_every_page_with_code_is_in_a_folder_that_runs() -> None:
    assert {page.parent for page in PAGES} == {ROOT, DOCS, DOCS / "reference"}


def test_few_blocks_are_left_out() -> None:
    clients = ["serving-clients.md"] * 3  # they need a server, and the packages of others
    found = [page.name for page in ALL for _ in blocks(page, skipped=True)]
    # Those in the reference of media and in the page about speech need a model that speaks.
    assert found == ["README.md", "library.md", "media.md", "server.md", *clients, "speech.md"]


def names_in(code: str) -> set[str]:
    """Every name that a program uses or imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def test_every_public_name_is_used_in_an_example() -> None:
    codes = [code for page in ALL for code in (*blocks(page), *blocks(page, skipped=True))]
    codes += [path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")]
    used = set().union(*map(names_in, codes))
    assert sorted(set(llama_cffi.__all__) - used) == []


def test_every_public_name_is_in_the_reference() -> None:
    shown = set(re.findall(r"^::: llama_cffi\.([\w.]+)$", "\n".join(map(Path.read_text, REFERENCE)), re.MULTILINE))
    elsewhere = {"LlamaCffiError", "SamplerChain"}  # with all of their modules
    assert {"errors", "options", "samplers"} <= shown
    assert set(llama_cffi.__all__) - elsewhere <= shown
    index = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    assert [name for name in llama_cffi.__all__ if f"[{name}][" not in index] == []


def test_what_public_classes_inherit_is_in_the_reference() -> None:
    """A page shows the members of bases only where it is told to."""
    # They have close(), ``with``, and what is not for callers.
    common = {"NativeObject", "Closing", "AsyncClosing", "ProcessBound", "MediaValue", "Conversation"}
    text = "\n".join(map(Path.read_text, REFERENCE))
    shows_all = r"^::: llama_cffi\.(\w+)\n    options:\n      inherited_members: true$"
    whole = set(re.findall(shows_all, text, re.MULTILINE))
    missing = []
    for name in set(llama_cffi.__all__) - whole:
        kind = getattr(llama_cffi, name)
        for base in kind.__mro__[1:] if isinstance(kind, type) else ():
            if base.__module__.startswith("llama_cffi") and base.__name__ not in common:
                missing += [f"{name}: {base.__name__}.{one}" for one in vars(base) if not one.startswith("_")]
    assert [one for one in missing if not one.startswith("LlamaCffiError")] == []


def test_every_kind_of_options_is_in_the_table_of_options() -> None:
    table = (DOCS / "reference" / "options.md").read_text(encoding="utf-8")
    bases = {"TextOptions", "TemplateOptions"}
    kinds = {name for name in options.__all__ if name.endswith("Options")} - bases
    assert {name for name in kinds if f"[llama_cffi.options.{name}]" not in table} == set()


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    assert sorted(expand(listed, DOCS)) == pages
    assert expand([{"Decisions": ["a.md", "adr/0001*.md"]}], DOCS) == [{"Decisions": ["a.md", "adr/0001-cffi.md"]}]


def test_every_guide_is_linked_from_the_first_page() -> None:
    first = (DOCS / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if page.stem != "index" and f"]({page.name})" not in first] == []


def test_the_first_page_counts_what_there_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    with_calls = [name for name in FORMATS if name != "plain"]
    assert f"tool calls in {len(with_calls)} formats" in readme
    twelve = len(abi.generations())
    assert (twelve, "twelve generations of the interface" in readme) == (12, True)


def test_the_page_about_the_command_line_has_every_command() -> None:
    page = (DOCS / "command-line.md").read_text(encoding="utf-8")
    commands: Any = typer.main.get_command(app)
    assert [name for name in commands.commands if f"`{name}`" not in page] == []
    slashes = re.findall(r"^(/\w+)", conversation.HELP, re.MULTILINE)
    assert len(slashes) > 10
    assert [name for name in slashes if f"`{name}" not in page] == []
    codes = (console.FAILURE, console.INTERRUPTED, console.BROKEN_PIPE)
    assert [code for code in codes if f"\n| {code} | " not in page] == []


def test_a_role_that_is_left_on_a_page_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_path="page.md"))
    with caplog.at_level(logging.WARNING):
        on_page_content("<p>Raises <code>X</code>: no.</p>", page=page)
        assert not caplog.records
        on_page_content("<p>Raises :class:<code>Some thing</code></p>", page=page)
        on_page_content('<code class="unknown">Circle</code>', page=page)
    assert "page.md: a role is left: :class:<code>Some thing" in caplog.text
    assert "page.md: nothing is called Circle" in caplog.text


def test_the_page_of_examples_has_every_example() -> None:
    page = (DOCS / "examples.md").read_text(encoding="utf-8")
    shown = re.findall(r'^--8<-- "examples/([\w.]+)"$', page, re.MULTILINE)
    assert shown == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def test_every_exception_is_public() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert kinds == set(errors.__all__)
