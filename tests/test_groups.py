from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from lrtape.errors import ConfigError
from lrtape.groups import layerwise, single


class Net(nn.Module):
    """A backbone of two layers that are nested, a head, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        self.activation = nn.ReLU()
        self.head = nn.Linear(2, 1)
        self.scale = nn.Parameter(torch.ones(1))


def lrs(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {group["name"]: group["lr"] for group in groups}


def paths(groups: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    return {group["name"]: [path for path, _ in group["params"]] for group in groups}


def test_single_is_one_group_of_everything() -> None:
    """`single` has one group, `all`, of every parameter, with the optimizer's lr."""
    model = Net()
    groups = single(model, 0.1)

    assert lrs(groups) == {"all": 0.1}
    assert groups[0]["params"] == list(model.named_parameters())


def test_layerwise_has_a_group_for_each_top_level_layer() -> None:
    """A group is named after its layer, however deep its parameters lie; a layer without parameters has none."""
    groups = layerwise(Net(), 0.1)

    assert paths(groups) == {
        "root": ["scale"],
        "backbone": ["backbone.0.weight", "backbone.0.bias", "backbone.2.weight", "backbone.2.bias"],
        "head": ["head.weight", "head.bias"],
    }
    assert lrs(groups) == {"root": 0.1, "backbone": 0.1, "head": 0.1}


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (None, {"root": 0.5, "backbone": 0.5, "head": 0.5}),
        ([1, 0.25, 2.0], {"root": 0.5, "backbone": 0.125, "head": 1.0}),
        ({"head": 4}, {"root": 0.5, "backbone": 0.5, "head": 2.0}),
        ({"backbone": 0}, {"root": 0.5, "backbone": 0.0, "head": 0.5}),
        ({}, {"root": 0.5, "backbone": 0.5, "head": 0.5}),
    ],
)
def test_the_lr_of_a_layer_is_the_optimizers_times_its_factor(factors: Any, expected: dict[str, float]) -> None:
    """Factors are a list in the order of the model, or a mapping by name, in which what is not named has 1."""
    assert lrs(layerwise(Net(), 0.5, factors)) == expected


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"body": 0.1}, r"name layers of the model, \['root', 'backbone', 'head'\], but names 'body' instead"),
        (
            [0.1, 1],
            r"one factor for each layer of the model, \['root', 'backbone', 'head'\], but is \[0.1, 1\] instead",
        ),
        ([], r"one factor for each layer of the model"),
        ([1, -0.1, 1], r"`param_groups.factors.backbone` must be a number >= 0, but is -0.1 instead"),
        ({"head": float("nan")}, r"`param_groups.factors.head` must be a number >= 0, but is nan instead"),
        ({"head": float("inf")}, r"`param_groups.factors.head` must be a number >= 0, but is inf instead"),
        ({"head": True}, r"`param_groups.factors.head` must be a number >= 0, but is True instead"),
        ({"head": "big"}, r"`param_groups.factors.head` must be a number >= 0, but is 'big' instead"),
        ({"head": None}, r"`param_groups.factors.head` must be a number >= 0, but is None instead"),
    ],
)
def test_wrong_factors_are_refused(factors: Any, said: str) -> None:
    """The message says what was given, and which layers there are."""
    with pytest.raises(ConfigError, match=said):
        layerwise(Net(), 0.5, factors)


@pytest.mark.parametrize("split", [single, layerwise])
def test_frozen_parameters_are_left_out(split: Any) -> None:
    """A frozen parameter is in no group, and a layer that is frozen altogether has no group."""
    model = Net()
    model.backbone.requires_grad_(False)
    assert model.head.bias is not None
    model.head.bias.requires_grad_(False)

    assert [path for group in split(model, 0.1) for path, _ in group["params"]] == ["scale", "head.weight"]
    assert "backbone" not in lrs(split(model, 0.1))


@pytest.mark.parametrize("split", [single, layerwise])
def test_a_model_with_nothing_to_train_is_refused(split: Any) -> None:
    """Whether all is frozen or there is no parameter at all."""
    for model in (nn.ReLU(), Net().requires_grad_(False)):
        with pytest.raises(ConfigError, match=f"{type(model).__name__} has none that require a gradient"):
            split(model, 0.1)


@pytest.mark.parametrize("split", [single, layerwise])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_any_torch_optimizer_takes_the_groups(split: Any, optimizer: Any) -> None:
    """Names and lrs are in the optimizer's own groups, and every parameter is in one of them, once."""
    model = Net()
    built = optimizer(split(model, 0.1), lr=99.0)
    groups = split(model, 0.1)  # anew, as torch changes what it is given

    assert lrs(built.param_groups) == lrs(groups)
    assert {id(parameter) for group in built.param_groups for parameter in group["params"]} == {
        id(parameter) for parameter in model.parameters()
    }
    assert [path for group in built.param_groups for path in group["param_names"]] == [
        path for paths_of_group in paths(groups).values() for path in paths_of_group
    ]


def test_a_layer_called_root_is_not_taken_for_the_models_own_parameters() -> None:
    """Parameters outside any layer share the group of a layer that is named `root`: no name is there twice."""

    class Tree(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.root = nn.Linear(1, 1)

    assert paths(layerwise(Tree(), 0.1)) == {"root": ["scale", "root.weight", "root.bias"]}
