from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from torch.nn import Linear, Sequential

import lrtape.conf
from lrtape.app.build import build_optimizer
from lrtape.app.schedule import Length, build_schedule, plan_training, resolve_horizons
from lrtape.checks.registry import check
from lrtape.plan import Plan
from lrtape.simulation import simulate

Compose = Callable[..., DictConfig]

SCHEDULERS = sorted(path.stem for path in Path(next(iter(lrtape.conf.__path__)), "scheduler").glob("*.yaml"))
LENGTHS = {
    "5 epochs of 1 step": (5, 1),
    "5 steps of an epoch": (5, 23),
    "20 epochs of 23 steps": (460, 23),
    "10,000 epochs of 1 step": (10_000, 1),
    "434 epochs of 23 steps, and 18 more": (10_000, 23),
}


def plan(cfg: DictConfig, n_steps: int, steps_per_epoch: int) -> Plan:
    """What the app would train."""
    length = Length(epochs=-(-n_steps // steps_per_epoch), steps=n_steps)
    cfg = resolve_horizons(cfg, length)
    optimizer = build_optimizer(cfg, Sequential(Linear(4, 4), Linear(4, 4), Linear(4, 2)))
    schedule = build_schedule(cfg, optimizer)
    scheduler = OmegaConf.to_container(cfg.scheduler)
    assert isinstance(scheduler, dict)
    bare = Plan(n_steps, schedule.interval, steps_per_epoch, scheduler={str(k): v for k, v in scheduler.items()})
    metrics = [1 / (epoch + 1) for epoch in range(bare.n_calls)] if schedule.monitor else None
    simulated = simulate(optimizer, schedule.scheduler, bare, metrics=metrics)
    return Plan(n_steps, schedule.interval, steps_per_epoch, 1, bare.scheduler, simulated)


@pytest.mark.parametrize("choice", SCHEDULERS)
def test_a_default_raises_no_finding(compose: Compose, choice: str) -> None:
    """Every shipped scheduler, as it comes, fits a run of any length."""
    cfg = compose(f"scheduler={choice}", "param_groups=layerwise", "param_groups.factors=[0.1,0.3,1.0]")
    found = {}
    for length, (n_steps, steps_per_epoch) in LENGTHS.items():
        made = plan(cfg, n_steps, steps_per_epoch)
        assert made.simulated is not None
        found[length] = [finding.message for finding in check(made.simulated, made)]

    assert found == {length: [] for length in LENGTHS}


@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler=onecyclelr", "scheduler.anneal_strategy=linear"],
        ["scheduler=onecyclelr", "scheduler.anneal_strategy=linear", "scheduler.three_phase=true"],
        ["scheduler=linearlr", "scheduler.start_factor=0.7", "scheduler.end_factor=0", "scheduler.total_iters=100%"],
        ["scheduler=linearlr", "scheduler.start_factor=0.3", "scheduler.end_factor=0", "scheduler.total_iters=90%"],
        ["scheduler=cycliclr", "scheduler.base_lr=0.002"],
    ],
)
def test_a_sane_schedule_is_neither_refused_nor_blamed(compose: Compose, overrides: list[str]) -> None:
    """What a straight line leaves of 0 by rounding, what only a call after the last step sets, and one floor for all
    groups are no mistakes.
    """
    cfg = compose(*overrides, "param_groups=layerwise", "param_groups.factors=[0.1,0.3,1.0]", "trainer.epochs=3")
    model = Sequential(Linear(4, 4), Linear(4, 4), Linear(4, 2))
    length = Length(epochs=3, steps=69)
    planned = plan_training(resolve_horizons(cfg, length), model, length, 23)

    assert planned.simulated is not None
    assert [finding.code for finding in check(planned.simulated, planned) if finding.severity != "note"] == []


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["scheduler=steplr", "scheduler.step_size=100"], "never-changes"),
        (["scheduler=steplr", "scheduler.step_size=3", "scheduler.interval=step"], "decays-too-fast"),
        (["scheduler=cosineannealinglr", "scheduler.T_max=20"], "horizon-too-short"),
        (["scheduler=cosineannealinglr", "scheduler.T_max=460", "scheduler.interval=epoch"], "horizon-too-long"),
        (["scheduler=sequentiallr", "scheduler.schedulers.1.T_max=50"], "horizon-too-short"),
        (["scheduler=cosineannealinglr", "scheduler.eta_min=0.005"], "ratio-changes"),
    ],
)
def test_a_mistake_on_the_command_line_is_found(compose: Compose, overrides: list[str], code: str) -> None:
    """In the config alone, before anything is trained."""
    cfg = compose(*overrides, "param_groups=layerwise", "param_groups.factors=[0.1,0.3,1.0]")
    made = plan(cfg, 460, 23)
    assert made.simulated is not None

    assert [finding.code for finding in check(made.simulated, made)] == [code]
