import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import CyclicLR, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook

import lrtape
from lrtape.errors import ConfigError
from lrtape.groups import layerwise, no_decay, single
from lrtape.optimizers import MuonWithAdamW


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def train(model: nn.Module, *optimizers: torch.optim.Optimizer, n_steps: int = 3) -> list[torch.Tensor]:
    for step in range(n_steps):
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        model.zero_grad()
        (model(inputs) ** 2).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_it_does_what_the_two_do_side_by_side() -> None:
    """Matrices move as with Muon, the rest as with AdamW, each with its own arguments."""
    ours, theirs = net(), net()
    matrices = [parameter for parameter in theirs.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in theirs.parameters() if parameter.ndim != 2]
    both = [
        Muon(matrices, lr=0.02, momentum=0.9, ns_steps=3),
        AdamW(others, lr=0.003, weight_decay=0.5, betas=(0.8, 0.9)),
    ]
    adamw = {"lr": 0.003, "weight_decay": 0.5, "betas": [0.8, 0.9]}
    one = MuonWithAdamW(ours.named_parameters(), lr=0.02, momentum=0.9, ns_steps=3, adamw=adamw)

    for mine, other in zip(train(ours, one), train(theirs, *both), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def groups_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def test_its_groups_are_called_muon_and_adamw_and_have_their_own_lr() -> None:
    """One given group becomes these two; of several, each becomes two; factors count for both halves."""
    model = net()
    adamw = {"lr": 0.001}
    assert groups_of(MuonWithAdamW(model.parameters(), lr=0.02, adamw=adamw)) == {"muon": 0.02, "adamw": 0.001}
    assert groups_of(MuonWithAdamW(single(model, 0.02), lr=0.02, adamw=adamw)) == {"muon": 0.02, "adamw": 0.001}
    halved = MuonWithAdamW(layerwise(model, 0.02, {"2": 0.5}), lr=0.02, adamw=adamw)
    assert groups_of(halved) == {"0_muon": 0.02, "0_adamw": 0.001, "1_adamw": 0.001, "2_muon": 0.01, "2_adamw": 0.0005}
    with lrtape.attach(halved, run=None) as session:
        assert [group.key for group in session.groups] == [f"lr/{name}" for name in groups_of(halved)]


def test_a_groups_weight_decay_counts_for_both_halves() -> None:
    """Where a group says nothing, each half has its own."""
    optimizer = MuonWithAdamW(no_decay(net(), 0.02), lr=0.02, weight_decay=0.3, adamw={"weight_decay": 0.4})
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "decay_muon": 0.3,
        "no_decay_adamw": 0.0,
    }
    plain = MuonWithAdamW(net().parameters(), weight_decay=0.3, adamw={"weight_decay": 0.4})
    assert [group["weight_decay"] for group in plain.param_groups] == [0.3, 0.4]


def test_matrices_can_be_left_to_adamw() -> None:
    """Those in whose path `exclude` is found."""
    optimizer = MuonWithAdamW(net().named_parameters(), exclude=r"^2\.")
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight"],
        ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"],
    ]


def test_one_step_is_one_step_for_who_watches() -> None:
    """Hooks of all optimizers of the process see one step and not three; and one scheduler drives both halves."""
    model = net()
    optimizer = MuonWithAdamW(model.named_parameters(), lr=0.02, adamw={"lr": 0.001})
    scheduler = StepLR(optimizer, 1, 0.5)
    seen: list[torch.optim.Optimizer] = []
    hook = register_optimizer_step_post_hook(lambda stepped, *_: seen.append(stepped))
    try:
        train(model, optimizer, n_steps=2)
    finally:
        hook.remove()
    scheduler.step()

    assert seen == [optimizer, optimizer]
    assert groups_of(optimizer) == {"muon": 0.01, "adamw": 0.0005}


def through_a_file(optimizer: MuonWithAdamW, model: nn.Module) -> MuonWithAdamW:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = MuonWithAdamW(model.named_parameters())
    loaded.load_state_dict(torch.load(file, weights_only=True))
    return loaded


def test_it_goes_on_from_its_state() -> None:
    """`state_dict` has everything, and loads with `weights_only=True`: the next steps are the same."""
    model = net()
    optimizer = MuonWithAdamW(model.named_parameters(), lr=0.02, adamw={"lr": 0.01})
    train(model, optimizer)
    other = copy.deepcopy(model)
    resumed = through_a_file(optimizer, other)

    for mine, theirs in zip(train(model, optimizer), train(other, resumed), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_it_can_be_pickled_and_copied() -> None:
    """Together with its model, as torch's own."""
    model = net()
    optimizer = MuonWithAdamW(model.named_parameters(), lr=0.02)
    train(model, optimizer)
    for other_model, other in (pickle.loads(pickle.dumps((model, optimizer))), copy.deepcopy((model, optimizer))):
        for mine, theirs in zip(model.parameters(), other_model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        before = train(other_model, n_steps=0)
        assert not all(map(torch.equal, train(other_model, other), before))


def test_groups_can_be_added() -> None:
    """As with any optimizer; a group that is added is split as the others are, and is trained."""
    model = net()
    optimizer = MuonWithAdamW(model[0].parameters())
    optimizer.add_param_group({"params": list(model[2].parameters()), "name": "late"})
    last: Any = model[2]
    before = last.weight.detach().clone()
    train(model, optimizer)

    assert list(groups_of(optimizer)) == ["muon", "adamw", "late_muon", "late_adamw"]
    assert not torch.equal(last.weight, before)


def test_a_closure_is_called_once() -> None:
    """With gradients, before the update; its loss is returned."""
    model = net()
    optimizer = MuonWithAdamW(model.parameters())
    calls: list[bool] = []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        return 3.5

    assert optimizer.step(closure) == 3.5
    assert calls == [True]


def test_a_momentum_schedule_is_refused_by_torch() -> None:
    """The two halves have different ones: torch says that there is none, instead of changing the wrong one."""
    with pytest.raises(ValueError, match="must support momentum or beta1"):
        CyclicLR(MuonWithAdamW(net().parameters()), 0.001, 0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"exclude": "("}, r"`optimizer.exclude` must be a regular expression, but is '\(' instead: .* at position 0"),
        ({"exclude": "weight"}, "`optimizer` Muon must have a matrix to train.*`optimizer.exclude`, 'weight'"),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], said: str) -> None:
    """A regular expression that is none, and a model without a matrix."""
    with pytest.raises(ConfigError, match=said):
        MuonWithAdamW(net().named_parameters(), **arguments)
    with pytest.raises(ConfigError, match="Use optimizer=adamw"):
        MuonWithAdamW(nn.LayerNorm(3).parameters())


@pytest.mark.parametrize(
    "arguments", [{"lr": -1}, {"adamw": {"lr": -1}}, {"adamw": {"betas": [2, 0]}}, {"momentum": -1}]
)
def test_what_is_out_of_range_is_refused_by_torch(arguments: dict[str, Any]) -> None:
    """The arguments of both halves reach torch, which checks them, also of a half that has no parameters."""
    with pytest.raises(ValueError, match=r"should be >= 0|Invalid"):
        MuonWithAdamW(nn.Linear(2, 2, bias=False).parameters(), **arguments)
