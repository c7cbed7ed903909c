"""What a launcher needs to know of the machine, and of the tracking store, before it launches anything."""

import os
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from lrtape.errors import ConfigError
from lrtape.tracking.uri import sqlite_path

_JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
_OF_SEVERAL_MACHINES = ("SlurmLauncher", "RayLauncher", "RayAWSLauncher")
ALL = -1
"""As `n_jobs` of joblib."""


def prepare_launcher(config: DictConfig, tracking_uri: str | None) -> None:
    """Fit Hydra's launcher to this machine: joblib gets as many jobs as there are GPUs, or else CPUs.

    Args:
        config: of the sweep, with Hydra's node, which is changed.
        tracking_uri: absolute; ``None`` where nothing is tracked.

    Raises:
        ConfigError: it uses several machines, which cannot share a SQLite store.
    """
    launcher = config.hydra.launcher
    target = str(launcher.get("_target_"))
    if tracking_uri is not None and sqlite_path(tracking_uri) and target.endswith(_OF_SEVERAL_MACHINES):
        raise ConfigError(
            f"`tracking.uri` must be a server for trainings on several machines ({target.rpartition('.')[2]}), but is "
            f"{tracking_uri!r}, a file that they cannot share. Start one, `mlflow server --host 0.0.0.0`, and give "
            "tracking.uri=http://HOST:5000; or sweep on this machine alone: hydra/launcher=joblib."
        )
    if target == _JOBLIB and launcher.get("n_jobs") in {None, ALL}:
        with read_write(launcher), open_dict(launcher):
            launcher.n_jobs = _n_gpus(config) or len(os.sched_getaffinity(0))


def _n_gpus(config: Any) -> int:
    import torch  # late: everything else is known without

    return 0 if config.trainer.device == "cpu" else torch.cuda.device_count()
