"""The scenarios of beginnings: many trainings at once on a store that nobody has made, and one without a server."""

import time
from collections.abc import Iterator

from mlflow import MlflowClient

from rig.place import Place
from rig.store import Server, Store
from rig.training import AppTraining, LoopTraining
from rig.verdict import Verdict, judge

REFUSED_WITHIN_S = 60.0
"""Most of it, on a busy machine, for imports; MLflow alone would try for four minutes."""
EXIT_REFUSED = 2


def eight(place: Place, control: LoopTraining, n: int = 8) -> Iterator[Verdict]:
    """Trainings start at the same time on one SQLite store that does not exist: all are recorded, none complains.

    Every other one is ``python train.py``.

    Args:
        place: where it happens.
        control: the same training as the plain ones, with nothing done to it; over.
        n: number of trainings.
    """
    store = Store(place.folder / "fresh.db")
    begin = time.monotonic()
    plain = [LoopTraining(place, f"fresh-{index}", store, control.n_steps) for index in range(0, n, 2)]
    by_app = [AppTraining(place, f"fresh-{index}", store) for index in range(1, n, 2)]
    for training in (*plain, *by_app):
        training.wait()
    note = f"{n} trainings in {time.monotonic() - begin:.0f} s"
    for one in plain:
        yield judge(f"{n} at once, plain loop", one, result=control.result, note=note)
    for other in by_app:
        yield judge(f"{n} at once, train.py", other, note=note)


def start_without_server(place: Place) -> Iterator[Verdict]:
    """Without a server a training is refused within seconds; or, where that is asked for, trained and stored later."""
    server = Server(place, Store(place.folder / "later.db"))
    begin = time.time()
    refused = AppTraining(place, "refused", server.store, uri=server.uri)
    refused.wait()
    yield _refused(refused, time.time() - begin)

    begin = time.time()
    options = ("tracking.when_unreachable=spool", "tracking.close_timeout_s=1")
    planned = AppTraining(place, "planned", server.store, *options, uri=server.uri)
    planned.wait()
    yield _planned(planned, server, begin, time.time())


def _refused(training: AppTraining, seconds: float) -> Verdict:
    broken = []
    if training.wait() != EXIT_REFUSED or "does not answer" not in training.err or "Traceback" in training.err:
        broken.append(f"it ends with {training.wait()} and says {training.err}")
    if seconds > REFUSED_WITHIN_S:
        broken.append(f"it takes {seconds:.0f} s to say so")
    if training.spools:
        broken.append(f"it leaves {training.spools}")
    return Verdict("refused at once", training, broken=broken, note=f"{seconds:.1f} s")


def _planned(training: AppTraining, server: Server, begin: float, end: float) -> Verdict:
    case = "trained all the same, stored later"
    server.start()
    if broken := training.follow_advice():
        return Verdict(case, training, broken=broken)
    store, (run_id,) = server.store, server.store.run_ids()
    artifacts = {file.path for file in MlflowClient(tracking_uri=server.uri).list_artifacts(run_id)}
    server.kill()
    for what, is_right, given in (
        ("start", begin <= store.start_ms(run_id) / 1000 <= end, store.start_ms(run_id)),
        ("params", store.params(run_id).get("scheduler.step_size") == "1", store.params(run_id)),
        ("tags", "when_unreachable=spool" in store.tags(run_id).get("lrtape.overrides", ""), store.tags(run_id)),
        ("artifacts", {"config", "checkpoints", "lr"} <= artifacts, artifacts),
    ):
        broken += [] if is_right else [f"the {what} of its run: {given}"]
    return judge(case, training, n_warnings=2, broken=broken)  # at its start, and at its end
