"""``lrtape preview``: what a training would do with its learning rates, without training."""

import argparse
import itertools
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lrtape.app.config import check as check_config
from lrtape.app.main import refuse_passwords, report
from lrtape.checks.registry import check
from lrtape.errors import ConfigError, LRTapeError
from lrtape.lines import format_lr
from lrtape.picture import check_suffix, write_picture
from lrtape.plan import Plan, label_of
from lrtape.tape import Finding, Tape
from lrtape.terminal import plot

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer

    from lrtape.app.data import Data

MAX_SCHEDULES = 12
"""More curves cannot be told apart."""
MAX_WIDTH = 110
"""Columns."""
HOLD = "..."

_SHORT = re.compile(r"^(?:scheduler|optimizer|trainer|param_groups)\.")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"the arguments must be those of `lrtape preview --help`, but {message}.")


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


def main(arguments: Sequence[str]) -> int:
    """Draw the schedules that the arguments ask for; ``lrtape preview --help`` tells which there are.

    Returns:
        The exit code: 0, whatever is found; 2 for a mistake, which is one message on stderr.
    """
    sys.path.insert(0, str(Path.cwd()))  # as for `lrtape train`: a user's own models
    try:
        refuse_passwords(arguments)
        given = _parser().parse_intermixed_args(arguments)
        if given.save is not None:
            check_suffix(given.save)
        previews = preview(given.overrides, _metrics(given.metrics), given.config_dir, given.config_name)
        tape, text = _overlay(previews), _text(previews)
        title = previews[0].title if len(previews) == 1 else f"{len(previews)} schedules"
        print(_drawn(tape), text, sep="\n\n")  # noqa: T201 - a command
        if given.save is not None:
            write_picture(given.save, tape, title, text)
            print(f"\nSaved: {given.save}")  # noqa: T201
        sys.stdout.flush()
    except BrokenPipeError:  # `lrtape preview ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (HydraException, OmegaConfBaseException, LRTapeError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return report(error)
    return 0


def preview(
    overrides: Sequence[str],
    metrics: Sequence[float] | None = None,
    config_dir: Path | None = None,
    config_name: str = "train",
) -> list[Preview]:
    """Simulate the schedules of a training's config, one for each point of the grid that the overrides span.

    Args:
        overrides: as on the command line of a training; ``scheduler=steplr,cosineannealinglr`` are two.
        metrics: what a scheduler with a `monitor` is given, one value for each epoch; the last one goes on.
        config_dir: a folder of configs beside lrtape's own.
        config_name: of the primary config.

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
                previews.append(_preview(label, cfg, metrics))
    finally:
        GlobalHydra.instance().hydra = outer
    return previews


def _preview(label: str, cfg: DictConfig, metrics: Sequence[float] | None) -> Preview:
    settings = check_config(cfg, Path.cwd())

    # Late: torch takes a second to import, and a misspelt override needs none.
    from lrtape.app.build import build_data
    from lrtape.app.schedule import Length, build_schedule, plan_training, resolve_horizons, steps_per_epoch
    from lrtape.app.trainer import metric_names
    from lrtape.keys import Keys
    from lrtape.recorder import Recorder
    from lrtape.simulation import simulate

    data = build_data(cfg)
    length, epoch_steps = Length.of(data, settings.trainer), steps_per_epoch(data, settings.trainer)
    cfg = resolve_horizons(cfg, length)
    model, optimizer = _build(cfg, data)
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


def _build(cfg: DictConfig, data: "Data") -> "tuple[Module, Optimizer]":
    """The model and its optimizer, without memory for the model's values where it can be made so."""
    import torch

    from lrtape.app.build import build, build_model, build_optimizer, find_target

    find_target(cfg.model.get("_target_"))  # what a user's module makes when it is imported is no part of the model
    try:
        with torch.device("meta"):
            model: Module = build("model", cfg.model)
            return model, build_optimizer(cfg, model)
    except Exception:  # noqa: BLE001 - whatever a model or a fused optimizer cannot do there
        model = build_model(cfg, data)
        return model, build_optimizer(cfg, model)


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
    choices: list[list[str]] = []
    swept: list[bool] = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        sweeps = override.is_sweep_override()
        swept.append(sweeps)
        if sweeps:
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line or ""])
    n_points = math.prod(map(len, choices))
    if n_points > MAX_SCHEDULES:
        raise ConfigError(
            f"the overrides must make at most {MAX_SCHEDULES} schedules, to be seen in one picture, but make "
            f"{n_points} instead. Give fewer values."
        )
    grid = []
    for point in itertools.product(*choices):
        parts = [text for text, sweeps in zip(point, swept, strict=True) if sweeps]
        # The choice of a group needs no name: scheduler=steplr is steplr.
        names = [part if "." in part.partition("=")[0] else part.partition("=")[2] for part in parts]
        label = " ".join(_SHORT.sub("", name) for name in names)
        grid.append((label, list(point)))
    return grid


def _overlay(previews: Sequence[Preview]) -> Tape:
    """All schedules in one tape, the keys told apart by their labels."""
    if len(previews) == 1:
        return previews[0].tape
    series = {}
    for made in previews:
        for key, values in made.tape.items():
            group = key.removeprefix("lr/")
            series[f"lr/{made.label}" if len(made.tape) == 1 else f"lr/{made.label}: {group}"] = values
    return Tape.of(series)


def _drawn(tape: Tape) -> str:
    width = min(shutil.get_terminal_size((MAX_WIDTH, 0)).columns, MAX_WIDTH)
    return plot(tape, width, color=sys.stdout.isatty())


def _text(previews: Sequence[Preview]) -> str:
    """The tables, and what was found."""
    from lrtape.app.milestones import milestone_table

    blocks = []
    for made in previews:
        head = f"{made.label}: {made.title}" if made.label else made.title
        blocks += [head, milestone_table(made.tape, made.plan, made.frozen)]
        if made.note:
            blocks.append(_wrapped("note", made.note))
        if made.findings:
            blocks.append(
                "\n".join(_wrapped(f"{found.severity}  {found.code}", found.message) for found in made.findings)
            )
        elif made.plan.simulated is not None:
            blocks.append("Nothing found that looks wrong.")
    return "\n\n".join(blocks)


def _wrapped(head: str, sentence: str) -> str:
    return textwrap.fill(
        f"{head}  {sentence}", 100, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _metrics(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.removesuffix(HOLD).strip(" ,").split(",")]
    except ValueError:
        values = []
    if not values:
        raise ConfigError(f"`--metrics` must be numbers with commas, 1,0.9,0.9,{HOLD}, but is {text!r} instead.")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lrtape preview",
        description="Draw the learning rates of a training, step by step, without training, and say what looks wrong.",
        epilog="Takes the overrides of `lrtape train`: scheduler=onecyclelr trainer.epochs=30. Several values, "
        "scheduler=steplr,cosineannealinglr, are drawn into one picture. `lrtape train --help` lists the groups.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for `lrtape train`")
    parser.add_argument("--save", type=Path, metavar="FILE", help="draw into a file, too: .png, .svg, .html or .csv")
    parser.add_argument(
        "--metrics",
        metavar="1,0.9,0.9",
        help="for ReduceLROnPlateau: the metric that it watches, made up, one value for each epoch; the last goes on",
    )
    parser.add_argument("--config-dir", "-cd", type=Path, metavar="DIR", help="a folder of configs of your own")
    parser.add_argument("--config-name", "-cn", default="train", metavar="NAME", help="of your primary config")
    return parser
