"""Looks at Slurm before a sweep is begun on it: whatever it would refuse then, it refuses now."""

import importlib.util
import shutil
import subprocess

from lrtape.app.sweep.slurm_queue import ANSWER_S
from lrtape.app.sweep.slurm_settings import ON_INTERRUPT, SlurmSettings
from lrtape.errors import ConfigError


def check_slurm(settings: SlurmSettings, n_trials: int) -> None:
    """Refuse what cannot be submitted. Submits nothing.

    Args:
        settings: of the launcher.
        n_trials: of the sweep.

    Raises:
        ConfigError: something is not installed, Slurm does not answer, a setting is wrong, or Slurm refuses it.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError(
            "hydra/launcher=lrtape_slurm needs the package submitit, which is not installed. Install it: pip install "
            '"lrtape[slurm]".'
        )
    for command in ("sbatch", "srun", "squeue", "scancel", "sinfo"):
        if shutil.which(command) is None:
            raise ConfigError(
                f"hydra/launcher=lrtape_slurm needs Slurm's commands, but there is no `{command}` here. Start the "
                "sweep on a login node of the cluster; or sweep on this machine: hydra/launcher=joblib."
            )
    _check_values(settings)
    partitions = [name.rstrip("*") for name in _ask("sinfo", "--noheader", "--format=%P").split()]
    for given in (settings.partition or "").split(","):
        if given and given not in partitions:
            raise ConfigError(
                f"`hydra.launcher.partition` must be one of {', '.join(dict.fromkeys(partitions))}, but is {given!r} "
                "instead. `sinfo` lists them."
            )
    options = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.options(n_trials).items()
    ]
    try:
        _ask("sbatch", "--test-only", *options, "--wrap=true")
    except ConfigError as error:
        raise ConfigError(f"{error} It was asked for {' '.join(options)}: mend `hydra.launcher`.") from None


def _check_values(settings: SlurmSettings) -> None:
    for name in ("timeout_min", "cpus_per_task", "trials_per_task", "max_parallel_tasks"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ConfigError(f"`hydra.launcher.{name}` must be at least 1, but is {value} instead.")
    if settings.on_interrupt not in ON_INTERRUPT:
        raise ConfigError(
            f"`hydra.launcher.on_interrupt` must be one of {', '.join(ON_INTERRUPT)}, but is "
            f"{settings.on_interrupt!r} instead."
        )


def _ask(*command: str) -> str:
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"Slurm must answer, but `{command[0]}` does not ({error}).") from error
    if asked.returncode:
        words = " ".join(asked.stderr.split()) or f"exit code {asked.returncode}"
        raise ConfigError(f"Slurm must take the jobs of this sweep, but `{command[0]}` refuses: {words}.")
    return asked.stdout
