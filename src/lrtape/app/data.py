"""Data to train on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset


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


def digits(val_fraction: float = 0.2, seed: int = 0) -> Data:
    """Handwritten digits: 1,797 pictures of shape (1, 8, 8) with values in [0, 1], and classes 0 to 9.

    The data of ``sklearn.datasets.load_digits`` (E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits,
    UCI Machine Learning Repository, 1998), which comes with scikit-learn. They are loaded when the first picture is
    asked for: importing scikit-learn takes a second.

    Args:
        val_fraction: share of the pictures that validates; every class has the same share.
        seed: of the split.

    Raises:
        ValueError: the share leaves no picture of some class on one side.
    """
    n_val = math.ceil(_N_DIGITS * val_fraction)
    if not _N_CLASSES <= n_val <= _N_DIGITS - _N_CLASSES or not 0 < val_fraction < 1:
        _load_digits(val_fraction, seed)  # which says what is wrong
    return Data(
        train=_Digits(val_fraction, seed, "train", _N_DIGITS - n_val),
        val=_Digits(val_fraction, seed, "val", n_val),
        loss=functional.cross_entropy,
        classification=True,
    )


_N_DIGITS = 1797
_N_CLASSES = 10


@dataclass(frozen=True, slots=True)
class _Digits(Dataset[tuple[Tensor, ...]]):
    """One side of a split, whose length is known before it is loaded."""

    val_fraction: float
    seed: int
    side: str
    n_pictures: int

    def __len__(self) -> int:
        return self.n_pictures

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        sample: tuple[Tensor, ...] = _load_digits(self.val_fraction, self.seed)[self.side][index]
        return sample


@cache
def _load_digits(val_fraction: float, seed: int) -> dict[str, TensorDataset]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pictures, classes = load_digits(return_X_y=True)
    split = train_test_split(pictures, classes, test_size=val_fraction, random_state=seed, stratify=classes)
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
