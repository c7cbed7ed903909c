"""Schedulers that torch has no class for, torch's with arguments that are easier to give, and horizons that follow
the length of the run.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, ExponentialLR, LambdaLR, MultiplicativeLR, OneCycleLR
from torch.optim.swa_utils import SWALR

from lrtape.arithmetic import Formula
from lrtape.errors import ConfigError
from lrtape.shapes import InverseSqrt, WarmupCosine, WarmupLinear, WarmupStableDecay

Factor = Callable[[int], float]

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def resolve_shares(value: Any, length: int) -> Any:
    """Replace every text like ``30%`` in `value` by that share of `length`, rounded, and at least 1.

    So that a schedule keeps its shape when the run gets longer: ``T_max: 100%``, ``milestones: [50%, 75%]``.

    Args:
        value: a scheduler's argument, or a list or mapping of them; anything else in it is returned as it is.
        length: of the run, in the unit in which the scheduler is stepped.

    Raises:
        ConfigError: a share is 0%.
    """
    if isinstance(value, list):
        return [resolve_shares(item, length) for item in value]
    if isinstance(value, dict):
        return {key: resolve_shares(item, length) for key, item in value.items()}
    if isinstance(value, str) and (share := _SHARE.fullmatch(value.strip())):
        percent = float(share[1])
        if percent == 0:
            raise ConfigError(f"a share of the run must be more than 0%, but is {value!r} instead.")
        return max(1, round(percent / 100 * length))
    return value


def share_of(value: Any, length: int) -> float:
    """The point that `value` is, before it is rounded; a share, or a number of epochs or steps.

    >>> share_of("12.5%", 4), share_of(3, 4)
    (0.5, 3)
    """
    share = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    point: float = float(share[1]) / 100 * length if share else value
    return point if isinstance(point, int | float) else math.nan


class Constant:
    """No schedule, with the interface of one: every group keeps its lr.

    Args:
        optimizer: any torch optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def step(self) -> None:
        """Change nothing."""

    def get_last_lr(self) -> list[float]:
        """The lr of every group."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """There is no state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """There is no state."""


def lambda_lr(
    optimizer: Optimizer,
    lr_lambda: str | float | Factor | Sequence[str | float | Factor],
    last_epoch: int = -1,
    n: int | None = None,
) -> LambdaLR:
    """`torch.optim.lr_scheduler.LambdaLR`, whose functions may be written as arithmetic: lr x `lr_lambda`.

    Args:
        optimizer: any torch optimizer.
        lr_lambda: arithmetic of ``epoch``, which counts the calls of the scheduler's ``step()`` from 0, and of ``n``;
            or a function of it. One for all groups, or one for each.
        last_epoch: torch's own.
        n: length of the run, in calls of ``step()``.

    Raises:
        ConfigError: a text is not arithmetic, or has no finite value for some step.
    """
    return LambdaLR(optimizer, _formulas(lr_lambda, n), last_epoch)


def multiplicative_lr(
    optimizer: Optimizer,
    lr_lambda: str | float | Factor | Sequence[str | float | Factor],
    last_epoch: int = -1,
    n: int | None = None,
) -> MultiplicativeLR:
    """`torch.optim.lr_scheduler.MultiplicativeLR`, whose functions may be written as arithmetic; as `lambda_lr`.

    The lr is multiplied by `lr_lambda` at every call of ``step()``: ``epoch`` is 1 at the first one.
    """
    return MultiplicativeLR(optimizer, _formulas(lr_lambda, n), last_epoch)


def _formulas(lr_lambda: Any, n: int | None) -> Any:
    if isinstance(lr_lambda, list | tuple):
        return [_formulas(item, n) for item in lr_lambda]
    if isinstance(lr_lambda, str | int | float):
        return Formula("lr_lambda", "epoch", str(lr_lambda), n)
    return lr_lambda


def exponential_lr(
    optimizer: Optimizer, gamma: float | None = None, last_epoch: int = -1, n: int | None = None
) -> ExponentialLR:
    """`torch.optim.lr_scheduler.ExponentialLR`, where ``gamma=None`` means down to 1 % of the lr in `n` calls.

    Args:
        optimizer: any torch optimizer.
        gamma: torch's own; ``None`` means ``0.01 ** (1 / n)``.
        last_epoch: torch's own.
        n: length of the run, in calls of ``step()``.

    Raises:
        ConfigError: neither `gamma` nor `n` is given.
    """
    if gamma is None:
        if n is None or n < 1:
            raise ConfigError(
                f"`scheduler.n` must be a whole number >= 1, or a share of the run as 100%, where `scheduler.gamma` is "
                f"null, but is {n!r} instead."
            )
        gamma = 0.01 ** (1 / n)
    return ExponentialLR(optimizer, gamma, last_epoch)


def _own_lrs(optimizer: Optimizer, factor: float = 1.0) -> list[float]:
    # `initial_lr` is there where another scheduler, of SequentialLR say, has changed the lr already.
    return [float(group.get("initial_lr", group["lr"])) * factor for group in optimizer.param_groups]


@wraps(CyclicLR, assigned=(), updated=())  # torch's signature, for errors that name the arguments
def cyclic_lr(
    optimizer: Optimizer,
    base_lr: float | list[float] | None = None,
    max_lr: float | list[float] | None = None,
    scale_fn: str | float | Callable[[float], float] | None = None,
    **arguments: Any,
) -> CyclicLR:
    """`torch.optim.lr_scheduler.CyclicLR` around each group's own lr.

    Args:
        optimizer: any torch optimizer.
        base_lr: the bottom, for all groups or for each; ``None`` means a tenth of `max_lr`.
        max_lr: the top, for all groups or for each; ``None`` means each group's own lr.
        scale_fn: torch's own, or arithmetic of ``x``.
        arguments: torch's own.
    """
    if max_lr is None:
        max_lr = _own_lrs(optimizer)
    if base_lr is None:
        base_lr = [top / 10 for top in max_lr] if isinstance(max_lr, list) else max_lr / 10
    if isinstance(scale_fn, str | int | float):
        scale_fn = Formula("scale_fn", "x", str(scale_fn), None)
    _check_momentum(optimizer, arguments)
    return CyclicLR(optimizer, base_lr, max_lr, scale_fn=scale_fn, **arguments)


@wraps(OneCycleLR, assigned=(), updated=())  # torch's signature, for errors that name the arguments
def one_cycle_lr(optimizer: Optimizer, max_lr: float | list[float] | None = None, **arguments: Any) -> OneCycleLR:
    """`torch.optim.lr_scheduler.OneCycleLR`, where ``max_lr=None`` means each group's own lr.

    Args:
        optimizer: any torch optimizer.
        max_lr: the peak, for all groups or for each.
        arguments: torch's own.

    Raises:
        ConfigError: the optimizer has no momentum to cycle, or the way up is one step.
    """
    if max_lr is None:
        max_lr = _own_lrs(optimizer)
    _check_momentum(optimizer, arguments)
    try:
        return OneCycleLR(optimizer, max_lr, **arguments)
    except ZeroDivisionError:  # in torch 2.13, where the way up ends at its first step
        raise ConfigError(
            "`scheduler.pct_start` must not be exactly one step of the run, but is "
            f"{arguments.get('pct_start', 0.3)} of {arguments.get('total_steps')} instead. Change one of them a little."
        ) from None


def _check_momentum(optimizer: Optimizer, arguments: dict[str, Any]) -> None:
    if arguments.get("cycle_momentum", True) and not {"momentum", "betas"} & optimizer.defaults.keys():
        raise ConfigError(
            f"`scheduler.cycle_momentum` must be false for {type(optimizer).__name__}, which has neither momentum nor "
            "betas, but is true instead."
        )


def swa_lr(
    optimizer: Optimizer,
    swa_lr: float | list[float] | None = None,
    anneal_epochs: int = 10,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    last_epoch: int = -1,
) -> SWALR:
    """`torch.optim.swa_utils.SWALR`, where ``swa_lr=None`` means a tenth of each group's own lr.

    Args:
        optimizer: any torch optimizer.
        swa_lr: where the lr goes, for all groups or for each.
        anneal_epochs: calls of ``step()`` on the way.
        anneal_strategy: torch's own.
        last_epoch: torch's own.
    """
    # torch takes a list too, whatever its signature says.
    target: Any = _own_lrs(optimizer, 0.1) if swa_lr is None else swa_lr
    return SWALR(optimizer, target, anneal_epochs, anneal_strategy, last_epoch)


def warmup_cosine(
    optimizer: Optimizer,
    warmup_iters: int,
    total_iters: int,
    start_factor: float = 0.01,
    end_factor: float = 0.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """The lr x `lrtape.shapes.WarmupCosine`: up in a straight line, then half a cosine down.

    Raises:
        ConfigError: the warm-up is longer than the whole, or a factor is negative or not finite.
    """
    _check_shape(start_factor, end_factor, total_iters, warmup_iters=warmup_iters)
    return LambdaLR(optimizer, WarmupCosine(warmup_iters, total_iters, start_factor, end_factor), last_epoch)


def warmup_linear(
    optimizer: Optimizer,
    warmup_iters: int,
    total_iters: int,
    start_factor: float = 0.01,
    end_factor: float = 0.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """The lr x `lrtape.shapes.WarmupLinear`: up in a straight line, then down in one.

    Raises:
        ConfigError: the warm-up is longer than the whole, or a factor is negative or not finite.
    """
    _check_shape(start_factor, end_factor, total_iters, warmup_iters=warmup_iters)
    return LambdaLR(optimizer, WarmupLinear(warmup_iters, total_iters, start_factor, end_factor), last_epoch)


def wsd(
    optimizer: Optimizer,
    warmup_iters: int,
    decay_iters: int,
    total_iters: int,
    start_factor: float = 0.01,
    end_factor: float = 0.0,
    anneal_strategy: Literal["linear", "cos"] = "linear",
    last_epoch: int = -1,
) -> LambdaLR:
    """The lr x `lrtape.shapes.WarmupStableDecay`: up in a straight line, the lr, then down.

    Raises:
        ConfigError: warm-up and decay are longer than the whole, or a factor is negative or not finite.
    """
    _check_shape(start_factor, end_factor, total_iters, warmup_iters=warmup_iters, decay_iters=decay_iters)
    shape = WarmupStableDecay(warmup_iters, decay_iters, total_iters, start_factor, end_factor, anneal_strategy)
    return LambdaLR(optimizer, shape, last_epoch)


def inverse_sqrt(optimizer: Optimizer, warmup_iters: int, start_factor: float = 0.01, last_epoch: int = -1) -> LambdaLR:
    """The lr x `lrtape.shapes.InverseSqrt`: up in a straight line, then down as one over the square root.

    Raises:
        ConfigError: there is no warm-up, or the factor is negative or not finite.
    """
    _check_shape(start_factor, 0.0)
    if warmup_iters < 1:
        raise ConfigError(f"`scheduler.warmup_iters` must be at least 1, but is {warmup_iters} instead.")
    return LambdaLR(optimizer, InverseSqrt(warmup_iters, start_factor), last_epoch)


def _check_shape(start_factor: float, end_factor: float, total_iters: int | None = None, **phases: int) -> None:
    for name, factor in (("start_factor", start_factor), ("end_factor", end_factor)):
        if not 0 <= factor < math.inf:
            raise ConfigError(f"`scheduler.{name}` must be a number >= 0, but is {factor} instead.")
    # A share is never less than one step: in a run of one, each phase has that one.
    if total_iters is not None and sum(phases.values()) > max(total_iters, len(phases)):
        names = " + ".join(f"`scheduler.{name}`" for name in phases)
        given = " + ".join(map(str, phases.values()))
        raise ConfigError(
            f"{names} must be at most `scheduler.total_iters`, {total_iters}, but is {given} instead. Shorten it, or "
            "give shares of the run: scheduler.warmup_iters=5%"
        )
