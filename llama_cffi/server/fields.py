"""The fields of generating requests, said once for all dialects: names, option of the package, limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llama_cffi._util.ranges import MAX_HISTORY
from llama_cffi.engine.request import MAX_PRIORITY
from llama_cffi.errors import LlamaCffiError
from llama_cffi.server.adapters import adapter_named, read_lora
from llama_cffi.server.defaults import add_defaults
from llama_cffi.server.limits import bound_entries
from llama_cffi.server.problem import Problem, row_of, unsupported, wrong
from llama_cffi.server.schemas import GBNF_BYTES, checked_schema, response_schema, structured_outputs
from llama_cffi.server.values import (
    Facts,
    Read,
    flag,
    integer,
    items,
    number,
    strings,
    text,
    token_ids,
    typed,
    whole,
    wrong_type,
)

if TYPE_CHECKING:
    from llama_cffi.server.exchange import Call


@dataclass(frozen=True)
class Field:
    """A field and the option it becomes. Of several names that are given the first counts."""

    option: str
    names: tuple[str, ...]
    read: Read

    @classmethod
    def of(cls, names: str, read: Read, option: str = "") -> Field:
        """Return a field with these names, whose option has the first of them unless it is given."""
        found = tuple(names.split())
        return cls(option or found[0], found, read)


def _seed(param: str, value: Any, _: Facts) -> int | None:
    # -1, and what llama.cpp takes for it, draw one. Others of more than 32 bits are made to fit.
    found = whole(param, value, -1)
    return None if found in (-1, 2**32 - 1) else found % (2**32 - 1)


def _all_if_negative(param: str, value: Any, _: Facts) -> int:
    return max(0, whole(param, value, -1))


def _until_end(param: str, value: Any, _: Facts) -> int | None:
    found = whole(param, value, -2)
    return None if found < 0 else found


def _history(param: str, value: Any, facts: Facts) -> int:
    found = whole(param, value, -1, MAX_HISTORY)
    return min(facts.n_ctx, MAX_HISTORY) if found < 0 else found


def _slot(param: str, value: Any, facts: Facts) -> int | None:
    # llama-server counts on from the first slot again.
    found = whole(param, value, -1, 2**31 - 1 if facts.lenient else facts.slots - 1)
    return None if found < 0 else found % facts.slots


def _count(param: str, value: Any, facts: Facts) -> int:
    return whole(param, value, 1, facts.max_n)


_SAMPLERS = {
    **{name: name for name in ("penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc")},
    "temperature": "temperature",
    "infill": "infill",
    "temp": "temperature",
    "nucleus": "top_p",
    "typ": "typical_p",
    "typ_p": "typical_p",
    "adaptive_p": None,
}
_LETTERS = {
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
    "i": "infill",
    "a": "adaptive_p",
}
"""What a string of samplers consists of."""


def _samplers(param: str, value: Any, facts: Facts) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [_LETTERS.get(letter, letter) for letter in value[:33]]
    found = []
    for i, name in enumerate(items(param, value, 32)):
        if not isinstance(name, str) or name not in _SAMPLERS:
            if facts.lenient:
                continue
            raise wrong(f"{param}[{i}]", f"must be one of {', '.join(_SAMPLERS)}, got {name!r:.60}")
        # Adaptive-p always comes last, and is on or off by its own fields.
        if (known := _SAMPLERS[name]) is not None and known not in found:
            found.append(known)
    return tuple(found)


def _bias(param: str, value: Any, _: Facts) -> dict[int | str, float | str]:
    if isinstance(value, dict):
        pairs: list[Any] = [[int(key) if key.isdecimal() and len(key) < 20 else key, one] for key, one in value.items()]
    else:
        pairs = typed(param, value, list)
    found: dict[int | str, float | str] = {}
    for i, pair in enumerate(items(param, pairs, 1024)):
        place = f"{param}[{i}]"
        if isinstance(pair, dict) and pair.keys() == {"bias", "token"}:  # as llama-server tells it
            pair = [pair["token"], False if pair["bias"] is None else pair["bias"]]
        if not isinstance(pair, list) or len(pair) != 2 or isinstance(pair[0], bool):
            raise wrong_type(place, "[token or text, number or false]", pair)
        key, bias = pair
        if not isinstance(key, (int, str)):
            raise wrong_type(place, "a token or a text, and its bias", pair)
        if isinstance(bias, bool) and bias is False:
            found[key] = "never"
        elif isinstance(bias, (int, float)) and not isinstance(bias, bool):
            found[key] = float(bias)
        else:
            raise wrong_type(place, "a number or false", bias)
    return found


def _grammar(param: str, value: Any, facts: Facts) -> str | None:
    return text(GBNF_BYTES)(param, value, facts) or None


def _stop_tokens(param: str, value: Any, _: Facts) -> list[int]:
    return token_ids(param, value, 64)


def _guided(kind: str, param: str, value: Any, facts: Facts) -> Any:
    return structured_outputs(param, {kind: value}, facts)


_probability = number(0, 1)

FIELDS: tuple[Field, ...] = (
    Field("max_tokens", ("n_predict", "max_completion_tokens", "max_tokens"), _until_end),
    Field.of("temperature", number(0, 1e4)),
    Field.of("top_k", _all_if_negative),
    *(Field.of(name, _probability) for name in ("top_p", "min_p", "xtc_probability", "xtc_threshold")),
    Field.of("typical_p typ_p", _probability),
    Field.of("top_n_sigma", number(-1, 1e4)),
    *(Field.of(name, number(0, 1e4)) for name in ("dynatemp_range", "dynatemp_exponent", "mirostat_tau")),
    Field.of("mirostat", integer(0, 2)),
    Field.of("mirostat_eta", number(0, 1e4)),
    Field.of("adaptive_target", number(-1, 1)),
    Field.of("adaptive_decay", number(0, 0.99)),
    Field.of("repeat_penalty repetition_penalty", number(1e-3, 1e4)),
    Field.of("repeat_last_n", _history),
    Field.of("frequency_penalty", number(-1e4, 1e4)),
    Field.of("presence_penalty", number(-1e4, 1e4)),
    Field.of("dry_multiplier", number(0, 1e4)),
    Field.of("dry_base", number(1, 1e4)),
    Field.of("dry_allowed_length", integer(0, MAX_HISTORY)),
    Field.of("dry_penalty_last_n", _history),
    Field.of("dry_sequence_breakers", strings(64, 40)),
    Field("sampler_order", ("samplers",), _samplers),
    Field.of("seed", _seed),
    Field.of("logit_bias", _bias),
    Field.of("ignore_eos", flag),
    Field.of("stop", strings(64, 512, alone=True)),
    Field.of("stop_token_ids", _stop_tokens),
    Field("max_seconds", ("max_seconds", "timeout"), number(1e-3, 86400)),
    Field.of("post_sampling_probs", flag),
    Field.of("grammar", _grammar),
    Field("schema", ("response_format",), response_schema),
    Field("schema", ("json_schema", "guided_json"), checked_schema),
    Field("schema", ("structured_outputs",), structured_outputs),
    *(Field("schema", (f"guided_{kind}",), partial(_guided, kind)) for kind in ("regex", "choice", "grammar")),
    Field.of("n n_cmpl", _count),
    Field.of("stream", flag),
    Field("slot", ("id_slot",), _slot),
    Field("reuse", ("cache_prompt",), flag),
    Field("adapters", ("lora",), read_lora),
    Field.of("priority", integer(-MAX_PRIORITY, MAX_PRIORITY)),
    Field.of("sse_ping_interval", integer(-1, 3600)),
    Field.of("model", text(256)),
)  # fmt: skip
"""What all generating requests have."""

_HARMLESS = (
    "user metadata store service_tier safety_identifier prompt_cache_key verbosity n_keep n_discard "
    "n_cache_reuse return_progress timings_per_token verbose backend_sampling min_keep prompt_cache_retention "
    "cache_control chat_format chat_parser generation_prompt preserved_tokens reasoning_budget_start_tag "
    "reasoning_budget_end_tags prediction reasoning_control"
)
IGNORED = frozenset(_HARMLESS.split())
"""Known fields without an effect here."""


def _is_on(value: Any) -> bool:
    return value not in (False, 0, -1, "", [], {})


_CHANGING = (
    "grammar_triggers grammar_lazy t_max_predict_ms t_max_prompt_ms n_indent min_tokens bad_words stop_regex "
    "include_stop_str_in_output response_fields return_tokens audio web_search_options multimodal_data"
)

REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(_CHANGING.split(), (_is_on, "is not supported")),
    "chat_template": (_is_on, "a template is never taken from a request"),
    "functions": (_is_on, "is not supported; use tools"),
    "function_call": (_is_on, "is not supported; use tool_choice"),
}
"""Fields that would change the answer and are not supported: when they are asked for, and what is said."""


@dataclass(frozen=True)
class Asked:
    """What the fields of a body came to."""

    options: dict[str, Any]
    """Options of the package, and what the dialects themselves use."""
    given: dict[str, str]
    """The name of the field for each option."""

    def take(self, option: str, default: Any = None) -> Any:
        """Return the value of an option that is not the package's, and forget it."""
        found = self.options.pop(option, None)
        return default if found is None else found


def read_fields(call: Call, fields: tuple[Field, ...], used: frozenset[str]) -> Asked:
    """Return the options of a request with these fields, beside the names that its handler reads itself.

    Raises :class:`Problem` for a wrong value, and for a field that is not supported. Notes what is ignored.
    """
    body, service = call.body, call.service
    facts = service.facts
    options: dict[str, Any] = {}
    given: dict[str, str] = {}
    known = set(used)
    for field in fields:
        known.update(field.names)
        name = next((name for name in field.names if name in body), None)
        if name is None:
            continue
        value = _read(field, name, body[name], facts)
        if value is None:
            if facts.lenient:  # a wrong value is taken as none, also where the body is looked at
                del body[name]
            continue
        if field.option in options:
            raise wrong(name, f"and {given[field.option]} cannot both be given")
        options[field.option], given[field.option] = value, name
    for name in body.keys() - known:
        _leave_out(call, name)
    if service.settings.defaults:
        add_defaults(service.settings.defaults, fields, facts, options, given)
    call.given, call.ping_interval = given, options.pop("sse_ping_interval", call.ping_interval)
    return Asked(options, given)


def _read(field: Field, name: str, value: Any, facts: Facts) -> Any:
    """Return a value as the package takes it. A wrong one is taken as llama-server does, where that is asked for."""
    try:
        return field.read(name, value, facts)
    except Problem as problem:
        if not facts.lenient or (problem.nearest is None and problem.code != "invalid_type"):
            raise
        # Of what has no number near it the default is taken.
        return None if problem.nearest is None else _read(field, name, problem.nearest, facts)
    except LlamaCffiError as error:
        raise wrong(name, error.message, code=row_of(type(error)).code) from None


def _leave_out(call: Call, name: str) -> None:
    """Note a field that is not read, or raise what is wrong with it."""
    if name in REFUSED:
        asked, message = REFUSED[name]
        if asked(call.body[name]):
            raise unsupported(name, message)
        return
    if name not in IGNORED and call.service.settings.strict_fields:
        raise Problem(400, f"{name:.64}: there is no such field", code="unknown_field", param=name[:64])
    call.ignore(name)


def _header_priority(text: str) -> int:
    number = int(text) if len(text) < 5 and text.removeprefix("-").isdecimal() else MAX_PRIORITY + 1
    if abs(number) > MAX_PRIORITY:
        raise wrong("x-priority", f"must be {-MAX_PRIORITY} to {MAX_PRIORITY}, got {text!r:.60}")
    return number


def _choose_model(call: Call, asked: Asked) -> None:
    """Take the name of an adapter for the model with this adapter alone, unless the scales are given."""
    name = asked.take("model")
    adapter = None if name is None else adapter_named(name, call.service.adapters)
    if adapter is None or name in call.service.names:
        call.service.check_model(name)
        return
    call.model = adapter.path.stem
    asked.options.setdefault("adapters", {adapter: 1.0})


def text_options(call: Call, asked: Asked, n_texts: int = 1) -> dict[str, Any]:
    """Return the options of the package among what was asked, those included that several fields make together.

    ``n_texts`` is the number of texts that are generated.
    """
    options, settings = asked.options, call.service.settings
    _choose_model(call, asked)
    for name in ("stream", "n"):
        options.pop(name, None)
    if call.service.settings.default_max_tokens is not None:
        options.setdefault("max_tokens", settings.default_max_tokens)
    if (priority := call.headers.get("x-priority")) is not None:
        options.setdefault("priority", _header_priority(priority))
    if "grammar" in options and "schema" in options:
        raise wrong(asked.given["grammar"], f"and {asked.given['schema']} cannot both be given")
    stops, tokens = asked.take("stop", ()), asked.take("stop_token_ids", ())
    if tokens:
        # Texts cannot be wrong any more.
        stops, asked.given["stop"] = (*stops, *tokens), asked.given["stop_token_ids"]
    if stops:
        options["stop"] = stops
    if asked.take("ignore_eos"):
        never = dict.fromkeys(call.service.llm.llama.model.vocab.eog_tokens, "never")
        options["logit_bias"] = {**options.get("logit_bias", {}), **never}
    if asked.take("post_sampling_probs") and options.get("logprobs") is not None:
        options["post_sampling_logprobs"] = True
    bound_entries(options, n_texts, call.service.card.n_ctx)
    options["max_seconds"] = min(options.get("max_seconds", settings.request_timeout), settings.request_timeout)
    options["on_incomplete"] = "return"
    return options


__all__ = ["FIELDS", "IGNORED", "REFUSED", "Asked", "Field", "read_fields", "text_options"]
