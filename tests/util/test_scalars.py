"""Numbers of Python and numpy are taken alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cffi import SamplingParams
from llama_cffi._util import ranges
from llama_cffi._util.scalars import INT_MAX, as_float, as_int, check_int, check_seq_id, is_int
from llama_cffi._util.seed import MAX_SEED, check_seed
from llama_cffi.errors import SamplerError, TokenError

INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble]
NO_NUMBERS: list[Any] = [
    True, False, np.True_, np.False_, "1", b"1", None, [1], (), {}, 1j, np.complex64(1), np.array(1), np.array([1]),
    Decimal(1), Ellipsis, float,
]  # fmt: skip


@given(kind=st.sampled_from(INTEGERS), data=st.data())
def test_integers(kind: Any, data: st.DataObject) -> None:
    info = np.iinfo(kind)
    number = data.draw(st.integers(int(info.min), int(info.max)))
    found = as_int(kind(number))
    assert (type(found), found) == (int, number)
    assert as_float(kind(number)) == float(number)
    low, high = sorted((data.draw(st.integers()), data.draw(st.integers())))
    assert is_int(kind(number), low, high) == (low <= number <= high)


@given(kind=st.sampled_from(FLOATS), value=st.floats(width=16))
def test_floats(kind: Any, value: float) -> None:
    found = as_float(kind(value))
    assert type(found) is float
    assert found == value or (math.isnan(found) and math.isnan(value))
    assert as_int(kind(value)) is None


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number(value: Any) -> None:
    assert as_int(value) is None
    assert as_float(value) is None
    assert not is_int(value, -1, 1)
    checks: list[Callable[[str, Any], object]] = [
        ranges.finite, ranges.probability, ranges.not_negative, ranges.positive, ranges.integer, ranges.count,
    ]  # fmt: skip
    for check in checks:
        with pytest.raises(SamplerError, match=r"^the name must be ") as caught:
            check("the name", value)
        assert repr(value) in str(caught.value)
    with pytest.raises(SamplerError, match=r"^seed must be "):
        check_seed(value)
    with pytest.raises(ValueError, match=r"^seq_id must be "):
        check_seq_id(value, 2)
    with pytest.raises(KeyError, match="size must be an int from 0 to"):
        check_int("size", value, error=KeyError)


def test_numbers_beyond_a_float() -> None:
    assert as_float(10**400) == math.inf
    assert as_float(-(10**400)) == -math.inf
    assert as_float(Fraction(1, 3)) == 1 / 3
    for value in (10**400, math.inf, math.nan, np.float32("nan"), np.longdouble(ranges.FLT_MAX) * 2):
        with pytest.raises(SamplerError, match=r"^the name must be a finite number"):
            ranges.finite("the name", value)


def test_seeds() -> None:
    for seed in (0, MAX_SEED, np.uint32(MAX_SEED), np.int8(5)):
        found = check_seed(seed)
        assert (type(found), found) == (int, int(seed))
    for bad in (-1, MAX_SEED + 1, np.uint64(2**63), 1.0, np.float32(1)):
        with pytest.raises(SamplerError, match=f"^seed must be an int from 0 to {MAX_SEED}, got "):
            check_seed(bad)  # type: ignore[arg-type]


# -- sampling parameters

FLOAT_FIELDS = [
    "temperature", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "dry_multiplier",
    "dry_base", "top_n_sigma", "typical_p", "xtc_probability", "xtc_threshold", "dynatemp_range", "dynatemp_exponent",
    "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay",
]  # fmt: skip
INT_FIELDS = ["top_k", "seed", "repeat_last_n", "dry_allowed_length", "dry_penalty_last_n"]


def test_every_number_among_the_parameters_is_here() -> None:
    numbers = {name for name, one in vars(SamplingParams()).items() if as_float(one) is not None} | {"seed"}
    assert numbers == {*FLOAT_FIELDS, *INT_FIELDS, "mirostat"}


@pytest.mark.parametrize("name", [*FLOAT_FIELDS, *INT_FIELDS, "mirostat"])
def test_parameters_take_numbers_of_numpy(name: str) -> None:
    given_: dict[str, Any] = {"dry_base": 1.5, "adaptive_decay": 0.5}
    value = given_.get(name, 1)
    kinds = FLOATS if isinstance(value, float) else [*INTEGERS, *([] if name in (*INT_FIELDS, "mirostat") else FLOATS)]
    for kind in kinds:
        params, expected = SamplingParams(**{name: kind(value)}), SamplingParams(**{name: value})
        assert params == expected
        assert type(getattr(params, name)) is type(getattr(expected, name))
        json.dumps(vars(params))
    for bad in NO_NUMBERS:
        if not (name == "seed" and bad is None):
            with pytest.raises(SamplerError, match=f"^{name} must be ") as caught:
                SamplingParams(**{name: bad})
            assert repr(bad) in str(caught.value)


def test_logit_bias() -> None:
    params = SamplingParams(logit_bias={np.int64(3): np.float32(0.5), 4: -math.inf, np.uint8(5): 1})
    assert params.logit_bias == {3: 0.5, 4: -math.inf, 5: 1.0}
    assert {type(one) for pair in params.logit_bias.items() for one in pair} == {int, float}
    assert SamplingParams(logit_bias={3: -1e39, 4: -(10**400)}).logit_bias == {3: -math.inf, 4: -math.inf}
    for value in (math.nan, np.float64("nan"), math.inf, 10**400, 1e39, "never", None, True):
        bad: Any = value
        with pytest.raises(SamplerError, match=r"^logit_bias\[3\] must be a finite number or -inf, got "):
            SamplingParams(logit_bias={3: bad})
    for key in ("a", None, 1.5, True, np.float32(1)):
        with pytest.raises(TokenError, match=r"^logit_bias: a token must be an int, got "):
            SamplingParams(logit_bias={key: 1.0})  # type: ignore[dict-item]
    for mapping in (None, [(3, 1.0)], 5):
        with pytest.raises(SamplerError, match=r"^logit_bias must map tokens to numbers, got "):
            SamplingParams(logit_bias=mapping)  # type: ignore[arg-type]


def test_sizes() -> None:
    assert check_int("n", np.uint16(7), 0) == 7
    assert check_int("n", INT_MAX) == INT_MAX
    with pytest.raises(ValueError, match=f"^n must be an int from 0 to {INT_MAX}, got {INT_MAX + 1}$"):
        check_int("n", INT_MAX + 1)
