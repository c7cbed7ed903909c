"""Everything that a training step changes, kept so that it can be put back bit for bit, into the same objects."""

import copy
import random
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lrtape.errors import ConfigError

Restore = Callable[[], Any]


@runtime_checkable
class Stateful(Protocol):
    """What a scheduler, a ``GradScaler`` and many a data loader are."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take over a state."""


class Snapshot:
    """What a training consists of, as it is now; `restore` puts it back, once or several times.

    Of a module: parameters, buffers, gradients, ``requires_grad``, and training or evaluation mode. Of an optimizer:
    state, param groups, and its other attributes. The states of the global random generators of Python, NumPy and
    torch. Tensors and dictionaries stay the objects that they are: whoever holds one keeps it.

    Takes as much memory as all of that, on the same devices.

    Args:
        parts: modules, optimizers, ``torch.Generator``, and anything else with ``state_dict`` and ``load_state_dict``.

    Raises:
        ConfigError: a part has no state, or a parameter has no values yet.
    """

    def __init__(self, parts: Iterable[Any]) -> None:
        self._kept: dict[int, Restore] = {}
        self._objects: list[Any] = []  # alive, or another object could get the id of one of them
        self._restores = [self._keep_part(part) for part in parts]
        self._restores.append(_keep_random_states())

    def restore(self) -> None:
        """Put everything back."""
        with torch.no_grad():
            for restore in self._restores:
                restore()

    def _keep_part(self, part: Any) -> Restore:
        if isinstance(part, nn.Module):
            return self._keep_module(part)
        if isinstance(part, Optimizer):
            return self._keep(part)
        if isinstance(part, torch.Generator):
            state = part.get_state()
            return lambda: part.set_state(state)
        if isinstance(part, Stateful):
            states = copy.deepcopy(part.state_dict())
            return lambda: part.load_state_dict(copy.deepcopy(states))
        raise ConfigError(
            f"`others` must be objects with state_dict() and load_state_dict(), but one is {type(part).__name__} "
            "instead: lr_range(..., others=[scheduler, scaler])."
        )

    def _keep_module(self, model: nn.Module) -> Restore:
        restores: list[Restore] = []
        for module in model.modules():
            restores += [self._keep(module._parameters), self._keep(module._buffers)]
            restores.append(_setter(module, "training", module.training))
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                restores.append(_extra_state(module))
        return lambda: [restore() for restore in restores]

    def _keep(self, value: Any) -> Restore:
        """How to get `value` back: the same object with the same content, whatever is done to it."""
        if id(value) not in self._kept:
            self._objects.append(value)
            self._kept[id(value)] = self._how_to_restore(value)
        return self._kept[id(value)]

    def _how_to_restore(self, value: Any) -> Restore:
        if isinstance(value, Tensor):
            return self._keep_tensor(value)
        if isinstance(value, Optimizer):
            return self._keep_dict(vars(value))
        if type(value) in {dict, OrderedDict, defaultdict}:
            return self._keep_dict(value)
        if type(value) is list:
            items = [self._keep(item) for item in value]

            def restore() -> Any:
                value[:] = [item() for item in items]
                return value

            return restore
        return lambda: value  # numbers and texts; functions and other objects by reference

    def _keep_dict(self, value: dict[Any, Any]) -> Restore:
        items = {key: self._keep(item) for key, item in value.items()}
        keys = [self._keep(key) for key in value if isinstance(key, Tensor)]  # an optimizer's state is by parameter

        def restore() -> Any:
            for key in keys:
                key()
            restored = {key: item() for key, item in items.items()}
            value.clear()
            value.update(restored)
            return value

        return restore

    def _keep_tensor(self, tensor: Tensor) -> Restore:
        if is_lazy(tensor):
            raise ConfigError(
                "the model must have all of its parameters, but a lazy layer has none before the first batch. Call the "
                "model once on a batch before."
            )
        content = tensor.detach().clone()
        grad = self._keep(tensor.grad) if tensor.is_leaf else None
        requires_grad = tensor.requires_grad

        def restore() -> Tensor:
            tensor.detach().copy_(content)
            if grad is not None:
                tensor.requires_grad_(requires_grad)
                tensor.grad = grad()
            return tensor

        return restore


def _setter(owner: Any, name: str, value: Any) -> Restore:
    return lambda: setattr(owner, name, value)


def _extra_state(module: nn.Module) -> Restore:
    state = copy.deepcopy(module.get_extra_state())
    return lambda: module.set_extra_state(copy.deepcopy(state))


def _keep_random_states() -> Restore:
    pythons, torchs = random.getstate(), torch.get_rng_state()
    cudas = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy = sys.modules.get("numpy")
    numpys = None if numpy is None else numpy.random.get_state()

    def restore() -> None:
        random.setstate(pythons)
        torch.set_rng_state(torchs)
        if cudas:
            torch.cuda.set_rng_state_all(cudas)
        if numpy is not None:
            numpy.random.set_state(numpys)

    return restore
