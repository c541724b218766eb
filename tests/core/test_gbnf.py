"""Grammars are measured before llama.cpp sees them: none may end the process, take all memory or hang."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from llama_cffi import Model
from llama_cffi.core.sampler import Grammar, Greedy, SamplerChain
from llama_cffi.errors import GrammarError, SchemaError
from llama_cffi.grammar.native import NativeConstraint
from tests.support.children import run_child

pytest_plugins = ["tests.support.models"]

CHAIN = "\n".join(f"r{i} ::= r{i + 1}" for i in range(50_001))
TWICE = "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40))

REFUSED = {
    "turned": ('root ::= "a"{5,0}', r"line 1, byte 13: \{5,0\} repeats at least 5 times and at most 0"),
    "huge": ('root ::=\n "a"{99999999999999999999}', "line 2, byte 5: .* repeats more often than 2000"),
    "wide": ('root ::= "a"{0,100000000}', "more than 50000 rules"),
    "wide inside": ('root ::= ("a"{0,1000}){0,1000}', "too ambiguous"),
    "copied": ("root ::= [" + "a-z" * 2000 + "]{1999}", "more than 2000000 elements"),
    "nested": ("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, "more than 1000 parentheses"),
    "chain": (f'root ::= r0\n{CHAIN}\nr50001 ::= "x"', "more than 50000 rules"),
    "alternatives": (
        "root ::= " + " | ".join(f'"{i}"' for i in range(20_001)),
        "more than 20000 alternatives in one rule",
    ),
    "optional": ("root ::= " + '"a"? ' * 1_000, "too ambiguous: from rule 'root' it reads"),
    "optional, later": ('root ::= "x" ' + '"a"? ' * 40, "too ambiguous"),
    "exponential": (f'root ::= r0\n{TWICE}\nr40 ::= "x" | ""', "more than 20000 ways at one place"),
    "walked": (
        "root ::= r0\n" + "\n".join(f"r{i} ::= (r{i + 1} | r{i + 1})" for i in range(40)) + '\nr40 ::= "x"',
        "begins in more than 1000000 ways",
    ),
    "long": ("root ::= " + '"a" ' * 1_100_000, "bytes; at most 4000000"),
}

ALLOWED = [
    'root ::= "a"{0,2000}',
    'root ::= [a-z]* [a-z]* "a"',
    "root ::= " + '"a"? ' * 8,
    "root ::= " + " ".join(f'("{i:03}" ",")?' for i in range(300)),
    "root ::= " + " | ".join(f'"{i}"' for i in range(5_000)),
    "root ::= " + "(" * 900 + '"a"' + ")" * 900,
    "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(5_000)) + '\nr5000 ::= "x"',
    'root ::= item+\nitem ::= "- " [^\\r\\n"\\]]+ "\\n" # a comment ( that is open\n',
    'root ::= (("a"?)* ([ \\t]*)*)? "x"',
    'root ::= "(((" [(((] <[1]> !<[2]> .',
]


@pytest.mark.parametrize("name", REFUSED)
def test_what_costs_too_much_is_refused_with_the_reason(name: str, model: Model) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(GrammarError, match=reason):
        SamplerChain((Grammar(text), Greedy()), model.vocab)


def test_as_a_constraint_it_is_a_schema_error(model: Model) -> None:
    with pytest.raises(SchemaError, match="too ambiguous"):
        NativeConstraint(model.vocab, "root ::= " + '"a"? ' * 1_000)


@pytest.mark.parametrize("text", ALLOWED, ids=range(len(ALLOWED)))
def test_what_is_large_and_can_be_used(text: str, model: Model) -> None:
    SamplerChain((Grammar(text), Greedy()), model.vocab).close()


@pytest.mark.parametrize(
    "text",
    [
        'root ::= root "a" | "b"',
        'root ::= "x" | ("y" | root "z")',
        'root ::= r "x"\nr ::= "a"? r? "b"',
        # llama.cpp does not find this one, and takes memory until the process is killed.
        'root ::= a root "x" | "y"\na ::= b\nb ::= "c" | ""',
    ],
)
def test_left_recursion(text: str, model: Model) -> None:
    with pytest.raises(GrammarError, match=r"left recursion: .* can begin with itself"):
        SamplerChain((Grammar(text), Greedy()), model.vocab)


def test_a_deep_grammar_on_a_small_stack(model_path: object) -> None:
    program = """
        import sys, threading
        from llama_cffi import Model
        from llama_cffi.core.sampler import Grammar, Greedy, SamplerChain
        model = Model(sys.argv[1])
        def work():
            for text in ("root ::= " + "(" * 1000 + '"a"' + ")" * 1000, chain):
                SamplerChain((Grammar(text), Greedy()), model.vocab).close()
            print("done")
        rules = "\\n".join(f"r{i} ::= r{i + 1}" for i in range(15000))
        chain = f'root ::= r0\\n{rules}\\nr15000 ::= "x"'
        threading.stack_size(512 << 10)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        model.close()
    """
    assert run_child(program, model_path) == "done\n"


def random_grammar(rng: random.Random) -> str:
    """Mostly sound, sometimes not, of every form that there is."""

    def items(depth: int) -> str:
        return " ".join(item(depth) for _ in range(rng.randint(0 if depth else 1, 4)))

    def item(depth: int) -> str:
        kinds = ['"a"', '"bc\\n"', "[a-z]", "[^\\x41-\\x43\\]]", ".", "r1", "r2", "<[5]>", "!<[7]>", "#c\n"]
        text = rng.choice(kinds) if depth > 4 or rng.random() < 0.7 else f"({items(depth + 1)} | {items(depth + 1)})"
        return text + (
            rng.choice(["*", "+", "?", "{2}", "{1,3}", "{0,}", "{ 2 , 4 }", "{1,0}" if rng.random() < 0.1 else "??"])
            if rng.random() < 0.25
            else ""
        )

    rules = [f"{name} ::= {items(0)}" for name in ("root", "r1", "r2")]
    text = "\n".join(rules)
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice('()[]{}"|*\\ \n#<>!') + text[at + 1 :]
    return text


@pytest.mark.fuzz
def test_random_grammars_are_refused_by_llama_cpp_or_can_be_used(model: Model) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    counts = {"used": 0, "refused here": 0, "refused there": 0}
    end = time.monotonic() + 120
    while time.monotonic() < end:
        text = random_grammar(rng)
        try:
            with SamplerChain((Grammar(text), Greedy()), model.vocab) as chain:
                begin = time.monotonic()
                chain.apply(np.zeros(model.vocab.n_tokens, dtype=np.float32))
                assert time.monotonic() - begin < 20, f"seed {seed}: {text!r}"
            counts["used"] += 1
        except GrammarError as error:
            reason = error.message
        else:
            continue
        if reason == "the grammar does not parse" or "cannot be used" in reason:
            counts["refused there"] += 1
        else:
            counts["refused here"] += 1
            assert "{1,0}" in text or "ambiguous" in reason or "ways" in reason or "recursion" in reason, (
                f"seed {seed}: {text!r}"
            )
    print(f"seed {seed}: {counts}")
    assert all(counts.values())
