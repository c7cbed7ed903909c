from typing import Any

import pytest

from lrtape.app.run import flatten
from lrtape.errors import ConfigError
from lrtape.plan import Plan, kind_of, label_of, scheduler_of_params


def test_a_plan_counts_calls() -> None:
    """After each step, or after each epoch, the last one cut short too."""
    assert (Plan(60).n_calls, Plan(60).calls_before(7), Plan(60).n_epochs) == (60, 7, None)
    by_epoch = Plan(60, "epoch", 23)
    assert (by_epoch.n_calls, by_epoch.calls_before(22), by_epoch.calls_before(23), by_epoch.n_epochs) == (3, 0, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "`n_steps` must be a whole number >= 1, but is 0 instead"),
        ({"n_steps": True}, "`n_steps` must be a whole number >= 1, but is True instead"),
        ({"n_steps": 5, "accumulate_grad_batches": 0}, "`accumulate_grad_batches` must be a whole number >= 1"),
        ({"n_steps": 5, "interval": "batch"}, "`interval` must be one of step, epoch, but is 'batch' instead"),
        ({"n_steps": 5, "interval": "epoch"}, "`steps_per_epoch` must be given where `interval` is epoch"),
    ],
)
def test_a_wrong_plan_is_refused(arguments: dict[str, Any], message: str) -> None:
    """Each text says what was given and what was expected."""
    with pytest.raises(ConfigError, match=message):
        Plan(**arguments)


@pytest.mark.parametrize(
    ("target", "kind", "label"),
    [
        ("torch.optim.lr_scheduler.OneCycleLR", "onecyclelr", "OneCycleLR"),
        ("lrtape.schedules.one_cycle_lr", "onecyclelr", "one_cycle_lr"),
        ("lrtape.schedules.Constant", "constant", "Constant"),
        (None, "", ""),
    ],
)
def test_a_kind_is_the_same_for_torchs_class_and_for_ours(target: str | None, kind: str, label: str) -> None:
    """Whoever builds it, it is the same schedule."""
    config = {"_target_": target} if target else {}

    assert (kind_of(config), label_of(config)) == (kind, label)
    assert Plan(5, scheduler=config).is_scheduled == (kind not in {"", "constant"})


def test_the_params_of_a_run_become_the_config_again() -> None:
    """MLflow keeps texts; numbers, lists and nested schedulers come back, and others are left out."""
    config = {
        "_target_": "torch.optim.lr_scheduler.SequentialLR",
        "interval": "step",
        "monitor": None,
        "milestones": [5],
        "gamma": 0.1,
        "cycle_momentum": True,
        "schedulers": [{"_target_": "torch.optim.lr_scheduler.LinearLR", "total_iters": 5}],
    }
    params = {key: str(value) for key, value in flatten({"scheduler": config, "seed": 0}).items()}

    assert scheduler_of_params(params) == config
