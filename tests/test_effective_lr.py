"""The effective lr, compared with the updates that the optimizers have really made."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

import lrtape
from lrtape.errors import ConfigError
from lrtape.tape import Tape
from lrtape.testing import record

N_STEPS = 12


def groups(*lrs: float | None) -> list[dict[str, Any]]:
    """A param group for each lr; of doubles, so that the difference of two weights tells the lr."""
    return [
        {"params": [Parameter(torch.tensor([0.75, -1.5], dtype=torch.float64))], "lr": lr, "name": f"group{index}"}
        for index, lr in enumerate(lrs)
    ]


def trained(
    optimizer: Optimizer, look_at: int, lr_of: Callable[[Parameter, Tensor], float]
) -> tuple[Tape, list[float]]:
    """Makes steps with the gradient 1.

    Args:
        optimizer: makes them.
        look_at: index of a group.
        lr_of: what the first weight of that group tells of an update, from the parameter after and before it.

    Returns:
        The tape, and what `lr_of` has told.
    """
    told = []
    (param,) = optimizer.param_groups[look_at]["params"]
    with record(optimizer, also=["effective_lr"]) as tape:
        for _ in range(N_STEPS):
            for group in optimizer.param_groups:
                group["params"][0].grad = torch.ones_like(group["params"][0])
            before = param.detach().clone()
            optimizer.step()
            told.append(lr_of(param, before))
    assert list(tape[f"effective_lr/group{look_at}"].steps) == list(range(N_STEPS))
    return tape, told


def moved(param: Parameter, before: Tensor) -> float:
    """How far the first weight went down."""
    return (before - param.detach())[0].item()


def scaled_move(param: Parameter, before: Tensor) -> float:
    """The same, without the factor that Adafactor has for each parameter: the root mean square of its weights."""
    return moved(param, before) / before.square().mean().sqrt().item()


def test_adafactor_of_torch_is_capped_by_the_root_of_the_step() -> None:
    """``min(lr, 1 / sqrt(t))``, and each parameter moves by that times its own scale."""
    optimizer = torch.optim.Adafactor(groups(0.4, 0.01))
    tape, told = trained(optimizer, 0, scaled_move)

    used = list(tape["effective_lr/group0"].values)
    assert used == pytest.approx(told, rel=1e-9)
    assert used[0] == 0.4
    assert used[-1] == 1 / math.sqrt(N_STEPS)
    assert set(tape["effective_lr/group1"].values) == {0.01}


@pytest.mark.parametrize(
    ("lr", "warmup_init", "scale_parameter"), [(None, False, True), (None, True, True), (0.02, False, False)]
)
def test_adafactor_of_transformers(lr: float | None, warmup_init: bool, scale_parameter: bool) -> None:
    """Its own relative step, with or without warm-up, or the lr that it was given. Where it does not use the lr of its
    param group, there is none on the tape.
    """
    adafactor = pytest.importorskip("transformers.optimization").Adafactor
    optimizer = adafactor(
        groups(lr), relative_step=lr is None, warmup_init=warmup_init, scale_parameter=scale_parameter
    )
    tape, told = trained(optimizer, 0, scaled_move if scale_parameter else moved)

    assert list(tape["effective_lr/group0"].values) == pytest.approx(told, rel=1e-6)
    assert ("lr/group0" in tape) == (lr is not None)


class RelativeStep(torch.optim.SGD):
    """The param groups and the count of an Adafactor with a relative step, and nothing else of it."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param]["step"] = self.state[param].get("step", 0) + 1


def test_an_lr_that_is_not_there_is_refused_unless_the_effective_one_is_asked_for() -> None:
    """The text says how to ask; an lr that is there and is not used has no curve then, either."""
    optimizer = RelativeStep(groups(0.1, 0.1))
    for group in optimizer.param_groups:
        group |= {"relative_step": True, "warmup_init": True, "scale_parameter": True}
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(ConfigError, match=r"param group 0 .*also=\['effective_lr'\]"):
        lrtape.attach(optimizer, run=None)
    with record(optimizer, also=["effective_lr"]) as tape:
        for _ in range(3):
            optimizer.step()

    expected = [1e-6, 2e-6, 3e-6]
    assert {key: list(series.values) for key, series in tape.items()} == {
        "effective_lr/group0": expected,
        "effective_lr/group1": expected,
    }


@pytest.mark.parametrize("use_bias_correction", [False, True])
@pytest.mark.parametrize("lrs", [(1.0,), (0.5, 0.0), (0.0, 0.5)])
def test_prodigy(lrs: tuple[float, ...], use_bias_correction: bool) -> None:
    """``d`` times the largest lr, with which every group moves; the bias correction is no part of it, as in Adam."""
    prodigy = pytest.importorskip("prodigyopt").Prodigy
    optimizer = prodigy(groups(*lrs), use_bias_correction=use_bias_correction)
    look_at = lrs.index(max(lrs))
    n_done = 0

    def lr_of(param: Parameter, before: Tensor) -> float:
        nonlocal n_done
        n_done += 1
        state, group = optimizer.state[param], optimizer.param_groups[look_at]
        denominator = state["exp_avg_sq"].sqrt() + group["d"] * group["eps"]
        beta1, beta2 = group["betas"]
        correction = (1 - beta2**n_done) ** 0.5 / (1 - beta1**n_done) if use_bias_correction else 1.0
        return moved(param, before) * float((denominator / state["exp_avg"])[0]) / float(correction)

    tape, told = trained(optimizer, look_at, lr_of)
    used = list(tape[f"effective_lr/group{look_at}"].values)
    assert used == pytest.approx(told, rel=1e-6)
    assert used[-1] > 2 * used[0], "it has grown"


def test_d_adaptation_of_sgd() -> None:
    """``lr * d``, by the norm of the first gradient."""
    optimizer = pytest.importorskip("dadaptation").DAdaptSGD(groups(0.5, 0.5), d0=1e-3)
    tape, told = trained(optimizer, 1, moved)

    used = list(tape["effective_lr/group1"].values)
    assert used == pytest.approx(told, rel=1e-6)
    assert used[0] == pytest.approx(0.5 * 1e-3 / 2)
    assert used[-1] > 2 * used[0]


def test_d_adaptation_of_lion() -> None:
    """``d`` times the largest lr, with which every group moves: also one whose own lr is 0."""
    optimizer = pytest.importorskip("dadaptation").DAdaptLion(groups(0.0, 0.5), d0=1e-3)
    tape, told = trained(optimizer, 0, moved)

    used = list(tape["effective_lr/group0"].values)
    assert used == pytest.approx(told, rel=1e-6)
    assert used[-1] > used[0]


def gains(momentum_of: Callable[[Parameter, Tensor], float], decay: float) -> Callable[[Parameter, Tensor], float]:
    """The lr, where it goes into a running mean of the gradient, which is 1, and the update is made of that mean."""
    last = 0.0

    def lr_of(param: Parameter, before: Tensor) -> float:
        nonlocal last
        previous, last = last, momentum_of(param, before)
        return (last - decay * previous) / (1 - decay if decay < 1 else 1)

    return lr_of


@pytest.mark.parametrize("layer_scale", [1.0, 0.25])
def test_d_adaptation_of_adam(layer_scale: float) -> None:
    """``lr * d``, times the scale of the group's layers."""
    optimizer = pytest.importorskip("dadaptation").DAdaptAdam(
        [groups(0.5)[0] | {"layer_scale": layer_scale}], d0=1e-3, betas=(0.8, 0.9)
    )

    def momentum_of(param: Parameter, before: Tensor) -> float:
        denominator = optimizer.state[param]["exp_avg_sq"].sqrt() + optimizer.param_groups[0]["eps"]
        return moved(param, before) * float(denominator[0])

    tape, told = trained(optimizer, 0, gains(momentum_of, 0.8))
    used = list(tape["effective_lr/group0"].values)
    assert used == pytest.approx(told, rel=1e-6)
    assert used[-1] > used[0]


def test_d_adaptation_of_adan() -> None:
    """``d`` times the lr of the first group, for all groups: theirs are not used."""
    optimizer = pytest.importorskip("dadaptation").DAdaptAdan(
        groups(0.5, 2.0), d0=1e-3, betas=(0.8, 0.9, 0.9), weight_decay=0.0
    )

    def momentum_of(param: Parameter, before: Tensor) -> float:
        denominator = optimizer.state[param]["exp_avg_sq"].sqrt() + optimizer.param_groups[1]["eps"]
        return moved(param, before) * float(denominator[0])

    tape, told = trained(optimizer, 1, gains(momentum_of, 0.8))
    assert list(tape["effective_lr/group1"].values) == pytest.approx(told, rel=1e-6)


def test_d_adaptation_of_adagrad() -> None:
    """``d`` times the lr of the first group, for all groups: theirs are not used."""
    optimizer = pytest.importorskip("dadaptation").DAdaptAdaGrad(groups(0.5, 2.0), d0=1e-3)
    start = optimizer.param_groups[1]["params"][0].detach().clone()

    def sum_of(param: Parameter, _: Tensor) -> float:
        denominator = optimizer.state[param]["alphak"].sqrt() + optimizer.param_groups[1]["eps"]
        return moved(param, start) * float(denominator[0])

    tape, told = trained(optimizer, 1, gains(sum_of, 1.0))
    assert list(tape["effective_lr/group1"].values) == pytest.approx(told, rel=1e-6)
