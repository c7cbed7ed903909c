"""The LR range test of the app: ``python train.py experiment=lr_range``, a run of its own instead of a training."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from lrtape.app.build import build_data, build_model, build_optimizer
from lrtape.app.config import RangeSettings, Settings
from lrtape.app.init_from import init_model
from lrtape.app.interrupts import Interrupts
from lrtape.app.program import program
from lrtape.app.randomness import seed_everything
from lrtape.app.run import config_of, open_run
from lrtape.app.schedule import Length, Schedule, resolve_horizons
from lrtape.app.sweep.child import current_child, objective_tag
from lrtape.app.trainer import TRAIN_LOSS, Trainer, resolve_device
from lrtape.errors import ConfigError
from lrtape.groups import moving_lrs
from lrtape.keys import Keys
from lrtape.range_curve import RangeResult
from lrtape.range_plot import draw_range, plot_range
from lrtape.range_test import lr_range
from lrtape.recorder import Recorder
from lrtape.schedules import Constant
from lrtape.session import open_session
from lrtape.tracking.uri import mask_credentials

SMOOTHED_LOSS = "range/smoothed_loss"
LOWEST_LOSS = "range/lowest_loss"
"""Of the smoothed ones, at the last step: what a sweep of range tests compares."""
SUGGESTED_LR = "lrtape.range.suggested_lr"
"""Tag: the suggestion, of `optimizer.lr` or of the one group that was varied."""
PROBLEM = "lrtape.range.problem"
"""Tag: why there is none."""
DIVERGED_AT_LR = "lrtape.range.diverged_at_lr"
"""Tag: the lr at which the loss exploded; missing where it did not."""
COMMAND = "lrtape.range.command"
"""Tag: trains with the suggestion."""
PICTURE = "range.png"

_SIGNIFICANT_DIGITS = 3
_TOLERANCE = 0.01


def run_range(cfg: DictConfig, settings: Settings, output_dir: Path, overrides: Sequence[str] = ()) -> float:
    """Make an LR range test of the training that the config describes, record it, and print what it suggests.

    The schedule is not stepped: the test sets the lr. Model, data and the order of the batches are the training's.

    Args:
        cfg: as Hydra composed it.
        settings: what `check` made of it; ``range`` is set.
        output_dir: where the picture goes.
        overrides: what the user gave on the command line.

    Returns:
        The lowest smoothed loss.

    Raises:
        ConfigError: something in the config cannot be built, or does not fit together.
        TrackingError: the tracking store cannot be reached.
        Interrupted: by a signal.
    """
    assert settings.range is not None  # noqa: S101 - that is what it is called for
    with Interrupts() as interrupts:
        seed_everything(settings.seed)
        device = resolve_device(settings.trainer.device)
        data = build_data(cfg)
        cfg = resolve_horizons(cfg, Length.of(data, settings.trainer))
        model = build_model(cfg, data)
        if settings.trainer.init_from is not None:
            init_model(model, Path(settings.trainer.init_from), settings.trainer.init_fresh)
        model.to(device)
        optimizer = build_optimizer(cfg, model)
        names = [group.name for group in Recorder(optimizer, 0, Keys()).moving_groups]
        _check_groups(settings.range, names, cfg.optimizer.lr)
        schedule = Schedule(Constant(optimizer), "epoch", None)  # type: ignore[arg-type]  # it takes no metric
        trainer = Trainer(model, data, optimizer, schedule, settings.trainer, device, settings.seed)
        tracking = settings.tracking
        with open_run(tracking, cfg, overrides) as run:
            run.log_text(mask_credentials(OmegaConf.to_yaml(config_of(cfg))), "config/resolved.yaml")
            with open_session(run, None, tracking.options, tracking.close_timeout_s) as session:
                session.add(optimizer)
                session.judge("")  # No schedule is meant to look like this.

                def record(step: int, lr: float, loss: float, smoothed: float) -> None:  # noqa: ARG001
                    session.log(TRAIN_LOSS, loss, step)
                    session.log(SMOOTHED_LOSS, smoothed, step)

                with interrupts.held():
                    result = _find(trainer, settings.range, cfg.optimizer.lr, record, interrupts)
                session.log(LOWEST_LOSS, result.lowest_loss, session.steps - 1)
                changes = _changes(cfg, model, optimizer, result, settings.range.group)
                command = command_line(overrides, changes) if changes else ""
                output_dir.mkdir(parents=True, exist_ok=True)
                draw_range(result, output_dir / PICTURE, _title(settings.range))
                run.log_artifact(output_dir / PICTURE, "lr")
                run.set_tags(_tags(result, command))
                if current_child.get() is not None:
                    run.set_tags(objective_tag(result.lowest_loss))
    print(plot_range(result))  # noqa: T201 - a command
    print(f"\n{_title(settings.range)}\n{result}")  # noqa: T201
    print(f"Picture:       {(output_dir / PICTURE).absolute()}")  # noqa: T201
    if command:
        print(f"To use it:     {command}")  # noqa: T201
    elif not result.problem:
        print("To use it:     give these param groups these lrs; no single key of this config sets them all.")  # noqa: T201
    if current_child.get() is None:
        print(run.how_to_look())  # noqa: T201
    return result.lowest_loss


def _check_groups(settings: RangeSettings, names: Sequence[str], base_lr: float) -> None:
    if settings.group is not None and settings.group not in names:
        raise ConfigError(
            f"`range.group` must be one of the param groups that move, {list(names)}, or null for all, but is "
            f"{settings.group!r} instead."
        )
    if settings.group is None and not base_lr > 0:
        raise ConfigError(
            "`optimizer.lr` must be above 0 for a range test, which keeps the proportions of the param groups to it, "
            f"but is {base_lr!r} instead. Its size does not matter."
        )


def _find(
    trainer: Trainer, settings: RangeSettings, base_lr: float, record: Any, interrupts: Interrupts
) -> RangeResult:
    steps = trainer.endless_steps()
    return lr_range(
        trainer.optimizer,
        lambda: _next_step(steps, interrupts),
        trainer.model,
        others=[trainer.scaler],
        min_lr=settings.min_lr,
        max_lr=settings.max_lr,
        n_steps=settings.n_steps,
        group=settings.group,
        base_lr=None if settings.group is not None else base_lr,
        smoothing=settings.smoothing,
        explode_at=settings.explode_at,
        on_step=record,
    )


def _next_step(steps: Iterator[float], interrupts: Interrupts) -> float:
    interrupts.check()
    return next(steps)


def _title(settings: RangeSettings) -> str:
    return "LR range test" + (f" of {settings.group}" if settings.group is not None else "")


def _tags(result: RangeResult, command: str) -> dict[str, str]:
    tags = {PROBLEM: result.problem} if result.suggestion is None else {SUGGESTED_LR: repr(result.suggestion)}
    if result.diverged_at is not None:
        tags[DIVERGED_AT_LR] = repr(result.lrs[result.diverged_at])
    return {**tags, COMMAND: command} if command else tags


def _changes(
    cfg: DictConfig, model: nn.Module, optimizer: Optimizer, result: RangeResult, group: str | None
) -> dict[str, float]:
    """What to change in the config, so that every param group gets the lr that was suggested for it.

    Each way that could do is tried, on a new optimizer; nothing comes back where there is no suggestion, or no way.
    """
    if result.suggestion is None:
        return {}
    names = [member.name for member in Recorder(optimizer, 0, Keys()).groups]
    suggested = result.suggested_lrs
    own = moving_lrs(optimizer.param_groups)
    wanted = [lr if lr is None else suggested.get(name, lr) for name, lr in zip(names, own, strict=True)]
    lr, factor = result.suggestion, result.suggestion / cfg.optimizer.lr if cfg.optimizer.lr else 0.0
    ways = [{"optimizer.lr": lr}]
    if (part := OmegaConf.select(cfg, "optimizer.adamw.lr")) is not None:  # Muon's other half
        ways += [{"optimizer.lr": lr, "optimizer.adamw.lr": part * factor}, {"optimizer.adamw.lr": lr}]
    if group is not None:
        ways += [{f"param_groups.{group}_lr_mult": factor}, {f"param_groups.factors.{group}": factor}]
    for way in ways:
        rounded = {key: float(f"{value:.{_SIGNIFICANT_DIGITS}g}") for key, value in way.items()}
        if all(OmegaConf.select(cfg, key) is not None for key in rounded) and _gives(cfg, model, rounded, wanted):
            return rounded
    return {}


def _gives(cfg: DictConfig, model: nn.Module, changes: dict[str, float], wanted: Sequence[float | None]) -> bool:
    """Whether a changed config gives these lrs; that of a group that does not move, ``None``, may be any."""
    changed = cfg.copy()
    for key, value in changes.items():
        OmegaConf.update(changed, key, value)
    lrs = [float(group["lr"]) for group in build_optimizer(changed, model).param_groups]
    return all(want is None or abs(lr - want) <= _TOLERANCE * want for lr, want in zip(lrs, wanted, strict=True))


def command_line(overrides: Sequence[str], changes: dict[str, float]) -> str:
    """The command that trains what the range test was made of, with some values changed.

    Args:
        overrides: what the user gave on the command line.
        changes: values by key.
    """
    # Its flags, --config-dir say, are not among the overrides; but in a sweep the overrides are another job's.
    arguments = sys.argv[1:] if set(overrides) <= set(sys.argv[1:]) else overrides
    kept = [argument for argument in arguments if not _is_of_the_test(argument, changes)]
    return f"{program()} {shlex.join([*kept, *(f'{key}={value:g}' for key, value in changes.items())])}"


def _is_of_the_test(argument: str, changes: dict[str, float]) -> bool:
    key, _, value = argument.lstrip("+~").partition("=")
    return (
        key in {"range", "tracking.run_name", *changes}
        or key.startswith("range.")
        or (key, value) == ("experiment", "lr_range")
    )
