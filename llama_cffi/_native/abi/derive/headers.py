"""C declarations out of headers: the compiler preprocesses, pycparser reads."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycparser import c_ast, c_generator, c_parser  # type: ignore[import-untyped]

from llama_cffi.errors import LibraryError

# In the order in which one program includes them; a release may lack some.
HEADERS = ("ggml.h", "ggml-backend.h", "ggml-cpu.h", "ggml-opt.h", "gguf.h", "llama.h")

# pycparser knows standard C only, and the names of the standard types are all that is needed of these headers.
_STANDARD = """
typedef signed char int8_t; typedef unsigned char uint8_t; typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t; typedef long int64_t; typedef unsigned long uint64_t;
typedef unsigned long size_t; typedef long ptrdiff_t; typedef unsigned long uintptr_t; typedef long intptr_t;
typedef struct _FILE FILE; typedef _Bool bool; typedef int va_list;
"""
_STANDARD_HEADERS = ("stddef.h", "stdint.h", "stdio.h", "stdbool.h", "stdarg.h", "stdlib.h", "string.h")


@dataclass
class Struct:
    """A complete struct: (declaration, name) of each field in order; an anonymous union has the name ""."""

    fields: list[tuple[str, str]]
    # For an anonymous union or struct: the names by which its place can be asked for.
    inner: dict[int, list[str]]


@dataclass
class Declarations:
    """What a set of headers declares."""

    functions: dict[str, str] = field(default_factory=dict)  # name -> declaration with parameter names
    shapes: dict[str, str] = field(default_factory=dict)  # name -> types alone, for comparing
    structs: dict[str, Struct] = field(default_factory=dict)
    enums: dict[str, list[str]] = field(default_factory=dict)
    typedefs: dict[str, str] = field(default_factory=dict)
    llama_functions: set[str] = field(default_factory=set)  # those that llama.h itself declares


def compiler(language: str = "c") -> list[str]:
    """Return the C or C++ compiler as a command: CC or CXX, else what the system calls one."""
    return os.environ.get("CC" if language == "c" else "CXX", "cc" if language == "c" else "c++").split()


def call(command: list[str], what: str, stdin: str | None = None) -> str:
    """Run a tool and return what it prints; LibraryError with its words when it fails."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LibraryError(f"{what} needs {command[0]}, which is not installed: install it") from error
    if done.returncode:
        raise LibraryError(f"{what} failed:\n{done.stderr.strip()[-4000:]}")
    return done.stdout


def include_folders(source: Path) -> list[Path]:
    """Return where llama.cpp's public headers lie in a source tree, or in a folder of installed headers."""
    places = [source / "include", source / "ggml" / "include"]
    if (source / "llama.h").is_file():
        places = [source, source.parent / "ggml" / "include"]
    folders = [folder for folder in places if folder.is_dir()]
    if not any((folder / "llama.h").is_file() for folder in folders):
        raise LibraryError(f"{source} is not a llama.cpp source tree: give a folder that contains include/llama.h")
    return folders


def present_headers(source: Path) -> list[str]:
    """Return those of HEADERS that the tree has."""
    folders = include_folders(source)
    return [name for name in HEADERS if any((folder / name).is_file() for folder in folders)]


def read_headers(source: Path) -> Declarations:
    """Return the declarations of llama.h and of the ggml headers beside it."""
    with tempfile.TemporaryDirectory() as name:
        fake = Path(name)
        for header in _STANDARD_HEADERS:
            (fake / header).write_text("", encoding="utf-8")
        (fake / "stddef.h").write_text(f"#pragma once\n{_STANDARD}", encoding="utf-8")
        for header in ("stdint.h", "stdio.h", "stdbool.h"):
            (fake / header).write_text("#include <stddef.h>\n", encoding="utf-8")
        text = "".join(f"#include <{header}>\n" for header in present_headers(source))
        command = [*compiler(), "-E", "-nostdinc", "-D__attribute__(x)=", "-D__extension__=", f"-I{fake}"]
        command += [f"-I{folder}" for folder in include_folders(source)]
        expanded = call([*command, "-"], f"preprocessing {source}", text)
    return _declarations(_without_bodies(expanded))


def read_cdefs(texts: list[str]) -> Declarations:
    """Return the declarations of cffi's trimmed headers, whose open ends ("...") are closed first."""
    text = "\n".join(texts)
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^\s*(#define|extern \"Python\"|static const)[^\n]*$", "", text, flags=re.M)
    text = re.sub(r",\s*\.\.\.\s*\}", "}", text)
    text = re.sub(r"\[\s*\.\.\.\s*\]", "[1]", text)
    text = re.sub(r"\.\.\.\s*;", "", text)
    return _declarations(_STANDARD + text)


def cdef_macros(texts: list[str]) -> list[str]:
    """Return names of the number macros that the trimmed headers declare."""
    return re.findall(r"^#define (\w+) \.\.\.", "\n".join(texts), flags=re.M)


def _without_bodies(text: str) -> str:
    # A static inline function is no symbol of the library, and its body may use what pycparser cannot read.
    return re.sub(r"^\s*static inline [^;{]*\{.*?^\s*\}", "", text, flags=re.M | re.S)


def _declarations(text: str) -> Declarations:
    found = Declarations()
    for node in c_parser.CParser().parse(text, "headers").ext:
        if isinstance(node, c_ast.Typedef):
            found.typedefs[node.name] = _text(node)
            _complete_types(node.type, found)
        elif isinstance(node, c_ast.Decl):
            _complete_types(node.type, found)
            if isinstance(node.type, c_ast.FuncDecl):
                _function(node, found)
    alias = [name for name, decl in found.typedefs.items() if re.search(rf"\b(struct|enum) {name}\b", decl)]
    for name in alias:
        tag = "enum" if f"enum {name}" in found.typedefs[name] else "struct"
        pattern = re.compile(rf"(?<!struct )(?<!enum )\b{name}\b(?!\()")
        found.shapes = {key: pattern.sub(f"{tag} {name}", shape) for key, shape in found.shapes.items()}
    return found


def _function(node: Any, found: Declarations) -> None:
    node.storage = []
    node.funcspec = []
    found.functions[node.name] = _text(node)
    if str(getattr(node.coord, "file", "")).endswith("llama.h"):
        found.llama_functions.add(node.name)
    bare = copy.deepcopy(node)
    for param in bare.type.args.params if bare.type.args else []:
        _unname(param)
    shape = re.sub(r"\bconst ", "", _text(bare)).replace("(void)", "()")
    found.shapes[node.name] = re.sub(r"\bint\b", "int32_t", shape)  # the same to a caller


def _unname(param: Any) -> None:
    if isinstance(param, c_ast.Decl):
        param.name = None
    kind = getattr(param, "type", None)
    while kind is not None and not isinstance(kind, (c_ast.TypeDecl, c_ast.EllipsisParam)):
        kind = getattr(kind, "type", None)
    if isinstance(kind, c_ast.TypeDecl):
        kind.declname = None


def _complete_types(kind: Any, found: Declarations) -> None:
    """Note structs and enums that are defined here, also inside a typedef."""
    while isinstance(kind, (c_ast.TypeDecl, c_ast.PtrDecl, c_ast.ArrayDecl)):
        kind = kind.type
    if isinstance(kind, c_ast.Enum) and kind.values is not None and kind.name:
        found.enums[kind.name] = [value.name for value in kind.values.enumerators]
    if isinstance(kind, c_ast.Struct) and kind.decls is not None and kind.name:
        fields: list[tuple[str, str]] = []
        inner: dict[int, list[str]] = {}
        for decl in kind.decls:
            _complete_types(decl.type, found)
            if decl.name is None:
                inner[len(fields)] = [child.name for child in decl.type.decls]
            fields.append((_text(decl), decl.name or ""))
        found.structs[kind.name] = Struct(fields, inner)


def _text(node: Any) -> str:
    written = c_generator.CGenerator().visit(node)
    return " ".join(written.split()).replace("_Bool", "bool")
