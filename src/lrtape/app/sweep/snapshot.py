"""The config of a trial as it is when it is given to a cluster: what is edited while it waits there changes nothing."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write


def compose_job(
    context: HydraContext, config: DictConfig, sweep_dir: Path, overrides: Sequence[str], number: int
) -> DictConfig:
    """Everything that a job needs to know, with Hydra's own node.

    Args:
        context: Hydra's.
        config: of the sweep.
        sweep_dir: absolute, and made once: `now` would be another time in a job.
        overrides: of the job.
        number: of the job.
    """
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    job, sweep = composed.hydra.job, composed.hydra.sweep
    with read_write(job), open_dict(job), read_write(sweep):
        job.id = f"{job.name}_{number}"
        job.num = number
        sweep.dir = str(sweep_dir)
        HydraConfig.instance().set_config(composed)
        sweep.subdir = str(sweep.subdir)
    return composed
