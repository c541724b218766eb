"""The table in docs/structured-output.md: ``python -m tests.support.schema_table [ASSETS] [VOCAB.gguf]``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from llama_cffi import Model, ModelOptions
from tests.support.json_suite import Outcome, cases, outcome

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "structured-output.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"
HEAD = (
    "| file of the suite | 2020-12: schemas enforced | refused | tests passed | 7: schemas enforced | refused "
    "| tests passed |\n|---|---|---|---|---|---|---|\n"
)


def table(outcomes: Iterable[Outcome]) -> str:
    """One line for each file, and the sums."""
    counts: dict[str, dict[str, list[int]]] = {}
    for item in outcomes:
        for row in (item.case.keyword, "all"):
            of_draft = counts.setdefault(row, {"draft2020-12": [0, 0, 0], "draft7": [0, 0, 0]})[item.case.draft]
            of_draft[0] += not item.refused
            of_draft[1] += bool(item.refused)
            of_draft[2] += item.passed
    order = sorted(counts, key=lambda row: (row == "all", row.startswith("optional"), row))
    lines = []
    for row in order:
        cells = [str(n) if sum(numbers) else "" for numbers in counts[row].values() for n in numbers]
        lines.append(f"| {row} | {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


def written(document: str) -> str:
    """The table as the document has it."""
    return document.partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    """Write the table into the document."""
    assets = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "assets"
    default = ROOT / "vendor" / "llama.cpp" / "models" / "ggml-vocab-gpt-2.gguf"
    with Model(sys.argv[2] if len(sys.argv) > 2 else default, ModelOptions(vocab_only=True)) as model:
        new = table(outcome(case, model.vocab) for case in cases(assets))
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.replace(BEGIN + written(text) + END, BEGIN + new + END), encoding="utf-8")


if __name__ == "__main__":
    main()
