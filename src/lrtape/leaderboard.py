"""Which point of a sweep is best, by how much, and whether that is more than the noise of the seeds."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lrtape.noise import Difference, difference
from lrtape.standing import REFUSED, Standing
from lrtape.tape import Status
from lrtape.trials import MAX, RUNNING, Trial, TrialRun, latest_runs

SCHEDULER = "scheduler"
"""The key of the config whose values are schedules."""

_SEED = re.compile(r"(?:^|\s)seed=-?\d+$")
"""At the end of a trial's name, where there are several seeds."""

Key = tuple[tuple[str, str], ...] | str


@dataclass(frozen=True, slots=True)
class Lead:
    """How far one point is ahead of another one.

    Attributes:
        first: the better one.
        second: the other one.
        gap: by how much its mean is better, of the objective's unit; negative where the first one goes before it
            although its mean is worse, as seeds of the second have failed.
        interval: of the gap, as far as the noise of the seeds lets one tell; ``None`` where nobody can tell, as one of
            the two has fewer than two seeds.
    """

    first: Standing
    second: Standing
    gap: float
    interval: Difference | None

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the first is better, and that is known to be more than noise."""
        return self.gap > 0 and self.interval is not None and self.interval.is_beyond_noise


@dataclass(frozen=True, slots=True)
class Effect:
    """Of one swept value: what the points that have it came to.

    Attributes:
        key: of the config.
        value: its text.
        means: of each of these points that has one.
        mean: of all of these.
        spread: sample standard deviation over these points, or over the seeds where there is one point; ``None`` for
            fewer than two values.
        n_failed: points that have it and came to nothing.
    """

    key: str
    value: str
    means: tuple[float, ...]
    mean: float | None
    spread: float | None
    n_failed: int


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All points of a sweep.

    Attributes:
        objective: the metric that tells which point is best.
        direction: whether that is the lowest (``min``) or the highest (``max``).
        standings: best first; then those of which nothing is finished. A point that equals another one follows it.
    """

    objective: str
    direction: str
    standings: tuple[Standing, ...]

    @property
    def ranked(self) -> list[Standing]:
        """Those of which something is finished, best first, without those that equal another one."""
        return [standing for standing in self.standings if standing.rank and not standing.same_as]

    @property
    def winner(self) -> Standing | None:
        """The best one; ``None`` where nothing is finished."""
        ranked = self.ranked
        return ranked[0] if ranked else None

    @property
    def lead(self) -> Lead | None:
        """Of the winner over the second; ``None`` where there is none."""
        ranked = self.ranked
        return self.compare(*ranked[:2]) if len(ranked) > 1 else None

    def compare(self, first: Standing, second: Standing) -> Lead:
        """How far `first` is ahead of `second`, both of which have finished seeds."""
        better, worse = (first, second) if self.direction == MAX else (second, first)
        interval = difference(better.scores, worse.scores)
        gap = statistics.mean(better.scores) - statistics.mean(worse.scores) if interval is None else interval.mean
        return Lead(first, second, gap, interval)

    def rivals(self) -> list[Standing]:
        """Who cannot be told apart from the winner, or, for want of seeds, might not; best first."""
        ranked = self.ranked
        return [other for other in ranked[1:] if not self.compare(ranked[0], other).is_beyond_noise]

    @property
    def schedules(self) -> list[Standing]:
        """The best point of each schedule, best first; empty where a single one is tried."""
        if len(self.swept().get(SCHEDULER, ())) < 2:
            return []
        best: dict[str, Standing] = {}
        for standing in self.ranked:
            best.setdefault(standing.values.get(SCHEDULER, ""), standing)
        return list(best.values())

    def swept(self) -> dict[str, list[str]]:
        """The values of each swept key: numbers in their order, other texts as they come."""
        keys = dict.fromkeys(key for standing in self.standings for key in standing.values)
        return {key: _in_order(point.values[key] for point in self.standings if key in point.values) for key in keys}

    def effects(self) -> list[Effect]:
        """Of each swept value: the mean over all points that have it.

        A point that equals another one counts with that one's scores: its value had the same effect.
        """
        return [self._effect(key, value) for key, values in self.swept().items() for value in values]

    def _effect(self, key: str, value: str) -> Effect:
        points = [standing for standing in self.standings if standing.values.get(key) == value]
        means = tuple(point.mean for point in points if point.mean is not None)
        n_failed = sum(
            point.mean is None and point.status in {Status.FAILED, Status.KILLED, REFUSED} for point in points
        )
        if not means:
            return Effect(key, value, (), None, None, n_failed)
        spread = statistics.stdev(means) if len(means) > 1 else next(p.spread for p in points if p.mean is not None)
        return Effect(key, value, means, statistics.mean(means), spread, n_failed)

    @property
    def n_finished(self) -> int:
        """Trainings that are finished."""
        return sum(point.n for point in self.standings if not point.same_as)

    @property
    def n_trials(self) -> int:
        """Trainings that are wanted: one for each point and seed, but for those that equal another one."""
        return sum(max(point.n_trials, len(point.runs)) for point in self.standings if not point.same_as)


def rank(runs: Iterable[TrialRun], objective: str, direction: str, planned: Sequence[Trial] = ()) -> Leaderboard:
    """Rank the points of a sweep by the mean of their seeds.

    A point with seeds that have failed comes after all those without: a lucky seed of a point that diverges is no
    winner. Seeds that are not finished yet do not count.

    Args:
        runs: of the sweep's trials, all that were begun.
        objective: the metric that tells which point is best.
        direction: ``min`` or ``max``.
        planned: what was known of the trials before.
    """
    latest = latest_runs(runs)
    begun = {run.trial_id: Trial(run.trial_id, run.name, values=run.values, seed=run.seed) for run in latest.values()}
    trials = {trial.id: trial for trial in planned}
    trials |= {trial_id: trial for trial_id, trial in begun.items() if trial_id not in trials}
    points: dict[Key, list[Trial]] = {}
    for trial in trials.values():
        points.setdefault(_key(trial.name, trial.values), []).append(trial)
    standings = []
    for seeds in points.values():
        twin = next((trials[trial.same_as] for trial in seeds if trial.same_as in trials), None)
        own = points[_key(twin.name, twin.values)] if twin is not None else seeds
        found = [latest[trial.id] for trial in own if trial.id in latest]
        standings.append(
            Standing(
                point_name(seeds[0].name),
                seeds[0].values,
                tuple(sorted(found, key=lambda run: run.seed)),
                len(seeds),
                same_as=point_name(twin.name) if twin is not None else "",
                refusal=next((trial.refusal for trial in seeds if trial.refusal), ""),
                warning=next((trial.warning for trial in seeds if trial.warning), ""),
            )
        )
    return Leaderboard(objective, direction, tuple(_ranked(standings, direction)))


def point_name(trial: str) -> str:
    """The name of a trial without its seed."""
    return _SEED.sub("", trial) or "the only point"


def _key(name: str, values: Mapping[str, str]) -> Key:
    """What is the same for all seeds of a point; of one whose values nobody knows, its name."""
    return tuple(sorted(values.items())) or point_name(name)


def _ranked(standings: Sequence[Standing], direction: str) -> list[Standing]:
    sign = -1.0 if direction == MAX else 1.0

    def place(standing: Standing) -> tuple[bool, bool, float]:
        has_lost_some = any(not run.is_finished and run.status != RUNNING for run in standing.runs)
        return standing.mean is None, has_lost_some, sign * (standing.mean or 0.0)

    followers: dict[str, list[Standing]] = {}
    for standing in standings:
        followers.setdefault(standing.same_as, []).append(standing)
    ordered = []
    alone = sorted(followers.pop("", ()), key=place)
    places = [place(standing) for standing in alone]
    for first in alone:
        rank_of_it = places.index(place(first)) + 1 if first.mean is not None else 0
        ordered += [replace(point, rank=rank_of_it) for point in (first, *followers.pop(first.name, ()))]
    return ordered + [point for left in followers.values() for point in left]


def _in_order(texts: Iterable[str]) -> list[str]:
    values = list(dict.fromkeys(texts))
    try:
        return sorted(values, key=lambda text: float(text.removesuffix("%")))  # 30% is a share of the run
    except ValueError:
        return values
