"""Schedules that torch has no class for, and horizons that follow the length of the run."""

import re
from functools import wraps
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from lrtape.errors import ConfigError

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


@wraps(OneCycleLR, assigned=(), updated=())  # torch's signature, for errors that name the arguments
def one_cycle_lr(optimizer: Optimizer, max_lr: float | list[float] | None = None, **arguments: Any) -> OneCycleLR:
    """`torch.optim.lr_scheduler.OneCycleLR`, where ``max_lr=None`` means each group's own lr.

    Args:
        optimizer: any torch optimizer.
        max_lr: the peak, for all groups or for each.
        arguments: torch's own.
    """
    if max_lr is None:
        max_lr = [float(group["lr"]) for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr, **arguments)
