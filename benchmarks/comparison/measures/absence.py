"""The server is killed under trainings, and comes back on the same port and store after a while."""

import contextlib
import time
from collections.abc import Sequence
from itertools import pairwise

from loops.catalogue import Entry
from measures.death import SETTLE_S
from measures.results import Absence
from measures.rows import judge
from measures.trainee import Trainee
from rig.place import Place
from rig.store import Server

PERIOD_S = 0.04
"""A step begins every so often; one that comes too late, as soon as it can."""
BEFORE_STEPS = 50
AFTER_S = 4.0
"""How long a training goes on when the server has been away, if nothing has held it up."""
END_S = 400.0
LEFT_S = 60.0
"""How long a shipper, say, may work on after the end."""


def absences_of(place: Place, server: Server, entries: Sequence[Entry], away_s: float) -> dict[str, Absence]:
    """Train with all of these loops at a time, take the server away, wait for the ends, look."""
    n_steps = BEFORE_STEPS + round((away_s + AFTER_S) / PERIOD_S)
    with contextlib.ExitStack() as stack:
        trainees = [stack.enter_context(Trainee(place, entry, server.store, server.uri)) for entry in entries]
        for trainee in trainees:
            trainee.wait_until_loaded()
        trainings = [trainee.begin(n_steps, recorded=True, period_s=PERIOD_S) for trainee in trainees]
        for training in trainings:
            training.wait_for_update(BEFORE_STEPS, END_S)
        server.kill()
        time.sleep(away_s)
        server.start()
        deadline = time.monotonic() + END_S
        found = {}
        for trainee, training in zip(trainees, trainings, strict=True):
            error = training.wait(max(0.0, deadline - time.monotonic()))
            steps = training.steps()
            run_id = trainee.rows.newest_run()
            expected = len(steps) * len(trainee.entry.keys)
            trainee.wait_until(lambda: len(trainee.left()) <= 1, LEFT_S)  # noqa: B023 - called now
            trainee.wait_until(lambda: trainee.rows.count(run_id) >= expected, SETTLE_S)  # noqa: B023 - called now
            arrival = judge(trainee.rows.values(run_id), steps, open_end=bool(error))
            found[trainee.entry.name] = Absence(
                longest_s=max(((b.updated_ns - a.updated_ns) / 1e9 for a, b in pairwise(steps)), default=0.0),
                finished=len(steps),
                lost=expected - arrival.landed,
                error=error,
                status=trainee.rows.status(run_id),
            )
        return found
