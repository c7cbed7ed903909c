"""The curve of an LR range test, loss against lr, and what can be read from it. Formulas alone: no torch.

The test is L. N. Smith's: *Cyclical Learning Rates for Training Neural Networks* (2015/2017, arXiv:1506.01186, section
3.3). The exponential sweep, the smoothing and the rule to stop are those of fastai's ``lr_find``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lrtape.errors import ConfigError
from lrtape.lines import format_lr

MIN_STEPS = 20
"""Fewer points make no curve."""
SKIPPED_SHARE = 0.1
"""Of the planned steps at the beginning, where the mean is of a few losses yet; as in fastai."""
EXPLODE_AT = 4.0
"""As in fastai."""
SMOOTHING = 0.9
"""The mean is of the last 10 steps, about."""
MIN_FALL_IN_NOISES = 5.0
"""A fall of the smoothed loss by less than so many standard deviations of it may be chance."""


def exponential_lrs(min_lr: float, max_lr: float, n_steps: int) -> list[float]:
    """``min_lr * (max_lr / min_lr) ** (step / (n_steps - 1))`` for each step from 0: both ends are included.

    >>> [round(lr, 6) for lr in exponential_lrs(0.001, 10, 5)]
    [0.001, 0.01, 0.1, 1.0, 10.0]

    Args:
        min_lr: lr of the first step.
        max_lr: lr of the last step.
        n_steps: 2 at least.
    """
    return [min_lr * (max_lr / min_lr) ** (step / (n_steps - 1)) for step in range(n_steps)]


class Smoother:
    """The bias-corrected exponential moving average of the losses that it is given, one after the other.

    ``m / (1 - beta ** n)`` after ``n`` losses, where ``m = beta * m + (1 - beta) * loss`` begins at 0 (fastai's
    ``AvgSmoothLoss``). So the first value is the first loss, and a constant loss stays what it is. It lags behind the
    losses: see `lag`.

    Args:
        beta: in [0, 1); 0 changes nothing.
    """

    def __init__(self, beta: float) -> None:
        self._beta = beta
        self._mean = 0.0
        self._n_losses = 0

    def add(self, loss: float) -> float:
        """The average with one more loss."""
        self._n_losses += 1
        self._mean = self._beta * self._mean + (1 - self._beta) * loss
        return self._mean / (1 - self._beta**self._n_losses)


def smooth(losses: Iterable[float], beta: float) -> list[float]:
    """The moving average of the losses after each of them; see `Smoother`.

    >>> smooth([4.0, 2.0, 2.0], beta=0.5)
    [4.0, 2.6666666666666665, 2.2857142857142856]
    """
    smoother = Smoother(beta)
    return [smoother.add(loss) for loss in losses]


def lag(step: int, beta: float) -> float:
    """By how many steps the moving average is behind at `step`, from 0: the mean age of the losses in it.

    ``beta / (1 - beta) - n * beta ** n / (1 - beta ** n)`` with ``n = step + 1``: 0 at first, and soon no more than
    ``beta / (1 - beta)``. For losses on a straight line the average is exactly the loss of so many steps before.

    >>> lag(0, beta=0.9), round(lag(200, beta=0.9), 6)
    (0.0, 9.0)
    """
    n_losses = step + 1
    age = beta / (1 - beta) - n_losses * beta**n_losses / (1 - beta**n_losses)
    return max(age, 0.0)


def has_exploded(smoothed: float, best: float, explode_at: float) -> bool:
    """Whether the smoothed loss is no longer finite, or above ``explode_at`` times the best one so far.

    Where a loss can be negative: above ``best + (explode_at - 1) * abs(best)``, which is the same where it is not.
    """
    return not math.isfinite(smoothed) or smoothed > best + (explode_at - 1) * abs(best)


def find_divergence(smoothed: Sequence[float], explode_at: float) -> int | None:
    """Index of the first step at which `has_exploded`; ``None`` where there is none."""
    best = math.inf
    for step, value in enumerate(smoothed):
        best = min(best, value)
        if has_exploded(value, best, explode_at):
            return step
    return None


def find_lowest(smoothed: Sequence[float], first: int = 0) -> int | None:
    """Index of the lowest finite value from `first` on; ``None`` where there is none."""
    steps = [step for step in range(first, len(smoothed)) if math.isfinite(smoothed[step])]
    return min(steps, key=lambda step: smoothed[step], default=None)


def find_steepest(smoothed: Sequence[float], first: int, end: int) -> int | None:
    """Index, in [first, end], at which the smoothed loss falls fastest with the logarithm of the lr.

    The steps of the test are even in the logarithm, so the slope is ``(smoothed[i + 1] - smoothed[i - 1]) / 2`` a step,
    and one-sided at the ends of the curve.

    Returns:
        ``None`` where it falls nowhere.
    """
    steepest, lowest_slope = None, 0.0
    for step in range(first, end + 1):
        left, right = max(step - 1, 0), min(step + 1, len(smoothed) - 1)
        slope = (smoothed[right] - smoothed[left]) / max(right - left, 1)
        if slope < lowest_slope:
            steepest, lowest_slope = step, slope
    return steepest


def noise_of_smoothed(losses: Sequence[float], beta: float) -> float:
    """Standard deviation of the smoothed loss that the noise of the losses makes.

    That of the losses is taken from their successive differences, ``sqrt(mean(difference ** 2) / 2)``, which a trend
    hardly changes; the moving average multiplies it by ``sqrt((1 - beta) / (1 + beta))``.
    """
    if len(losses) < 2:
        return 0.0
    squares = [(after - before) ** 2 for before, after in pairwise(losses)]
    return math.sqrt(sum(squares) / len(squares) / 2 * (1 - beta) / (1 + beta))


@dataclass(frozen=True, slots=True)
class RangeResult:
    """What an LR range test has found. All indices are of steps, from 0.

    The suggestion is the lr at which the loss falls fastest: the steepest point of the smoothed loss, less its `lag`,
    which else would make it too large. It is not the lr of the lowest loss: there the loss has stopped falling, as the
    steps have become too large; a training at that lr hardly gets on, and diverges with the next little change.

    Attributes:
        lrs: of each step that was made; the last one is the one that diverged, if one did.
        losses: of each step, before its update.
        smoothed: see `smooth`.
        scales: for each group that was varied, by its name: its lr was `lrs` times this.
        n_planned: how many steps would have been made without a divergence.
        smoothing: see `Smoother`.
        explode_at: see `has_exploded`.
        skipped: how many steps at the beginning say nothing yet.
        lowest: index of the lowest loss after those, the smoothed one less its lag; ``None`` where there is none.
        lowest_loss: the smoothed loss that this is; infinite where there is none.
        steepest: index of the suggestion; ``None`` where `problem` says why.
        diverged_at: index of the step at which the smoothed loss exploded.
        problem: why there is no suggestion; empty where there is one.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    scales: Mapping[str, float]
    n_planned: int
    smoothing: float = SMOOTHING
    explode_at: float = EXPLODE_AT
    skipped: int = field(init=False)
    lowest: int | None = field(init=False)
    lowest_loss: float = field(init=False)
    steepest: int | None = field(init=False)
    diverged_at: int | None = field(init=False)
    problem: str = field(init=False)

    def __post_init__(self) -> None:
        skipped = math.ceil(SKIPPED_SHARE * self.n_planned)
        lowest = find_lowest(self.smoothed, skipped)
        steepest = None if lowest is None else find_steepest(self.smoothed, skipped, lowest)
        diverged_at = find_divergence(self.smoothed, self.explode_at)
        problem = self._problem(skipped, lowest, steepest, diverged_at)
        for name, value in (
            ("skipped", skipped),
            ("lowest", None if lowest is None else self._without_lag(lowest)),
            ("lowest_loss", math.inf if lowest is None else self.smoothed[lowest]),
            ("steepest", None if problem or steepest is None else self._without_lag(steepest)),
            ("diverged_at", diverged_at),
            ("problem", problem),
        ):
            object.__setattr__(self, name, value)

    def _without_lag(self, step: int) -> int:
        return round(step - lag(step, self.smoothing))

    def _problem(self, skipped: int, lowest: int | None, steepest: int | None, diverged_at: int | None) -> str:
        if diverged_at is not None and diverged_at <= skipped:
            return (
                f"The loss diverged at once, in step {diverged_at} at lr {format_lr(self.lrs[diverged_at])}. Begin "
                "with a smaller lr, and see that the loss is finite before the first step."
            )
        fall = 0.0 if lowest is None else self.smoothed[skipped] - self.smoothed[lowest]
        noise = noise_of_smoothed(self.losses[skipped : (lowest or 0) + 1], self.smoothing)
        if steepest is None or not fall > MIN_FALL_IN_NOISES * noise:
            return (
                f"The loss never falls between lr {format_lr(self.lrs[0])} and {format_lr(self.lrs[-1])}, or no more "
                "than it varies from batch to batch. See that the model can learn at all; else take larger batches, "
                "more steps, or another range."
            )
        return ""

    @property
    def suggestion(self) -> float | None:
        """The lr to train with, in terms of `lrs`; ``None`` where `problem` says why."""
        return None if self.steepest is None else self.lrs[self.steepest]

    @property
    def suggested_lrs(self) -> dict[str, float]:
        """The suggestion for each group that was varied, by its name; empty without one."""
        lr = self.suggestion
        return {} if lr is None else {name: lr * scale for name, scale in self.scales.items()}

    def aligned(self) -> list[tuple[float, float]]:
        """For each step the lr that its smoothed loss belongs to, less than the step's by the lag, and that loss."""
        log_step = math.log(self.lrs[-1] / self.lrs[0]) / max(len(self.lrs) - 1, 1)
        return [
            (lr * math.exp(-log_step * lag(step, self.smoothing)), loss)
            for step, (lr, loss) in enumerate(zip(self.lrs, self.smoothed, strict=True))
        ]

    def __str__(self) -> str:
        """What was found, in lines for people."""
        lines = []
        if self.steepest is not None:
            at = f"step {self.steepest}, where the loss falls fastest"
            lines.append(f"Suggested lr:  {format_lr(self.lrs[self.steepest])}  ({at})")
            if len(self.scales) > 1:
                each = [f"{name} {format_lr(lr)}" for name, lr in self.suggested_lrs.items()]
                lines.append(f"For each group:  {'  '.join(each)}")
        else:
            lines.append(f"No suggestion. {self.problem}")
        if self.lowest is not None and self.steepest is not None:
            lowest = f"{self.lowest_loss:.4g} at lr {format_lr(self.lrs[self.lowest])}"
            lines.append(
                f"Lowest loss:   {lowest}  (step {self.lowest}; too large an lr: the loss no longer falls there)"
            )
        if self.diverged_at is not None:
            lines.append(f"Diverged:      at lr {format_lr(self.lrs[self.diverged_at])}  (step {self.diverged_at})")
        elif self.steepest is not None:
            lines.append(f"Diverged:      not up to lr {format_lr(self.lrs[-1])}")
        return "\n".join(lines)


def check_range(min_lr: float, max_lr: float, n_steps: int, smoothing: float, explode_at: float, key: str = "") -> None:
    """Refuse numbers that make no range test.

    Args:
        min_lr: see `exponential_lrs`.
        max_lr: see there.
        n_steps: see there.
        smoothing: see `Smoother`.
        explode_at: see `has_exploded`.
        key: stands before the names of these, in the text of a refusal.

    Raises:
        ConfigError: one of them is out of its range.
    """
    for name, value in (("min_lr", min_lr), ("max_lr", max_lr)):
        if not _is_number(value) or not 0 < value < math.inf:
            raise ConfigError(f"`{key}{name}` must be a number > 0, but is {value!r} instead.")
    if not min_lr < max_lr:
        raise ConfigError(
            f"`{key}min_lr` must be less than `{key}max_lr`, but is {min_lr!r} instead, and that is {max_lr!r}. "
            "A range of some decades shows most: 1e-6 to 10."
        )
    if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < MIN_STEPS:
        raise ConfigError(
            f"`{key}n_steps` must be a whole number >= {MIN_STEPS}, but is {n_steps!r} instead. Fewer make no curve; "
            "100 to 200 are usual."
        )
    if not _is_number(smoothing) or not 0 <= smoothing < 1:
        raise ConfigError(f"`{key}smoothing` must be a number in [0, 1), but is {smoothing!r} instead. 0 is for none.")
    if not _is_number(explode_at) or not explode_at > 1:
        raise ConfigError(f"`{key}explode_at` must be a number > 1, but is {explode_at!r} instead. fastai uses 4.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
