"""Which param groups a training has ever moved."""

from torch import Tensor
from torch.optim import Optimizer

from lrtape.groups import is_frozen


class Updates:
    """Watches for groups that have an lr and never move: no gradient reaches them.

    Copies no weights. A parameter has moved when its version counter has, when it has a gradient, or when the optimizer
    has a state of it: fused optimizers of torch (2.13) do not count versions, and plain SGD has no state.

    Args:
        optimizer: of the training, which is about to begin.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._versions = {
            parameter: parameter._version for group in optimizer.param_groups for parameter in group["params"]
        }
        self._moved: set[int] = set()

    def missing(self) -> list[int]:
        """The indices of groups that were never seen to move, but for those that are frozen, which are not to.

        Looks at every group that is still missing: some 100 ns a parameter. Called after a step, before the gradients
        are set to zero.
        """
        missing = []
        for index, group in enumerate(self._optimizer.param_groups):
            if index not in self._moved and any(map(self._has_moved, group["params"])):
                self._moved.add(index)
            if index not in self._moved and not is_frozen(group):
                missing.append(index)
        return missing

    def _has_moved(self, parameter: Tensor) -> bool:
        return (
            parameter.grad is not None
            or bool(self._optimizer.state.get(parameter))
            or parameter._version != self._versions.get(parameter)
        )
