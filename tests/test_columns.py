import pytest

from lrtape import columns
from lrtape.columns import Columns
from lrtape.spool import Frame
from lrtape.tape import Finding, Group, GroupLayout, Point, Record, Tape

A, B = Group("a", "lr/a"), Group("b", "lr/b")
FRAMES: list[Frame] = [
    GroupLayout(0, (A,)),
    GroupLayout(1, (Group("x", "lr/sgd_1/x"),)),
    Record(0, 0, 100, [0.1]),
    Record(1, 0, 101, [7.0]),
    Point("train/loss", 0, 102, 2.5),
    GroupLayout(0, (A, B)),
    Record(0, 1, 103, [0.2, 0.3]),
    Finding("spike", "A sentence.", "lr/a", 1),
]


def test_what_is_written_is_a_tape() -> None:
    """Of every optimizer, of groups that come later, and of whatever else is logged: key, step, time and value."""
    kept = Columns()
    for frame in FRAMES:
        kept.write(frame)

    assert kept.tape() == Tape(
        [
            Point("lr/a", 0, 100, 0.1),
            Point("lr/a", 1, 103, 0.2),
            Point("lr/b", 1, 103, 0.3),
            Point("lr/sgd_1/x", 0, 101, 7.0),
            Point("train/loss", 0, 102, 2.5),
        ]
    )


def test_nothing_is_an_empty_tape() -> None:
    """Groups that have made no step have no curve."""
    kept = Columns()
    kept.write(GroupLayout(0, (A, B)))

    assert dict(kept.tape()) == {}


def test_a_long_training_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps are kept, and the others are not."""
    kept = Columns()
    kept.write(GroupLayout(0, (A,)))
    monkeypatch.setattr(columns, "MAX_ROWS", 3)
    for step in range(5):
        kept.write(Record(0, step, step, [0.1]))
        kept.write(Point("loss", step, step, 0.1))

    assert {key: list(series.steps) for key, series in kept.tape().items()} == {"lr/a": [0, 1, 2], "loss": [0, 1, 2]}
