"""What can be recorded beside the lr: values of the param groups, of the gradients, and of the update itself."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrtape.arrivals import Devices
from lrtape.effective_lr import effective_lr_of
from lrtape.errors import ConfigError
from lrtape.keys import legal_key
from lrtape.tape import Group

ParamGroup = Mapping[str, Any]
Number = SupportsFloat

MOMENTUM = "momentum"
WEIGHT_DECAY = "weight_decay"
GRAD_NORM = "grad_norm"
UPDATE_RATIO = "update_ratio"
EFFECTIVE_LR = "effective_lr"
QUANTITIES = (MOMENTUM, WEIGHT_DECAY, GRAD_NORM, UPDATE_RATIO, EFFECTIVE_LR)
EVERY_N_STEPS = 100

IN_PARTS = "its parameters lie in parts on several processes, and lrtape lets no process wait for another one"
SPARSE_ON_DEVICE = "its gradients are sparse and on a device, which would have to be waited for"
SCALED_UNKNOWN = "it unscales its gradients itself, and nothing tells by how much"


@dataclass(frozen=True, slots=True)
class Beside:
    """What is recorded beside the lr, and how often. See ``docs/beside_the_lr.md``.

    Attributes:
        quantities: of `QUANTITIES`; empty for nothing.
        every_n_steps: at each step whose index is a multiple of this, the first step included.
    """

    quantities: tuple[str, ...] = ()
    every_n_steps: int = EVERY_N_STEPS

    @classmethod
    def of(cls, also: Iterable[str], every_n_steps: int, where: str = "") -> "Beside":
        """What a user asks for.

        Args:
            also: names of quantities.
            every_n_steps: how often, in steps.
            where: before the names of the two in a message, as ``tracking.``.

        Raises:
            ConfigError: a name is unknown, or the interval is not a whole number >= 1.
        """
        names = [also] if isinstance(also, str) else list(also)
        unknown = [name for name in names if name not in QUANTITIES]
        if unknown or isinstance(also, str):
            raise ConfigError(
                f"`{where}also` must be a list of what is there, {', '.join(QUANTITIES)}, but "
                f"{f'names {unknown[0]!r}' if unknown else f'is the text {also!r}'} instead."
            )
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1:
            raise ConfigError(
                f"`{where}also_every_n_steps` must be a whole number >= 1, but is {every_n_steps!r} instead."
            )
        return cls(tuple(name for name in QUANTITIES if name in names), every_n_steps)

    def without_values(self, groups: Sequence[ParamGroup]) -> list[str]:
        """Those that no param group can have."""
        return [name for name in self.quantities if not any(_can_have(name, group) for group in groups)]


def _can_have(name: str, group: ParamGroup) -> bool:
    if name == EFFECTIVE_LR:
        return effective_lr_of(group) is not None
    if name == MOMENTUM:
        return "momentum" in group or "betas" in group
    return name != WEIGHT_DECAY or "weight_decay" in group


@dataclass(slots=True)
class _Value:
    """One value: a formula of numbers of which some may be on a device."""

    name: str
    group: Group
    numbers: list[Number]
    formula: Callable[[Sequence[float]], float | None]


class StepValues:
    """The values of one step of an optimizer: made next to the update, before it; `end` is called after it.

    Nothing here waits for a device. Holds a copy of the weights in between, where the update ratio is asked for.

    Args:
        quantities: see `Beside`.
        optimizer: that is about to update.
        groups: those that move, with their param groups.
        args: of its ``step()``.
        kwargs: of its ``step()``.
        devices: what is not to be waited for.

    Attributes:
        left_out: what cannot be read here, and why.
        args: see there; until the update is over.
        kwargs: see there; until the update is over.
    """

    def __init__(
        self,
        quantities: Sequence[str],
        optimizer: Optimizer,
        groups: Sequence[tuple[Group, ParamGroup]],
        args: Sequence[object],
        kwargs: Mapping[str, object],
        devices: Devices,
    ) -> None:
        self.left_out: dict[str, str] = {}
        self.args, self.kwargs = args, kwargs
        self._devices = devices
        self._values: list[_Value] = []
        self._afterwards: list[Callable[[], None]] = []
        # The gradients of a closure are there after the update; others may have been changed by then.
        has_closure = any(callable(arg) for arg in (*args, *kwargs.values()) if arg is not optimizer)
        for group, param_group in groups:
            if MOMENTUM in quantities:
                self._read_momentum(group, param_group)
            if WEIGHT_DECAY in quantities and "weight_decay" in param_group:
                self._read(WEIGHT_DECAY, group, param_group["weight_decay"])
            if GRAD_NORM in quantities and "grad_scaler" in kwargs:
                self.left_out[GRAD_NORM] = SCALED_UNKNOWN
            elif GRAD_NORM in quantities:
                scale = None if has_closure else _grad_scale(optimizer)
                self._measure_grads(group, param_group, scale, has_closure)
            if UPDATE_RATIO in quantities:
                self._measure_update(group, param_group)
            if EFFECTIVE_LR in quantities:
                self._read_effective_lr(optimizer, group, param_group)

    def end(self) -> list[Number]:
        """The optimizer has updated; returns the numbers that `values` needs, tensors among them."""
        for measure in self._afterwards:
            measure()
        self._afterwards.clear()
        self.args, self.kwargs = (), {}
        return [number for value in self._values for number in value.numbers]

    def values(self, numbers: Sequence[float]) -> list[tuple[str, Group, float]]:
        """Names, groups and values, made of the numbers that `end` has returned, when all are here."""
        rows = []
        begin = 0
        for value in self._values:
            end = begin + len(value.numbers)
            number = value.formula(numbers[begin:end])
            begin = end
            if number is not None:
                rows.append((value.name, value.group, number))
        return rows

    def _read(self, name: str, group: Group, number: object) -> None:
        if isinstance(number, Tensor):
            self._values.append(_Value(name, group, [number.detach().clone()], _only))
        elif isinstance(number, SupportsFloat):
            self._values.append(_Value(name, group, [number], _only))

    def _read_momentum(self, group: Group, param_group: ParamGroup) -> None:
        self._read(MOMENTUM, group, param_group.get("momentum"))
        for index, beta in enumerate(param_group.get("betas") or (), 1):
            self._read(f"beta{index}", group, beta)

    def _measure_grads(self, group: Group, param_group: ParamGroup, scale: Any, afterwards: bool) -> None:
        value = _Value(GRAD_NORM, group, [1.0 if scale is None else scale], _unscaled)
        self._values.append(value)

        def measure() -> None:
            params = [param for param in param_group["params"] if param.grad is not None]
            grads = [] if _is_in_parts(params) else [_dense(param.grad, self._devices) for param in params]
            whole = [grad for grad in grads if grad is not None]
            if len(whole) == len(params):
                value.numbers += _norms(whole)
            else:
                self.left_out[GRAD_NORM] = SPARSE_ON_DEVICE if grads else IN_PARTS

        if afterwards:
            self._afterwards.append(measure)
        else:
            measure()

    def _measure_update(self, group: Group, param_group: ParamGroup) -> None:
        params = [param for param in param_group["params"] if param.requires_grad]
        if _is_in_parts(params):
            self.left_out[UPDATE_RATIO] = IN_PARTS
            return
        weights = [_local(param) for param in params]
        before = [weight.clone() for weight in weights]
        sizes = _norms(before)
        value = _Value(UPDATE_RATIO, group, [], _ratio)
        self._values.append(value)

        def measure() -> None:
            for copy, weight in zip(before, weights, strict=True):
                copy.sub_(weight)
            value.numbers = [*sizes, *_norms(before)]

        self._afterwards.append(measure)

    def _read_effective_lr(self, optimizer: Optimizer, group: Group, param_group: ParamGroup) -> None:
        kind = effective_lr_of(param_group)
        if kind is None:
            return
        numbers = [
            number.detach().clone() if isinstance(number, Tensor) else number
            for number in kind.before(optimizer.param_groups, param_group)
        ]
        value = _Value(EFFECTIVE_LR, group, numbers, kind.formula)
        self._values.append(value)
        self._afterwards.append(lambda: value.numbers.extend(kind.after(optimizer, param_group)))


def key_of(name: str, group: Group) -> str:
    """The key of a value: as that of the group's lr, with the name of the value in the place of ``lr``."""
    return legal_key(f"{name}/{group.key.removeprefix('lr/')}")


def _grad_scale(optimizer: Optimizer) -> Any:
    """By what a GradScaler has multiplied the gradients that it lets the optimizer unscale; ``None`` for nothing."""
    return getattr(optimizer, "grad_scale", None) if getattr(optimizer, "_step_supports_amp_scaling", False) else None


def _is_in_parts(params: Iterable[Any]) -> bool:
    """Whether this process has only a part of a parameter: FSDP, tensor parallelism."""
    for param in params:
        if getattr(param, "_fsdp_flattened", False):
            return True
        placements = getattr(param, "placements", ())
        if any(not one.is_replicate() and param.device_mesh.size(dim) > 1 for dim, one in enumerate(placements)):
            return True
    return False


def _local(tensor: Any) -> Tensor:
    """The same numbers in a plain tensor, of what is not in parts; shares its memory."""
    local: Tensor = tensor.detach()
    return local.to_local() if hasattr(local, "to_local") else local


def _dense(grad: Tensor, devices: Devices) -> Tensor | None:
    """The numbers of a gradient that are not 0 because they are not there; ``None`` if that would wait for a device."""
    if _is_in_parts([grad]):
        return None
    grad = _local(grad)
    if grad.layout == torch.sparse_coo:
        # Rows may be there several times, and add up.
        return None if devices.holds(grad) else grad.coalesce().values()
    return grad if grad.layout == torch.strided else grad.values()


def _norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The norm of all tensors on a device together, one for each device; in float32 at least."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        dtype = torch.promote_types(real.dtype, torch.float32)
        by_device.setdefault(real.device, []).append(torch.linalg.vector_norm(real, dtype=dtype))
    return [torch.linalg.vector_norm(torch.stack(norms)) for norms in by_device.values()]


def _only(numbers: Sequence[float]) -> float:
    return numbers[0]


def _unscaled(numbers: Sequence[float]) -> float | None:
    scale, *norms = numbers
    return math.hypot(*norms) / scale if norms else None


def _ratio(numbers: Sequence[float]) -> float | None:
    """Of the norms of the weights, one for each device, and those of the update, in the same order."""
    half = len(numbers) // 2
    weights = math.hypot(*numbers[:half])
    return math.hypot(*numbers[half:]) / weights if weights else None
