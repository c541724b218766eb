"""Templates that mean harm: each ends soon, in little memory, with a TemplateError."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from llama_cffi.errors import TemplateError
from llama_cffi.prompt.template import ChatTemplate
from tests.support.conversations import user

LOOP = "{{% for a in range(99999) %}}{{% for b in range(99999) %}}{}{{% endfor %}}{{% endfor %}}"
NESTED = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
TUPLES = "{% set n = namespace(x=(1, 2)) %}{% for i in range(60) %}{% set n.x = {1: n.x}.items() | first %}{% endfor %}"
BIG = "{% set big = 'ab ' * 3000000 %}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        # The guards under names that templates can spell.
        (LOOP.format("{% set __clock = 1 %}"), "too long"),
        ("{% for __clock in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "too long"),
        (
            "{% macro m(__clock, environment, t_1) %}{{ m(1) }}{{ m(1) }}{% endmacro %}{{ m(1) }}",
            "too deeply|too long",
        ),
        (LOOP.format("{% set environment = context %}"), "too long"),
        ("{{ [-10**9] | map('count work') | list }}", "no filter named"),
        ("{{ 'x' | call }}", "does not parse"),
        # Work of one filter.
        ("{{ messages | tojson(indent=10**9) }}", "number"),
        ("{{ messages | tojson(indent='x' * 40000000) }}", "elements"),
        ("{{ range(99999) | list | tojson(separators=['x' * 99999, ':']) }}", "elements"),
        ("{{ '%*d' % (10**9, 1) }}", "width"),
        ("{{ '%((a))999999999d' % {'(a)': 1} }}", "width"),
        ("{{ '%s%s' | format('a' * 30000000, 'b') }}", "elements"),
        ("{{ '{:{}}'.format(1, 10**9) }}", "width"),
        ("{{ '{:>99999999}'['format'](1) }}", "width"),
        ("{{ ('{:>99999999}' | attr('format'))(1) }}", "width"),
        ("{{ ('{0}' * 99999).format('a' * 99999) }}", "elements"),
        ("{{ range(99999) | join('a' * 99999) }}", "elements"),
        ("{{ [1] | batch(10**9, 'x') | list }}", "number"),
        ("{{ [1] | slice(10**9) | list }}", "number"),
        ("{{ ['a'] | map('center', 10**9) | list }}", "number"),
        ("{{ [[0] * 99999] * 99999 }}", "elements|too long"),
        ("{{ range(999) | map('string') | map('center', 999999) | list }}", "elements"),
        ("{{ [range(9999) | list] * 999 | sum(start=[]) }}", "elements|TypeError"),
        ("{{ ([range(9999) | list] * 999) | sum(start=[]) }}", "elements"),
        (BIG + "{{ ([big] * 9999) | sort | length }}", "elements"),
        (BIG + "{{ big | wordwrap(1) }}", "characters"),
        (BIG + "{{ big | urlize }}", "characters"),
        (BIG + "{{ big | title }}", "characters"),
        (BIG + "{{ {'a': big} | xmlattr }}", "characters"),
        (BIG + "{{ [big] | pprint }}", "characters"),
        (BIG + "{{ big | indent(10**6) }}{{ big.expandtabs(10**7) }}", "number"),
        (BIG + "{% for i in range(99) %}{{ big[::-1] }}{% endfor %}", "elements"),
        (BIG + "{% for i in range(9999) %}{% if big ~ 'x' in big %}{% endif %}{% endfor %}", "elements|too long"),
        ("{% for i in range(9999) %}" + "x" * 9999 + "{% endfor %}", "elements"),
        ("{% set x %}{% for i in range(9999) %}" + "x" * 9999 + "{% endfor %}{% endset %}", "elements"),
        # Values that hold themselves many times.
        (NESTED + "{{ n.x }}", "too long|elements"),
        (NESTED + "{{ n.x | tojson }}", "too long|elements"),
        (NESTED + "{{ n.x | string | length }}", "too long|elements"),
        (NESTED + "{{ n.x == [n.x, 1] }}", "too long|elements"),
        (NESTED + "{{ [1] + n.x in [n.x] }}", "too long|elements"),
        (TUPLES.replace("1: n.x", "n.x: n.x") + "{{ {n.x: 1} }}", "too long|elements"),
        ("{% set n = namespace() %}{% set n.x = n %}{{ n }}", "namespace"),
        # Numbers.
        ("{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}", "product"),
        ("{{ ('f' * 999999) | int(0, 16) }}", "characters"),
        # Methods that are not needed.
        ("{{ 1.5.hex() }}{{ (5).to_bytes(10**9) }}", "not allowed|hex"),
        ("{{ dict.fromkeys(range(99999)) }}", "not allowed|unsafe"),
        ("{{ 'a'.encode() }}", "not allowed"),
        ("{{ strftime_now('%999999999Y') }}", "widths"),
        # What Jinja's and Python's compilers refuse.
        ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "does not parse"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "does not parse"),
        ("{{ " + "9" * 5000 + " }}", "does not parse"),
        ("{{ 1 }}" * 99999, "does not parse"),
    ],
    ids=lambda value: value[-30:] if len(value) > 30 else value,
)
def test_attacks(source: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        ChatTemplate(source, controls=["</s>"], seconds=0.5).render([user("x</s>")])


def test_a_message_of_an_exception_is_short() -> None:
    with pytest.raises(TemplateError) as caught:
        ChatTemplate("{{ raise_exception('x' * 1000000) }}").render([user("x")])
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("'%5d|%s|%(a)s' % 3 if false else '%5d|%s' % (3, 'x')", "    3|x"),
        ("'{:>5}|{a}'.format(3, a='x')", "    3|x"),
        ("['b', 'A'] | sort | join(',')", "A,b"),
        ("range(5) | batch(2, 0) | list", "[[0, 1], [2, 3], [4, 0]]"),
        ("[[1], [2]] | sum(start=[])", "[1, 2]"),
        ("messages | map(attribute='role') | join", "user"),
        ("'a b' | title ~ ('x' in 'xyz') ~ (1 < 2 < 3) ~ (3 not in [1])", "A BTrueTrueTrue"),
        ("'abcdef'[1:-1:2] ~ [1, 2, 3][::-1]", "bd[3, 2, 1]"),
        ("{'a': [1, none]} | tojson(indent=1)", '{\n "a": [\n  1,\n  null\n ]\n}'),
        ("'a,b'.split(',') | last ~ 'aXa'.replace('X', '-') ~ '-'.join(['x', 'y'])", "ba-ax-y"),
        ("('a' if 'b' is in(['b']) else 'c') ~ (2 ** 10) ~ (7 // 2) ~ (7 % 4)", "a102433"),
        ("nothing is defined ~ (dict(a=1) == {'a': 1})", "FalseTrue"),
        ("'\\u00e4' | tojson(ensure_ascii=true)", '"\\u00e4"'),
        ("{(1, 2): 3}[(1, 2)] ~ 'x'.center(5) ~ 'x'.zfill(3)", "3  x  00x"),
        ("'<b>' | escape ~ '<b>' | safe", "&lt;b&gt;<b>"),
        ("[3, 1, 2] | max ~ [3, 1] | min ~ '7' | int + 1", "318"),
    ],
)
def test_ordinary_expressions_are_as_in_jinja(expression: str, text: str) -> None:
    expression = expression.replace("| escape ~ '<b>' | safe", "| escape }}{{ '<b>' | safe")
    expression = expression.replace(" ~ [3, 1] | min ~ '7' | int + 1", " }}{{ [3, 1] | min }}{{ '7' | int + 1")
    assert ChatTemplate("{{ " + expression + " }}").render([user("x")]).text == text


def test_a_long_conversation_is_within_the_limits() -> None:
    source = "{% set n = namespace(x='') %}{% for m in messages %}{% set n.x = n.x ~ m.content %}{% endfor %}{{ n.x }}"
    messages = [user(f"{i} " * 100) for i in range(200)]
    template = ChatTemplate(source, controls=["</s>"], seconds=60)
    assert template.render(messages).text == "".join(message["content"] for message in messages)
    assert len(template.render([user("word " * 200_000)]).text) == 1_000_000


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(5))
def test_generated_attacks(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.template_attacks", str(seed), "100"],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    with capsys.disabled():
        print(
            f"\nseed {seed}: slowest {found['slowest']:.1f} s, {found['peak_mib']:.0f} MiB, {found['refused']} refused"
        )
    assert found["foreign"] == []
    assert found["slowest"] < 20, found["worst"]
    assert found["peak_mib"] < 1024
    # Most mean harm; what does none shows that the limits leave the rest alone.
    assert 50 < found["refused"] < 100
