"""What is refused before a training starts: the field, the value, and what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lrtape.errors import ConfigError

LINEAR = "{_target_: torch.optim.lr_scheduler.LinearLR}"
STEP = "{_target_: torch.optim.lr_scheduler.StepLR, step_size: 2}"
LAMBDA = "{_target_: lrtape.schedules.lambda_lr, lr_lambda: 1}"
SEQUENCE = "scheduler=sequentiallr"
CHAIN = "scheduler=chainedscheduler"

REFUSED: list[tuple[list[str], list[str]]] = [
    # arguments of a wrong type
    (["scheduler=polynomiallr", "scheduler.power=abc"], ["`scheduler.power` must be a number, but is 'abc' instead."]),
    (["scheduler=onecyclelr", "scheduler.three_phase=3"], ["`scheduler.three_phase` must be true or false, but is 3"]),
    (
        ["scheduler=wsd", "scheduler.anneal_strategy=sin"],
        ["`scheduler.anneal_strategy` must be one of linear, cos", "sin"],
    ),
    (
        ["scheduler=onecyclelr", "scheduler.anneal_strategy=no"],
        ["`scheduler.anneal_strategy` must be one of cos, linear"],
    ),
    (["scheduler=reducelronplateau", "scheduler.mode=up"], ["`scheduler.mode` must be one of min, max, but is 'up'"]),
    (["scheduler=cycliclr", "scheduler.base_lr=low"], ["`scheduler.base_lr` must be a number or", "null", "'low'"]),
    (["scheduler=steplr", "scheduler.last_epoch=x"], ["`scheduler.last_epoch` must be a whole number, but is 'x'"]),
    ([SEQUENCE, "scheduler.schedulers.0.start_factor=x"], ["`scheduler.schedulers.0.start_factor` must be a number"]),
    (["optimizer=sgd", "optimizer.nesterov=maybe"], ["`optimizer.nesterov` must be true or false, but is 'maybe'"]),
    (
        ["optimizer=adam", "optimizer.betas=0.9"],
        ["`optimizer.betas` must be a list of 2: a number, a number, but is 0.9"],
    ),
    (["optimizer=adam", "optimizer.betas=[0.9]"], ["`optimizer.betas` must be a list of 2", "[0.9]"]),
    (["optimizer=lbfgs", "optimizer.max_iter=1.5"], ["`optimizer.max_iter` must be a whole number, but is 1.5"]),
    (["optimizer=muon", "optimizer.adamw=3"], ["`optimizer.adamw` must be a mapping", "but is 3"]),
    (
        ["optimizer=muon", "+optimizer.adamw.beta=3"],
        ["`optimizer.adamw.beta` is not an argument of AdamW. Valid: amsgrad, "],
    ),
    (["param_groups=layerwise", "param_groups.level=deep"], ["`param_groups.level` must be a whole number", "'deep'"]),
    (["param_groups=by_pattern", "param_groups.groups=all"], ["`param_groups.groups` must be a list", "'all'"]),
    # lengths
    (["scheduler=steplr", "scheduler.step_size=2.5"], ["`scheduler.step_size` must be a whole number >= 1", "2.5"]),
    (["scheduler=cycliclr", "scheduler.step_size_up=0"], ["`scheduler.step_size_up` must be a whole number >= 1", "0"]),
    (
        ["scheduler=reducelronplateau", "scheduler.patience=-1"],
        ["`scheduler.patience` must be a whole number >= 0", "-1"],
    ),
    (["scheduler=swalr", "scheduler.anneal_epochs=soon"], ["`scheduler.anneal_epochs` must be a whole number >= 0"]),
    ([SEQUENCE, "scheduler.schedulers.1.T_max=0"], ["`scheduler.schedulers.1.T_max` must be a whole number >= 1"]),
    ([SEQUENCE, "scheduler.schedulers.1.T_max=0%"], ["a share of the run must be more than 0%"]),
    (
        ["scheduler=multisteplr", "scheduler.milestones=[75%,50%]"],
        ["`scheduler.milestones` must increase", "Sort them"],
    ),
    (["scheduler=multisteplr", "scheduler.milestones=[1,1]"], ["`scheduler.milestones` must increase, but is [1, 1]"]),
    (
        ["scheduler=multisteplr", "scheduler.milestones=[1,10%]"],
        ["must increase, but is [1, '10%'] instead, in a run of 2"],
    ),
    (
        ["scheduler=multisteplr", "scheduler.milestones=[x]"],
        ["`scheduler.milestones.0` must be a whole number >= 1", "'x'"],
    ),
    (
        ["scheduler=multisteplr", "scheduler.milestones=3"],
        ["`scheduler.milestones` must be a list, as [50%, 75%]", "3"],
    ),
    (
        ["scheduler=warmup_cosine", "scheduler.warmup_iters=99"],
        ["`scheduler.warmup_iters` must be within the run", "99"],
    ),
    (["scheduler=inverse_sqrt", "scheduler.warmup_iters=150%"], ["`scheduler.warmup_iters` must be within", "'150%'"]),
    (
        ["scheduler=wsd", "scheduler.warmup_iters=60%", "scheduler.decay_iters=60%"],
        ["must be at most", "total_iters`, 6"],
    ),
    # one value for each group
    (
        ["scheduler=onecyclelr", "scheduler.max_lr=[0.1,0.2]"],
        ["`scheduler.max_lr`", "each param group, ['all']", "0.2]"],
    ),
    (["scheduler=lambdalr", "scheduler.lr_lambda=[1,1]"], ["`scheduler.lr_lambda` must be one value, or one for each"]),
    (
        ["scheduler=reducelronplateau", "scheduler.min_lr=[0.1]", "param_groups=layerwise"],
        ["`scheduler.min_lr` must be one value, or one for each", "['layer1', 'layer2', 'layer3'], but is [0.1]"],
    ),
    # the metric
    (
        ["scheduler=reducelronplateau", "scheduler.monitor=null"],
        ["`scheduler.monitor` must be set for ReduceLROnPlateau", "train/loss, val/loss, val/acc"],
    ),
    (["scheduler=reducelronplateau", "scheduler.monitor=loss"], ["`scheduler.monitor` must be one of", "'loss'"]),
    (["scheduler=multisteplr", "scheduler.monitor=val/loss"], ["`scheduler.monitor` must be null for MultiStepLR"]),
    # arithmetic
    (
        ["scheduler=lambdalr", "scheduler.lr_lambda=import os"],
        ["`scheduler.lr_lambda` must be arithmetic of epoch and n"],
    ),
    (
        ["scheduler=lambdalr", "scheduler.lr_lambda='open(1)'"],
        ["'open' is none of the functions", "hydra.utils.get_method"],
    ),
    (["scheduler=lambdalr", "scheduler.lr_lambda='9**9**9'"], ["`scheduler.lr_lambda`", "'9**9**9' has no value"]),
    (
        ["scheduler=lambdalr", "scheduler.lr_lambda='1 / max(0, 2 - epoch)'"],
        ["`scheduler.lr_lambda`", "at epoch=2", "zero"],
    ),
    (["scheduler=multiplicativelr", "scheduler.lr_lambda='log(0)'"], ["`scheduler.lr_lambda`", "at epoch=1", "domain"]),
    (["scheduler=lambdalr", "scheduler.lr_lambda='0.5 - epoch'"], ["must set learning rates >= 0", "at call 1 of 2"]),
    (["param_groups=layerwise_decay", "param_groups.decay=80%"], ["`param_groups.decay` must not be a share", "'80%'"]),
    (
        ["scheduler=warmup_cosine", "scheduler.end_factor=10%"],
        ["`scheduler.end_factor` must not be a share of the run", "'10%'", "0.3 for 30%"],
    ),
    (["scheduler=multisteplr", "scheduler.milestones=50%"], ["`scheduler.milestones` must be a list", "'50%'"]),
    (
        ["scheduler=lambdalr", "scheduler.lr_lambda=-1"],
        ["must set learning rates >= 0, but sets [-0.01] for the first"],
    ),
    (["scheduler=lambdalr", "scheduler.lr_lambda=null"], ["`scheduler.lr_lambda` must be", "a function", "None"]),
    (["scheduler=cycliclr", "scheduler.scale_fn=epoch"], ["`scheduler.scale_fn` must be arithmetic of x", "'epoch'"]),
    # schedulers within schedulers
    (
        [SEQUENCE, "scheduler.milestones=[1,2]"],
        ["`scheduler.milestones` must be one fewer", "of which there are 2", "[1, 2]"],
    ),
    ([SEQUENCE, "scheduler.schedulers=[]"], ["`scheduler.schedulers` must be a list of configs", "but is []"]),
    (
        [SEQUENCE, "scheduler.schedulers=[steplr]", "scheduler.milestones=[]"],
        ["`scheduler.schedulers.0` must be a config"],
    ),
    (
        [SEQUENCE, "scheduler.schedulers=[{step_size: 2}]", "scheduler.milestones=[]"],
        ["`scheduler.schedulers.0` must have a `_target_`"],
    ),
    ([SEQUENCE, "+scheduler.schedulers.1.interval=epoch"], ["`scheduler.schedulers.1.interval` must not be given"]),
    ([SEQUENCE, "+scheduler.schedulers.1.tmax=3"], ["`scheduler.schedulers.1.tmax` is not an argument of"]),
    (
        [
            CHAIN,
            f"scheduler.schedulers=[{{_target_: torch.optim.lr_scheduler.ChainedScheduler, schedulers: [{STEP}]}}]",
        ],
        ["`scheduler.schedulers.0` must be one scheduler, but is made of several"],
    ),
    (
        [CHAIN, f"scheduler.schedulers=[{LINEAR},{LAMBDA}]"],
        ["`scheduler.schedulers.1` must multiply", "LambdaLR sets it"],
    ),
    (
        [SEQUENCE, f"scheduler.schedulers=[{LINEAR},{{_target_: torch.optim.lr_scheduler.ReduceLROnPlateau}}]"],
        ["`scheduler`", "SequentialLR does not support `ReduceLROnPlateau`"],
    ),
    # what does not go together
    (["scheduler=onecyclelr", "optimizer=adagrad"], ["`scheduler.cycle_momentum` must be false for Adagrad"]),
    (["scheduler=cycliclr", "optimizer=muon"], ["`scheduler.cycle_momentum` must be false for MuonWithAdamW"]),
    (
        ["optimizer=lbfgs", "param_groups=layerwise"],
        ["`param_groups` must make one group for torch.optim.LBFGS", "single"],
    ),
    (["optimizer=lbfgs", "trainer.precision='16'"], ["`trainer.precision` must be 32 or bf16 for LBFGS", "16"]),
    (
        ["optimizer=rprop", "param_groups=no_decay"],
        ["`optimizer` must have a weight decay", "torch.optim.Rprop has none"],
    ),
    # param groups
    (
        ["param_groups=by_pattern", "param_groups.groups=[{name: a, regex: 'layer('}]"],
        ["`param_groups.groups.0.regex` must be a regular expression, but is 'layer('", "position 5"],
    ),
    (
        ["param_groups=by_pattern", "param_groups.groups=[{name: a, regex: layer1}]"],
        ["parameter 'layer2.weight'", "none"],
    ),
    (["param_groups=head_and_backbone", "param_groups.head=neck"], ["`param_groups.head`", "'layer3'", "'neck'"]),
    (["param_groups=frozen_backbone", "param_groups.unfreeze_at_epoch=0"], ["`param_groups.unfreeze_at_epoch`", "0"]),
    (
        ["param_groups=frozen_backbone", "param_groups.unfreeze_at_epoch=1.5"],
        ["`param_groups.unfreeze_at_epoch`", "1.5"],
    ),
]


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=[" ".join(overrides) for overrides, _ in REFUSED])
def test_a_wrong_schedule_is_refused_before_the_training(
    train_in_process: Callable[..., float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    said: list[str],
) -> None:
    """One sentence with the config key, what is given and what to do; nothing was trained."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refusal:
        train_in_process(*overrides, "trainer.epochs=2", "trainer.batch_size=512", "tracking=off")

    assert all(part in str(refusal.value) for part in said), str(refusal.value)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["scheduler=steplr", "scheduler.gamma=1"],
        ["scheduler=reducelronplateau", "scheduler.min_lr=0.1", "scheduler.patience=0"],
        ["scheduler=lambdalr", "scheduler.lr_lambda=1"],
        ["scheduler=warmup_cosine", "scheduler.warmup_iters=0"],
        ["scheduler=onecyclelr", "scheduler.total_steps=null", "scheduler.epochs=2", "scheduler.steps_per_epoch=3"],
        ["scheduler=multisteplr", "scheduler.milestones=[]"],
        ["optimizer=adafactor", "optimizer.eps=[null,1e-3]"],
        ["optimizer=muon", "optimizer.adamw=null"],
        ["param_groups=layerwise", "param_groups.factors={layer1: 1}"],
        ["optimizer=lbfgs", "trainer.precision=bf16", "trainer.accumulate_grad_batches=2", "trainer.clip_grad_norm=1"],
    ],
    ids=" ".join,
)
def test_what_looks_odd_and_is_right_is_accepted(
    train_in_process: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]
) -> None:
    """Whole numbers are numbers, null is null, and empty is empty: no check is stricter than torch."""
    monkeypatch.chdir(tmp_path)
    assert 0 < train_in_process(*overrides, "trainer.epochs=2", "trainer.batch_size=512", "tracking=off") < 10
