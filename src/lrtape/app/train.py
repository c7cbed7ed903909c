"""One training, from a checked config to a tape."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lrtape.app.best_model import keep_best_model
from lrtape.app.bookmark import Bookmark
from lrtape.app.build import build_data, build_model, build_optimizer
from lrtape.app.checkpoint import Checkpoints, refuse_unloadable
from lrtape.app.config import BEST, OFF, Settings
from lrtape.app.console import Console
from lrtape.app.datasets import describe_data
from lrtape.app.init_from import init_model
from lrtape.app.interrupts import Interrupts
from lrtape.app.lr_range import run_range
from lrtape.app.overrides import portable
from lrtape.app.randomness import seed_everything
from lrtape.app.resume import Resumption
from lrtape.app.resumed_run import find_overlap, reopen_run
from lrtape.app.run import config_of, open_run
from lrtape.app.schedule import Length, build_schedule, plan_training, resolve_horizons, steps_per_epoch
from lrtape.app.sweep.child import current_child, objective_tag
from lrtape.app.sweep.objective import objective_of
from lrtape.app.sweep.pruning import report_epochs
from lrtape.app.trainer import TRAIN_LOSS, Trainer, metric_names, resolve_device
from lrtape.app.watch import Watch
from lrtape.app.world import World, open_world
from lrtape.beside import Beside
from lrtape.checks.verdict import OK
from lrtape.columns import Columns
from lrtape.errors import ConfigError, RankKilledError, TrackingError, TrainingDivergedError
from lrtape.keys import Keys
from lrtape.plan import Plan
from lrtape.ranks import Ranks, these_ranks
from lrtape.recorder import Recorder
from lrtape.replay import Overlap
from lrtape.session import open_session
from lrtape.tape import Group
from lrtape.tracking.no_run import NoRun
from lrtape.tracking.tags import ERROR
from lrtape.tracking.uri import mask_credentials

if TYPE_CHECKING:
    from lrtape.session import Session
    from lrtape.tracking.mlflow_run import MlflowRun
    from lrtape.tracking.planned_run import PlannedRun

    Run = MlflowRun | PlannedRun | NoRun

CHECKPOINTS = "checkpoints"
MAX_SEED = 2**32
_REPEATS_S = 2.0
"""See `Interrupts`: torchrun passes a signal on at once."""


def train(cfg: DictConfig, settings: Settings, output_dir: Path, overrides: Sequence[str] = ()) -> float:
    """Train what the config says, and record it; or go on with a training, where ``trainer.resume`` says which.

    Everything that can be refused is refused before the run is started.

    Args:
        cfg: as Hydra composed it.
        settings: what `check` made of it.
        output_dir: where the checkpoints go.
        overrides: what the user gave on the command line.

    Returns:
        What a sweep compares, as it was last: ``sweep.objective``, by default ``val/loss``, or ``train/loss`` where
        nothing validates. Of an LR range test, which ``range`` asks for instead of a training, see `run_range`.

    Raises:
        ConfigError: something in the config cannot be built, or there is nothing to resume.
        TrackingError: the tracking store cannot be reached.
        RankFailedError: another process of the training has failed.
        TrainingDivergedError: see `Trainer.fit`; or the objective of a sweep's trial is not finite.
        StoppedOnFindingError: see `Watch.after_epoch`.
        PrunedError: see `report_epochs`.
        Interrupted: by a signal.
    """
    if settings.range is not None:
        _refuse_several()
        return run_range(cfg, settings, output_dir, overrides)
    with open_world(settings.trainer.device) as world, Interrupts(_REPEATS_S * (world.ranks.n_ranks > 1)) as interrupts:
        world.listen(interrupts)
        prepared = world.agree(lambda: _prepare(cfg, settings, output_dir, overrides, world))
        return _train(prepared, output_dir, overrides, world, interrupts)


def _refuse_several() -> None:
    if (n_ranks := these_ranks().n_ranks) > 1:
        raise ConfigError(
            f"an LR range test must be made by one process, but torchrun has started {n_ranks}. Start it without "
            "torchrun, with the batch of all of them: trainer.batch_size times their number."
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What a training needs before there is a run. Its config is resolved; `portable` is for its checkpoints."""

    cfg: DictConfig
    settings: Settings
    portable: dict[str, Any]
    objective: str
    trainer: Trainer
    plan: Plan
    watch: Watch
    groups: Sequence[Group]
    resumption: Resumption | None


def _prepare(
    cfg: DictConfig, settings: Settings, output_dir: Path, overrides: Sequence[str], world: World
) -> _Prepared:
    resumption = Resumption.find(settings)
    if resumption is not None:
        cfg, settings = resumption.configure(cfg, settings, overrides)
    ranks = world.ranks
    seed_everything(settings.seed)
    device = resolve_device(settings.trainer.device, ranks)
    data = build_data(cfg)
    objective = objective_of(settings.sweep.objective, metric_names(data))
    length = Length.of(data, settings.trainer, ranks.n_ranks)
    config = portable(cfg)  # shares of the run are still shares: a longer run keeps the shape of its schedule
    cfg = resolve_horizons(cfg, length)
    model = build_model(cfg, data)
    if settings.trainer.init_from is not None and resumption is None:
        init_model(model, Path(settings.trainer.init_from), settings.trainer.init_fresh)
    model.to(device)
    optimizer = build_optimizer(cfg, model)
    schedule = build_schedule(cfg, optimizer)
    trainer = Trainer(model, data, optimizer, schedule, settings.trainer, device, settings.seed, world)
    make_plan = partial(plan_training, cfg, model, length, steps_per_epoch(data, settings.trainer, ranks.n_ranks))
    plan = make_plan()
    refuse_unloadable(schedule.scheduler)
    # Refuses groups of one name, before there is a run.
    groups = Recorder(optimizer, 0, Keys()).groups
    if not ranks.records:
        # All ranks begin with the same weights; what is drawn from here on, for dropout say, differs.
        seed_everything((settings.seed + ranks.rank) % MAX_SEED)
    if resumption is not None:
        resumption.restore(trainer, cfg, ranks)
        if ranks.records:
            resumption.keep_best(output_dir / CHECKPOINTS)
    watch = _watch(plan, make_plan, trainer, settings, ranks)
    watch.before()
    return _Prepared(cfg, settings, config, objective, trainer, plan, watch, groups, resumption)


def _train(
    prepared: _Prepared, output_dir: Path, overrides: Sequence[str], world: World, interrupts: Interrupts
) -> float:
    settings, trainer, watch, objective = prepared.settings, prepared.trainer, prepared.watch, prepared.objective
    resumption, groups = prepared.resumption, prepared.groups
    if resumption is not None:
        print(f"Resumed at step {resumption.first_step} from {resumption.path}", flush=True)  # noqa: T201 - a command
    with contextlib.ExitStack() as opened:
        run = world.agree(lambda: _entered(opened, _open_run(prepared, overrides, world.ranks)))
        run.log_text(mask_credentials(OmegaConf.to_yaml(config_of(prepared.cfg))), _config_path(resumption))
        datasets = [] if isinstance(run, NoRun) else describe_data(trainer.data, str(prepared.cfg.data["_target_"]))
        run.log_datasets(datasets)
        watch.begin(run)
        (run_id, *_) = world.gather(run.run_id)
        bookmark = Bookmark(Path(settings.tracking.folder), settings.tracking.experiment)
        checkpoints = Checkpoints(
            output_dir / CHECKPOINTS,
            run.run_id,
            trainer.parts,
            prepared.portable,
            trainer.length,
            bookmark if settings.tracking.enabled else None,
            world,
        )
        with contextlib.ExitStack() as recorded:
            session = world.agree(
                lambda: recorded.enter_context(_open_session(run, settings, resumption, groups, watch.columns))
            )
            session.add(trainer.optimizer, first_step=trainer.place.next_step)
            if settings.checks == OFF:
                session.judge("")
            try:
                names = [group.name for group in groups]
                with Console(settings.trainer, names, *trainer.length, trainer.place.next_step) as console:
                    after_epoch = report_epochs(
                        lambda: watch.after_epoch(trainer.skipped_steps, trainer.never_updated(session)),
                        *(trainer, run, objective),
                    )
                    metrics = trainer.fit(
                        *(session, console, checkpoints, interrupts),
                        lambda metrics: world.agree(lambda: after_epoch(metrics)),
                    )
                if current_child.get() is not None:  # before its shipper can end the run
                    _conclude_trial(run, objective, metrics[objective])
            except RankKilledError as error:
                _tell_of_rank_0(error, world.ranks, settings, run_id)
                raise
            finally:
                watch.conclude(run, session, trainer.skipped_steps, trainer.never_updated(session))
            run.log_artifact(checkpoints.last, "checkpoints")
            if settings.tracking.log_model == BEST:
                with _storing_meanwhile(session, run, world):
                    keep_best_model(run.model_folder, checkpoints.best, trainer, datasets)
    if current_child.get() is None:  # in a sweep, its driver says so once
        if watch.verdict == OK:  # of any other the findings have told
            print(f"Learning rates: {watch.verdict}")  # noqa: T201
        print(run.how_to_look())  # noqa: T201 - the end of a command
    return metrics[objective]


@contextlib.contextmanager
def _storing_meanwhile(session: "Session", run: "Run", world: World) -> Iterator[None]:
    """End the recording, and let the shipper store it while the model is made; the run ends when that is over.

    Where there are several processes, what ends the recording is agreed upon when it is closed.
    """
    if run.folder is None or world.ranks.n_ranks > 1:
        yield
        return
    with run.folder.model_is_due():
        session.stop()
        yield


def _entered(stack: contextlib.ExitStack, run: "Run") -> "Run":
    stack.enter_context(run)
    return run


def _tell_of_rank_0(error: RankKilledError, ranks: Ranks, settings: Settings, run_id: str) -> None:
    """Of a run whose rank 0 was killed, its shipper sets the status; the first rank that is left says why."""
    first_alive = min({*range(ranks.n_ranks)} - {*error.ranks})
    if 0 in error.ranks and ranks.rank == first_alive and run_id and settings.tracking.uri:
        from lrtape.tracking.mlflow_run import MlflowRun  # late: mlflow takes a second to import

        with contextlib.suppress(TrackingError):
            run = MlflowRun.join(run_id, settings.tracking.uri)
            run.set_tags({ERROR: f"{type(error).__name__}: {error}"})


def _conclude_trial(run: "Run", name: str, objective: float) -> None:
    """Note what the trial of a sweep has come to; it must be comparable with other trials."""
    run.set_tags(objective_tag(objective))
    if not math.isfinite(objective):
        raise TrainingDivergedError(
            f"{name} must be a finite number in the end, to be compared with that of other trials, but is {objective}. "
            "`trainer.stop_on_nonfinite=true` ends such a trial at once."
        )


def _open_run(prepared: _Prepared, overrides: Sequence[str], ranks: Ranks) -> "Run":
    settings, resumption = prepared.settings, prepared.resumption
    if not ranks.records:
        return NoRun()
    if resumption is not None and resumption.run_id and settings.tracking.enabled:
        return reopen_run(settings.tracking, resumption.run_id)
    return open_run(settings.tracking, prepared.cfg, overrides, prepared.plan)


def _watch(plan: Plan, make_plan: Callable[..., Plan], trainer: Trainer, settings: Settings, ranks: Ranks) -> Watch:
    if not ranks.records:
        return Watch(plan, OFF)
    place, monitor = trainer.place, trainer.schedule.monitor
    if place.first_step != place.epoch * (plan.steps_per_epoch or 0) and (plan.interval == "epoch" or plan.thaws):
        # Before it was resumed, steps were skipped: what was planned for an epoch comes earlier.
        plan = replace(plan, simulated=None)
    # The mean loss of an epoch is given to a scheduler, but not recorded.
    replan = None if monitor in {None, TRAIN_LOSS} else lambda metrics: make_plan(metrics=metrics)
    is_settled = monitor is None and not trainer.scaler.is_enabled()
    return Watch(plan, settings.checks, settings.trainer.stop_on, replan, place.next_step, is_settled)


def _open_session(
    run: "Run",
    settings: Settings,
    resumption: Resumption | None,
    groups: Sequence[Group],
    columns: Columns | None,
) -> "Session":
    tracking = settings.tracking
    overlap: Overlap | None = None
    if resumption is not None:
        owed_lrs = {group.key: lr for group, lr in zip(groups, resumption.next_lrs, strict=False)}
        overlap = find_overlap(tracking, run, resumption.run_id, resumption.first_step, owed_lrs)
    return open_session(
        run,
        None,
        tracking.options,
        tracking.close_timeout_s,
        overlap,
        columns=columns,
        beside=Beside.of(tracking.also, tracking.also_every_n_steps),
    )


def _config_path(resumption: Resumption | None) -> str:
    """Among the artifacts; a resumed training may have another config, and the first one is kept."""
    return "config/resolved.yaml" if resumption is None else f"config/resumed_at_step_{resumption.first_step}.yaml"
