"""Sizes, offsets, values and default parameters of one release, as the compiler sees them."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from llama_cffi._native.abi.derive.headers import Declarations, call, compiler, include_folders, present_headers
from llama_cffi._native.abi.fingerprint import DEFAULTS
from llama_cffi.errors import LibraryError


def run_program(source: Path, text: str, language: str, headers: list[str]) -> str:
    """Compile a program against the tree's headers, run it, and return what it prints."""
    with tempfile.TemporaryDirectory() as name:
        program = Path(name, "program.cpp" if language == "c++" else "program.c")
        includes = "".join(f"#include <{header}>\n" for header in headers)
        program.write_text(includes + text, encoding="utf-8")
        command = [*compiler(language), "-w", "-O0", *(f"-I{folder}" for folder in include_folders(source))]
        call([*command, str(program), "-o", f"{program}.out"], f"compiling a probe of {source}")
        return call([f"{program}.out"], f"running a probe of {source}")


@dataclass
class Measured:
    """`places`: {struct: {"": [0, size], field: [offset, size]}}, an anonymous union's field being "#" and its number;
    `lengths`: {(struct, field): elements of an array}; `values`: {enumerator or macro: value}."""

    places: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    lengths: dict[tuple[str, str], int] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)


def measure(source: Path, found: Declarations, structs: list[str], names: list[str]) -> Measured:
    """Ask the compiler for the layout of structs and the value of constants."""
    lines = ["#include <stddef.h>\n#include <stdio.h>\nint main(void) {"]
    for struct in structs:
        lines.append(f'printf("S {struct} - 0 %zu\\n", sizeof(struct {struct}));')
        for number, (text, name) in enumerate(found.structs[struct].fields):
            if re.search(r"\[[^\]]*[^\]\d][^\]]*\]", text) and name:
                of = f"((struct {struct} *) 0)->{name}"
                lines.append(f'printf("A {struct} {name} 0 %zu\\n", sizeof({of}) / sizeof({of}[0]));')
            for inner in [name] if name else found.structs[struct].inner[number]:
                shown = name or f"#{number}"
                of = f"((struct {struct} *) 0)->{inner}"
                where = f"offsetof(struct {struct}, {inner})"
                lines.append(f'printf("S {struct} {shown} %zu %zu\\n", {where}, sizeof({of}));')
    for name in names:
        lines.append(f'printf("V {name} - 0 %lld\\n", (long long) {name});')
    lines.append("return 0; }")
    measured = Measured()
    for line in run_program(source, "\n".join(lines), "c", present_headers(source)).splitlines():
        kind, owner, name, offset, size = line.split()
        if kind == "V":
            measured.values[owner] = int(size)
        elif kind == "A":
            measured.lengths[owner, name] = int(size)
        else:
            fields = measured.places.setdefault(owner, {})
            key = "" if name == "-" else name
            fields[key] = [int(offset), max(int(size), fields.get(key, [0, 0])[1])]
    return measured


def defined_macros(source: Path, names: list[str]) -> list[str]:
    """Return those names that the tree's headers define as macros."""
    lines = ["#include <stdio.h>\nint main(void) {"]
    lines += [f'\n#ifdef {name}\nputs("{name}");\n#endif\n' for name in names]
    return run_program(source, "".join(lines) + "return 0; }", "c", present_headers(source)).split()


def default_bytes(source: Path) -> dict[str, str]:
    """Compile the three default-params functions out of the tree's own source; hex of what each returns.

    Bytes that a Metal build fills otherwise are "??". Bytes between the fields are not told apart here: the
    caller masks them with the layout.
    """
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted((source / "src").glob("*.[ch]*"))]
    functions: list[str] = []
    for function, struct in DEFAULTS.items():
        pattern = rf"^(?:struct )?{struct} {function}\(\s*(?:void)?\s*\) \{{.*?^\}}"
        matches = [found[0] for text in texts for found in re.findall(f"({pattern})()", text, flags=re.M | re.S)]
        if len(matches) != 1:
            raise LibraryError(f"{function} is not defined once in {source}/src: give a complete source tree")
        functions.append(matches[0])
    # A constant of the same source file that a default refers to.
    words = set(re.findall(r"\b[A-Z][A-Z0-9_]{4,}\b", "".join(functions)))
    pattern = r"^(?:#define (\w+) [^\n]+|static (?:constexpr|const) [\w ]+?(\w+) *= *[^;\n]+;)"
    constants = {
        match.group(0): None
        for text in texts
        for match in re.finditer(pattern, text, flags=re.M)
        if (match.group(1) or match.group(2)) in words
    }
    lines = [
        "#include <stdio.h>\n#include <string.h>\n",
        *(f"{text}\n" for text in constants),
        *functions,
        "\nint main() {",
    ]
    for function, struct in DEFAULTS.items():
        lines.append(
            f"{{ struct {struct} value = {function}(); unsigned char bytes[sizeof value]; "
            f'memcpy(bytes, &value, sizeof value); printf("{function} ");'
            'for (size_t i = 0; i < sizeof value; i++) printf("%02x", bytes[i]); printf("\\n"); }'
        )
    lines.append("return 0; }")
    variants = []
    for macro in ("", "#define GGML_USE_METAL\n"):
        printed = run_program(source, macro + "\n".join(lines), "c++", ["llama.h"])
        variants.append(dict(line.split() for line in printed.splitlines()))
    plain, metal = variants
    return {name: _common(data, metal[name]) for name, data in plain.items()}


def _common(one: str, other: str) -> str:
    pairs = [(one[i : i + 2], other[i : i + 2]) for i in range(0, len(one), 2)]
    return "".join(a if a == b else "??" for a, b in pairs)


def picture(data: str, fields: list[list[int]]) -> str:
    """Hex of a struct in which bytes that belong to no field are ".."."""
    covered: set[int] = set()
    for offset, size in fields:
        covered.update(range(offset, offset + size))
    return "".join(data[2 * i : 2 * i + 2] if i in covered else ".." for i in range(len(data) // 2))


def defined_functions(source: Path, names: set[str]) -> set[str]:
    """Return those functions of which the tree's sources hold a definition: a header may declare more than that."""
    text = "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in sorted((source / "src").glob("*.cpp")))
    defined = set(re.findall(r"\b(llama_\w+)\s*\([^;{}]*\)\s*\{", text))
    return {name for name in names if name in defined}
