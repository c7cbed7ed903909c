import copy
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import lrtape
from lrtape.errors import ConfigError
from lrtape.range_curve import (
    RangeResult,
    exponential_lrs,
    find_divergence,
    find_lowest,
    find_steepest,
    lag,
    noise_of_smoothed,
    smooth,
)
from lrtape.range_plot import draw_range, plot_range
from lrtape.snapshot import Snapshot

BETAS = st.floats(0, 0.99)


def test_lrs_are_even_in_the_logarithm() -> None:
    """The ends are included, and each lr is the same multiple of the one before."""
    lrs = exponential_lrs(1e-6, 10, 71)
    assert lrs[0] == 1e-6
    assert lrs[-1] == pytest.approx(10, rel=1e-12)
    assert [b / a for a, b in itertools.pairwise(lrs)] == pytest.approx([10**0.1] * 70, rel=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), BETAS)
def test_the_smoothed_loss_is_the_weighted_mean(losses: list[float], beta: float) -> None:
    """`sum(beta ** age * loss) / sum(beta ** age)`, over all losses so far: the closed form, at every step."""
    for step, value in enumerate(smooth(losses, beta)):
        weights = [beta ** (step - at) for at in range(step + 1)]
        expected = math.fsum(w * x for w, x in zip(weights, losses, strict=False)) / math.fsum(weights)
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(st.floats(-10, 10), st.floats(-10, 10), BETAS)
def test_the_smoothed_loss_lags_by_its_mean_age(start: float, slope: float, beta: float) -> None:
    """On a straight line, the average at a step is the loss of `lag` steps before, exactly."""
    for step, value in enumerate(smooth([start + slope * step for step in range(60)], beta)):
        assert value == pytest.approx(start + slope * (step - lag(step, beta)), abs=1e-6)


def test_what_is_read_from_curves_that_are_known() -> None:
    """The steepest point of a logistic fall is its middle; the lowest of a parabola its vertex; a smoothed loss has
    exploded above 4 times its best so far, or where it is no number; and the trend is no noise.
    """
    fall = [1 / (1 + math.exp(step - 30)) for step in range(61)]
    assert find_steepest(fall, 0, 60) == 30
    assert find_steepest(fall, 40, 60) == 40
    assert find_steepest([1.0, 2.0, 3.0], 0, 2) is None

    assert find_lowest([(step - 7.2) ** 2 for step in range(20)]) == 7
    assert find_lowest([1.0, 0.0, math.nan, 2.0], first=2) == 3
    assert find_lowest([math.nan]) is None

    assert find_divergence([2.0, 1.0, 4.0, 4.001], 4) == 3
    assert find_divergence([2.0, 1.0, 4.0], 4) is None
    assert find_divergence([-1.0, 1.9, 2.1], 4) == 2
    assert find_divergence([1.0, math.nan], 4) == 1

    alternating = [(-1.0) ** step for step in range(100)]
    assert noise_of_smoothed(alternating, 0) == pytest.approx(math.sqrt(2))
    assert noise_of_smoothed(alternating, 0.8) == pytest.approx(math.sqrt(2 / 9))
    assert noise_of_smoothed([0.01 * step for step in range(100)], 0) < 0.01


def result_of(losses: list[float], n_planned: int | None = None, **more: Any) -> RangeResult:
    n_planned = n_planned or len(losses)
    lrs = exponential_lrs(1e-6, 1.0, n_planned)[: len(losses)]
    smoothed = smooth(losses, more.get("smoothing", 0.9))
    return RangeResult(tuple(lrs), tuple(losses), tuple(smoothed), {"all": 1.0}, n_planned, **more)


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.9])
def test_smoothing_does_not_shift_the_suggestion(smoothing: float) -> None:
    """It is where the losses themselves fall fastest, whatever they are smoothed with; the lowest loss is elsewhere."""
    losses = [2 - 1 / (1 + math.exp((90 - step) / 10)) + max(0, step - 140) ** 2 / 400 for step in range(200)]
    result = result_of(losses, smoothing=smoothing)

    assert result.problem == ""
    assert result.steepest == pytest.approx(90, abs=2)
    assert result.suggestion == result.lrs[result.steepest or 0]
    assert result.lowest is not None
    assert result.lowest > 120
    assert "Suggested lr" in str(result)


def noisy(seed: int, falls_by: float = 0.0) -> list[float]:
    generator = random.Random(seed)
    return [1 - falls_by / (1 + math.exp((60 - step) / 5)) + generator.gauss(0, 0.2) for step in range(100)]


def test_noise_is_no_descent() -> None:
    """Of 200 losses that only vary, 95 % at least get no suggestion; where they fall by what can be seen, all do."""
    assert sum(result_of(noisy(seed)).suggestion is None for seed in range(200)) >= 190
    assert all(result_of(noisy(seed, falls_by=0.8)).suggestion is not None for seed in range(200))


@pytest.mark.parametrize(
    ("losses", "problem"),
    [
        ([1.0] * 100, "never falls"),
        ([1 + 0.01 * step for step in range(100)], "never falls"),
        ([1.0, 2.0, 50.0], "diverged at once, in step 2 at lr"),
        ([math.nan], "diverged at once, in step 0 at lr 1e-06"),
        ([2.0, math.inf], "diverged at once, in step 1"),
    ],
)
def test_no_suggestion_without_a_descent(losses: list[float], problem: str, tmp_path: Path) -> None:
    """It says why instead, and both drawings are made of whatever there is."""
    result = result_of(losses, n_planned=100)

    assert result.suggestion is None
    assert result.suggested_lrs == {}
    assert problem in result.problem
    assert problem in str(result)
    assert plot_range(result)
    draw_range(result, tmp_path / "range.png")
    assert (tmp_path / "range.png").stat().st_size > 1000


class Net(nn.Module):
    """Has all that a step changes: weights, batch-norm buffers, a buffer that is replaced, random draws."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros(1), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        noise = random.random() + np.random.rand()
        return self.head(self.body(inputs)) + 1e-3 * noise  # type: ignore[no-any-return]


class Loop:
    """A training in its midst, with two groups, a schedule, and gradients that are not zero."""

    def __init__(self, make: Callable[[Any], torch.optim.Optimizer]) -> None:
        torch.manual_seed(0)
        self.model = Net()
        body = {"params": self.model.body.parameters(), "lr": 0.01, "name": "body"}
        self.optimizer = make([body, {"params": self.model.head.parameters(), "lr": 0.1, "name": "head"}])
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
        data = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(256, 8, generator=data)
        self.targets = self.inputs[:, :3].argmax(1)

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        chosen = torch.randperm(256)[:32]
        loss = nn.functional.cross_entropy(self.model(self.inputs[chosen]), self.targets[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def everything(self) -> list[Any]:
        parameters = list(self.model.parameters())
        return [
            *({**values} for values in self.optimizer.state.values()),
            *({key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups),
            {key: value for key, value in vars(self.optimizer).items() if key.startswith("_opt")},
            [*parameters, *self.model.buffers()],
            [parameter.grad for parameter in parameters],
            [parameter.requires_grad for parameter in parameters],
            [module.training for module in self.model.modules()],
            self.scheduler.state_dict(),
            [torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)],
        ]


def same(one: Any, other: Any) -> bool:
    """Equal bit for bit, whatever it is made of."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda groups: torch.optim.SGD(groups, momentum=0.9),
    torch.optim.AdamW,
    lambda groups: torch.optim.AdamW(groups, amsgrad=True, capturable=False),
    torch.optim.ASGD,
]


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("n_before", [0, 3])
def test_everything_is_as_it_was_bit_for_bit(make: Callable[[Any], torch.optim.Optimizer], n_before: int) -> None:
    """Weights, buffers, gradients, modes, optimizer state, groups, schedule and random generators: equal, and the same
    objects; and what is trained afterwards is what is trained without the test.
    """
    loop, twin = Loop(make), Loop(make)
    for training in (twin, loop):
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        for _ in range(n_before):
            training.step()
            training.scheduler.step()
        training.model.body[1].eval()  # a norm that is frozen
    before = copy.deepcopy(loop.everything())
    objects = [id(group) for group in loop.optimizer.param_groups] + [id(p.grad) for p in loop.model.parameters()]
    touched: list[bool] = []

    def step() -> torch.Tensor:
        loop.model.train()
        loss = loop.step()
        loop.scheduler.step()
        loop.model.head.weight.requires_grad_(False)
        touched.append(same(before, loop.everything()))
        return loss

    result = lrtape.lr_range(
        loop.optimizer, step, loop.model, others=[loop.scheduler], min_lr=1e-4, max_lr=1.0, n_steps=30
    )

    assert len(result.losses) > 10
    assert not any(touched), "the steps change nothing, and this test cannot fail"
    assert same(before, loop.everything())
    assert objects == [id(group) for group in loop.optimizer.param_groups] + [
        id(p.grad) for p in loop.model.parameters()
    ]
    for training in (twin, loop):
        torch.manual_seed(6), random.seed(6), np.random.seed(6)
        for _ in range(3):
            training.step()
            training.scheduler.step()
    assert same(twin.everything(), loop.everything())


def test_everything_is_put_back_after_an_error() -> None:
    """A step that raises leaves nothing behind, and its error comes out."""
    loop = Loop(torch.optim.Adam)
    before = copy.deepcopy(loop.everything())

    def step() -> torch.Tensor:
        loop.step()
        raise OSError("no more data")

    with pytest.raises(OSError, match="no more data"):
        lrtape.lr_range(loop.optimizer, step, loop.model)
    assert same(before, loop.everything())


def used_lrs(loop: Loop, record: Callable[[Any], Callable[[], lrtape.Tape]], **arguments: Any) -> lrtape.Tape:
    tape = record(loop.optimizer)
    lrtape.lr_range(loop.optimizer, loop.step, loop.model, min_lr=1e-5, max_lr=1e-1, n_steps=20, **arguments)
    return tape()


def test_groups_keep_their_proportions(record: Callable[[Any], Callable[[], lrtape.Tape]]) -> None:
    """The recorder sees: the group with the largest lr goes from `min_lr` to `max_lr`, a tenth of it is a tenth; or the
    `base_lr` says what stands for one; or one group alone goes, and the other keeps its lr.
    """
    lrs = exponential_lrs(1e-5, 1e-1, 20)
    tape = used_lrs(Loop(torch.optim.AdamW), record)
    assert list(tape["lr/head"].values) == lrs
    assert list(tape["lr/body"].values) == pytest.approx([lr / 10 for lr in lrs])

    tape = used_lrs(Loop(torch.optim.AdamW), record, base_lr=0.01)
    assert list(tape["lr/body"].values) == lrs
    assert list(tape["lr/head"].values) == pytest.approx([lr * 10 for lr in lrs])

    tape = used_lrs(Loop(torch.optim.AdamW), record, group="head")
    assert list(tape["lr/head"].values) == lrs
    assert list(tape["lr/body"].values) == [0.01] * 20


def test_the_result_of_a_real_loop(tmp_path: Path) -> None:
    """A net that learns gets an lr between the ends, less than that of the divergence, at which the test stops; each
    step is told to `on_step`; and both drawings show what was found.
    """
    loop = Loop(lambda groups: torch.optim.SGD(groups, momentum=0.9))
    told: list[tuple[int, float, float, float]] = []
    result = lrtape.lr_range(
        loop.optimizer, loop.step, loop.model, max_lr=1000.0, on_step=lambda *values: told.append(values)
    )

    assert result.problem == ""
    assert result.diverged_at == len(result.losses) - 1
    assert result.suggestion is not None
    assert 1e-4 < result.suggestion < result.lrs[result.diverged_at]
    assert result.suggested_lrs == {"body": pytest.approx(result.suggestion / 10), "head": result.suggestion}
    assert told == list(zip(range(200), result.lrs, result.losses, result.smoothed, strict=False))

    drawn = plot_range(result, width=100)
    assert f"S  steepest: lr {result.suggestion:.6g}" in drawn
    assert all(len(line) <= 100 for line in drawn.splitlines())
    assert "1e-06     0.0001    0.01      1         100" in drawn.splitlines()[-5]  # whole decades on the x axis
    draw_range(result, tmp_path / "range.png")
    with Image.open(tmp_path / "range.png") as picture:
        assert picture.size == (1200, 750)
        colors = {color for _, color in picture.convert("RGB").getcolors(10**6) or []}
    assert {(31, 119, 180), (44, 160, 44), (214, 39, 40)} <= colors  # the curve, the suggestion, the divergence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_lr": 1.0, "max_lr": 1.0}, "`min_lr` must be less than `max_lr`, but is 1.0"),
        ({"min_lr": 2.0, "max_lr": 1.0}, "`min_lr` must be less than `max_lr`, but is 2.0"),
        ({"min_lr": 0}, "`min_lr` must be a number > 0, but is 0"),
        ({"max_lr": math.inf}, "`max_lr` must be a number > 0, but is inf"),
        ({"n_steps": 19}, "`n_steps` must be a whole number >= 20, but is 19"),
        ({"smoothing": 1.0}, r"`smoothing` must be a number in \[0, 1\), but is 1.0"),
        ({"explode_at": 1}, "`explode_at` must be a number > 1, but is 1"),
        ({"group": "neck"}, r"`group` must be the name of one param group, of \['body', 'head'\], but is 'neck'"),
        ({"base_lr": 0.0}, "`base_lr` must be a number > 0, but is 0.0"),
        ({"others": [3]}, "`others` must be objects with state_dict"),
    ],
)
def test_wrong_arguments_are_refused_before_a_step(arguments: dict[str, Any], message: str) -> None:
    """With what was given, and what is expected."""
    loop = Loop(torch.optim.AdamW)
    with pytest.raises(ConfigError, match=message):
        lrtape.lr_range(loop.optimizer, lambda: pytest.fail("a step was made"), loop.model, **arguments)


def test_a_step_that_is_none_is_refused() -> None:
    """`train_step` must make one step, with the lr of the test."""
    loop = Loop(torch.optim.AdamW)

    def set_lr() -> torch.Tensor:
        loop.optimizer.param_groups[0]["lr"] = 0.5
        return loop.step()

    wrong: dict[str, Callable[[], Any]] = {
        "made none in 32 calls": lambda: 1.0,
        "but made 2": lambda: (loop.step(), loop.step())[1],
        "must leave the lr to the range test": set_lr,
    }
    for message, step in wrong.items():
        with pytest.raises(ConfigError, match=message):
            lrtape.lr_range(loop.optimizer, step, loop.model)


def test_a_skipped_step_is_made_up_for() -> None:
    """As with a `GradScaler`, which skips some at first: every lr of the range is used all the same."""
    loop = Loop(torch.optim.AdamW)
    calls = itertools.count()
    result = lrtape.lr_range(
        loop.optimizer, lambda: loop.step() if next(calls) % 3 else 1.0, loop.model, max_lr=1e-3, n_steps=20
    )
    assert list(result.lrs) == exponential_lrs(1e-6, 1e-3, 20)


def test_a_snapshot_restores_what_else_has_a_state() -> None:
    """A generator, an averaged model, a tensor lr, a parameter's own class of optimizer state: lists, as LBFGS has."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(3, 1)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    inputs = torch.randn(16, 3)

    def step() -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            loss.backward()
            return cast("torch.Tensor", loss)

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        averaged.update_parameters(model)

    step()
    snapshot = Snapshot([generator, model, averaged, optimizer])
    before = copy.deepcopy([model.state_dict(), averaged.state_dict(), optimizer.state_dict()])
    drawn = torch.rand(3, generator=generator)
    step()
    assert not same(before, [model.state_dict(), averaged.state_dict(), optimizer.state_dict()])
    for _ in range(2):
        snapshot.restore()
        assert same(before, [model.state_dict(), averaged.state_dict(), optimizer.state_dict()])
        assert torch.equal(drawn, torch.rand(3, generator=generator))
        step()


def test_a_tensor_lr_stays_the_same_object() -> None:
    """A captured graph, or a compiled step, knows the tensor: it is filled, and gets its old value back."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=torch.tensor(0.25))
    lr = optimizer.param_groups[0]["lr"]
    seen: list[float] = []

    def step() -> float:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        seen.append(float(lr))
        optimizer.step()
        return loss.item()

    lrtape.lr_range(optimizer, step, max_lr=1e-2, n_steps=20)
    assert seen == pytest.approx(exponential_lrs(1e-6, 1e-2, 20), rel=1e-6)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == 0.25
    assert torch.equal(parameter.detach(), torch.ones(2))


def test_a_lazy_layer_is_refused() -> None:
    """Its weights are made by the first batch, so they could not be taken away again."""
    model = nn.LazyLinear(3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ConfigError, match="a lazy layer has none before the first batch"):
        lrtape.lr_range(optimizer, lambda: 1.0, model)


def test_a_group_that_is_frozen_is_not_varied(record: Callable[[Any], Callable[[], lrtape.Tape]]) -> None:
    """No loss depends on its lr: nothing is suggested for it, and it is no group to test; the others are."""
    loop = Loop(torch.optim.AdamW)
    body = next(group for group in loop.optimizer.param_groups if group["name"] == "body")
    body.update(frozen=True, lr=100.0)
    for parameter in body["params"]:
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="`group` must be a param group that moves, but 'body' is frozen"):
        lrtape.lr_range(loop.optimizer, loop.step, loop.model, group="body")
    tape = record(loop.optimizer)
    result = lrtape.lr_range(loop.optimizer, loop.step, loop.model, min_lr=1e-5, max_lr=1e-1, n_steps=20)

    assert list(tape()["lr/head"].values) == exponential_lrs(1e-5, 1e-1, 20)
    assert list(result.scales) == ["head"]
    assert body["lr"] == 100.0
