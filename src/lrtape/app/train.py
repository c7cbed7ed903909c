"""One training, from a checked config to a tape."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from lrtape.app.build import build_data, build_model, build_optimizer
from lrtape.app.checkpoint import Checkpoints
from lrtape.app.config import Settings
from lrtape.app.console import Console
from lrtape.app.run import open_run
from lrtape.app.schedule import Length, build_schedule, rehearse, resolve_horizons
from lrtape.app.trainer import TRAIN_LOSS, VAL_LOSS, Trainer, resolve_device
from lrtape.keys import Keys
from lrtape.recorder import Recorder
from lrtape.session import attach
from lrtape.tracking.uri import mask_credentials


def train(cfg: DictConfig, settings: Settings, output_dir: Path, overrides: Sequence[str] = ()) -> float:
    """Train what the config says, and record it.

    Everything that can be refused is refused before the run is started.

    Args:
        cfg: as Hydra composed it.
        settings: what `check` made of it.
        output_dir: where the checkpoints go.
        overrides: what the user gave on the command line, for the run's tags.

    Returns:
        The last ``val/loss``, or ``train/loss`` where nothing validates: what a sweep minimises.

    Raises:
        ConfigError: something in the config cannot be built.
        TrackingError: the tracking store cannot be reached.
        TrainingDivergedError: see `Trainer.fit`.
    """
    _seed_everything(settings.seed)
    device = resolve_device(settings.trainer.device)
    data = build_data(cfg)
    length = Length.of(data, settings.trainer)
    cfg = resolve_horizons(cfg, length)
    model = build_model(cfg, data).to(device)
    optimizer = build_optimizer(cfg, model)
    schedule = build_schedule(cfg, optimizer)
    trainer = Trainer(model, data, optimizer, schedule, settings.trainer, device, settings.seed)
    rehearse(cfg, model, length)
    # Refuses groups of one name, before there is a run.
    names = [group.name for group in Recorder(optimizer, 0, Keys()).groups]
    with open_run(settings.tracking, cfg, overrides) as run:
        run.log_text(mask_credentials(OmegaConf.to_yaml(cfg)), "config/resolved.yaml")
        checkpoints = Checkpoints(
            output_dir / "checkpoints", run.run_id, model, optimizer, schedule.scheduler, trainer.scaler
        )
        with (
            attach(
                optimizer,
                run=run,
                folder=settings.tracking.folder,
                close_timeout_s=settings.tracking.close_timeout_s,
            ) as session,
            Console(settings.trainer, names, length.epochs, length.steps) as console,
        ):
            metrics = trainer.fit(session, console, checkpoints)
        run.log_artifact(checkpoints.last, "checkpoints")
    print(run.how_to_look())  # noqa: T201 - the end of a command
    return metrics.get(VAL_LOSS, metrics[TRAIN_LOSS])


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
