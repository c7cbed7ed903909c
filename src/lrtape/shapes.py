"""Shapes of schedules that torch has no class for: the factor of the lr as a function of the step.

A shape is made for ``torch.optim.lr_scheduler.LambdaLR``. Steps are counted from 0, in the unit in which the scheduler
is stepped. Its attributes are plain values, which torch keeps in the scheduler's state: it loads with
``weights_only=True``.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """A straight line up to 1, then half a cosine down to `end_factor`.

    ``start_factor + (1 - start_factor) * step / warmup_iters`` before step `warmup_iters`; from there to `total_iters`
    ``end_factor + (1 - end_factor) * (1 + cos(pi * x)) / 2``, where x goes from 0 to 1; then `end_factor`.

    >>> [round(WarmupCosine(2, 6, 0.5, 0.0)(step), 3) for step in range(8)]
    [0.5, 0.75, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]

    Attributes:
        warmup_iters: steps of the line; 0 for none.
        total_iters: step at which `end_factor` is reached.
        start_factor: of the first step.
        end_factor: of the last.
    """

    warmup_iters: int
    total_iters: int
    start_factor: float
    end_factor: float

    def __call__(self, step: int) -> float:
        """The factor of a step."""
        if step < self.warmup_iters:
            return _line_up(step, self.warmup_iters, self.start_factor)
        left = _left(step, self.warmup_iters, self.total_iters)
        return self.end_factor + (1 - self.end_factor) * _cosine(left)


@dataclass(frozen=True)
class WarmupLinear:
    """A straight line up to 1, then one down to `end_factor`; otherwise as `WarmupCosine`.

    >>> [WarmupLinear(2, 6, 0.5, 0.0)(step) for step in range(8)]
    [0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    warmup_iters: int
    total_iters: int
    start_factor: float
    end_factor: float

    def __call__(self, step: int) -> float:
        """The factor of a step."""
        if step < self.warmup_iters:
            return _line_up(step, self.warmup_iters, self.start_factor)
        return self.end_factor + (1 - self.end_factor) * _left(step, self.warmup_iters, self.total_iters)


@dataclass(frozen=True)
class WarmupStableDecay:
    """A straight line up to 1, then 1, then in `decay_iters` steps down to `end_factor`.

    The decay begins at step ``total_iters - decay_iters``, and is a straight line or half a cosine.

    >>> [WarmupStableDecay(2, 2, 7, 0.5, 0.0, "linear")(step) for step in range(9)]
    [0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0]

    Attributes:
        warmup_iters: steps of the line up; 0 for none.
        decay_iters: steps of the way down; 0 for none, and a jump.
        total_iters: step at which `end_factor` is reached.
        start_factor: of the first step.
        end_factor: of the last.
        anneal_strategy: ``linear`` or ``cos``.
    """

    warmup_iters: int
    decay_iters: int
    total_iters: int
    start_factor: float
    end_factor: float
    anneal_strategy: str

    def __call__(self, step: int) -> float:
        """The factor of a step."""
        if step < self.warmup_iters:
            return _line_up(step, self.warmup_iters, self.start_factor)
        left = _left(step, self.total_iters - self.decay_iters, self.total_iters)
        return self.end_factor + (1 - self.end_factor) * (_cosine(left) if self.anneal_strategy == "cos" else left)


@dataclass(frozen=True)
class InverseSqrt:
    """A straight line up to 1, then ``sqrt(warmup_iters / step)``, which never ends.

    >>> [round(InverseSqrt(4, 0.5)(step), 3) for step in (0, 2, 4, 8, 16)]
    [0.5, 0.75, 1.0, 0.707, 0.5]

    Attributes:
        warmup_iters: steps of the line; at least 1.
        start_factor: of the first step.
    """

    warmup_iters: int
    start_factor: float

    def __call__(self, step: int) -> float:
        """The factor of a step."""
        if step < self.warmup_iters:
            return _line_up(step, self.warmup_iters, self.start_factor)
        return math.sqrt(self.warmup_iters / step)


def _line_up(step: int, n_steps: int, start: float) -> float:
    return start + (1 - start) * step / n_steps


def _left(step: int, first: int, last: int) -> float:
    """What is left of the way at a step: 1 up to `first`, 0 from `last` on."""
    if step >= last:
        return 0.0
    return 1.0 if step <= first else (last - step) / (last - first)


def _cosine(left: float) -> float:
    return (1 + math.cos(math.pi * (1 - left))) / 2
