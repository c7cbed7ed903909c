import math
import warnings
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import lrtape
from lrtape.errors import ConfigError
from lrtape.outbox import NoOutbox
from lrtape.replay import Overlap, ReplayOutbox
from lrtape.spool import Frame
from lrtape.tape import Finding, Group, GroupLayout, Point, Record
from lrtape.tracking.history import read_run

LAYOUT = GroupLayout(0, (Group("body", "lr/body"), Group("head", "lr/head")))


class Kept(NoOutbox):
    """An outbox that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, frame: Frame) -> bool:
        self.frames.append(frame)
        return True


def replayed(overlap: Overlap, *frames: Frame) -> tuple[list[Frame], list[Finding]]:
    """What reaches the inner outbox, behind the layout, and what was found."""
    kept = Kept()
    outbox = ReplayOutbox(kept, overlap)
    for frame in (LAYOUT, *frames):
        assert outbox.write(frame)
    assert kept.frames[0] == LAYOUT
    return kept.frames[1:], outbox.findings


def points(step: int, body: float, head: float) -> list[Point]:
    return [Point("lr/body", step, 1, body), Point("lr/head", step, 1, head)]


def test_the_first_record_of_a_step_is_kept() -> None:
    """A step that is there already is not written again; the first step that is not goes through as it came."""
    overlap = Overlap([*points(3, 0.1, 0.2), *points(4, 0.1, 0.2)])
    new = Record(0, 5, 9, [0.1, 0.2])

    assert replayed(overlap, Record(0, 3, 9, [0.1, 0.2]), Record(0, 4, 9, [0.1, 0.2]), new) == ([new], [])


def test_what_is_missing_of_a_step_is_written() -> None:
    """Of a step that was stored by half, the other half is; of one that was not stored at all, everything is."""
    overlap = Overlap([*points(3, 0.1, 0.2)[:1], Point("train/loss", 5, 1, 0.5)])
    whole = Record(0, 4, 9, [0.1, 0.2])

    written, findings = replayed(overlap, Record(0, 3, 9, [0.1, 0.2]), whole)

    assert written == [Point("lr/head", 3, 9, 0.2), whole]
    assert findings == []


def test_a_replayed_lr_that_differs_is_found_once() -> None:
    """The sentence names key, step and both values, is written to the outbox and warned about; a second one is not."""
    overlap = Overlap([*points(3, 0.1, 0.2), *points(4, 0.1, 0.2)])

    with pytest.warns(UserWarning, match=r"lr/head of step 3 was 0\.2 .* is 0\.25 now") as warned:
        written, findings = replayed(overlap, Record(0, 3, 9, [0.1, 0.25]), Record(0, 4, 9, [0.7, 0.7]))

    assert [(finding.code, finding.key, finding.step) for finding in findings] == [("replay-differs", "lr/head", 3)]
    assert written == findings
    assert len(warned) == 1


def test_other_values_are_not_compared() -> None:
    """A loss that is there already is not written and no finding, whatever it is; at another step or key it is new."""
    overlap = Overlap([Point("train/loss", 3, 1, 0.5), Point("train/loss", 4, 1, 0.5)])
    new = [Point("val/loss", 3, 9, 0.5), Point("train/loss", 5, 9, 0.5)]

    assert replayed(overlap, Point("train/loss", 3, 9, 0.7), *new) == (new, [])


def test_nan_equals_nan() -> None:
    """An lr that was NaN and is NaN again does not differ; nor does one that was owed."""
    overlap = Overlap(points(3, math.nan, 0.2), owed_lrs={"lr/body": math.nan, "lr/head": 0.2})

    assert replayed(overlap, Record(0, 3, 9, [math.nan, 0.2])) == ([], [])


def test_of_two_records_the_earlier_one_counts() -> None:
    """Where a step is stored twice, the value of the earlier time is the first record."""
    overlap = Overlap([Point("lr/body", 3, 20, 0.9), Point("lr/body", 3, 10, 0.1)])

    assert overlap.values == {("lr/body", 3): 0.1}


def test_a_jump_is_found_at_the_first_step_alone() -> None:
    """The first recorded lrs are compared with what the checkpoint owed; the schedule may do what it likes then."""
    with pytest.warns(UserWarning, match=r"lr/head jumps .* step 7 was to use 0\.2, and it used 0\.5"):
        written, findings = replayed(
            Overlap(owed_lrs={"lr/body": 0.1, "lr/head": 0.2}), Record(0, 7, 9, [0.1, 0.5]), Record(0, 8, 9, [0.9, 0.9])
        )

    assert [(finding.code, finding.key, finding.step) for finding in findings] == [("jump-on-resume", "lr/head", 7)]
    assert written == [*findings, Record(0, 7, 9, [0.1, 0.5]), Record(0, 8, 9, [0.9, 0.9])]
    assert replayed(Overlap(owed_lrs={"lr/body": 0.1, "lr/head": 0.2}), Record(0, 7, 9, [0.1, 0.2]))[1] == []
    assert replayed(Overlap(), Record(0, 7, 9, [0.1, 0.2]))[1] == []


def test_a_finding_never_fails_a_step() -> None:
    """Also where warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(replayed(Overlap(points(3, 1.0, 1.0)), Record(0, 3, 9, [2.0, 2.0]))[1]) == 1


def sgd(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_a_resumed_session_goes_on_with_the_curves(store: str, tmp_path: Path) -> None:
    """`first_step` says where: in the same run, under the same keys, also in one process; the indices go on."""
    client = MlflowClient(tracking_uri=store)
    run_id = client.create_run("0").info.run_id
    import mlflow

    mlflow.set_tracking_uri(store)
    for first_step, lr in ((0, 0.1), (3, 0.2)):
        optimizer = sgd(lr)
        with lrtape.attach(optimizer, run=run_id, first_step=first_step) as session:
            for _ in range(3):
                optimizer.step()
            assert session.steps == first_step + 3
    tape = read_run(run_id, store)

    assert list(tape["lr/group_00"].steps) == [0, 1, 2, 3, 4, 5]
    assert list(tape["lr/group_00"].values) == [0.1] * 3 + [0.2] * 3


def test_only_what_is_over_can_be_resumed(store: str) -> None:
    """A session that still records keeps its keys; and one that does not say `first_step` resumes nothing."""
    run_id = MlflowClient(tracking_uri=store).create_run("0").info.run_id
    import mlflow

    mlflow.set_tracking_uri(store)
    with lrtape.attach(sgd(0.1), run=run_id), pytest.raises(ConfigError, match="'lr/group_00'"):
        lrtape.attach(sgd(0.1), run=run_id, first_step=3)
    with pytest.raises(ConfigError, match="'lr/group_00'"):
        lrtape.attach(sgd(0.1), run=run_id)


@pytest.mark.parametrize("first_step", [-1, 1.0, True, "3"])
def test_a_first_step_must_be_an_index(first_step: object) -> None:
    """Anything else is refused before there is a run."""
    with pytest.raises(ConfigError, match="`first_step` must be a whole number >= 0, but is"):
        lrtape.attach(sgd(0.1), run=None, first_step=first_step)  # type: ignore[arg-type]
