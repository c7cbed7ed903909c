"""From config to objects. Whatever cannot be built is refused in one sentence that names the config key."""

import inspect
import re
import warnings
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.utils.data import default_collate

from lrtape.app.arguments import check_arguments
from lrtape.app.data import Data
from lrtape.errors import ConfigError, LRTapeError


def build_data(cfg: DictConfig) -> Data:
    """Build the ``data`` group.

    Raises:
        ConfigError: it cannot be built, is not a `Data`, or is empty.
    """
    data = build("data", cfg.data)
    if not isinstance(data, Data):
        raise ConfigError(
            f"`data._target_` must build a lrtape.app.data.Data, but {cfg.data._target_} builds "
            f"{type(data).__name__} instead. Return Data(train=..., val=..., loss=...)."
        )
    if not all(hasattr(part, "__len__") for part in (data.train, data.val) if part is not None):
        raise ConfigError(
            f"the data must have a length, from which the horizons of schedules follow, but {cfg.data._target_} gives "
            "some that have none. Use datasets with __len__ and __getitem__."
        )
    if len(data.train) == 0:  # type: ignore[arg-type]  # torch's Dataset does not say that it is sized
        raise ConfigError(f"the training data must not be empty, but {cfg.data._target_} gives 0 samples.")
    if data.val is not None and len(data.val) == 0:  # type: ignore[arg-type]
        raise ConfigError(f"the validation data must not be empty, but {cfg.data._target_} gives 0 samples. Use None.")
    return data


def build_model(cfg: DictConfig, data: Data) -> nn.Module:
    """Build the ``model`` group, and try it on a batch.

    Raises:
        ConfigError: it cannot be built, is not a module, does not fit the data, or the data are not pairs of tensors.
    """
    model = build("model", cfg.model)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"`model._target_` must build a torch.nn.Module, but {cfg.model._target_} builds "
            f"{type(model).__name__} instead."
        )
    inputs, targets = _first_batch(cfg, data)
    was_training = model.training
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # What torch only warns about is a loss between shapes that do not belong together.
            warnings.filterwarnings("error", message="Using a target size")
            data.loss(model.eval()(inputs), targets)
    except Exception as error:
        raise ConfigError(
            f"the model {cfg.model._target_} must take a batch of {cfg.data._target_}, but fails on one of input "
            f"{tuple(inputs.shape)} and target {tuple(targets.shape)}: {error}. Change `model.*` or `data`."
        ) from error
    model.train(was_training)
    return model


def _first_batch(cfg: DictConfig, data: Data) -> tuple[Tensor, Tensor]:
    """The first samples, in order, so that the shuffling of the training is not touched."""
    n_samples = min(cfg.trainer.batch_size, len(data.train))  # type: ignore[arg-type]  # it is sized
    try:
        inputs, targets = default_collate([data.train[index] for index in range(n_samples)])
        return inputs.detach(), targets.detach()
    except Exception as error:
        raise ConfigError(
            f"`data` must give (input, target) pairs of tensors, but {cfg.data._target_} fails on its first "
            f"{n_samples}: {type(error).__name__}: {error}."
        ) from error


def build_on_meta(cfg: DictConfig, data: Data) -> tuple[nn.Module, Optimizer]:
    """Build the model and its optimizer, without memory for the model's values where it can be made so.

    Raises:
        ConfigError: one of them cannot be built.
    """
    find_target(cfg.model.get("_target_"))  # what a user's module makes when it is imported is no part of the model
    try:
        with torch.device("meta"):
            model: nn.Module = build("model", cfg.model)
            return model, build_optimizer(cfg, model)
    except Exception:  # noqa: BLE001 - whatever a model or a fused optimizer cannot do there
        model = build_model(cfg, data)
        return model, build_optimizer(cfg, model)


def build_optimizer(cfg: DictConfig, model: nn.Module) -> Optimizer:
    """Build the ``param_groups`` of the model, and the ``optimizer`` on them.

    Raises:
        ConfigError: one of them cannot be built.
    """
    _check_arguments("param_groups", cfg.param_groups)
    groups = list(build("param_groups", cfg.param_groups, model, lr=cfg.optimizer.lr))
    names = [group.get("name") for group in groups if isinstance(group, dict)]
    sets_decay = any(isinstance(group, dict) and "weight_decay" in group for group in groups)
    _check_arguments("optimizer", cfg.optimizer)
    target = cfg.optimizer.get("_target_")
    if len(names) > 1 and find_target(target) is LBFGS:
        raise ConfigError(
            f"`param_groups` must make one group for {target}, which has one lr for all, but makes {names} instead. "
            "Use param_groups=single."
        )
    optimizer = build("optimizer", cfg.optimizer, groups)
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"`optimizer._target_` must build a torch.optim.Optimizer, but {target} builds {type(optimizer).__name__} "
            "instead."
        )
    if sets_decay and "weight_decay" not in optimizer.defaults:
        raise ConfigError(
            f"`optimizer` must have a weight decay, which {cfg.param_groups._target_} sets for some groups, but "
            f"{target} has none. Use another optimizer, as adamw, or other param groups."
        )
    return optimizer


def _check_arguments(group: str, node: DictConfig) -> None:
    target = find_target(node.get("_target_"))
    if target is not None:
        given: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
        check_arguments(group, target, given)


def find_target(name: Any) -> Any:
    """What a ``_target_`` names; ``None`` where it cannot be imported, which `build` refuses."""
    try:
        return get_object(name)
    except Exception:  # noqa: BLE001 - whatever happens at the import of a user's module
        return None


def build(group: str, node: DictConfig, *args: Any, **kwargs: Any) -> Any:
    """Instantiate the config of a group.

    Raises:
        ConfigError: it cannot be built; the text names the argument that is wrong, or the cause.
    """
    target = node.get("_target_")
    if target is None:
        raise ConfigError(
            f"`{group}` must have a `_target_`, but has only {list(node)}. Choose one of {group}'s configs."
        )
    try:
        with warnings.catch_warnings():
            # Hydra 1.4 asks for a list of targets, which here are the user's own: its blocklist is what remains.
            warnings.filterwarnings("ignore", message=r"hydra.utils.instantiate\(\) resolved _target_")
            return instantiate(node, *args, _convert_="all", **kwargs)
    except Exception as error:
        # Hydra 1.3 wraps what a target raises, 1.4 does not.
        cause = (error.__cause__ if isinstance(error, InstantiationException) else None) or error
        if isinstance(cause, LRTapeError):
            raise cause from None
        raise ConfigError(_why(group, target, cause)) from error


def _why(group: str, target: str, cause: BaseException) -> str:
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if unexpected:
        valid = ", ".join(_arguments(target)) or "none"
        return f"`{group}.{unexpected[1]}` is not an argument of {target}. Valid: {valid}."
    if isinstance(cause, ImportError):
        return f"`{group}._target_` must be something to import, but {target!r} is not: {cause}"
    return f"`{group}` cannot be built from {target}: {type(cause).__name__}: {cause}"


def _arguments(target: str) -> list[str]:
    # What lrtape passes itself is not for the config.
    passed = {"model", "optimizer", "params"}
    return [name for name in inspect.signature(get_object(target)).parameters if name not in passed]
