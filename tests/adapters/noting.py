"""An optimizer that tells which lrs it really used."""

from typing import Any

import torch


class NotingSGD(torch.optim.SGD):
    """SGD that notes the lr of every param group within the update, after any closure: no hook tells it."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        self._used: dict[int, list[float]] = {}
        super().__init__(params, lr)

    def _init_group(self, group: dict[str, Any], *args: Any) -> Any:
        position = next(index for index, other in enumerate(self.param_groups) if other is group)
        self._used.setdefault(position, []).append(float(group["lr"]))
        return super()._init_group(group, *args)  # type: ignore[no-untyped-call]

    @property
    def used(self) -> list[list[float]]:
        """The lrs of each group, in the order of the groups, from its first update on."""
        return [self._used[position] for position in sorted(self._used)]
