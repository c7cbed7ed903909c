"""Splits the parameters of a model into param groups.

Each function takes the model and the optimizer's lr, and returns groups for any torch optimizer: ``name``, ``lr``, and
``params`` as (path, parameter) pairs. Parameters that need no gradient are left out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import Module, Parameter

from lrtape.errors import ConfigError

ParamGroup = dict[str, Any]


def single(model: Module, lr: float) -> list[ParamGroup]:
    """One group of all parameters, named ``all``."""
    return [_group("all", lr, _trainable(model))]


def layerwise(
    model: Module, lr: float, factors: Sequence[float] | Mapping[str, float] | None = None
) -> list[ParamGroup]:
    """One group for each top-level layer that has parameters, named after it; its lr is ``lr * factor``.

    Parameters of the model itself, outside any layer, make a first group named ``root``.

    Args:
        model: the model.
        lr: the optimizer's lr.
        factors: one for each layer, in the order of the model, or by the layer's name, 1 where it says nothing.

    Raises:
        ConfigError: a factor is negative or not finite, for no layer, or missing.
    """
    layers: dict[str, list[tuple[str, Parameter]]] = {}
    for path, parameter in _trainable(model):
        layer, _, rest = path.partition(".")
        layers.setdefault(layer if rest else "root", []).append((path, parameter))

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
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
            raise ConfigError(f"`param_groups.factors.{layer}` must be a number >= 0, but is {factor!r} instead.")
    return [_group(layer, lr * factors.get(layer, 1.0), parameters) for layer, parameters in layers.items()]


def _group(name: str, lr: float, parameters: list[tuple[str, Parameter]]) -> ParamGroup:
    return {"params": parameters, "lr": lr, "name": name}


def _trainable(model: Module) -> list[tuple[str, Parameter]]:
    parameters = [(path, parameter) for path, parameter in model.named_parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError(
            f"the model must have parameters to train, but {type(model).__name__} has none that require a gradient."
        )
    return parameters
