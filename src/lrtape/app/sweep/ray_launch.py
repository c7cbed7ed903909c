"""Gives the trials of a sweep to Ray, and waits until each one is over, however it ended."""

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrtape.app.sweep.ray_settings import RaySettings
from lrtape.app.sweep.snapshot import compose_job
from lrtape.errors import ConfigError

LOOK_S = 1.0
END_S = 60.0
"""How long an interrupted trial may take to finish its step and to ship what was recorded."""


def launch_on_ray(
    settings: RaySettings,
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first_job: int,
) -> list[JobReturn]:
    """Train some trials; what the trainings themselves do wrong raises nothing, and a dead one costs no other.

    Args:
        settings: of the launcher.
        context: Hydra's.
        task_function: trains one trial.
        config: of the sweep, as Hydra composed it.
        job_overrides: of each trial.
        first_job: the number of the first one.

    Raises:
        ConfigError: there is no such cluster.
        Interrupted: by a signal; the trials are over.
    """
    setup_globals()
    sweep_dir = Path(str(config.hydra.sweep.dir)).absolute()
    configs = [
        compose_job(context, config, sweep_dir, overrides, first_job + index)
        for index, overrides in enumerate(job_overrides)
    ]
    _connect(settings)
    # Ray would begin a trial whose process died again, by itself.
    options = {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus, "max_retries": 0, **settings.remote}
    train = ray.remote(**options)(_train)
    shared = ray.put((context, task_function, Singleton.get_state()))
    trials = [train.remote(shared, job, settings.num_cpus) for job in configs]
    try:
        left = trials
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=LOOK_S)
    except KeyboardInterrupt:
        print("lrtape: ending the trials of this sweep.", file=sys.stderr, flush=True)  # noqa: T201 - a command
        for trial in trials:
            ray.cancel(trial, force=False)
        ray.wait(trials, num_returns=len(trials), timeout=END_S)
        raise
    return [_return(trial, job) for trial, job in zip(trials, configs, strict=True)]


def _connect(settings: RaySettings) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=settings.address, ignore_reinit_error=True, **settings.init)
    except (ConnectionError, RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"`hydra.launcher.address` must be a cluster of Ray that answers, but {settings.address!r} is none: "
            f"{str(error).splitlines()[0]} Start one, `ray start --head`; or null for one on this machine."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray has taken it


def _train(
    shared: tuple[HydraContext, TaskFunction, Mapping[Any, Any]], config: DictConfig, n_threads: int
) -> tuple[bool, Any]:
    """Called in a process of Ray; returns whether it went well, and what came of it, or what went wrong."""
    import torch  # late: the driver needs none

    torch.set_num_threads(n_threads)
    context, task_function, singletons = shared
    Singleton.set_state(singletons)
    setup_globals()
    returned = run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    result = returned._return_value
    if returned.status == JobStatus.FAILED:
        return False, f"{type(result).__name__}: {result}"
    return True, result


def _return(trial: Any, config: DictConfig) -> JobReturn:
    returned = JobReturn(overrides=list(config.hydra.overrides.task), cfg=config, task_name=config.hydra.job.name)
    try:
        is_good, result = ray.get(trial)
    except ray.exceptions.RayError as error:
        is_good, result = False, f"its process died: {type(error).__name__}"
    returned.status = JobStatus.COMPLETED if is_good else JobStatus.FAILED
    returned.return_value = result if is_good else RuntimeError(result)
    return returned
