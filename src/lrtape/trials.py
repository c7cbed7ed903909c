"""The trials of a sweep: what was planned, and what a tracking store has of them, its runs."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lrtape.tape import Status

RUNNING = "RUNNING"
"""The status of a run that has none of `Status` yet, in MLflow's words."""
MIN, MAX = "min", "max"
"""Directions: whether the lowest or the highest objective is best."""
SWEEPS = "sweeps"
"""In the tracking folder: a folder for each sweep, called by its id."""


def folder_of_sweep(folder: Path, sweep_id: str) -> Path:
    """Of what belongs to a sweep, in the tracking folder."""
    return folder / SWEEPS / sweep_id


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of a sweep, with one seed: what becomes a child of the sweep's run. Crosses processes: plain values.

    Attributes:
        id: a hash of its config, without what belongs to the machine: the same config is the same trial, whatever its
            place in a sweep.
        name: for people: ``gamma=0.1 step_size=2``, and the seed where there are several.
        overrides: everything that its training is given, as Hydra takes it; empty where only tags tell of it.
        values: the text of each swept value, by key, without the seed.
        seed: of the training.
        n_steps: optimizer steps that it will make; 0 where nobody knows.
        warning: what the findings say of its schedule; empty where that is nothing.
        refusal: why it will not be trained; empty where it will.
        same_as: the id of the trial that has the same learning rates, and the same config beside; empty for none.
        number: of the study's trial that it is, from 0; ``None`` in a grid.
    """

    id: str
    name: str
    overrides: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    n_steps: int = 0
    warning: str = ""
    refusal: str = ""
    same_as: str = ""
    number: int | None = None

    @property
    def is_trained(self) -> bool:
        """Whether it is to be trained at all."""
        return not self.refusal and not self.same_as


@dataclass(frozen=True, slots=True)
class TrialRun:
    """One run of one trial of a sweep; a trial that was cut off and trained again has several.

    Attributes:
        run_id: of the run.
        trial_id: the same for the same config, in every sweep.
        name: of the run: ``gamma=0.1 step_size=2``.
        status: as MLflow calls it.
        values: the text of each swept value, by key, without the seed.
        seed: of the training.
        objective: what the sweep compares; ``None`` where there is none (yet).
        error: what has ended the training; empty where nothing has, or nobody knows.
        verdict: what lrtape thinks of its learning rates; empty where it was not asked.
        start_ms: Unix time.
        end_ms: Unix time; ``None`` while it runs.
        tags: all of the run.
        pruned: why a search has ended it before its last epoch; empty where none has.
    """

    run_id: str
    trial_id: str
    name: str
    status: str
    values: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    objective: float | None = None
    error: str = ""
    verdict: str = ""
    start_ms: int = 0
    end_ms: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    pruned: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to the end, and has an objective that can be compared."""
        return self.status == Status.FINISHED and self.objective is not None and math.isfinite(self.objective)

    @property
    def is_pruned(self) -> bool:
        """Whether a search has ended it before its last epoch."""
        return bool(self.pruned) and self.status != RUNNING


def latest_runs(runs: Iterable[TrialRun]) -> dict[str, TrialRun]:
    """The run that counts of each trial, by its id: a finished one if there is one, else the newest."""
    latest: dict[str, TrialRun] = {}
    for run in sorted(runs, key=lambda run: (run.is_finished, run.start_ms)):
        latest[run.trial_id] = run
    return latest


@dataclass(frozen=True, slots=True)
class SweepRun:
    """The run of a sweep, of which its trials are the children.

    Attributes:
        run_id: of the run.
        sweep_id: the same for the same sweep, however often it is begun.
        title: its name.
        status: as MLflow calls it.
        experiment: its name.
        objective: the metric that tells which point is best.
        direction: whether that is the lowest (``min``) or the highest (``max``).
        command: what a person has typed.
        planned: every trial of it, as far as that was known before; without values where only tags tell of them.
        n_trials: how many a search shall have that goes on, those that equal another one included; 0 where `planned`
            is all of them.
    """

    run_id: str
    sweep_id: str
    title: str
    status: str
    experiment: str
    objective: str
    direction: str
    command: str = ""
    planned: tuple[Trial, ...] = ()
    n_trials: int = 0
