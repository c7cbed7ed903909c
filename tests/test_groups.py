from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from lrtape.errors import ConfigError
from lrtape.groups import frozen_backbone, head_and_backbone, layerwise, layerwise_decay, no_decay, single, thaw


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


SPLITS = [single, layerwise, layerwise_decay, no_decay, head_and_backbone]


@pytest.mark.parametrize("split", [single, layerwise, layerwise_decay, no_decay])
def test_frozen_parameters_are_left_out(split: Any) -> None:
    """A frozen parameter is in no group, and a layer that is frozen altogether has no group."""
    model = Net()
    model.backbone.requires_grad_(False)
    assert model.head.bias is not None
    model.head.bias.requires_grad_(False)

    assert {path for group in split(model, 0.1) for path, _ in group["params"]} == {"scale", "head.weight"}
    assert "backbone" not in lrs(split(model, 0.1))


@pytest.mark.parametrize("split", SPLITS)
def test_a_model_with_nothing_to_train_is_refused(split: Any) -> None:
    """Whether all is frozen or there is no parameter at all."""
    for model in (nn.ReLU(), Net().requires_grad_(False)):
        with pytest.raises(ConfigError, match=f"{type(model).__name__} has none that require a gradient"):
            split(model, 0.1)


@pytest.mark.parametrize("split", [*SPLITS, frozen_backbone])
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


def test_a_deeper_level_makes_more_layers() -> None:
    """`level` is the number of names in the path of a layer; a layer that is not as deep is a group all the same."""
    assert list(paths(layerwise(Net(), 0.1, level=2))) == ["root", "backbone.0", "backbone.2", "head"]
    assert lrs(layerwise(Net(), 1, {"backbone.2": 0.5}, level=2))["backbone.2"] == 0.5
    assert paths(layerwise(Net(), 0.1, level=9)) == paths(layerwise(Net(), 0.1, level=2))
    with pytest.raises(ConfigError, match=r"`param_groups.level` must be at least 1, but is 0 instead"):
        layerwise(Net(), 0.1, level=0)


def test_layerwise_decay_gives_the_last_layer_the_full_lr() -> None:
    """The lr of a layer is ``lr * decay ** depth``, counted from the last one."""
    assert lrs(layerwise_decay(Net(), 0.1, 0.5)) == {"root": 0.025, "backbone": 0.05, "head": 0.1}
    deeper = lrs(layerwise_decay(Net(), 0.1, 0.5, level=2))
    assert deeper == {"root": 0.0125, "backbone.0": 0.025, "backbone.2": 0.05, "head": 0.1}


class Normed(nn.Module):
    """Every kind of parameter that weight decay spares, or does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.conv = nn.Conv1d(1, 1, 1, bias=False)
        self.batch_norm = nn.BatchNorm1d(4)
        self.layer_norm = nn.LayerNorm([2, 4])
        self.square_bias = nn.Bilinear(2, 2, 2)
        self.gain = nn.Parameter(torch.ones(4))


def test_no_decay_spares_biases_and_norms() -> None:
    """Norms also where they have two dimensions, and everything with fewer than two; matrices are decayed."""
    groups = no_decay(Normed(), 0.1)

    assert paths(groups) == {
        "decay": ["embedding.weight", "conv.weight", "square_bias.weight"],
        "no_decay": [
            *("gain", "batch_norm.weight", "batch_norm.bias", "layer_norm.weight", "layer_norm.bias"),
            "square_bias.bias",
        ],
    }
    assert set(lrs(groups).values()) == {0.1}
    assert list(paths(no_decay(nn.Linear(2, 2, bias=False), 0.1))) == ["decay"]
    assert list(paths(no_decay(nn.BatchNorm1d(2), 0.1))) == ["no_decay"]


def test_weight_decay_is_in_the_optimizer_and_in_what_it_does() -> None:
    """The optimizer's own decay for one group and none for the other: without gradients only one of them shrinks."""
    model = Normed()
    optimizer = torch.optim.AdamW(no_decay(model, 0.1), weight_decay=0.5)
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {"decay": 0.5, "no_decay": 0}

    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for path, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if path in paths(no_decay(model, 0.1))["decay"] else 1
        torch.testing.assert_close(parameter.detach(), before[path] * factor)


def test_head_and_backbone_have_a_rate_each() -> None:
    """The head is the last layer, or the part of the model that is named, at any depth; all else is backbone."""
    assert lrs(head_and_backbone(Net(), 0.1, head_lr_mult=2, backbone_lr_mult=0.5)) == {"backbone": 0.05, "head": 0.2}
    assert paths(head_and_backbone(Net(), 0.1))["head"] == ["head.weight", "head.bias"]
    assert paths(head_and_backbone(Net(), 0.1, "backbone.2"))["head"] == ["backbone.2.weight", "backbone.2.bias"]
    assert paths(head_and_backbone(Net(), 0.1, "scale"))["head"] == ["scale"]


@pytest.mark.parametrize("head", ["hea", "back", "nose", "head.weight.x", "", "backbone.1"])
@pytest.mark.parametrize("split", [head_and_backbone, frozen_backbone])
def test_a_head_that_is_not_there_is_refused(split: Any, head: str) -> None:
    """The beginning of a name is not a part of the model; the message names the parts."""
    with pytest.raises(ConfigError, match=rf"one of \['root', 'backbone', 'head'\] or within one.*but is '{head}'"):
        split(Net(), 0.1, head=head)


@pytest.mark.parametrize("split", [head_and_backbone, frozen_backbone])
def test_a_head_needs_a_backbone(split: Any) -> None:
    """A model of one layer cannot be split."""
    with pytest.raises(ConfigError, match="with something beside it"):
        split(nn.Sequential(nn.Linear(2, 2)), 0.1)


def test_a_frozen_backbone_needs_no_gradient_and_is_flagged() -> None:
    """It is in the optimizer, where its schedule runs, does not move, and says what it is; building it twice is one."""
    model = Net()
    frozen_backbone(model, 0.1)
    groups = frozen_backbone(model, 0.1, unfreeze_at_epoch=3)
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=0.1)

    assert paths(frozen_backbone(model, 0.1))["head"] == ["head.weight", "head.bias"]
    assert {group["name"]: group.get("frozen", False) for group in optimizer.param_groups} == {
        "backbone": True,
        "head": False,
    }
    assert {path for path, parameter in model.named_parameters() if parameter.requires_grad} == {
        "head.weight",
        "head.bias",
    }
    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    model.head(model.backbone(torch.ones(1, 4))).sum().backward()
    optimizer.step()
    moved = {path for path, parameter in model.named_parameters() if not torch.equal(parameter, before[path])}
    assert moved == {"head.weight", "head.bias"}


def test_a_group_thaws_at_its_epoch_and_stays_so() -> None:
    """Not before, once, and also when it is asked for the first time later, as in a training that is resumed."""
    model = Net()
    optimizer = torch.optim.SGD(frozen_backbone(model, 0.1, unfreeze_at_epoch=3), lr=0.1)
    groups = optimizer.param_groups
    assert [thaw(groups, epoch) for epoch in range(5)] == [[], [], [], ["backbone"], []]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert groups[0]["frozen"] is False

    resumed = torch.optim.SGD(frozen_backbone(Net(), 0.1, unfreeze_at_epoch=3), lr=0.1)
    resumed.load_state_dict(optimizer.state_dict())
    thaw(resumed.param_groups, 7)
    assert all(parameter.requires_grad for parameter in resumed.param_groups[0]["params"])


def test_a_group_may_be_frozen_for_ever() -> None:
    """Without an epoch nothing thaws; groups of other splits are left alone."""
    frozen = torch.optim.SGD(frozen_backbone(Net(), 0.1), lr=0.1).param_groups
    assert thaw(frozen, 10**6) == []
    assert not frozen[0]["params"][0].requires_grad
    assert thaw(torch.optim.SGD(single(Net(), 0.1), lr=0.1).param_groups, 10**6) == []


@pytest.mark.parametrize(
    ("split", "arguments", "said"),
    [
        (layerwise_decay, {"decay": -1}, "`param_groups.decay` must be a number >= 0, but is -1 instead"),
        (head_and_backbone, {"head_lr_mult": -1}, "`param_groups.head_lr_mult` must be a number >= 0"),
        (head_and_backbone, {"backbone_lr_mult": "x"}, "`param_groups.backbone_lr_mult` must be a number >= 0"),
        (frozen_backbone, {"backbone_lr_mult": -1}, "`param_groups.backbone_lr_mult` must be a number >= 0"),
        (frozen_backbone, {"unfreeze_at_epoch": 0}, "must be at least 1, or null for never, but is 0 instead"),
    ],
)
def test_wrong_numbers_are_refused(split: Any, arguments: dict[str, Any], said: str) -> None:
    """The message says which argument, what it is, and what it must be."""
    with pytest.raises(ConfigError) as refusal:
        split(Net(), 0.1, **arguments)
    assert said in str(refusal.value)
