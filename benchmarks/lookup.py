"""What prompt lookup saves of texts that repeat themselves or their prompt, counted without a model.

    python benchmarks/lookup.py [--json FILE]

For each kind of text in ``tests/support/repeating_texts.py``: the decodes that it takes, and the tokens that were
drafted in vain. Compared are this package's lookup, what llama-server's ``ngram-simple`` drafts with several sizes, and
what followed the longest earlier match, found by trying all, for several lengths of drafts: where rows are free, no
draft from one place of the text can be much better than that.

The package's drafts are as long as pays, so its rows are for several machines: "free" rows cost nothing, "kernels" is
this package's build on two cores (8 rows take 2.8 times as long as one), and "steep" a CPU where two rows take three
times as long as one. Its last column says how many times faster than without drafts it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llama_cffi.engine.prompt_lookup import PromptLookup  # noqa: E402
from tests.support.lookup_machine import MACHINES, run_lookup  # noqa: E402
from tests.support.repeating_texts import Propose, decodes, longest_match, ngram_simple, samples, words  # noqa: E402

OTHERS: dict[str, Propose] = {
    **{f"longest match, {n} tokens": longest_match(n) for n in (8, 16, 64)},
    **{f"ngram-simple {n}, {m} tokens": ngram_simple(n, m) for n, m in ((2, 8), (2, 48), (4, 48), (12, 48))},
}


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description="Count the decodes that prompt lookup saves.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    for kind, found in samples().items():
        texts = [(words(one.prompt), words(one.text)) for one in found]
        n_tokens = sum(len(text) - 1 for _, text in texts)
        rows = results[kind] = {}
        for name, propose in OTHERS.items():
            counts = [decodes(prompt, text, propose) for prompt, text in texts]
            rows[name] = [sum(n for n, _ in counts), sum(n for _, n in counts)]
        for name, decode in MACHINES.items():
            rows[f"llama_cffi, {name}"] = list(run_lookup(texts, decode, PromptLookup()))
        print(f"\n{kind}: {n_tokens} tokens after the first")
        print(f"  {'':<28}{'decodes':>8}{'tokens each':>13}{'in vain':>9}{'faster':>9}")
        for name, (n, in_vain, *faster) in rows.items():
            last = f"{faster[0]:>9.2f}" if faster else ""
            print(f"  {name:<28}{n:>8}{n_tokens / n:>13.2f}{in_vain:>9}{last}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
