"""The trimmed headers of one generation: complete, for cffi without a compiler."""

from __future__ import annotations

import re

from llama_cffi._native.abi.generation import Generation, enums

_STRUCT = re.compile(r"(typedef )?struct (\w+) \{")
_ENUM = re.compile(r"enum (\w+) \{[^}]*\}")
_FUNCTION = re.compile(r"^(?!typedef\b)[\w ]+?[ *]+(\w+)\(.*\);$", re.M)
_MACRO = re.compile(r"^#define (\w+) \.\.\.$", re.M)


def declarations(generation: Generation, headers: str) -> str:
    """Return the C declarations of `headers` (API-mode text with "...") with a generation's layouts, values and
    signatures.

    Functions, constants and structs that the generation lacks are left out (a struct becomes opaque); its legacy
    functions come last. Lines that only API mode knows (`extern "Python"`, `static const`) must not be in `headers`.
    """
    text = re.sub(r"//[^\n]*", "", headers)
    text = _MACRO.sub(lambda found: _macro(generation, found[1]), text)
    text = _ENUM.sub(lambda found: _enum(generation, found[1]), text)
    text = _structs(generation, text)
    text = _FUNCTION.sub(lambda found: _function(generation, found), text)
    legacy = [f"{declaration};" for declaration in generation.legacy.values()]
    return "\n".join([*generation.types.values(), text, *legacy])


def _macro(generation: Generation, name: str) -> str:
    value = generation.all_constants.get(name)
    return "" if value is None else f"#define {name} {value}"


def _enum(generation: Generation, name: str) -> str:
    values = {one: generation.all_constants[one] for one in enums()[name] if one in generation.all_constants}
    # An enum without a value is no C; nothing refers to the placeholder.
    body = ", ".join(f"{one} = {value}" for one, value in values.items()) or f"LLAMA_CFFI_NO_{name.upper()}"
    return f"enum {name} {{ {body} }}"


def _structs(generation: Generation, text: str) -> str:
    parts = []
    place = 0
    while (found := _STRUCT.search(text, place)) is not None:
        depth, end = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        end = text.index(";", end) + 1
        typedef, name = found.groups()
        parts.append(text[place : found.start()])
        parts.append(generation.structs[name].declaration if name in generation.structs else f"struct {name};")
        parts += [f"\ntypedef struct {name} {name};"] if typedef else []
        place = end
    return "".join([*parts, text[place:]])


def _function(generation: Generation, found: re.Match[str]) -> str:
    name = found[1]
    if name in generation.absent:
        return ""
    return f"{generation.functions[name]};" if name in generation.functions else found[0]
