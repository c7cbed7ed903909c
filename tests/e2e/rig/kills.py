"""The scenario of sudden death: any process of a training gets a SIGKILL, at any moment."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from time import sleep

from rig.place import Place
from rig.store import Store
from rig.training import LoopTraining
from rig.verdict import Verdict, judge

TRAINER, BOTH, SHIPPER = "trainer", "trainer and shipper", "shipper"
SHARE_CLOSING = 0.4
"""Of the kills, while close() ships; the others fall into the loop."""
CLOSING_S = 3.0
AT_ONCE = 2
FORKING_STEPS = 40


@dataclass(frozen=True)
class Moment:
    """When to strike: when a step is taken, or, where `closing_s` is given, so long after the last one."""

    step: int
    closing_s: float | None = None

    @classmethod
    def draw(cls, rng: Random, n_steps: int) -> "Moment":
        """Any moment of a training of `n_steps`."""
        closing = rng.random() < SHARE_CLOSING
        return cls(rng.randrange(1, n_steps), rng.uniform(0.0, CLOSING_S) if closing else None)

    def wait(self, training: LoopTraining) -> None:
        """Wait until it has come."""
        if self.closing_s is None:
            training.wait_for_step(self.step)
        else:
            training.wait_for_note("stopping")
            sleep(self.closing_s)

    def earlier(self) -> "Moment":
        """For another try, as this one came too late."""
        return replace(self, closing_s=self.closing_s and self.closing_s / 2)


def kill(place: Place, control: LoopTraining, rng: Random, n: int) -> Iterator[Verdict]:
    """A SIGKILL for the trainer, for trainer and shipper, for the shipper, a third each: no step is lost or doubled.

    Args:
        place: where it happens.
        control: the same training, with nothing done to it; over.
        rng: draws the moments.
        n: number of kills.
    """
    store = control.store.copy(place.folder / "kill.db")
    plans = [((TRAINER, BOTH, SHIPPER)[index % 3], Moment.draw(rng, control.n_steps)) for index in range(n)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            yield from pool.map(
                lambda index: _kill_one(place, store, control, f"kill-{index}", *plans[index]), range(n)
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            place.close()  # or the others would go on
            raise


def _kill_one(place: Place, store: Store, control: LoopTraining, name: str, victim: str, moment: Moment) -> Verdict:
    for attempt in count():
        training = LoopTraining(place, f"{name}-{attempt}", store, control.n_steps)
        moment.wait(training)
        if _strike(training, victim):
            break
        training.wait()
        moment = moment.earlier()
    in_loop = not training.has_noted("stopping")
    training.wait()
    training.wait_for_shippers()
    broken = [] if victim == BOTH or not training.spools else ["the shipper has left its work to `lrtape recover`"]
    broken += training.recover()
    case = f"{victim}, {'training' if in_loop else 'closing'}"
    if victim == SHIPPER:
        return judge(case, training, result=control.result, broken=broken)
    statuses = ["KILLED"] if in_loop else ["FINISHED"] if training.has_noted("stopped") else ["KILLED", "FINISHED"]
    result = control.result if training.result else ""
    return judge(case, training, result=result, statuses=statuses, exit_code=-signal.SIGKILL, broken=broken)


def _strike(training: LoopTraining, victim: str) -> bool:
    """Kill, and say whether there was anything to kill."""
    shippers = [] if victim == TRAINER else training.shippers()
    if victim != SHIPPER and training.kill() != -signal.SIGKILL:
        return False
    n_killed = training.kill_shippers(shippers)
    if victim == BOTH:
        training.kill_shippers(training.shippers())  # the trainer may just have started another one
    return victim != SHIPPER or n_killed > 0


def fork_and_copy(place: Place, control: LoopTraining) -> Iterator[Verdict]:
    """Forked workers that step the optimizer they hold, and a copy of it that is stepped, too: nothing is doubled.

    Nor does it matter to the shipper that the workers outlive the trainer by a moment, when it is killed.

    Args:
        place: where it happens.
        control: any training that is over.
    """
    store = control.store.copy(place.folder / "forked.db")
    training = LoopTraining(place, "forked", store, FORKING_STEPS, "--fork-and-copy")
    yield judge("to the end", training)
    training = LoopTraining(
        place, "forked-killed", store, FORKING_STEPS, "--fork-and-copy", pauses=[FORKING_STEPS // 2 + 2]
    )
    training.wait_for_pause(at_work=False)  # in the midst of an epoch: the workers live
    training.kill()
    training.wait_for_shippers()
    yield judge("trainer killed", training, result="", statuses=["KILLED"], exit_code=-signal.SIGKILL)
