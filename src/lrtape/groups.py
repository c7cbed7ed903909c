"""Splits the parameters of a model into param groups.

Each function takes the model and the optimizer's lr, and returns groups for any torch optimizer: ``name``, ``lr``, and
``params`` as (path, parameter) pairs. Parameters that need no gradient are left out, but for those that
`frozen_backbone` freezes itself: its group has ``frozen`` and ``unfreeze_at_epoch``, which an optimizer keeps.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn import Module, Parameter
from torch.nn.modules.batchnorm import _NormBase

from lrtape.errors import ConfigError

ParamGroup = dict[str, Any]
Named = list[tuple[str, Parameter]]

FROZEN = "frozen"
"""Key of a param group: whether it does not move. A recorder leaves such a group out."""

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def single(model: Module, lr: float) -> list[ParamGroup]:
    """One group of all parameters, named ``all``."""
    return [_group("all", lr, _trainable(model))]


def layerwise(
    model: Module, lr: float, factors: Sequence[float] | Mapping[str, float] | None = None, level: int = 1
) -> list[ParamGroup]:
    """One group for each layer that has parameters, named after it; its lr is ``lr * factor``.

    Parameters of the model itself, outside any layer, make a first group named ``root``.

    Args:
        model: the model.
        lr: the optimizer's lr.
        factors: one for each layer, in the order of the model, or by the layer's name, 1 where it says nothing.
        level: names in the path of a layer: 1 for those of the model itself, 2 for ``encoder.0``.

    Raises:
        ConfigError: a factor is negative or not finite, for no layer, or missing.
    """
    layers = _layers(_trainable(model), level)
    if factors is None:
        factors = {}
    if not isinstance(factors, Mapping):
        if len(factors) != len(layers):
            raise ConfigError(
                f"`param_groups.factors` must have one factor for each layer of the model, {list(layers)}, but is "
                f"{list(factors)} instead."
            )
        factors = dict(zip(layers, factors, strict=True))
    for layer, factor in factors.items():
        if layer not in layers:
            raise ConfigError(
                f"`param_groups.factors` must name layers of the model, {list(layers)}, but names {layer!r} instead."
            )
        require_rate(f"param_groups.factors.{layer}", factor)
    return [_group(layer, lr * factors.get(layer, 1.0), parameters) for layer, parameters in layers.items()]


def layerwise_decay(model: Module, lr: float, decay: float = 0.8, level: int = 1) -> list[ParamGroup]:
    """One group for each layer, with the lr ``lr * decay ** depth``; the last layer has depth 0, and the full lr.

    Args:
        model: the model.
        lr: the optimizer's lr.
        decay: from one layer to the one before it.
        level: see `layerwise`.

    Raises:
        ConfigError: `decay` is negative or not finite.
    """
    require_rate("param_groups.decay", decay)
    layers = _layers(_trainable(model), level)
    return [
        _group(layer, lr * decay**depth, layers[layer])
        for depth, layer in zip(range(len(layers) - 1, -1, -1), layers, strict=True)
    ]


def no_decay(model: Module, lr: float) -> list[ParamGroup]:
    """Two groups: ``decay``, and ``no_decay`` for biases, norms and whatever else has fewer than two dimensions.

    The second one has no weight decay, the first one the optimizer's. A group without parameters is left out.
    """
    norms = {f"{name}." for name, module in model.named_modules() if isinstance(module, _NORMS)}
    decayed: Named = []
    others: Named = []
    for path, parameter in _trainable(model):
        module, _, name = path.rpartition(".")
        spared = parameter.ndim < 2 or name == "bias" or f"{module}." in norms
        (others if spared else decayed).append((path, parameter))
    groups = [_group("decay", lr, decayed), {**_group("no_decay", lr, others), "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def head_and_backbone(
    model: Module, lr: float, head: str | None = None, head_lr_mult: float = 1.0, backbone_lr_mult: float = 0.1
) -> list[ParamGroup]:
    """Two groups, ``backbone`` and ``head``, each with a rate of its own.

    Args:
        model: the model.
        lr: the optimizer's lr.
        head: path of the head in the model, ``classifier`` say; ``None`` means the last layer.
        head_lr_mult: the head's lr is `lr` times this.
        backbone_lr_mult: the backbone's lr is `lr` times this.

    Raises:
        ConfigError: there is no such head, or nothing beside it, or a multiplier is negative or not finite.
    """
    require_rate("param_groups.head_lr_mult", head_lr_mult)
    require_rate("param_groups.backbone_lr_mult", backbone_lr_mult)
    below, above = _split_off(_trainable(model), head)
    return [_group("backbone", lr * backbone_lr_mult, below), _group("head", lr * head_lr_mult, above)]


def frozen_backbone(
    model: Module,
    lr: float,
    head: str | None = None,
    backbone_lr_mult: float = 0.1,
    unfreeze_at_epoch: int | None = None,
) -> list[ParamGroup]:
    """Two groups, ``backbone`` and ``head``; the backbone needs no gradient, and does not move, until it is thawed.

    The backbone's group is in the optimizer from the beginning, since a torch scheduler cannot take one more later. It
    is flagged ``frozen``, and its lr follows the schedule all the while; it is recorded from the step on in which it is
    thawed. See `thaw`.

    Args:
        model: the model; every parameter outside its head is frozen.
        lr: the optimizer's lr, and the head's.
        head: path of the head in the model; ``None`` means the last layer.
        backbone_lr_mult: the backbone's lr is `lr` times this.
        unfreeze_at_epoch: index of the first epoch, from 0, in which the backbone moves; ``None`` for never.

    Raises:
        ConfigError: there is no such head, or nothing beside it, or a number is out of range.
    """
    require_rate("param_groups.backbone_lr_mult", backbone_lr_mult)
    if unfreeze_at_epoch is not None and unfreeze_at_epoch < 1:
        raise ConfigError(
            "`param_groups.unfreeze_at_epoch` must be at least 1, or null for never, but is "
            f"{unfreeze_at_epoch} instead. Where nothing is frozen, use param_groups=head_and_backbone."
        )
    below, above = _split_off(list(model.named_parameters()), head)
    for _, parameter in below:
        parameter.requires_grad_(False)
    backbone = _group("backbone", lr * backbone_lr_mult, below)
    return [
        {**backbone, FROZEN: True, "unfreeze_at_epoch": unfreeze_at_epoch},
        _group("head", lr, [(path, parameter) for path, parameter in above if parameter.requires_grad]),
    ]


def thaw(param_groups: Sequence[ParamGroup], epoch: int) -> list[str]:
    """Unfreeze every group that is due; called at the beginning of an epoch, also of one that is resumed.

    Args:
        param_groups: of the optimizer.
        epoch: its index, from 0.

    Returns:
        The names of the groups that were frozen until now.
    """
    thawed = []
    for group in param_groups:
        due = group.get("unfreeze_at_epoch")
        if due is not None and epoch >= due:
            if group[FROZEN]:
                thawed.append(group["name"])
            group[FROZEN] = False
            for parameter in group["params"]:
                parameter.requires_grad_(True)
    return thawed


def is_frozen(group: Mapping[str, Any], epoch: int | None = None) -> bool:
    """Whether a group does not move: now, or in the epoch of this index, from 0, which `thaw` has still to begin."""
    due = group.get("unfreeze_at_epoch")
    return bool(group.get(FROZEN)) and not (epoch is not None and due is not None and epoch >= due)


def moving_lrs(param_groups: Sequence[Mapping[str, Any]], epoch: int | None = None) -> list[float | None]:
    """The lr of each group; ``None`` for one that `is_frozen`."""
    return [None if is_frozen(group, epoch) else float(group["lr"]) for group in param_groups]


def require_rate(name: str, value: Any) -> None:
    """Refuse what is no learning rate, and no factor of one.

    Raises:
        ConfigError: it is negative, not finite, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"`{name}` must be a number >= 0, but is {value!r} instead.")


def _layers(parameters: Named, level: int) -> dict[str, Named]:
    if level < 1:
        raise ConfigError(f"`param_groups.level` must be at least 1, but is {level} instead.")
    layers: dict[str, Named] = {}
    for path, parameter in parameters:
        layer = ".".join(path.split(".")[:-1][:level])
        layers.setdefault(layer or "root", []).append((path, parameter))
    return layers


def _split_off(parameters: Named, head: str | None) -> tuple[Named, Named]:
    """The parameters outside the head, and those in it."""
    layers = _layers(parameters, 1)
    if head is None:
        head = list(layers)[-1] if layers else ""
    above = [(path, parameter) for path, parameter in parameters if f"{path}.".startswith(f"{head}.")]
    below = [(path, parameter) for path, parameter in parameters if not f"{path}.".startswith(f"{head}.")]
    if not above or not below:
        raise ConfigError(
            f"`param_groups.head` must be the path of a part of the model, one of {list(layers)} or within one, with "
            f"something beside it, but is {head!r} instead."
        )
    return below, above


def _group(name: str, lr: float, parameters: Named) -> ParamGroup:
    return {"params": parameters, "lr": lr, "name": name}


def _trainable(model: Module) -> Named:
    parameters = [(path, parameter) for path, parameter in model.named_parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError(
            f"the model must have parameters to train, but {type(model).__name__} has none that require a gradient."
        )
    return parameters
