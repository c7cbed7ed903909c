"""Starting from the weights that another training has ended with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrtape.errors import ConfigError

_MAX_LISTED = 5


def init_model(model: nn.Module, path: Path, fresh: Sequence[str] | None) -> None:
    """Give a model the weights of a checkpoint, all but those of its fresh layers, which stay as they are.

    The weights and buffers alone: no optimizer, scheduler, step or random generator of that training.

    Args:
        model: new.
        path: of a checkpoint of lrtape's, or of any file with a ``state_dict``.
        fresh: paths of the layers that are not taken over; ``None`` for the last one, which knows the old classes.

    Raises:
        ConfigError: there is no such file or layer, or the rest of the model is not in it as it is here.
    """
    given = _load(path)
    own = model.state_dict()
    layers = _layers(model)
    fresh = layers[-1:] if fresh is None else fresh
    for layer in fresh:
        if not any(_is_within(name, [layer]) for name in own):
            raise ConfigError(
                f"`trainer.init_fresh` must name layers of the model, {layers} or within one, but names {layer!r} "
                "instead. Null is the last one."
            )
    wanted = {name: values for name, values in own.items() if not _is_within(name, fresh)}
    given = {name: values for name, values in given.items() if not _is_within(name, fresh)}
    problems = [
        *(f"{name} is missing there" for name in wanted.keys() - given.keys()),
        *(f"{name} is not in the model" for name in given.keys() - wanted.keys()),
        *(
            f"{name} is {tuple(given[name].shape)} there, and {tuple(wanted[name].shape)} in the model"
            for name in wanted.keys() & given.keys()
            if given[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        listed = "; ".join(sorted(problems)[:_MAX_LISTED]) + ("; ..." if len(problems) > _MAX_LISTED else "")
        raise ConfigError(
            f"`trainer.init_from` must fit the model, all but its fresh layers {list(fresh)}, but {path} does not: "
            f"{listed}. Give `model.*` the values of that training, or name what is new in `trainer.init_fresh`."
        )
    if not wanted:
        raise ConfigError(
            f"`trainer.init_fresh` must leave something to take from {path}, but names all of the model: "
            f"{list(fresh)}. Leave out `trainer.init_from`."
        )
    model.load_state_dict({**own, **given})


def _load(path: Path) -> dict[str, Tensor]:
    expected = f"`trainer.init_from` must be the path of a checkpoint, or of another file with weights, but {path}"
    if not path.is_file():
        raise ConfigError(
            f"{expected} {'is a folder' if path.is_dir() else 'does not exist'}. A training leaves last.pt and best.pt "
            "in the folder `checkpoints` of its output."
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[
            0
        ]  # torch's text goes on with advice that leads astray
        raise ConfigError(f"{expected} cannot be read as one: {why}") from error
    if isinstance(content, Mapping) and "format" in content:
        content = content.get("model")
    if not isinstance(content, Mapping) or not all(isinstance(values, Tensor) for values in content.values()):
        raise ConfigError(f"{expected} has no weights in it, which are tensors by name. Save model.state_dict().")
    return dict(content)


def _layers(model: nn.Module) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters()))


def _is_within(name: str, layers: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{layer}.") for layer in layers)
