"""The lr at which an optimizer arrives that makes its own of the lr in its param groups."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

ParamGroup = Mapping[str, Any]

RELATIVE = frozenset({"relative_step", "warmup_init", "scale_parameter"})
"""Keys of the param groups of an Adafactor that may make its own lr."""


@dataclass(frozen=True, slots=True)
class EffectiveLr:
    """How one kind of optimizer arrives at the lr that it uses. It is known by its param groups, and never imported.

    Attributes:
        name: of the optimizer, for people.
        marks: keys that its param groups have, and those of no other kind before it in `KINDS`.
        before: what is to be read before the update, of all groups and of one: numbers, or tensors of one.
        after: what is to be read after the update, of the optimizer and one group: the same.
        formula: the lr, made of all of these numbers, first those of `before`; ``None`` where nothing was updated.
    """

    name: str
    marks: frozenset[str]
    before: Callable[[Sequence[ParamGroup], ParamGroup], list[Any]]
    formula: Callable[[Sequence[float]], float | None]
    after: Callable[[Optimizer, ParamGroup], list[Any]] = lambda _optimizer, _group: []


def effective_lr_of(group: ParamGroup) -> EffectiveLr | None:
    """What makes the lr of this param group, where that is not simply its ``lr``."""
    return next((kind for kind in KINDS if kind.marks <= group.keys()), None)


def ignores_lr(group: ParamGroup) -> bool:
    """Whether the ``lr`` of this param group, ``None`` perhaps, is not used at all."""
    return group.keys() >= RELATIVE and bool(group["relative_step"])


def _counts(optimizer: Optimizer, group: ParamGroup) -> list[Any]:
    """How many updates each parameter has had."""
    states = (optimizer.state.get(param, {}) for param in group["params"])
    return [state["step"] for state in states if "step" in state]


def _lr(_: Sequence[ParamGroup], group: ParamGroup) -> list[Any]:
    return [group["lr"]]


def _capped(numbers: Sequence[float]) -> float | None:
    lr, *counts = numbers
    return min(lr, 1 / math.sqrt(max(counts))) if counts else None


def _relative_or_given(_: Sequence[ParamGroup], group: ParamGroup) -> list[Any]:
    return [0.0, bool(group["warmup_init"])] if group["relative_step"] else [1.0, group["lr"]]


def _relative(numbers: Sequence[float]) -> float | None:
    is_given, lr_or_warms_up, *counts = numbers
    if not counts:
        return None
    count = max(counts)
    return lr_or_warms_up if is_given else min(1e-6 * count if lr_or_warms_up else 1e-2, 1 / math.sqrt(count))


def _largest_lr_and_d(groups: Sequence[ParamGroup], _: ParamGroup) -> list[Any]:
    return [groups[0]["d"], *(group["lr"] for group in groups)]


def _d_times_largest(numbers: Sequence[float]) -> float:
    return numbers[0] * max(numbers[1:])


def _first_lr_and_d(groups: Sequence[ParamGroup], _: ParamGroup) -> list[Any]:
    return [groups[0]["lr"], groups[0]["d"]]


def _own_lr_and_d(groups: Sequence[ParamGroup], group: ParamGroup) -> list[Any]:
    return [group["lr"], groups[0]["d"], group.get("layer_scale", 1.0)]


def _by_first_gradient(numbers: Sequence[float]) -> float | None:
    lr, d, _, *norm = numbers
    return lr * d / norm[0] if norm and norm[0] else None


def _norm_of_first_gradient(_: Optimizer, group: ParamGroup) -> list[Any]:
    return [group["g0_norm"]] if "g0_norm" in group else []


# Read in the sources of torch 2.13, transformers 5.24, prodigyopt 1.1.2 and dadaptation 3.2, and compared in the tests
# with the updates that they make.
KINDS = (
    EffectiveLr("torch's Adafactor", frozenset({"d", "beta2_decay"}), _lr, _capped, _counts),
    EffectiveLr(
        "transformers' Adafactor",
        RELATIVE,
        _relative_or_given,
        _relative,
        _counts,
    ),
    EffectiveLr("Prodigy", frozenset({"d", "d_coef"}), _largest_lr_and_d, _d_times_largest),
    EffectiveLr("DAdaptAdaGrad", frozenset({"d", "sksq_weighted", "skl1"}), _first_lr_and_d, math.prod),
    EffectiveLr("DAdaptAdan", frozenset({"d", "no_prox"}), _first_lr_and_d, math.prod),
    EffectiveLr(
        "DAdaptSGD",
        frozenset({"d", "numerator_weighted", "momentum"}),
        _own_lr_and_d,
        _by_first_gradient,
        _norm_of_first_gradient,
    ),
    EffectiveLr("DAdaptAdam", frozenset({"d", "numerator_weighted", "layer_scale"}), _own_lr_and_d, math.prod),
    EffectiveLr("DAdaptLion", frozenset({"d", "numerator_weighted"}), _largest_lr_and_d, _d_times_largest),
)
