"""Going on with a training from its checkpoint."""

import copy
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer

from lrtape.app.bookmark import Bookmark
from lrtape.app.checkpoint import RNG_OF_OTHERS, Place, load_checkpoint
from lrtape.app.config import LAST, Settings, check
from lrtape.app.overrides import merge
from lrtape.app.schedule import Length, Schedule, resolve_horizons
from lrtape.app.trainer import Trainer
from lrtape.errors import ConfigError
from lrtape.ranks import ALONE, Ranks
from lrtape.tracking.uri import sqlite_path

SCHEDULED = ("scheduler", "optimizer", "param_groups")
"""The groups of the config that make the schedule."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """A checkpoint, and how to go on from it.

    Attributes:
        path: of the file.
        checkpoint: what is in it; see `Checkpoints.save`.
    """

    path: Path
    checkpoint: dict[str, Any]

    @classmethod
    def find(cls, settings: Settings) -> "Resumption | None":
        """What ``trainer.resume`` asks for; ``None`` if it asks for nothing.

        Raises:
            ConfigError: there is no such checkpoint, or it cannot be read.
        """
        if settings.trainer.resume is None:
            return None
        path = Path(settings.trainer.resume)
        if settings.trainer.resume == LAST:
            if not settings.tracking.enabled:
                raise ConfigError(
                    "`trainer.resume` must be the path of a checkpoint where nothing is tracked, but is last, which is "
                    "noted only for trainings that are. Give the path: trainer.resume=outputs/.../checkpoints/last.pt."
                )
            path = Bookmark(Path(settings.tracking.folder), settings.tracking.experiment).find()
        return cls(path, load_checkpoint(path))

    @property
    def run_id(self) -> str:
        """Of the run that the checkpoint was written in; empty where nothing was tracked."""
        return str(self.checkpoint["run_id"])

    @property
    def first_step(self) -> int:
        """Index of the step to go on with, from 0."""
        return int(self.checkpoint["next_step"])

    @property
    def next_lrs(self) -> list[float]:
        """What that step is to use; empty where the checkpoint does not know."""
        return list(self.checkpoint["next_lrs"])

    def configure(self, cfg: DictConfig, settings: Settings, overrides: Sequence[str]) -> tuple[DictConfig, Settings]:
        """The config to go on with; see `merge`.

        Args:
            cfg: the command line's, as Hydra composed it.
            settings: what `check` made of it.
            overrides: what the user gave on the command line.

        Raises:
            ConfigError: the command line differs from the checkpoint, or what came of it is wrong.
        """
        merged = merge(self.checkpoint["config"], cfg, overrides, settings.trainer.resume_override)
        # Paths are absolute in the settings already, whatever the current folder is by now. The address of a server
        # stays in the environment, if it was there: it may hold a password.
        uri = settings.tracking.uri
        absolute = {
            "trainer": {"resume": settings.trainer.resume},
            "tracking": {
                "uri": uri if uri is not None and sqlite_path(uri) else cfg.tracking.uri,
                "folder": settings.tracking.folder,
            },
        }
        checked: DictConfig = OmegaConf.merge(merged, absolute)  # type: ignore[assignment]
        return merged, check(checked, Path.cwd())

    def restore(self, trainer: Trainer, cfg: DictConfig, ranks: Ranks = ALONE) -> None:
        """Put a training where the checkpoint was written.

        Where scheduler, optimizer or param groups are configured in another way by now, the optimizer keeps its moments
        and takes everything else from the new config; the scheduler is a new one, stepped as often as the old one was.
        One that takes a metric begins anew, for nobody knows the old metrics.

        Args:
            trainer: as built from `cfg`.
            cfg: the config to go on with, resolved.
            ranks: of the training.

        Raises:
            ConfigError: the checkpoint does not fit, another number of processes has written it, or nothing is left to
                do.
        """
        rng = [self.checkpoint["rng"], *self.checkpoint.get(RNG_OF_OTHERS, [])]
        if len(rng) != ranks.n_ranks:
            raise ConfigError(
                f"`trainer.resume` must name a checkpoint of a training of as many processes, but {len(rng)} have "
                f"trained for {self.path}, and now there are {ranks.n_ranks}: a window of batches would be another "
                f"one. Start {len(rng)}{' with torchrun' if len(rng) > 1 else ', without torchrun'}."
            )
        parts, place = trainer.parts, Place.of(self.checkpoint)
        self._load("model", lambda: parts.model.load_state_dict(self.checkpoint["model"]))
        if self.checkpoint["scaler"]:
            self._load("trainer.precision", lambda: parts.scaler.load_state_dict(self.checkpoint["scaler"]))
        if self._is_scheduled_as(cfg):
            self._load("optimizer", lambda: parts.optimizer.load_state_dict(self.checkpoint["optimizer"]))
            self._load("scheduler", lambda: parts.schedule.scheduler.load_state_dict(self.checkpoint["scheduler"]))
            parts.schedule.calls = self.checkpoint["scheduler_calls"]
            # It has made steps, if not in this process: torch (2.13) warns of a scheduler that is stepped before.
            parts.optimizer._opt_called = True  # type: ignore[attr-defined]
        else:
            self._load_moments(parts.optimizer, cfg)
            parts.schedule.fast_forward(self._calls(parts.schedule, place))
        trainer.go_on_from(place, rng[ranks.rank])
        if not trainer.has_more():
            raise ConfigError(
                f"`trainer.resume` must name a training that is not finished, but nothing is left to do after "
                f"{self.path}: it has made {place.epoch} epochs and {place.next_step} steps. To train on, make it "
                "longer: trainer.epochs=... trainer.resume_override=true"
            )

    def keep_best(self, folder: Path) -> None:
        """Copy the best checkpoint so far into the folder where the training goes on, which may never have a better."""
        best = self.path.with_name("best.pt")
        if best.is_file() and best.parent.absolute() != folder.absolute():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(best, folder / best.name)

    def _load(self, what: str, load: Any) -> None:
        try:
            load()
        except Exception as error:
            why = " ".join(str(error).split())
            raise ConfigError(
                f"`{what}` must be what it was when {self.path} was written, but its state does not fit: {why[:300]}. "
                "Undo what was changed in config or code since then, or start a new training."
            ) from error

    def _is_scheduled_as(self, cfg: DictConfig) -> bool:
        before = resolve_horizons(OmegaConf.create(self.checkpoint["config"]), Length(*self.checkpoint["length"]))
        return all(_without_label(before[group]) == _without_label(cfg[group]) for group in SCHEDULED)

    def _load_moments(self, optimizer: Optimizer, cfg: DictConfig) -> None:
        saved = self.checkpoint["optimizer"]
        if cfg.optimizer["_target_"] != self.checkpoint["config"]["optimizer"]["_target_"]:
            warnings.warn(
                "lrtape: the optimizer is of another class than the checkpoint's: it begins without moments.",
                stacklevel=2,
            )
            return
        own = optimizer.state_dict()
        positions = {name: index for index, name in _names(saved["param_groups"])}
        state = {
            index: saved["state"][positions[name]]
            for index, name in _names(own["param_groups"])
            if positions.get(name) in saved["state"]
        }
        self._load("optimizer", lambda: optimizer.load_state_dict({**copy.copy(own), "state": state}))

    def _calls(self, schedule: Schedule, place: Place) -> int:
        """How often the new scheduler would have been stepped by now."""
        if schedule.monitor is not None:
            return 0
        before = self.checkpoint["config"]["scheduler"]
        if before.get("interval", "epoch") == schedule.interval and before.get("monitor") is None:
            return int(self.checkpoint["scheduler_calls"])
        return place.next_step if schedule.interval == "step" else place.epoch


def _without_label(group: DictConfig) -> dict[str, Any]:
    return {str(key): value for key, value in group.items() if key != "name"}


def _names(param_groups: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """Index and name of every parameter; its index again, where it has no name."""
    return [
        (index, name)
        for group in param_groups
        for index, name in zip(group["params"], group.get("param_names", map(str, group["params"])), strict=True)
    ]
