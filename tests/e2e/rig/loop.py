"""A training that keeps the truth by itself: ``python -m rig.loop TRUTH N_STEPS``; started by a `Training`.

A plain loop with the one line of lrtape's README. After each ``optimizer.step()`` has returned, the step and the
learning rates that were set for it, read without any hook, are appended to the file TRUTH: a SIGKILL leaves at most the
last step unnoted. On stdout it notes its run, the end of the loop, and its result. It may pause, so that something can
be done to it at a moment that does not depend on how busy the machine is.
"""

import argparse
import copy
import os
import time
from array import array
from collections.abc import Iterator
from itertools import repeat

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import lrtape
from rig.truth import GROUPS, pack_step


class Pictures(Dataset[torch.Tensor]):
    """Random pictures. Holds the optimizer, if it is given one, and steps it in the process that loads them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        self._optimizer.step()
        return torch.randn(64, generator=torch.Generator().manual_seed(index))


def batches(optimizer: torch.optim.Optimizer, forked: bool) -> Iterator[torch.Tensor]:
    """The same batch for ever, or batches that forked workers load."""
    if not forked:
        yield from repeat(torch.randn(64, 64))
    while True:
        yield from DataLoader(Pictures(optimizer), batch_size=16, num_workers=2, multiprocessing_context="fork")


def note(*words: str) -> None:
    """Say something on stdout, at once."""
    os.write(1, " ".join(words).encode() + b"\n")


def pause(go: str) -> None:
    """Wait until a file is there, and remove it."""
    note("pausing")
    while not os.path.exists(go):  # noqa: PTH110 - a text, not a path
        time.sleep(0.01)
    os.remove(go)  # noqa: PTH107


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("truth")
    parser.add_argument("n_steps", type=int)
    parser.add_argument("--close-timeout-s", type=float, default=300.0)
    parser.add_argument("--folder", default=".lrtape")
    parser.add_argument("--fork-and-copy", action="store_true")
    parser.add_argument("--pauses", default="", help="steps before which it waits until the file TRUTH.go is there")
    arguments = parser.parse_args()
    pauses = {int(step) for step in arguments.pauses.split()}

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 10)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), layers[3])
    optimizer = torch.optim.SGD(
        [{"params": layer.parameters(), "name": name} for name, layer in zip(GROUPS, layers, strict=True)], lr=1.0
    )
    truth = os.open(arguments.truth, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    times_ns = array("q", bytes(8 * arguments.n_steps))
    source = batches(optimizer, arguments.fork_and_copy)

    with lrtape.attach(optimizer, folder=arguments.folder, close_timeout_s=arguments.close_timeout_s) as session:
        note("run", session.run.run_id)
        beside = copy.deepcopy(optimizer) if arguments.fork_and_copy else None
        for step in range(arguments.n_steps):
            if step in pauses:
                pause(f"{arguments.truth}.go")
            begin_ns = time.perf_counter_ns()
            for index, group in enumerate(optimizer.param_groups):
                group["lr"] = 0.01 * (index + 1) / (1 + step / 1000)
            used = [group["lr"] for group in optimizer.param_groups]
            optimizer.zero_grad()
            loss = model(next(source)).square().mean()
            loss.backward()
            optimizer.step()
            os.write(truth, pack_step(step, used))
            times_ns[step] = time.perf_counter_ns() - begin_ns
            if beside is not None:
                beside.step()
        note("stopping")
        session.stop()
        note("stopped")
    note("result", loss.item().hex())
    with open(f"{arguments.truth}.times", "wb") as file:  # noqa: PTH123 - a text, not a path
        times_ns.tofile(file)


if __name__ == "__main__":
    main()
