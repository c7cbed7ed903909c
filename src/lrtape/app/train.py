"""One training, from a checked config to a tape."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from lrtape.app.bookmark import Bookmark
from lrtape.app.build import build_data, build_model, build_optimizer
from lrtape.app.checkpoint import Checkpoints, refuse_unloadable
from lrtape.app.config import Settings
from lrtape.app.console import Console
from lrtape.app.interrupts import Interrupts
from lrtape.app.overrides import portable
from lrtape.app.randomness import seed_everything
from lrtape.app.resume import Resumption
from lrtape.app.resumed_run import find_overlap, reopen_run
from lrtape.app.run import open_run
from lrtape.app.schedule import Length, build_schedule, plan_training, resolve_horizons, steps_per_epoch
from lrtape.app.trainer import TRAIN_LOSS, VAL_LOSS, Trainer, resolve_device
from lrtape.keys import Keys
from lrtape.recorder import Recorder
from lrtape.replay import Overlap
from lrtape.session import open_session
from lrtape.tracking.uri import mask_credentials

if TYPE_CHECKING:
    from lrtape.session import Session
    from lrtape.tracking.mlflow_run import MlflowRun
    from lrtape.tracking.no_run import NoRun
    from lrtape.tracking.planned_run import PlannedRun

    Run = MlflowRun | PlannedRun | NoRun


def train(cfg: DictConfig, settings: Settings, output_dir: Path, overrides: Sequence[str] = ()) -> float:
    """Train what the config says, and record it; or go on with a training, where ``trainer.resume`` says which.

    Everything that can be refused is refused before the run is started.

    Args:
        cfg: as Hydra composed it.
        settings: what `check` made of it.
        output_dir: where the checkpoints go.
        overrides: what the user gave on the command line.

    Returns:
        The last ``val/loss``, or ``train/loss`` where nothing validates: what a sweep minimises.

    Raises:
        ConfigError: something in the config cannot be built, or there is nothing to resume.
        TrackingError: the tracking store cannot be reached.
        TrainingDivergedError: see `Trainer.fit`.
        Interrupted: by a signal.
    """
    with Interrupts() as interrupts:
        resumption = Resumption.find(settings)
        if resumption is not None:
            cfg, settings = resumption.configure(cfg, settings, overrides)
        return _train(cfg, settings, output_dir, overrides, resumption, interrupts)


def _train(
    cfg: DictConfig,
    settings: Settings,
    output_dir: Path,
    overrides: Sequence[str],
    resumption: Resumption | None,
    interrupts: Interrupts,
) -> float:
    seed_everything(settings.seed)
    device = resolve_device(settings.trainer.device)
    data = build_data(cfg)
    length = Length.of(data, settings.trainer)
    config = portable(cfg)  # shares of the run are still shares: a longer run keeps the shape of its schedule
    cfg = resolve_horizons(cfg, length)
    model = build_model(cfg, data).to(device)
    optimizer = build_optimizer(cfg, model)
    schedule = build_schedule(cfg, optimizer)
    trainer = Trainer(model, data, optimizer, schedule, settings.trainer, device, settings.seed)
    plan = plan_training(cfg, model, length, steps_per_epoch(data, settings.trainer))
    refuse_unloadable(schedule.scheduler)
    # Refuses groups of one name, before there is a run.
    names = [group.name for group in Recorder(optimizer, 0, Keys()).groups]
    folder = output_dir / "checkpoints"
    if resumption is not None:
        resumption.restore(trainer, cfg)
        resumption.keep_best(folder)
        print(f"Resumed at step {resumption.first_step} from {resumption.path}", flush=True)  # noqa: T201 - a command
    with _open_run(cfg, settings, overrides, resumption) as run:
        run.log_text(mask_credentials(OmegaConf.to_yaml(cfg)), _config_path(resumption))
        bookmark = Bookmark(Path(settings.tracking.folder), settings.tracking.experiment)
        checkpoints = Checkpoints(
            folder, run.run_id, trainer.parts, config, length, bookmark if settings.tracking.enabled else None
        )
        with _open_session(run, settings, resumption) as session:
            session.add(optimizer, first_step=trainer.place.next_step)
            with Console(settings.trainer, names, *length, trainer.place.next_step) as console:
                metrics = trainer.fit(session, console, checkpoints, interrupts)
            run.log_artifact(checkpoints.last, "checkpoints")
    print(run.how_to_look())  # noqa: T201 - the end of a command
    return metrics.get(VAL_LOSS, metrics[TRAIN_LOSS])


def _open_run(cfg: DictConfig, settings: Settings, overrides: Sequence[str], resumption: Resumption | None) -> "Run":
    if resumption is not None and resumption.run_id and settings.tracking.enabled:
        return reopen_run(settings.tracking, resumption.run_id)
    return open_run(settings.tracking, cfg, overrides)


def _open_session(run: "Run", settings: Settings, resumption: Resumption | None) -> "Session":
    tracking = settings.tracking
    overlap: Overlap | None = None
    if resumption is not None:
        overlap = find_overlap(tracking, run, resumption.run_id, resumption.first_step, resumption.next_lrs)
    return open_session(
        run, None, tracking.folder, tracking.keep_spool, tracking.fsync_every_s, tracking.close_timeout_s, overlap
    )


def _config_path(resumption: Resumption | None) -> str:
    """Among the artifacts; a resumed training may have another config, and the first one is kept."""
    return "config/resolved.yaml" if resumption is None else f"config/resumed_at_step_{resumption.first_step}.yaml"
