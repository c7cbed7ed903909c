"""Data to train on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from lrtape.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Data:
    """What a ``data`` config must build.

    Attributes:
        train: a sized dataset of (input, target) pairs.
        val: the same for validation, or ``None``.
        loss: from a batch of outputs and a batch of targets to their mean loss, a scalar.
        classification: whether targets are class indices and outputs scores, so that ``val/acc`` makes sense.
    """

    train: Dataset[Any]
    val: Dataset[Any] | None
    loss: Callable[[Tensor, Tensor], Tensor]
    classification: bool = False


def digits(val_fraction: float = 0.2, seed: int = 0, classes: Sequence[int] | None = None) -> Data:
    """Handwritten digits: 1,797 pictures of shape (1, 8, 8) with values in [0, 1], and classes 0 to 9.

    The data of ``sklearn.datasets.load_digits`` (E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits,
    UCI Machine Learning Repository, 1998), which comes with scikit-learn. They are loaded when the first picture is
    asked for: importing scikit-learn takes a second.

    Args:
        val_fraction: share of the pictures that validates; every class has the same share.
        seed: of the split.
        classes: only these digits, each of which gets its index here as its class; ``None`` for all.

    Raises:
        ConfigError: `classes` are not two or more different digits.
        ValueError: the share leaves no picture of some class on one side.
    """
    chosen = tuple(range(len(_PICTURES_OF))) if classes is None else tuple(classes)
    if len(chosen) < 2 or len({*chosen}) < len(chosen) or not {*chosen} <= {*range(len(_PICTURES_OF))}:
        raise ConfigError(
            f"`data.classes` must be two or more different digits from 0 to 9, but is {list(chosen)} instead. Null is "
            "for all."
        )
    n_digits = sum(_PICTURES_OF[digit] for digit in chosen)
    n_val = math.ceil(n_digits * val_fraction)
    if not len(chosen) <= n_val <= n_digits - len(chosen) or not 0 < val_fraction < 1:
        _load_digits(val_fraction, seed, chosen)  # which says what is wrong
    return Data(
        train=_Digits(val_fraction, seed, chosen, "train", n_digits - n_val),
        val=_Digits(val_fraction, seed, chosen, "val", n_val),
        loss=functional.cross_entropy,
        classification=True,
    )


_PICTURES_OF = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
"""How many there are of each digit."""


@dataclass(frozen=True, slots=True)
class _Digits(Dataset[tuple[Tensor, ...]]):
    """One side of a split, whose length is known before it is loaded."""

    val_fraction: float
    seed: int
    classes: tuple[int, ...]
    side: str
    n_pictures: int

    def __len__(self) -> int:
        return self.n_pictures

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them at once, as a `TensorDataset` has them."""
        return _load_digits(self.val_fraction, self.seed, self.classes)[self.side].tensors

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        sample: tuple[Tensor, ...] = _load_digits(self.val_fraction, self.seed, self.classes)[self.side][index]
        return sample


@cache
def _load_digits(val_fraction: float, seed: int, classes: tuple[int, ...]) -> dict[str, TensorDataset]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pictures, digits = load_digits(return_X_y=True)
    chosen = np.isin(digits, classes)
    pictures, targets = pictures[chosen], np.array([classes.index(digit) for digit in digits[chosen]])
    split = train_test_split(pictures, targets, test_size=val_fraction, random_state=seed, stratify=targets)
    train_x, val_x, train_y, val_y = (torch.from_numpy(part) for part in split)
    return {
        "train": TensorDataset(train_x.float().reshape(-1, 1, 8, 8) / 16, train_y.long()),
        "val": TensorDataset(val_x.float().reshape(-1, 1, 8, 8) / 16, val_y.long()),
    }


def one_sample(in_features: int = 10, out_features: int = 2, seed: int = 0) -> Data:
    """One random sample for regression, without validation: an epoch is one step.

    Args:
        in_features: shape of the input, (in_features,).
        out_features: shape of the target, (out_features,).
        seed: of the sample.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(1, in_features, generator=generator)
    targets = torch.randn(1, out_features, generator=generator)
    return Data(train=TensorDataset(inputs, targets), val=None, loss=functional.mse_loss)
