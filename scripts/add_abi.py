"""Add the binary interface of a llama.cpp release to llama_cffi/_native/abi, read from its headers and sources.

    scripts/add_abi.py 0.3.37                 the llama.cpp inside that llama-cpp-python source distribution
    scripts/add_abi.py ../llama.cpp           a source tree
    scripts/add_abi.py --after b10361 npm:3.21.0
    scripts/add_abi.py                        derive everything again from the recorded sources

All releases are described anew, from build/abi-sources where that holds them: one release's place among the
others decides what its generation is. The list of releases, oldest first, is scripts/abi_releases.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _abi.generations import Release, write
from _abi.sources import CACHE, ROOT, Source, locate
from _libllama.report import BuildError, say
from llama_cffi._native.abi.derive.describe import CDEF_DIR, Description, Wanted, describe
from llama_cffi._native.abi.derive.headers import read_headers
from llama_cffi.errors import LibraryError

LIST = ROOT / "scripts" / "abi_releases.json"
FOLDER = ROOT / "llama_cffi" / "_native" / "abi"


def recorded(entry: dict[str, str]) -> Source:
    """A release of the list as a tree; the facts in the list win over what the tree says."""
    kept = CACHE / entry["name"]
    tree = Source(kept, entry["name"]) if kept.is_dir() else locate(entry["source"])
    return Source(tree.path, entry["name"], entry.get("commit", ""), entry.get("date", ""), entry["source"])


def extended(entries: list[dict[str, str]], sources: list[Source], after: str | None) -> list[dict[str, str]]:
    """The list with new releases behind `after` (default: before the pinned release, which stays last)."""
    names = [entry["name"] for entry in entries]
    if after is not None and after not in names:
        raise BuildError(f"no release {after} in {LIST.name}", f"name one of: {', '.join(names)}")
    place = names.index(after) + 1 if after else len(entries) - 1
    for source in sources:
        if source.name in names:
            raise BuildError(f"{source.name} is in {LIST.name} already", "run without an argument to derive it again")
        facts = {"name": source.name, "commit": source.commit, "date": source.date, "source": source.origin}
        entries.insert(place, {key: value for key, value in facts.items() if value})
        place += 1
    return entries


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when the data was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="*", help="folder, sdist .tar.gz, version of llama-cpp-python, npm:VERSION")
    parser.add_argument("--after", metavar="RELEASE", help="the known release that the new ones follow")
    parser.add_argument("--output", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    try:
        entries: list[dict[str, str]] = json.loads(LIST.read_text(encoding="utf-8"))["releases"]
        added = [locate(text) for text in given.source]
        entries = extended(entries, added, given.after)
        trees: dict[str, Source] = {source.name: source for source in added}
        sources = [trees.get(entry["name"]) or recorded(entry) for entry in entries]
        releases = describe_all(sources)
        groups = write(releases, given.output)
    except (BuildError, LibraryError) as error:
        print(error, file=sys.stderr)
        return 1
    if added:
        data: dict[str, Any] = {"releases": entries}
        LIST.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    for group in groups:
        first, last = group.releases[0].source, group.releases[-1].source
        say(f"{group.name}: {first.name} to {last.name}, {len(group.releases)} releases")
    return 0


def describe_all(sources: list[Source]) -> list[Release]:
    """Describe the releases in order, with the last one as the pinned release."""
    wanted = Wanted.read()
    pinned = read_headers(sources[-1].path)
    state = digest()
    releases = []
    for source in sources:
        kept = CACHE / "described" / f"{source.name}-{state}.json"
        if kept.is_file():
            described = Description(**json.loads(kept.read_text(encoding="utf-8")))
        else:
            say(f"reading {source.name}")
            described = describe(source.path, wanted, pinned)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(asdict(described)), encoding="utf-8")
        releases.append(Release.of(source, described))
    return releases


def digest() -> str:
    """What a description depends on beside its release: the reader, the trimmed headers, the pinned release."""
    parts = [FOLDER / "derive" / name for name in ("headers.py", "layout.py", "describe.py")]
    parts += [*sorted(CDEF_DIR.glob("*.h")), ROOT / "scripts" / "llama_cpp.json"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
