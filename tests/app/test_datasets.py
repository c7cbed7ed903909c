import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from lrtape.app import datasets
from lrtape.app.data import Data, digits
from lrtape.app.datasets import N_SAMPLES, describe_data, digest_of_content

INPUTS, TARGETS = torch.arange(60.0).reshape(20, 3), torch.arange(20)


class Lazy(Dataset[tuple[Tensor, Tensor]]):
    """Samples that are made when they are asked for, with noise from every global generator: files, augmented."""

    def __init__(self, n_samples: int, changed: int = -1) -> None:
        self.n_samples = n_samples
        self.changed = changed
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read.append(index)
        noise = random.random() + np.random.rand() + torch.rand(2)
        return noise + index + (index == self.changed), torch.tensor(index)


def digest(dataset: object) -> str:
    return digest_of_content(dataset)[0]


def test_a_digest_is_the_same_in_every_process() -> None:
    """The digits have the same digest in another process, and other digits another one."""
    script = "from lrtape.app import data, datasets; print(datasets.digest_of_content(data.digits().train)[0])"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    mine = digest(digits().train)

    assert other.stdout.strip() == mine
    assert len({mine, digest(digits().val), digest(digits(seed=1).train), digest(digits(classes=[1, 2]).train)}) == 4


@pytest.mark.parametrize(
    "other",
    [
        TensorDataset(INPUTS + torch.eye(20, 3), TARGETS),
        TensorDataset(INPUTS.flip(0), TARGETS.flip(0)),
        TensorDataset(INPUTS[:-1], TARGETS[:-1]),
        TensorDataset(INPUTS.double(), TARGETS),
        TensorDataset(INPUTS.reshape(20, 1, 3), TARGETS),
        TensorDataset(INPUTS, TARGETS + 1),
    ],
    ids=["value", "order", "length", "type", "shape", "target"],
)
def test_a_digest_is_of_the_content(other: TensorDataset) -> None:
    """Whatever is different of the samples, their digest is different."""
    assert digest(other) != digest(TensorDataset(INPUTS, TARGETS))


def test_a_digest_does_not_depend_on_how_the_samples_are_kept() -> None:
    """A part of a dataset, or of a part, has the digest of the same samples in tensors of their own."""
    whole = TensorDataset(INPUTS, TARGETS)
    own = TensorDataset(INPUTS[[3, 7]], TARGETS[[3, 7]])

    assert digest(Subset(whole, [3, 7])) == digest(own)
    assert digest(Subset(Subset(whole, [1, 3, 5, 7]), [1, 3])) == digest(own)


def test_of_large_tensors_some_rows_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said which; and a number in one of these rows makes another digest."""
    monkeypatch.setattr(datasets, "MAX_BYTES", 20 * (3 * 4 + 8) // 2)
    _, which, _ = digest_of_content(TensorDataset(INPUTS, TARGETS))
    changed = INPUTS.clone()
    changed[2] += 1

    assert which == "one sample of 2, evenly spaced"
    assert digest(TensorDataset(changed, TARGETS)) != digest(TensorDataset(INPUTS, TARGETS))


def test_what_is_not_in_memory_is_sampled_without_a_trace() -> None:
    """The same few samples are read every time, with the same augmentation, and the training draws as before."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    dataset = Lazy(1000)
    first = digest(dataset)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]

    assert len(dataset.read) == N_SAMPLES == len({*dataset.read})
    assert (dataset.read[0], dataset.read[-1]) == (0, 999)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    draws = random.random(), np.random.rand(), torch.rand(1)
    assert draws
    assert first == digest(Lazy(1000)) != digest(Lazy(1000, changed=999))
    assert first != digest(Lazy(999))


def test_data_that_cannot_be_read_are_left_out() -> None:
    """A warning says so; the other side is described."""
    data = Data(train=Lazy(3), val=Broken(3), loss=torch.nn.functional.mse_loss)
    with pytest.warns(UserWarning, match="will not say which val data it had.*no such file"):
        (train,) = describe_data(data, "my_data.files")

    assert (train.name, train.context, train.source) == ("files-train", "train", "my_data.files")
    assert (train.n_samples, train.input_shape, train.target_shape) == (3, [2], [])
    assert (train.input_type, train.target_type, train.digest_of) == ("float32", "int64", "every sample")


class Broken(Lazy):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        raise FileNotFoundError("no such file")
