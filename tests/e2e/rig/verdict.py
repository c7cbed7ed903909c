"""The verdict: what MLflow has, compared with the truth."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from rig.store import Store
from rig.training import Training
from rig.truth import Truth


@dataclass(frozen=True)
class Counts:
    """What was counted.

    Attributes:
        steps: how many the training took.
        rows: how many rows of learning rates MLflow has of it.
        lost: values that are not there.
        doubled: values that are there more than once.
        wrong: values that the training has not used.
    """

    steps: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0


@dataclass(frozen=True)
class Verdict:
    """How one training fared.

    Attributes:
        case: what was done to it.
        training: which it is.
        counts: of its values.
        broken: every other promise that was broken, a sentence each.
        step_times_ms: milliseconds of every step, where they are of interest.
        control_times_ms: those of a training to which nothing was done.
        note: anything else that should be known.
    """

    case: str
    training: Training
    counts: Counts = Counts()
    broken: Sequence[str] = ()
    step_times_ms: Sequence[float] = field(default=(), repr=False)
    control_times_ms: Sequence[float] = field(default=(), repr=False)
    note: str = ""

    @property
    def complaints(self) -> list[str]:
        """A sentence for each promise that was broken; none if all were kept."""
        counted = {"lost": self.counts.lost, "doubled": self.counts.doubled, "wrong": self.counts.wrong}
        sentences = [f"{number} values are {what}" for what, number in counted.items() if number]
        return [f"{self.case} ({self.training.name}): {sentence}" for sentence in (*sentences, *self.broken)]


def count(truth: Truth, store: Store, run_id: str) -> Counts:
    """Compare what is stored of a run with the truth."""
    found = store.values(run_id)
    true = {(key, step): lr for key, lrs in truth.lrs.items() for step, lr in enumerate(lrs)}
    # The one step that could not be noted is whole, too: all its groups, or none.
    unnoted = {(key, len(lrs)) for key, lrs in truth.lrs.items()} if truth.one_more else set()
    if unnoted <= found.keys():
        true |= {place: found[place][0] for place in unnoted}
    return Counts(
        steps=truth.n_steps,
        rows=sum(map(len, found.values())),
        lost=len(true.keys() - found.keys()),
        doubled=sum(len(values) - 1 for values in found.values()),
        wrong=sum(true.get(place) not in values for place, values in found.items()),
    )


def judge(
    case: str,
    training: Training,
    *,
    result: str | None = None,
    statuses: Collection[str] = ("FINISHED",),
    exit_code: int = 0,
    n_warnings: int = 0,
    complete: str = "true",
    broken: Sequence[str] = (),
    note: str = "",
) -> Verdict:
    """Compare a training that is over, and what is stored of it, with what was promised.

    Args:
        case: what was done to it.
        training: over, and recovered where that was needed.
        result: what it had to come to, if that is known; empty for one that was killed.
        statuses: one of them must be its run's.
        exit_code: of the process.
        n_warnings: of lrtape's, on stderr.
        complete: the tag of its run that tells whether everything is stored.
        broken: promises that were found broken before.
        note: see `Verdict`.
    """
    code = training.wait()
    store, run_id = training.store, training.run_id
    if not run_id:
        return Verdict(case, training, broken=[*broken, f"there is no run; it says: {training.err}"])
    sentences = list(broken)
    for what, given, expected in (
        ("its exit code", code, [exit_code]),
        ("its result", training.result, [result if result is not None else training.result]),
        ("the number of its warnings", len(training.warnings), [n_warnings]),
        ("the status of its run", store.status(run_id), statuses),
        ("the tag lrtape.complete", store.tags(run_id).get("lrtape.complete"), [complete]),
        ("the content of .lrtape", training.spools, [[]]),
    ):
        if given not in expected:
            sentences.append(f"{what} is {given!r}, not {' or '.join(map(repr, expected))}")
    return Verdict(case, training, count(training.truth, store, run_id), broken=sentences, note=note)
