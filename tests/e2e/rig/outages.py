"""The scenarios of a tracking server that is away, answers badly, or has lost the run, for a while or for good."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from mlflow import MlflowClient

from rig.place import Place
from rig.proxy import BAD_ANSWERS, WELL, Proxy
from rig.store import Server, Store
from rig.training import LoopTraining
from rig.verdict import Verdict, judge

CLOSE_TIMEOUT_S = 3.0
IMPATIENT = ("--close-timeout-s", str(CLOSE_TIMEOUT_S))
CLOSED_WITHIN_S = 60.0
"""With some seconds at each of two places for a server that never answers; MLflow alone would try for four minutes."""


@dataclass(frozen=True)
class Outage:
    """Something that keeps values from arriving, and can be mended; both are told about the training that suffers."""

    name: str
    begin: Callable[[LoopTraining], None]
    end: Callable[[LoopTraining], None]


@dataclass(frozen=True)
class Trainings:
    """Starts trainings that are all alike but for their names.

    Attributes:
        place: where they run.
        store: where their runs end up.
        uri: how they reach it.
        n_steps: of each.
    """

    place: Place
    store: Store
    uri: str
    n_steps: int

    def start(self, name: str, *options: str, pauses: Sequence[int] = ()) -> LoopTraining:
        """Start one."""
        return LoopTraining(self.place, name, self.store, self.n_steps, *options, uri=self.uri, pauses=pauses)

    def control(self, name: str) -> LoopTraining:
        """Let one run to its end, with nothing done to it."""
        training = self.start(f"{name}-control")
        training.wait()
        return training

    def under(self, outage: Outage, control: LoopTraining, at_step: int, for_s: float) -> Verdict:
        """One during which something is out for some seconds."""
        training = self._struck(outage, f"{control.name}-{outage.name}", at_step)
        time.sleep(for_s)
        outage.end(training)
        return _beside(control, training, judge(f"{outage.name} for a while", training, result=control.result))

    def under_for_good(self, outage: Outage, control: LoopTraining, at_step: int) -> Verdict:
        """One from whose middle something is out until after its end."""
        training = self._struck(outage, f"{control.name}-{outage.name}-for-good", at_step, *IMPATIENT)
        training.wait_for_note("stopping")
        begin = time.monotonic()
        broken = []
        try:
            training.wait(CLOSED_WITHIN_S)
        except TimeoutError as error:
            training.kill()
            broken.append(str(error))
        seconds = time.monotonic() - begin
        outage.end(training)
        broken += training.follow_advice()
        case = f"{outage.name} until after the end"
        note = f"closed in {seconds:.0f} s"
        return _beside(
            control, training, judge(case, training, result=control.result, n_warnings=1, broken=broken, note=note)
        )

    def _struck(self, outage: Outage, name: str, at_step: int, *options: str) -> LoopTraining:
        """Start one, and let something go out at a step, while the shipper works and before the training can end."""
        training = self.start(name, *options, pauses=[at_step // 2, self.n_steps - 1])
        training.wait_for_pause()
        training.go_on()
        training.wait_for_step(at_step)
        outage.begin(training)
        training.wait_for_pause()
        training.go_on()
        return training


def _beside(control: LoopTraining, training: LoopTraining, verdict: Verdict) -> Verdict:
    return replace(verdict, step_times_ms=training.step_times_ms, control_times_ms=control.step_times_ms)


def server_away(
    place: Place, rng: Random, n_steps: int, away_s: float, n: int = 1, control: LoopTraining | None = None
) -> Iterator[Verdict]:
    """The server is killed at any moment of a training, for a while or until after its end: nothing is lost.

    Args:
        place: where it happens.
        rng: draws the moments: in the first half, so that most of what is trained under is the outage.
        n_steps: of each training.
        away_s: for how long.
        n: number of trainings of each kind.
        control: the same training, with nothing done to it; by default one runs before each pair, over HTTP, too.
    """
    server = Server(place, Store(place.folder / "away.db"))
    server.start()
    trainings = Trainings(place, server.store, server.uri, n_steps)
    away = Outage("away", lambda _: server.kill(), lambda _: server.start())
    for index in range(n):
        beside = control or trainings.control(f"{index}")
        yield trainings.under(away, beside, rng.randrange(1, n_steps // 2), away_s)
        yield trainings.under_for_good(away, beside, rng.randrange(1, n_steps // 2))
    server.kill()


def bad_answers(
    place: Place, n_steps: int, bad_s: float, kinds: Iterable[str] = tuple(BAD_ANSWERS)
) -> Iterator[Verdict]:
    """The server answers with errors, garbage or not at all, for a while or until after the end: nothing is lost.

    Args:
        place: where it happens.
        n_steps: of each training.
        bad_s: for how long.
        kinds: of answers.
    """
    server = Server(place, Store(place.folder / "bad.db"))
    server.start()
    with Proxy(server) as proxy:
        trainings = Trainings(place, server.store, proxy.uri, n_steps)
        for answers in kinds:
            bad = Outage(f"answers {answers}", partial(_answer, proxy, answers), partial(_answer, proxy, WELL))
            control = trainings.control(answers)
            yield trainings.under(bad, control, n_steps // 3, bad_s)
            yield trainings.under_for_good(bad, control, n_steps // 3)
    server.kill()


def _answer(proxy: Proxy, answers: str, _: LoopTraining) -> None:
    proxy.answer(answers)


def run_deleted(place: Place, control: LoopTraining) -> Iterator[Verdict]:
    """The run is deleted while training, and restored after its end: nothing is lost.

    Args:
        place: where it happens.
        control: the same training, with nothing done to it; over.
    """
    store = control.store.copy(place.folder / "run-deleted.db")
    client = MlflowClient(tracking_uri=store.uri)
    deleted = Outage(
        "run deleted",
        lambda training: client.delete_run(training.run_id),
        lambda training: client.restore_run(training.run_id),
    )
    trainings = Trainings(place, store, store.uri, control.n_steps)
    yield trainings.under_for_good(deleted, control, control.n_steps // 3)
