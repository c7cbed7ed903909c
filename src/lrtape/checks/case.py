"""What a check looks at, and when something is worth a finding."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from lrtape.plan import Plan
from lrtape.tape import Series, Tape

ROUNDING = 1e-12
"""Share of its peak by which an lr may be below 0: what is left of a straight line that ends there."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When something is worth a finding.

    Attributes:
        fewest_steps: a run of fewer steps is a trial, whose shape says nothing.
        decayed: share of its peak below which an lr trains nothing any more.
        decayed_before: share of the run before which it should not be there for good.
        zero_share: share of the run's steps that may have an lr of 0; one step always may.
        horizon_slack: share of the run by which a schedule may be too short.
        longest_horizon: how many times as long as the run a schedule may be.
        ratio_change: factor by which the ratio of two groups may change.
        ratio_floor: share of its peak from which on an lr counts for that.
        spike: factor between an lr and both of its neighbours.
        spike_neighbours: factor between the two neighbours.
        spike_slope: factor between a spike and the changes of the lr just before and after it.
        below_axis: share of the steps that may have an lr which MLflow's axes cannot name.
    """

    fewest_steps: int = 10
    decayed: float = 0.01
    decayed_before: float = 0.3
    zero_share: float = 0.02
    horizon_slack: float = 0.05
    longest_horizon: float = 1.5
    ratio_change: float = 1.1
    ratio_floor: float = 0.1
    spike: float = 2.0
    spike_neighbours: float = 1.2
    spike_slope: float = 4.0
    below_axis: float = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """What a check looks at.

    Attributes:
        tape: its learning rates alone; empty for a check of a plan.
        plan: of the training.
        thresholds: when something is worth a finding.
        never_updated: the keys of groups whose parameters never changed.
    """

    tape: Tape
    plan: Plan
    thresholds: Thresholds
    never_updated: Collection[str] = ()

    @property
    def is_trial(self) -> bool:
        """Whether the run is too short to have a shape."""
        return min(self.plan.n_steps, max(len(series) for series in self.tape.values())) < self.thresholds.fewest_steps

    def finite(self) -> dict[str, Series]:
        """Those without NaN and infinity."""
        return {key: series for key, series in self.tape.items() if math.isfinite(sum(series.values))}


def others(count: int) -> str:
    """In brackets, that so many groups are alike; nothing where there is one."""
    return {1: "", 2: " (and so is another group)"}.get(count, f" (and so are {count - 1} other groups)")
