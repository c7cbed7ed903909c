from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from lrtape.app.sweep.launchers import ALL, gpus_to_share, n_jobs_of, prepare_launcher
from lrtape.cpus import n_cpus
from lrtape.errors import ConfigError

JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
SLURM = "hydra_plugins.lrtape.slurm_launcher.SlurmLauncher"
RAY = "hydra_plugins.lrtape.ray_launcher.RayLauncher"


def config(target: str, **settings: object) -> DictConfig:
    return OmegaConf.create({"hydra": {"launcher": {"_target_": target, **settings}}, "trainer": {"device": "cpu"}})


@pytest.mark.parametrize("target", [SLURM, RAY])
def test_several_machines_do_not_share_a_file(target: str) -> None:
    """SQLite is refused, with both ways out, before anybody asks whether there is a cluster."""
    with pytest.raises(ConfigError, match=r"must be a server.*mlflow server.*hydra/launcher=joblib"):
        prepare_launcher(config(target), "sqlite:////data/mlflow.db", 12)


@pytest.mark.parametrize(("n_trials", "given", "expected"), [(1, ALL, 1), (1000, ALL, None), (1, 3, 3)])
def test_joblib_has_no_more_workers_than_trials(n_trials: int, given: int, expected: int | None) -> None:
    """So that the workers that there are share all threads; what a person has set stays."""
    cfg = config(JOBLIB, n_jobs=given)
    prepare_launcher(cfg, "sqlite:////data/mlflow.db", n_trials)

    assert cfg.hydra.launcher.n_jobs == (expected or n_cpus())
    assert gpus_to_share(cfg) == ()


def test_a_launcher_says_how_many_trials_it_trains_at_a_time() -> None:
    """Joblib as many as fit, where nobody says how many; all others one, as far as lrtape knows."""
    assert n_jobs_of(config(JOBLIB, n_jobs=3)) == 3
    assert n_jobs_of(config(JOBLIB, n_jobs=ALL)) == n_cpus()
    assert n_jobs_of(config(SLURM)) == 1


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, which names what is missing and another way."""
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(ConfigError, match=r"there is no `sbatch` here\. Start the sweep on a login node"):
        prepare_launcher(config(SLURM), "http://tracking:5000", 12)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("trials_per_task", 0, "must be at least 1"), ("on_interrupt", "stop", "must be one of cancel, detach")],
)
def test_a_wrong_setting_is_refused(
    name: str, value: object, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before Slurm is asked for anything."""
    for command in ("sbatch", "srun", "squeue", "scancel", "sinfo"):
        (tmp_path / command).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match=f"`hydra.launcher.{name}` {expected}"):
        prepare_launcher(config(SLURM, **{name: value}), "http://tracking:5000", 12)
