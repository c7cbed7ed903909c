"""A SIGKILL: how many of the steps that were over are there, when nothing is left of the training."""

import time
from random import Random

from measures.results import Death
from measures.rows import judge
from measures.trainee import Trainee

AT_STEP = 400
SPREAD = 50
"""Of the moment, in steps either way."""
N_STEPS = 800
REACH_S = 120.0
LEFT_S = 120.0
"""How long what is left of it, a shipper say, may work on."""
SETTLE_S = 3.0
"""How long a server may still work on a last request."""


def death_of(trainee: Trainee, rng: Random) -> Death:
    """Train, kill, wait, look.

    Raises:
        RuntimeError: the training has ended before.
    """
    training = trainee.begin(N_STEPS, recorded=True)
    if not training.wait_for_update(rng.randint(AT_STEP - SPREAD, AT_STEP + SPREAD), REACH_S):
        raise RuntimeError(f"it has made {training.n_updates} steps.\n{trainee.complaints()}")
    time.sleep(rng.uniform(0.0, 0.01))
    trainee.kill()
    killed = time.monotonic()
    run_id = trainee.rows.newest_run()
    trainee.wait_until(lambda: not trainee.left(), LEFT_S)
    over_s = time.monotonic() - killed
    time.sleep(max(0.0, SETTLE_S - over_s))
    finished = training.steps()[:-1]  # of the last one nobody knows whether it came to its end
    arrival = judge(trainee.rows.values(run_id), finished, open_end=True)
    lost = len(finished) * len(trainee.entry.keys) - arrival.landed
    return Death(len(finished), lost, arrival.wrong, trainee.rows.status(run_id), over_s)
