"""What a training says about its data: how many samples of which shape, and a digest of what is in them."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, default_collate

from lrtape.app.data import Data
from lrtape.app.randomness import random_states, restore_random_states, seed_everything
from lrtape.lines import warn
from lrtape.tracking.datasets import TRAIN, VAL, LoggedDataset

MAX_BYTES = 1 << 26
"""Of tensors that are hashed, in a tenth of a second; of larger ones some rows stand for all."""
N_SAMPLES = 32
"""Of data that are no tensors in memory, and may be files: so many stand for all."""
_DIGEST_BYTES = 8
_SEED = 0


def describe_data(data: Data, source: str) -> list[LoggedDataset]:
    """Describe both sides of the data; one that cannot be described is warned about, and left out.

    Leaves the global random generators as they were. Takes milliseconds for what is in memory, else as long as loading
    `N_SAMPLES` samples of each side.

    Args:
        data: as the training has them.
        source: the dotted path of what has made them.
    """
    described = []
    for context, dataset in ((TRAIN, data.train), (VAL, data.val)):
        if dataset is not None:
            try:
                described.append(_describe(dataset, context, source))
            except Exception as error:  # noqa: BLE001 - whatever a user's data raise, it may fail no training here
                warn(
                    f"lrtape: the run will not say which {context} data it had, as they cannot be read for a digest: "
                    f"{error!r}"
                )
    return described


def _describe(dataset: Any, context: str, source: str) -> LoggedDataset:
    digest, digest_of, (inputs, targets) = digest_of_content(dataset)
    return LoggedDataset(
        name=f"{source.rpartition('.')[2]}-{context}",
        digest=digest,
        context=context,
        source=source,
        n_samples=len(dataset),
        input_shape=list(inputs.shape),
        target_shape=list(targets.shape),
        input_type=_type_name(inputs),
        target_type=_type_name(targets),
        digest_of=digest_of,
    )


def digest_of_content(dataset: Any) -> tuple[str, str, Sequence[Tensor]]:
    """A digest of the samples of a sized dataset, equal in every process and on every machine.

    A ``TensorDataset``, a subset of one, and whatever has its tensors in an attribute ``tensors`` like that, is hashed
    whole up to `MAX_BYTES`, else every n-th sample of it. Of any other, `N_SAMPLES` samples are, evenly spaced, with
    the first and the last one; the random numbers that it draws for them are the same every time.

    Returns:
        16 hex digits; which samples they are of, for people; and the first sample.
    """
    n_samples = len(dataset)
    hashed = hashlib.blake2b(f"{n_samples} samples".encode(), digest_size=_DIGEST_BYTES)
    found = _tensors(dataset)
    if found is not None:
        tensors, rows = found
        n_bytes = n_samples * sum(tensor[:1].nbytes for tensor in tensors)
        stride = max(1, math.ceil(n_bytes / MAX_BYTES))
        for tensor in tensors:
            _add(hashed, tensor[::stride] if rows is None else tensor[rows[::stride]])
        first_row = 0 if rows is None else int(rows[0])
        which = "every sample" if stride == 1 else f"one sample of {stride}, evenly spaced"
        return hashed.hexdigest(), which, [tensor[first_row] for tensor in tensors]
    n_read = min(n_samples, N_SAMPLES)
    indices = [number * (n_samples - 1) // max(1, n_read - 1) for number in range(n_read)]
    before = random_states()
    try:
        seed_everything(_SEED)
        first: Sequence[Tensor] = []
        for index in indices:
            sample = [part[0] for part in default_collate([dataset[index]])]
            first = first or sample
            for part in sample:
                _add(hashed, part)
    finally:
        restore_random_states(before)
    which = "every sample" if n_samples <= N_SAMPLES else f"{N_SAMPLES} samples, evenly spaced"
    return hashed.hexdigest(), which, first


def _tensors(dataset: Any) -> tuple[Sequence[Tensor], Tensor | None] | None:
    """The tensors that hold all samples, and their rows, ``None`` for all; ``None`` where there are no such tensors."""
    if isinstance(dataset, Subset):
        whole = _tensors(dataset.dataset)
        if whole is None:
            return None
        tensors, rows = whole
        chosen = torch.as_tensor(dataset.indices)
        return tensors, chosen if rows is None else rows[chosen]
    own = getattr(dataset, "tensors", None)
    if not isinstance(own, list | tuple) or len(own) != len(("input", "target")):
        return None
    is_whole = all(isinstance(tensor, Tensor) and len(tensor) == len(dataset) for tensor in own)
    return (own, None) if is_whole else None


def _add(hashed: "hashlib.blake2b", tensor: Tensor) -> None:
    hashed.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
    numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    hashed.update(memoryview(numbers.data))


def _type_name(tensor: Tensor) -> str:
    """As numpy calls it; its types are not all of torch's: bfloat16 is float32 there."""
    name = str(tensor.dtype).removeprefix("torch.")
    return name if name in np.sctypeDict else "float32"
