"""Token selection over a row of raw logits; see ``helpers/select.cpp``, whose numbers and order this follows.

The same seed gives the same tokens. Where a sum of floats decides, the last bit may differ, as it does between the
instruction sets of the C++ loops: about one token in a million that lies on the edge of a draw or of top-p.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from llama_cffi._native.pure.process import ffi, float32

LCH_SELECT_NAN, LCH_SELECT_EMPTY, LCH_SELECT_INF, LCH_SELECT_MEMORY = -1, -2, -3, -4

Row = NDArray[np.float32]
Wide = NDArray[np.float64]

_RECORD = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

_LANES, _DEPTH = 16, 32
_GROUP = _LANES * _DEPTH
_FAR = 1000.0
_LOWEST = np.float32(-3.4028234663852886e38)
_MASK = 2**64 - 1
_FEW = 64

_largest = np.maximum.reduce
_double_exp = math.exp

# 2^f on [-0.5, 0.5], as in kernels.cpp: the highest power first.
_POWERS = [np.float32(c) for c in (
    0.001326472731307149, 0.009671512991189957, 0.05550733581185341, 0.24022242426872253, 0.6931470036506653, 1.0,
)]  # fmt: skip
_LOG2E = np.float32(1.44269504)
_ROUND = np.float32(12582912.0)


class _Draws:
    """The numbers for one token (splitmix64)."""

    def __init__(self, state: int) -> None:
        self.state = state

    def bits(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        return _unit(self.bits())


def _unit(bits: int) -> float:
    return (bits >> 11) * 2.0**-53


class _Random:
    """The seeds of :class:`_Draws` (xoshiro256**)."""

    def __init__(self, seed: int) -> None:
        words = _Draws(seed)
        self.state = tuple(words.bits() for _ in range(4))

    def next(self) -> int:
        a, b, c, d = self.state
        result = _rotl(b * 5 & _MASK, 7) * 9 & _MASK
        c ^= a
        d ^= b
        self.state = (a ^ d, b ^ c, c ^ (b << 17 & _MASK), _rotl(d, 45))
        return result


def _rotl(x: int, k: int) -> int:
    return (x << k | x >> (64 - k)) & _MASK


class lch_selector:
    """The parameters in the precision in which C++ has them, and the state of the random numbers."""

    def __init__(self, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> None:
        # Colder than this, exponents overflow, and logits that differ at all have no chance anyway.
        self.temperature = np.float32(max(float32(temperature), float32(1e-6)) if temperature > 0 else 0.0)
        self.top_k = top_k
        self.top_p = np.float32(float32(top_p))
        self.log_min_p = np.float32(math.log(float32(min_p)) if float32(min_p) > 0 else -np.inf)
        self.seed = seed
        self.random = _Random(seed)

    def select(self, data: Row) -> int:
        if self.temperature <= 0 or self.top_k == 1 or self.top_p <= 0:
            top = _top(data)
            return top if isinstance(top, int) else int(data.argmax())
        # Every call into numpy costs microseconds when llama.cpp has just emptied the caches, so none is made twice.
        is_sorted = 0 < self.top_k < len(data)
        maxima = _strip_maxima(data) if is_sorted else data
        top = _top(maxima)
        if isinstance(top, int):
            return top
        if top == np.inf:
            return LCH_SELECT_INF
        if abs(top) > _FAR:
            # Logits far from zero are moved there, in a copy.
            with np.errstate(all="ignore"):
                data = data - top
            maxima, top = _strip_maxima(data) if is_sorted else data, np.float32(0)
        draws = _Draws(self.random.next())
        if is_sorted:
            return self._draw_sorted(data, top, draws.uniform(), maxima)
        with np.errstate(all="ignore"):
            return self._draw_by_rejection(data, top, draws)

    def _min_p_bound(self, top: np.float32) -> np.float32:
        return max(top + self.log_min_p, _LOWEST)

    def _draw_sorted(self, data: Row, top: np.float32, u: float, maxima: Row) -> int:
        ids, values = _candidates(data, self.top_k, maxima)
        if self.top_k > _FEW or len(ids) > 2 * _FEW:
            ids, values = _ranked(ids, values, self.top_k)
            return int(ids[self._place(values, top, u)])
        found = values.tolist()
        order = sorted(range(len(found)), key=found.__getitem__, reverse=True)[: self.top_k]
        place = self._place_of_few([found[i] for i in order], top, u)
        if place is None:
            place = self._place(_ranked(ids, values, self.top_k)[1], top, u)
        return int(ids[order[place]])

    def _place(self, values: Row, top: np.float32, u: float) -> int:
        """Where the draw falls among the ranked candidates, in the order and precision of C++."""
        n = len(values)
        if self.top_p < 1:
            weights = _exp(values - top)
            before = (weights / weights.cumsum()[-1]).cumsum()
            n = min(int(before.searchsorted(self.top_p)) + 1, n)
        if self.log_min_p > -np.inf:
            n = max(int(np.count_nonzero(values[:n] >= self._min_p_bound(top))), 1)
        with np.errstate(over="ignore"):
            scaled = values[:n] / self.temperature - top / self.temperature
        ends = _exp(scaled).cumsum(dtype=np.float64)
        return min(int(ends.searchsorted(ends[-1] * u, side="right")), n - 1)

    def _place_of_few(self, values: list[float], maximum: np.float32, u: float) -> int | None:
        """The same in doubles, without the calls into numpy; None where the rounding of floats could decide."""
        n, top = len(values), float(maximum)
        if self.top_p < 1:
            weights = [_double_exp(value - top) for value in values]
            total = sum(weights)
            # Twice 64 additions of floats, to the whole and of the parts, are off by 8e-6 at most.
            limit, near, before = float(self.top_p) * total, 1e-5 * total, 0.0
            for i, weight in enumerate(weights):
                before += weight
                if before > limit - near:
                    if before < limit + near:
                        return None
                    n = i + 1
                    break
        if self.log_min_p > -np.inf:
            bound = float(self._min_p_bound(maximum))
            while n > 1 and values[n - 1] < bound:
                n -= 1
        if n == 1:
            return 0
        temperature = float(self.temperature)
        weights = [_double_exp((value - top) / temperature) for value in values[:n]]
        total = sum(weights)
        # Floats round two quotients of this size before their difference is taken.
        target, near, end = u * total, 1e-6 * (1 + abs(top) / temperature) * total, 0.0
        for i, weight in enumerate(weights):
            end += weight
            if end > target - near:
                return None if end < target + near and i < n - 1 else i
        return n - 1

    def _draw_by_rejection(self, data: Row, top: np.float32, draws: _Draws) -> int:
        blocks = _Blocks(data, top, self.temperature)
        bound, before = self._min_p_bound(top), len(data)
        blocks.weigh(bound)
        nucleus = _Nucleus(data, top, float(self.top_p)) if self.top_p < 1 else None
        while True:
            i = blocks.draw(draws)
            x = data[i]
            if x < bound or (x == bound and i >= before):
                continue
            if nucleus is None or nucleus.holds(x, i):
                return i
            bound, before = x, i
            blocks.weigh(bound)


class _Blocks:
    """A row in groups of 16 blocks, to draw from in proportion to exp(x / temperature)."""

    def __init__(self, data: Row, top: np.float32, temperature: np.float32) -> None:
        self.data, self.top, self.temperature = data, top, temperature
        rest = -len(data) % _GROUP
        padded = np.append(data, np.full(rest, -np.inf, dtype=np.float32)) if rest else data
        self.maxima: Row = padded.reshape(-1, _DEPTH, _LANES).max(axis=1)

    def weigh(self, bound: np.float32) -> None:
        """Give a weight to blocks whose maximum reaches ``bound``."""
        powers = _power(self.maxima - self.top, _LOG2E / self.temperature)
        self.weights: Row = np.where(self.maxima >= bound, powers, np.float32(0))
        groups = self.weights[:, 0].copy()
        for lane in range(1, _LANES):
            groups += self.weights[:, lane]
        self.ends: Wide = np.cumsum(groups, dtype=np.float64)

    def draw(self, draws: _Draws) -> int:
        """Index of a logit in a block that has a weight."""
        while True:
            target = draws.uniform() * float(self.ends[-1])
            group = int(np.searchsorted(self.ends, target, side="right"))
            if group == len(self.ends):
                continue
            weights = self.weights[group].tolist()
            rest, lane = target - (float(self.ends[group - 1]) if group else 0.0), 0
            while lane < _LANES - 1 and rest >= weights[lane]:
                rest -= weights[lane]
                lane += 1
            if weights[lane] <= 0:
                continue
            bits = draws.bits()
            i = group * _GROUP + bits % _DEPTH * _LANES + lane
            if i < len(self.data):
                keep = math.exp(float((self.data[i] - self.maxima[group, lane]) / self.temperature))
                if _unit(bits) < float32(keep):
                    return i


class _Nucleus:
    """The logits that rank before ``top_p`` of the whole mass is reached."""

    def __init__(self, data: Row, top: np.float32, top_p: float) -> None:
        self.data, self.top, self.top_p = data, top, top_p
        self.rough: Row = np.exp(data - top)
        self.total = float(self.rough.sum())

    def holds(self, x: np.float32, i: int) -> bool:
        """Return whether the mass that ranks before a logit is less than top_p of the whole."""
        larger = self.data > x
        equal = int(np.count_nonzero(self.data[:i] == x))
        own = math.exp(float(x) - float(self.top))
        above, limit = float(self.rough @ larger) + equal * own, self.top_p * self.total
        if abs(above - limit) > 1e-3 * limit:
            return above < limit
        exact = np.exp(self.data.astype(np.float64) - float(self.top))
        return float(exact[larger].sum()) + equal * own < self.top_p * float(exact.sum())


def _power(x: Row, scale: np.float32) -> Row:
    """2^(x * scale) as the C++ loops compute it with fused multiply-add, which doubles imitate."""
    y = np.fmax((x.astype(np.float64) * scale).astype(np.float32), np.float32(-126))
    whole = (y + _ROUND) - _ROUND
    f = (y - whole).astype(np.float64)
    p = np.full(x.shape, _POWERS[0])
    for c in _POWERS[1:]:
        p = (p * f + c).astype(np.float32)
    return cast(Row, np.ldexp(p, whole.astype(np.int32)))


def _exp(x: Row) -> Row:
    # numpy's own exp() of floats is several units of the last place away from the C library's.
    return np.exp(x.astype(np.float64)).astype(np.float32)


def _top(data: Row) -> np.float32 | int:
    """The largest logit, or why nothing can be selected."""
    if not len(data):
        return LCH_SELECT_EMPTY
    top: np.float32 = _largest(data)
    if top != top:
        return LCH_SELECT_NAN
    return LCH_SELECT_EMPTY if top == -np.inf else top


def _strip_maxima(data: Row) -> Row:
    """The maxima of strips of 64 logits, one from each 64th of the row, and what is left over at its end."""
    strips = len(data) // 64
    if strips * 64 == len(data) > 0:
        return cast(Row, _largest(data.reshape(64, strips)))
    maxima: Row = _largest(data[: strips * 64].reshape(64, strips), initial=-np.inf)
    return np.append(maxima, data[strips * 64 :])


def _candidates(data: Row, k: int, maxima: Row) -> tuple[NDArray[np.int64], Row]:
    """Indices and values of the k largest finite logits and of some others, in the order of the row."""
    k = min(k, len(data))
    # When k of some maxima reach a value, k logits do.
    values = (maxima if k <= len(maxima) // 4 else data).copy()
    values.partition(len(values) - k)
    ids = (data >= max(values[len(values) - k], _LOWEST)).nonzero()[0]
    return ids, data[ids]


def _ranked(ids: NDArray[np.int64], values: Row, k: int) -> tuple[NDArray[np.int64], Row]:
    """The k largest, the first of equals first."""
    order = (-values).argsort(kind="stable")[:k]
    return ids[order], values[order] + np.float32(0)  # -0.0 counts as 0.0


def _row(row: Any, n: int) -> Row:
    return np.frombuffer(ffi.buffer(row, 4 * n), dtype=np.float32) if n else np.zeros(0, dtype=np.float32)


def lch_selector_new(temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> lch_selector:
    return lch_selector(temperature, top_k, top_p, min_p, seed)


def lch_selector_clone(selector: lch_selector) -> lch_selector:
    twin = lch_selector.__new__(lch_selector)
    twin.__dict__.update(selector.__dict__)
    twin.random = _Random(0)
    twin.random.state = selector.random.state
    return twin


def lch_selector_free(selector: lch_selector) -> None:
    """Nothing is left to free."""


def lch_selector_reset(selector: lch_selector) -> None:
    selector.random = _Random(selector.seed)


def lch_select(selector: lch_selector, row: Any, n: int) -> int:
    return selector.select(_row(row, n))


def _log_softmax(row: Any, n: int) -> tuple[Row, float, int]:
    """The row, what to subtract from a logit for its log-probability, and an error."""
    data = _row(row, n)
    top = _top(data)
    if isinstance(top, int):
        return data, 0.0, top
    if top == np.inf:
        return data, 0.0, LCH_SELECT_INF
    with np.errstate(all="ignore"):
        return data, float(top) + math.log(float(np.exp(data.astype(np.float64) - float(top)).sum())), 0


def lch_logprob(row: Any, n: int, token: int, out: Any) -> int:
    data, less, error = _log_softmax(row, n)
    if not error:
        out[0] = float(data[token]) - less
    return error


def lch_mask(row: Any, n: int, allowed: Any) -> int:
    bits = np.frombuffer(ffi.buffer(allowed, (n + 31) // 32 * 4), dtype=np.uint8)
    kept = np.unpackbits(bits, count=n, bitorder="little").view(bool)
    np.frombuffer(ffi.buffer(row, 4 * n), dtype=np.float32)[~kept] = -np.inf
    return int(np.count_nonzero(kept))


def lch_top_logprobs(row: Any, n: int, k: int, ids: Any, logprobs: Any) -> int:
    data, less, error = _log_softmax(row, n)
    if error:
        return error
    best, values = _ranked(*_candidates(data, k, _strip_maxima(data)), k)
    for place, (token, value) in enumerate(zip(best.tolist(), values.tolist(), strict=True)):
        ids[place], logprobs[place] = token, value - less
    return len(best)


def _records(address: Any, n: int) -> NDArray[Any]:
    return np.frombuffer(ffi.buffer(ffi.cast("char *", address), n * _RECORD.itemsize), dtype=_RECORD)


def lch_candidates(row: Any, n: int, records: Any) -> None:
    data = _records(records, n)
    data["id"] = np.arange(n, dtype=np.int32)
    data["logit"] = np.frombuffer(ffi.buffer(row, 4 * n), dtype=np.float32)
    data["p"] = 0


def lch_sound(records: Any, n: int) -> int:
    logits = _records(records, n)["logit"]
    # One pass: a sum is finite, or -inf where tokens are forbidden. Otherwise it is worth looking closer.
    with np.errstate(over="ignore", invalid="ignore"):
        return int(logits.sum() < np.inf or bool((logits < np.inf).all()))


def lch_select_isa() -> Any:
    return ffi.new("char[]", b"numpy")


def lch_select_use(isa: bytes) -> int:
    return isa == b"numpy"
