"""What an evaluation's numbers say: means, their errors, intervals, differences from a baseline.

Values of one metric come in *units*: all values of an id are one unit, since answers to the same
question are not independent (a cluster; Miller 2024, "Adding Error Bars to Evals",
arXiv:2411.00640, section 2.2). An id that comes once is a unit of one.

Intervals are two-sided. Which kind is taken depends on the values alone, and is named:

    wilson       0 or 1 (right or wrong). Near 0 % and 100 %, where the bootstrap of 200 right
                 answers out of 200 would be sure of 100 %, it is honest.
    agresti-min  differences of 0 or 1, pair by pair; for the same reason.
    t            fewer than 50 units: a bootstrap of so few is too narrow.
    bootstrap    of units, by SciPy: percentiles of 2,000 resamples, seeded.
    normal       more than 20,000 units, where the bootstrap comes to the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from kij_train import extras

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 2_000
FEWEST_FOR_BOOTSTRAP = 50
MOST_FOR_BOOTSTRAP = 20_000
_LARGEST = sys.float_info.max
SEED = 20240601
"""Of the bootstrap: the same values give the same interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, and how far it can be trusted."""

    mean: float
    error: float
    """Standard error."""
    low: float
    high: float
    """Of the interval; infinite where one unit says nothing of the others."""
    units: int
    """Different ids."""
    count: int
    """Values."""
    method: str
    confidence: float = CONFIDENCE

    @property
    def smallest_difference(self) -> float:
        """The smallest true difference that would be seen with 80 % power:
        (z of 1 - α/2 + z of the power) · standard error (Miller 2024, section 5; Cohen 1988).

        The error is that of the interval, which is more than 0 also where all values are alike.
        """
        z = NormalDist().inv_cdf((1 + self.confidence) / 2)
        error = max(self.error, (self.high - self.low) / (2 * z))
        return (z + NormalDist().inv_cdf(POWER)) * error


@dataclass(frozen=True)
class Units:
    """Values of a metric by id: how many each has, and their sum."""

    ids: Array
    """Numbers of the ids, ascending."""
    sums: Array
    """Of the values by `scale`."""
    counts: Array
    are_binary: bool
    """Whether every value is 0 or 1."""
    scale: float = 1.0
    """A power of two, with which no value is 2 or more, and one is at least 1. So sums and squares
    of the largest and the smallest floats are floats, and no digit is lost."""

    @property
    def means(self) -> Array:
        """Of each unit."""
        import numpy as np

        with np.errstate(over="ignore"):
            means = self.scaled_means * self.scale
        clipped: Array = np.clip(means, -_LARGEST, _LARGEST)
        return clipped

    @property
    def scaled_means(self) -> Array:
        """The same, by `scale`."""
        means: Array = self.sums / self.counts
        return means


def require() -> None:
    """Raise RequestError without NumPy and SciPy."""
    for package in ("numpy", "scipy"):
        extras.require(package, "an evaluation")


def units_of(numbers_of_ids: Sequence[int], values: Sequence[float], ids: int) -> Units:
    """Values gathered by id; each has the number of its id, from 0 to below `ids`."""
    import numpy as np

    where = np.asarray(numbers_of_ids, dtype=np.int64)
    numbers = np.asarray(values, dtype=np.float64)
    counts = np.bincount(where, minlength=ids)
    largest = float(np.max(np.abs(numbers), initial=0.0))
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0
    sums = np.bincount(where, weights=numbers / scale, minlength=ids)
    there = counts > 0
    are_binary = bool(np.all((numbers == 0) | (numbers == 1)))
    return Units(np.flatnonzero(there), sums[there], counts[there], are_binary, scale)


def mean(units: Units, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of all values. Raises ValueError for none."""
    import numpy as np

    n, count = len(units.sums), int(units.counts.sum())
    if not n:
        raise ValueError("no values")
    middle = float(units.sums.sum() / count)
    # The error of a ratio of sums over independent units (Cochran 1977, Sampling Techniques,
    # section 9.11; with units of one it is s / √n).
    apart = units.sums - middle * units.counts
    error = math.sqrt(float(np.square(apart).sum()) * n / max(n - 1, 1)) / count
    if units.are_binary:
        low, high = _wilson(middle, _effective(middle, error, n, count, confidence), confidence)
        return Estimate(middle, error, low, high, n, count, "wilson", confidence)
    low, high, method = _interval(units.sums, units.counts, middle, error, confidence)
    return _times(units.scale, Estimate(middle, error, low, high, n, count, method, confidence))


def difference(now: Units, before: Units, confidence: float = CONFIDENCE) -> Estimate:
    """The mean, over ids, of (now - before): pairs, whose noise is less than that of two means
    (Miller 2024, section 4.2). Ids that only one of the two has are left out; raises ValueError
    where they share none."""
    import numpy as np

    _, first, second = np.intersect1d(now.ids, before.ids, assume_unique=True, return_indices=True)
    scale = max(now.scale, before.scale)
    new = now.scaled_means[first] * (now.scale / scale)
    apart = new - before.scaled_means[second] * (before.scale / scale)
    n = len(apart)
    if not n:
        raise ValueError("no pairs")
    middle = float(apart.mean())
    ones = np.ones(n)
    error = float(apart.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    count = int(now.counts[first].sum())
    if now.are_binary and before.are_binary and bool(np.all(np.isin(apart, (-1, 0, 1)))):
        low, high = _agresti_min(int((apart > 0).sum()), int((apart < 0).sum()), n, confidence)
        return Estimate(middle, error, low, high, n, count, "agresti-min", confidence)
    low, high, method = _interval(apart, ones, middle, error, confidence)
    return _times(scale, Estimate(middle, error, low, high, n, count, method, confidence))


def _times(scale: float, one: Estimate) -> Estimate:
    """The estimate of values that were divided by `scale`."""
    middle = max(-_LARGEST, min(_LARGEST, one.mean * scale))
    error, low, high = (value * scale for value in (one.error, one.low, one.high))
    return replace(one, mean=middle, error=error, low=low, high=high)


def _interval(
    sums: Array, counts: Array, middle: float, error: float, confidence: float
) -> tuple[float, float, str]:
    n = len(sums)
    if n < 2:
        return -math.inf, math.inf, "t"
    if n < FEWEST_FOR_BOOTSTRAP:
        from scipy import stats

        reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
        return middle - reach, middle + reach, "t"
    if n > MOST_FOR_BOOTSTRAP:
        reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
        return middle - reach, middle + reach, "normal"
    low, high = _bootstrap(sums, counts, confidence)
    return low, high, "bootstrap"


def _bootstrap(sums: Array, counts: Array, confidence: float) -> tuple[float, float]:
    """Percentiles of means of resampled units (Efron 1979; of clusters: Davison and Hinkley 1997,
    Bootstrap Methods, section 3.8)."""
    import numpy as np
    from scipy import stats

    if np.all(sums * counts[0] == counts * sums[0]):  # SciPy warns of what is all alike
        same = float(sums[0] / counts[0])
        return same, same

    def ratio(sums: Array, counts: Array, axis: int) -> Array:
        found: Array = sums.sum(axis=axis) / counts.sum(axis=axis)
        return found

    found = stats.bootstrap(
        (sums, counts),
        ratio,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(sums)),
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _effective(middle: float, error: float, units: int, count: int, confidence: float) -> float:
    """How many independent answers tell as much as these, with a correction for few units (Korn
    and Graubard 1998, "Confidence Intervals for Proportions With Small Expected Number of Positive
    Counts Estimated From Survey Data", Survey Methodology 24). All of them where ids come once."""
    if units == count:
        return count
    if units < 2:
        return 1
    from scipy import stats

    side = (1 + confidence) / 2
    alike = units if not error else min(max(middle * (1 - middle) / error**2, 1.0), count)
    return float(alike * (stats.t.ppf(side, count - 1) / stats.t.ppf(side, units - 1)) ** 2)


def _wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    """The score interval (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4), for an `n` that
    need not be whole."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def _agresti_min(better: int, worse: int, n: int, confidence: float) -> tuple[float, float]:
    """Wald's interval of paired shares with half a pair added to each of the four kinds of pair
    (Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    more, less, all_ = better + 0.5, worse + 0.5, n + 2
    centre = (more - less) / all_
    reach = z * math.sqrt(more + less - (more - less) ** 2 / all_) / all_
    return max(-1.0, centre - reach), min(1.0, centre + reach)


# --- gathering ------------------------------------------------------------------------------------


class Scores:
    """Numbers of records by metric and id: eight bytes a value, and each id once."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        """`ids` that have to come."""
        from array import array

        self._array = array
        self._positions = {name: at for at, name in enumerate(ids)}
        self.wanted = len(self._positions)
        self._metrics: dict[str, tuple[array[int], array[float]]] = {}
        self._candidates: dict[tuple[str, ...], list[str]] = {}
        """Fields of a record → those that may be metrics: most records have the same fields."""
        self._lacks: dict[str, array[int]] = {}
        self.unknown: list[str] = []
        """Ids that came and are not among those that have to."""

    def know(self, name: str) -> int:
        """An id that has to come; its number."""
        number = self._positions.setdefault(name, len(self._positions))
        self.wanted = len(self._positions)
        return number

    def add(self, name: str, record: Mapping[str, Any], skip: frozenset[str]) -> None:
        """The numbers of a record, but for fields in `skip`."""
        at = self._positions.get(name)
        if at is None:
            if self.wanted:
                self.unknown.append(name)
                return
            at = self._positions[name] = len(self._positions)
        self.add_to(at, record, skip)

    def add_to(self, number: int, record: Mapping[str, Any], skip: frozenset[str]) -> None:
        """The numbers of a record of the id that has this number."""
        fields = tuple(record)
        candidates = self._candidates.get(fields)
        if candidates is None:
            candidates = [field for field in fields if field not in skip]
            self._candidates[fields] = candidates
        for metric in candidates:
            value = record[metric]
            if isinstance(value, (int, float)):
                if metric not in self._metrics:
                    self._metrics[metric] = self._array("q"), self._array("d")
                try:
                    is_finite = math.isfinite(value)
                except OverflowError:  # a whole number of more than 308 digits
                    is_finite = False
                if is_finite:
                    numbers, values = self._metrics[metric]
                    numbers.append(number)
                    values.append(value)
                else:
                    self._lacks.setdefault(metric, self._array("q")).append(number)
        if isinstance(record.get("nan"), list):
            for metric in record["nan"]:
                self._lacks.setdefault(metric, self._array("q")).append(number)

    @property
    def ids(self) -> list[str]:
        """All of them, in the order of their positions."""
        return list(self._positions)

    @property
    def metrics(self) -> list[str]:
        """Names, in order of their letters."""
        return sorted(self._metrics.keys() | self._lacks.keys())

    def units(self, metric: str) -> Units:
        """The values of a metric by id; none at all for one that nobody knows."""
        positions, values = self._metrics.get(metric, ((), ()))
        return units_of(positions, values, len(self._positions))

    def means(self, metric: str) -> dict[str, float]:
        """The mean of each id that has a value."""
        names = self.ids
        return {names[at]: mean for at, mean in self.by_number(metric).items()}

    def by_number(self, metric: str) -> dict[int, float]:
        """The same, by the numbers of ids."""
        units = self.units(metric)
        return dict(zip(units.ids.tolist(), units.means.tolist(), strict=True))

    def nan(self, metric: str) -> int:
        """How many values were no number."""
        return len(self._lacks.get(metric, ()))

    def without(self, metric: str) -> list[str]:
        """Ids that have no value, in order."""
        import numpy as np

        there: Array = np.zeros(len(self._positions), dtype=bool)
        positions, _ = self._metrics.get(metric, ((), ()))
        there[np.asarray(positions, dtype=np.int64)] = True
        return [name for name, has in zip(self._positions, there, strict=True) if not has]
