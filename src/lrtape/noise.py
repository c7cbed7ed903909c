"""Whether a difference of means is more than the noise of the seeds that they were measured with."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
"""Of an interval: it misses the true difference in one of twenty comparisons."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of the means of two samples.

    Attributes:
        mean: the first one's mean less the second one's.
        low: the interval of `CONFIDENCE` begins here.
        high: and ends here.
    """

    mean: float
    low: float
    high: float

    @property
    def is_beyond_noise(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low > 0 or self.high < 0


def difference(first: Sequence[float], second: Sequence[float]) -> Difference | None:
    """Welch's t interval of a difference of means: small samples, of different sizes and spreads.

    With ``v = s**2 / n`` of each sample (`s` its sample standard deviation), the interval is
    ``t * sqrt(v1 + v2)`` to both sides, where `t` is the quantile of Student's distribution with
    ``(v1 + v2)**2 / (v1**2 / (n1 - 1) + v2**2 / (n2 - 1))`` degrees of freedom. B. L. Welch, "The generalization of
    'Student's' problem when several different population variances are involved", Biometrika 34, 1947.

    >>> difference([1.0, 2.0, 3.0], [4.0])  # one value has no spread: nobody can tell

    Args:
        first: finite values.
        second: finite values.

    Returns:
        ``None`` where one of the two has fewer than two values. Where neither has any spread, the interval is a point.
    """
    if min(len(first), len(second)) < 2:
        return None
    mean = statistics.mean(first) - statistics.mean(second)
    spreads = statistics.stdev(first), statistics.stdev(second)
    unit = max(spreads)
    if unit == 0:
        return Difference(mean, mean, mean)
    # In units of the larger spread, whose square may neither vanish nor overflow.
    v1, v2 = ((spread / unit) ** 2 / len(sample) for spread, sample in zip(spreads, (first, second), strict=True))
    share = v1 / (v1 + v2)
    degrees = 1 / (share**2 / (len(first) - 1) + (1 - share) ** 2 / (len(second) - 1))

    from scipy.special import stdtrit  # late: nothing else needs it

    half = float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * unit * math.sqrt(v1 + v2)
    return Difference(mean, mean - half, mean + half)
