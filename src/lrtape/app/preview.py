"""What a training would do with its learning rates, without training: one schedule, or a grid of them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lrtape.app.config import check as check_config
from lrtape.app.sweep.grid import SEED, expand
from lrtape.checks.registry import check
from lrtape.errors import ConfigError
from lrtape.lines import format_lr
from lrtape.plan import Plan, label_of
from lrtape.tape import Finding, Tape

MAX_SCHEDULES = 12
"""More curves cannot be told apart."""
HOLD = "..."
"""After the last of some made-up metrics: it goes on."""


@dataclass(frozen=True, slots=True)
class Preview:
    """One schedule, simulated.

    Attributes:
        label: what distinguishes it from the others; empty where it is alone.
        title: what it is, in one line.
        plan: of the training.
        tape: what the training would record; flat, where that depends on a metric that nobody knows.
        findings: what may be wrong with it.
        frozen: the names of groups that never move.
        note: what a person should know beside that.
    """

    label: str
    title: str
    plan: Plan
    tape: Tape
    findings: list[Finding]
    frozen: tuple[str, ...] = ()
    note: str = ""


def preview(
    overrides: Sequence[str],
    metrics: Sequence[float] | None = None,
    config_dir: Path | None = None,
    config_name: str = "train",
    n_ranks: int = 1,
) -> list[Preview]:
    """Simulate the schedules of a training's config, one for each point of the grid that the overrides span.

    Args:
        overrides: as on the command line of a training; ``scheduler=steplr,cosineannealinglr`` are two.
        metrics: what a scheduler with a `monitor` is given, one value for each epoch; the last one goes on.
        config_dir: a folder of configs beside lrtape's own.
        config_name: of the primary config.
        n_ranks: how many processes are to train together.

    Raises:
        ConfigError: something in a config cannot be built, or there are too many schedules.
    """
    grid = _grid(overrides)
    previews = []
    search = [] if config_dir is None else [f"hydra.searchpath=[file://{config_dir.absolute()}]"]
    outer = GlobalHydra.instance().hydra  # of somebody's own Hydra app
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("lrtape.conf", version_base="1.3"):
            for label, point in grid:
                cfg = hydra.compose(config_name, [*point, *search])
                previews.append(_preview(label, cfg, metrics, n_ranks))
    finally:
        GlobalHydra.instance().hydra = outer
    return previews


def _preview(label: str, cfg: DictConfig, metrics: Sequence[float] | None, n_ranks: int) -> Preview:
    settings = check_config(cfg, Path.cwd())

    # Late: torch takes a second to import, and a misspelt override needs none.
    from lrtape.app.build import build_data, build_on_meta
    from lrtape.app.schedule import Length, build_schedule, plan_training, resolve_horizons, steps_per_epoch
    from lrtape.app.trainer import metric_names
    from lrtape.keys import Keys
    from lrtape.recorder import Recorder
    from lrtape.simulation import simulate

    data = build_data(cfg)
    length = Length.of(data, settings.trainer, n_ranks)
    epoch_steps = steps_per_epoch(data, settings.trainer, n_ranks)
    cfg = resolve_horizons(cfg, length)
    model, optimizer = build_on_meta(cfg, data)
    schedule = build_schedule(cfg, optimizer)
    schedule.check_monitor(metric_names(data))
    note = ""
    if schedule.monitor is None:
        if metrics is not None:
            raise ConfigError(f"`--metrics` must not be given for {label_of(cfg.scheduler)}, which takes no metric.")
        plan = plan_training(cfg, model, length, epoch_steps)
    else:
        given = None if metrics is None else _lengthened(metrics, length.epochs, schedule.monitor)
        plan = plan_training(cfg, model, length, epoch_steps, given)
        if metrics is None:
            note = (
                f"{label_of(cfg.scheduler)} follows {schedule.monitor}, which nobody knows before the training. Drawn "
                f"is the lr if it always improves; to see a drop, make it up: --metrics 1,0.9,0.9,{HOLD}"
            )
        elif len(metrics) < length.epochs:
            note = f"{schedule.monitor} is made up: {len(metrics)} values, the last of which goes on to the end."
    tape = plan.simulated if plan.simulated is not None else simulate(optimizer, None, plan)
    findings = check(plan.simulated or Tape(), plan)
    n_drawn = max(series.steps[-1] for series in tape.values()) + 1
    if n_drawn < length.steps:
        note = f"Drawn are the first {n_drawn:,} steps."
    groups = Recorder(optimizer, 0, Keys()).groups
    frozen = tuple(group.name for group in groups if group.key not in tape)
    return Preview(label, _title(cfg, length, epoch_steps, len(groups)), plan, tape, findings, frozen, note)


def _lengthened(metrics: Sequence[float], n_epochs: int, monitor: str) -> list[float]:
    if len(metrics) > n_epochs:
        raise ConfigError(
            f"`--metrics` must have at most {n_epochs} values of {monitor}, one for each epoch, but has {len(metrics)} "
            "instead."
        )
    return [*metrics, *[metrics[-1]] * (n_epochs - len(metrics))]


def _title(cfg: DictConfig, length: "tuple[int, int]", epoch_steps: int, n_groups: int) -> str:
    n_epochs, n_steps = length
    groups = "1 group" if n_groups == 1 else f"{n_groups} groups"
    optimizer, interval = label_of(cfg.optimizer), cfg.scheduler.get("interval", "epoch")
    return (
        f"{label_of(cfg.scheduler)}, stepped after each {interval}; {optimizer} with lr {format_lr(cfg.optimizer.lr)}, "
        f"{groups}; {n_steps:,} steps, {n_epochs} epochs of {epoch_steps}"
    )


def _grid(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Every combination of the values of sweeping overrides, with what distinguishes it.

    Raises:
        ConfigError: there are too many.
        HydraException: an override is none.
    """
    points, seeds = expand((), overrides)
    n_schedules = len(points) * max(1, len(seeds))
    if n_schedules > MAX_SCHEDULES:
        raise ConfigError(
            f"the overrides must make at most {MAX_SCHEDULES} schedules, to be seen in one picture, but make "
            f"{n_schedules} instead. Give fewer values."
        )
    own = [f"{SEED}={seed}" for seed in seeds]
    return [
        (f"{point.name} {seed if len(own) > 1 else ''}".strip(), [*point.overrides, *filter(None, [seed])])
        for point, seed in itertools.product(points, own or [""])
    ]
