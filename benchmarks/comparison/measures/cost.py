"""What recording costs: trainings with and without it, in alternation, in one process."""

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

from loops.notes import Step
from measures.results import Block, Cost, Pair
from measures.rows import judge
from measures.trainee import Trainee, Training

WARM_UP = 50
"""Steps at the beginning of each training that do not count: a run is opened there."""
TRAIN_S = 300.0
LATER_S = 3.0
"""How long rows that are missing when a training has come to its end may still arrive."""
POLL_S = 0.02


def cost_of(trainee: Trainee, n_steps: int, n_pairs: int) -> Cost:
    """Measure it.

    Raises:
        RuntimeError: a training has failed.
    """
    for recorded in (False, True):  # whatever is imported or compiled at the first step
        _end(trainee, trainee.begin(WARM_UP, recorded))
    pairs, landings, arrivals = [], [], []
    for index in range(n_pairs):
        blocks = {}
        for recorded in (False, True) if index % 2 else (True, False):
            training = trainee.begin(n_steps, recorded)
            if not training.wait_for_update(n_steps, TRAIN_S):
                _end(trainee, training)
                raise RuntimeError(f"{training.n_updates} of {n_steps} steps were made")
            steps = training.steps()
            blocks[recorded] = block_of(steps)
            arrives = recorded and bool(trainee.entry.keys)
            if arrives:
                landings.append(_landing_s(trainee, training, steps))
            _end(trainee, training)
            if arrives:
                arrivals.append(judge(trainee.rows.values(trainee.rows.newest_run()), steps))
        pairs.append(Pair(off=blocks[False], on=blocks[True]))
    return Cost(n_steps, pairs, landings, sum(arrivals[1:], start=arrivals[0]) if arrivals else None)


def block_of(steps: Sequence[Step]) -> Block:
    """What a step takes in a training, after `WARM_UP`."""
    counted = steps[WARM_UP - 1 :]
    first, last, n_steps = counted[0], counted[-1], len(counted) - 1
    outside_ns = [
        after.updated_cpu_ns - before.updated_cpu_ns - after.computing_cpu_ns for before, after in pairwise(counted)
    ]
    return Block(
        outside_us=statistics.median(outside_ns) / 1000,
        cpu_us=(last.updated_cpu_ns - first.updated_cpu_ns) / n_steps / 1000,
        wall_us=(last.updated_ns - first.updated_ns) / n_steps / 1000,
    )


def _end(trainee: Trainee, training: Training) -> None:
    if error := training.wait(TRAIN_S):
        raise RuntimeError(f"{error}\n{trainee.complaints()}")


def _landing_s(trainee: Trainee, training: Training, steps: Sequence[Step]) -> float | None:
    """Seconds from the last update until the store has a row for every step and every group that the loop records."""
    run_id = trainee.rows.newest_run()
    expected = len(steps) * len(trainee.entry.keys)
    deadline: float | None = None
    while trainee.rows.count(run_id) < expected:
        if deadline is None and training.is_over():
            deadline = time.monotonic() + LATER_S
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(POLL_S)
    return (time.perf_counter_ns() - steps[-1].updated_ns) / 1e9
