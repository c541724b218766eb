"""Chat templates that try to run without end, to fill the memory, or to raise what is not a TemplateError.

As a script it renders generated attacks in this process and prints one line of JSON: what took longest, the peak of
memory, and every exception of another class. ``python -m tests.support.template_attacks SEED COUNT``.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from typing import Any

NAMES = ("__clock", "clock", "budget", "environment", "context", "t_1", "t_2", "concat", "current", "resolve")
NUMBERS = ("0", "1", "-1", "7", "1000", "99999", "10**6", "10**9", "2**62", "-10**9", "10**40", "0xffffffffffffffffff")
VALUES = {
    "T": (
        "'a'",
        "'数'",
        "'a b '",
        "'<a href=x>http://a.b</a> ' * 99",
        "'%s%s%*d%99999d%5000d'",
        "'{0:>9999}{0}{:{}}{0:99999999}'",
        "'\\n' * 99",
        "messages[0].content",
        "big",
        "''",
        "ns.s",
    ),
    "L": (
        "messages",
        "range(99999)",
        "[1, 2, 3]",
        "['a', 'b']",
        "(1, 2)",
        "large",
        "nested",
        "pairs",
        "messages[0].items()",
        "[big, big, big]",
        "[nested, pairs]",
        "ns.x",
    ),
    "D": ("{'a': 1, 'b': [2]}", "messages[0]", "{'a': nested}", "{'a': big}", "{1: big, 2: pairs}"),
    "N": NUMBERS,
}
"""Expressions by kind: texts, lists, mappings, numbers."""
_TEXTS = (
    "T|center(N), T|indent(N), T|indent(T), T|replace(T,T), T|replace('',T), T.replace('',T), T|upper, T|title, "
    "T|wordcount, T|wordwrap(N), T|wordwrap(N,true,T), T|urlize, T|urlize(N), T|urlencode, T|striptags, T|escape, "
    "T|truncate(N), T|trim, T.ljust(N), T.rjust(N,'x'), T.zfill(N), T.center(N), T.expandtabs(N), T.join(L), "
    "T.join(T), "
    "T.format(T), T.format(N,T), T.format(L), T|format(N,T), T|format(L), T%L, T%T, T%(N,T), T~T, T~L, T*N, N*T, T+T, "
    "L|join(T), L|join, T.title(), T.casefold(), L|string, L|tojson, L|tojson(indent=N), D|tojson(indent=T), "
    "L|tojson(ensure_ascii=true), D|tojson(separators=[T,T]), L|pprint, D|xmlattr, D|string, T[::1], T[::-1], "
    "T|reverse, "
    "T.format_map(D), T.strip(T), T.removeprefix(T), L|map('center',N)|join, L|map('string')|join, "
    "L|map('tojson')|join, T|safe, T.partition(T)|join"
)
_LISTS = (
    "L*N, N*L, L+L, L|list, L|batch(N), L|batch(N,T), L|slice(N), L|slice(N,T), L|sort, L|unique|list, L|reverse|list, "
    "L[::1], T|list, T.split(), T.split(T), T.splitlines(), T.rsplit(T,N), D|dictsort, D.items(), L|map('list')|list, "
    "L|sum(start=[]), [L,L]|sum(start=[]), L|select('in',L)|list, L|reject('eq',L)|list, [L,L], (L,L), (L,L,T), [L]*N, "
    "L|map('upper')|map('center',N)|list, L|batch(N)|list, L|groupby(0)|list, L.copy(), {L:L}.items()|list, range(N), "
    "L|map('batch',N,T)|map('list')|list, L|rejectattr('a')|list, T.partition(T), L|map('sort')|list, (L,)*N, (L,)+(L,)"
)
_MAPPINGS = "dict(a=L,b=D), {'a':L}, {T:L}, {L:T}, {N:D}, dict(D,c=T), D.copy(), {'a':D,'b':D}"
_NUMBERS = (
    "N+N, N-N, N*N, N**N, N//N, N%N, N/L, L|length, L|sum, T|length, T|int, T|int(0,N), T|float, T.count(T), "
    "T.find(T), "
    "L|first, L.index(N), L.count(L), L|max, T|wordcount, (T==T)|int, (L==L)|int, (L<L)|int, (T in T)|int, "
    "(L in L)|int, "
    "(L is in(L))|int, N|round(N), N|abs, (N is divisibleby(N))|int, (T is lower)|int, (L is sameas(L))|int, "
    "(D in L)|int, (L!=L)|int, -N"
)
_ESCAPES = (
    "T.encode(), T.translate(D), T.maketrans(D), N.to_bytes(N), D.fromkeys(L), T.__class__, L.append(T), D.update(D), "
    "L.pop(), ''.mro(), ns._Namespace__attrs, L|map('count_work')|list, L|map('count work',-99999)|list, self, "
    "cycler(L), "
    "joiner(T), strftime_now(T), raise_exception(L), T|attr('format')(N), T['format'](N), range.__init__, "
    "messages.clear()"
)
STEPS = {kind: steps.split(", ") for kind, steps in zip("TLDN", (_TEXTS, _LISTS, _MAPPINGS, _NUMBERS), strict=True)}
"""Expressions made of others, which are named by their kind."""
ESCAPES = _ESCAPES.split(", ")
PREAMBLE = (
    "{% set big = 'ab ' * 300000 %}{% set large = range(50000) | list %}"
    "{% set ns = namespace(x=['a'], t=(1, 2), s='ab', n=7) %}"
    "{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{% for i in range(60) %}{% set ns.t = {ns.t: ns.t}.items() | first if i < 12 else ns.t %}{% endfor %}"
    "{% set nested = ns.x %}{% set pairs = ns.t %}"
)


def attack(rng: random.Random) -> str:
    """One template."""

    def make(kind: str, depth: int) -> str:
        if depth <= 0 or rng.random() < 0.15:
            return rng.choice(VALUES[kind])
        step = rng.choice(STEPS[kind])
        return re.sub(r"(?<![\w'])[TLDN](?![\w'])", lambda found: f"({make(found[0], depth - 1)})", step)

    def expression(depth: int) -> str:
        if rng.random() < 0.05:
            return re.sub(r"(?<![\w'])[TLDN](?![\w'])", lambda found: f"({make(found[0], 1)})", rng.choice(ESCAPES))
        return make(rng.choice("TTTLLDN"), depth)

    def body(depth: int) -> str:
        name = rng.choice((*NAMES, "x", "y"))
        kind = rng.randrange(10)
        inner = body(depth - 1) if depth > 0 else "{{ " + expression(2) + " }}"
        if kind == 0:
            return f"{{% set {name} = {expression(2)} %}}{inner}"
        if kind == 1:
            loop = f"{{% for {name} in range(99999) %}}"
            return f"{loop}{loop}{inner}{{% endfor %}}{{% endfor %}}"
        if kind == 2:
            return f"{{% for {name} in {expression(1)} if {expression(1)} %}}{inner}{{% endfor %}}"
        if kind == 3:
            macro = "{% macro m(N, k) %}{{ m(N, k) }}{{ m(N, k) }}B{% endmacro %}{{ m(1, 2) }}"
            return macro.replace("N", name).replace("B{", inner + "{")
        if kind == 4:
            grow = rng.choice(("ns.s ~ ns.s", "ns.s + ns.s", "ns.s * 9", "ns.s.join(ns.s)", "ns.s.replace('a', ns.s)"))
            return f"{{% for {name} in range(99) %}}{{% set ns.s = {grow} %}}{inner}{{% endfor %}}"
        if kind == 5:
            grow = rng.choice(("ns.n * ns.n", "ns.n ** ns.n", "ns.n * 10**30", "(ns.n | string * 9) | int"))
            return f"{{% for {name} in range(99) %}}{{% set ns.n = {grow} %}}{inner}{{% endfor %}}{{{{ ns.n }}}}"
        if kind == 6:
            captured = f"{{% set {name} %}}{inner * 3}{{% endset %}}"
            return f"{captured}{{% filter upper %}}{{{{ {name} * 99999 }}}}{{% endfilter %}}"
        if kind == 7:
            grow = rng.choice(
                ("ns.x + ns.x", "[ns.x] * 99999", "ns.x * 9", "ns.x | map('list') | list", "(ns.x, ns.x)")
            )
            use = rng.choice(("{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == nested }}", "{{ nested in ns.x }}", ""))
            return f"{{% for {name} in range(99) %}}{{% set ns.x = {grow} %}}{inner}{{% endfor %}}{use}"
        if kind == 8:
            return "{% autoescape true %}" + inner + "{% endautoescape %}{{ raise_exception(big * 9) }}"
        return "{{ " + expression(4) + " }}"

    return (PREAMBLE if rng.random() < 0.7 else "{% set ns = namespace(x=['a'], s='ab', n=7) %}") + body(
        rng.randrange(3)
    )


def run(seed: int, count: int) -> dict[str, Any]:
    """Render attacks; what took longest, in seconds, and every exception that is not of the two classes."""
    import resource

    from llama_cffi.errors import MessageError, TemplateError
    from llama_cffi.prompt.template import ChatTemplate

    rng = random.Random(seed)
    slowest, worst, refused, foreign = 0.0, "", 0, []
    for _ in range(count):
        source = attack(rng)
        start = time.monotonic()
        try:
            ChatTemplate(source, controls=["</s>"], seconds=1).render([{"role": "user", "content": "Hi </s>"}])
        except (TemplateError, MessageError):
            refused += 1
        except Exception as error:
            foreign.append(f"{type(error).__name__}: {error} in {source}"[:2000])
        took = time.monotonic() - start
        if took > slowest:
            slowest, worst = took, source
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"slowest": slowest, "worst": worst, "refused": refused, "peak_mib": peak, "foreign": foreign}


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))
