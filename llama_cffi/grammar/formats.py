"""The asserted values of ``format``, each as a pattern of the whole text."""

from __future__ import annotations

from functools import cache

from llama_cffi.grammar.pattern import Pattern

_YEAR_28_29 = (
    r"(?:[0-9]{4}-02-(?:0[1-9]|1[0-9]|2[0-8])"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_DATE = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30))"
    rf"|{_YEAR_28_29})"
)
_FRACTION = r"(?:\.[0-9]+)?"
# A leap second is the last one of a day of UTC; with an offset, which times of the day these are takes a table.
_TIME = (
    rf"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]{_FRACTION}(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
    rf"|23:59:60{_FRACTION}(?:[zZ]|[+-]00:00))"
)
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"(?:{_BYTE}\.){{3}}{_BYTE}"
_H16 = "[0-9a-fA-F]{1,4}"
_LS32 = rf"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = "(?:" + "|".join(
    [
        rf"(?:{_H16}:){{6}}{_LS32}",
        rf"::(?:{_H16}:){{5}}{_LS32}",
        *(rf"(?:(?:{_H16}:){{0,{n}}}{_H16})?::(?:{_H16}:){{{4 - n}}}{_LS32}" for n in range(5)),
        rf"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}",
        rf"(?:(?:{_H16}:){{0,6}}{_H16})?::",
    ]
) + ")"  # fmt: skip
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = rf'{_ATOM}(?:\.{_ATOM})*|"(?:[ !#-\[\]-~]|\\[ -~])*"'
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DURATION_TIME = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DURATION_DATE = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
_HEX4 = "[0-9a-fA-F]{4}"
_PERCENT = "%[0-9a-fA-F]{2}"
_PCHAR = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|{_PERCENT})"
_QUERY = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=:@/?-]|{_PERCENT})*"
_AUTHORITY = (
    rf"(?:(?:[a-zA-Z0-9._~!$&'()*+,;=:-]|{_PERCENT})*@)?"
    rf"(?:\[(?:{_IPV6}|[vV][0-9a-fA-F]+\.[a-zA-Z0-9._~!$&'()*+,;=:-]+)\]|(?:[a-zA-Z0-9._~!$&'()*+,;=-]|{_PERCENT})*)"
    r"(?::[0-9]*)?"
)
_TAIL = rf"(?:\?{_QUERY})?(?:#{_QUERY})?"
_NOT_ABSOLUTE = rf"//{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?"
_RELATIVE = rf"(?:{_NOT_ABSOLUTE}|(?:[a-zA-Z0-9._~!$&'()*+,;=@-]|{_PERCENT})+(?:/{_PCHAR}*)*|)"
_UCS = (
    "\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef"
    + "".join(rf"\u{{{plane:x}0000}}-\u{{{plane:x}fffd}}" for plane in range(1, 14))
    + r"\u{e1000}-\u{efffd}"
)
_IRI_QUERY = r"\ue000-\uf8ff\u{f0000}-\u{ffffd}\u{100000}-\u{10fffd}"
# Two hyphens at the third place begin a label in Punycode, of which only tables can say whether it means something.
_HOST_LABEL = (
    "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]?[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]"
    "(?:[a-zA-Z0-9][a-zA-Z0-9-]{0,59}|-[a-zA-Z0-9][a-zA-Z0-9-]{0,58}|-)[a-zA-Z0-9])"
)
_VARNAME = rf"(?:[a-zA-Z0-9_]|{_PERCENT})(?:\.?(?:[a-zA-Z0-9_]|{_PERCENT}))*"
_VARSPEC = rf"{_VARNAME}(?::[1-9][0-9]{{0,3}}|\*)?"
_POINTER = "(?:/(?:[^/~]|~[01])*)*"

_SOURCES = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}[tT]{_TIME}",
    "duration": rf"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|[0-9]+W)",
    "email": rf"(?:{_LOCAL})@(?:{_LABEL}(?:\.{_LABEL})*|\[{_IPV4}\]|\[IPv6:{_IPV6}\])",
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uuid": rf"{_HEX4}{_HEX4}-{_HEX4}-{_HEX4}-{_HEX4}-{_HEX4}{_HEX4}{_HEX4}",
    "uri": rf"[a-zA-Z][a-zA-Z0-9+.-]*:(?:{_NOT_ABSOLUTE}|{_PCHAR}+(?:/{_PCHAR}*)*|){_TAIL}",
    "uri-reference": rf"(?:[a-zA-Z][a-zA-Z0-9+.-]*:(?:{_NOT_ABSOLUTE}|{_PCHAR}+(?:/{_PCHAR}*)*|)|{_RELATIVE}){_TAIL}",
    "uri-template": (
        rf"(?:[!#$&-;=?-Z_a-z~\[\]]|[{_UCS}{_IRI_QUERY}]|{_PERCENT}|\{{[+#./;?&=,!@|]?{_VARSPEC}(?:,{_VARSPEC})*\}})*"
    ),
    "hostname": rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
}

FORMATS = (*_SOURCES, "iri", "iri-reference")
"""The values of ``format`` that are asserted."""

KNOWN_FORMATS = frozenset({*FORMATS, "idn-email", "idn-hostname", "regex"})
"""What a draft gives a meaning: those that are not asserted are refused, and others are annotations."""


MAX_LENGTHS = {"hostname": 253}
"""Formats whose texts have a length that their pattern does not say."""


def source_of(name: str) -> str:
    """Return a regular expression of the texts of a format, without anchors."""
    return f"(?:{_SOURCES[name]})"


@cache
def format_pattern(name: str) -> Pattern | None:
    """Return the texts of a format; None for one that is not asserted."""
    if name in ("iri", "iri-reference"):
        uri = _SOURCES["uri" + name[3:]].replace(rf"\?{_QUERY}", rf"\?(?:{_QUERY}|[{_IRI_QUERY}])*")
        return Pattern.parse(f"^(?:{uri.replace('a-zA-Z0-9._~', f'a-zA-Z0-9._~{_UCS}')})$")
    source = _SOURCES.get(name)
    return None if source is None else Pattern.parse(f"^(?:{source})$")


__all__ = ["FORMATS", "KNOWN_FORMATS", "MAX_LENGTHS", "format_pattern", "source_of"]
