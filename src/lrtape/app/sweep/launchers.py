"""What a launcher needs to know of the machine, and of the tracking store, before it launches anything."""

import importlib.util
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lrtape.app.sweep.gpu_claims import visible_gpus
from lrtape.app.sweep.slurm_check import check_slurm
from lrtape.app.sweep.slurm_settings import DETACH, SlurmSettings
from lrtape.cpus import n_cpus
from lrtape.errors import ConfigError
from lrtape.tracking.uri import sqlite_path

_JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
_OF_SEVERAL_MACHINES = ("SlurmLauncher", "RayLauncher", "RayAWSLauncher")
_RAY = "hydra_plugins.lrtape.ray_launcher.RayLauncher"
_SLURM = "hydra_plugins.lrtape.slurm_launcher.SlurmLauncher"
ALL = -1
"""As `n_jobs` of joblib."""


def prepare_launcher(config: DictConfig, tracking_uri: str | None, n_trials: int) -> None:
    """Fit Hydra's launcher to this machine: joblib gets as many jobs as there are GPUs, or else CPUs.

    Args:
        config: of the sweep, with Hydra's node, which is changed.
        tracking_uri: absolute; ``None`` where nothing is tracked.
        n_trials: that it is given at a time.

    Raises:
        ConfigError: it uses several machines, which cannot share a SQLite store; or Slurm would refuse the jobs.
    """
    launcher = config.hydra.launcher
    target = str(launcher.get("_target_"))
    if tracking_uri is not None and sqlite_path(tracking_uri) and target.endswith(_OF_SEVERAL_MACHINES):
        raise ConfigError(
            f"`tracking.uri` must be a server for trainings on several machines ({target.rpartition('.')[2]}), but is "
            f"{tracking_uri!r}, a file that they cannot share. Start one, `mlflow server --host 0.0.0.0`, and give "
            "tracking.uri=http://HOST:5000; or sweep on this machine alone: hydra/launcher=joblib."
        )
    if target == _RAY and importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "hydra/launcher=lrtape_ray needs the package ray, which is not installed. Install it: pip install "
            '"lrtape[ray]".'
        )
    if target == _SLURM:
        given: Any = OmegaConf.to_container(launcher, resolve=True)
        check_slurm(SlurmSettings(**{key: value for key, value in given.items() if key != "_target_"}), n_trials)
    if _has_as_many_jobs_as_fit(launcher):
        with read_write(launcher), open_dict(launcher):
            # Not more than there are trials: the workers share the threads.
            launcher.n_jobs = min(n_jobs_of(config), max(n_trials, 1))


def n_jobs_of(config: Any) -> int:
    """How many trials the launcher trains at a time, as far as it says so; else 1."""
    launcher = config.hydra.launcher
    if _has_as_many_jobs_as_fit(launcher):
        return len(gpus_to_share(config)) or n_cpus()
    return max(1, int(launcher.get("n_jobs") or 1))


def _has_as_many_jobs_as_fit(launcher: Any) -> bool:
    return str(launcher.get("_target_")) == _JOBLIB and launcher.get("n_jobs") in {None, ALL}


def on_interrupt_of(config: Any) -> str:
    """What becomes of jobs in a queue when the driver is interrupted."""
    return str(config.hydra.launcher.get("on_interrupt") or DETACH)


def gpus_to_share(config: Any) -> tuple[str, ...]:
    """The GPUs of this machine that the launcher's processes are to have one each of; see `claim_gpu`."""
    import torch  # late: everything else is known without

    is_alone = str(config.hydra.launcher.get("_target_")) != _JOBLIB or config.trainer.device == "cpu"
    return () if is_alone else visible_gpus(torch.cuda.device_count())
