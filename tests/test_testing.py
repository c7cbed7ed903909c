"""`lrtape.testing`, as a user's own test has it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import StepLR

import lrtape
from lrtape.errors import ConfigError
from lrtape.tape import Point, Tape
from lrtape.testing import assert_schedule, record, write_golden

pytest_plugins = ["pytester"]


def sgd(*names: str, lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [Parameter(torch.zeros(1))], "name": name} for name in names], lr=lr)


def train(optimizer: torch.optim.Optimizer, n_steps: int = 6) -> None:
    scheduler = StepLR(optimizer, 2, 0.5)
    for _ in range(n_steps):
        optimizer.step()
        scheduler.step()


def tape_of(**lrs: Any) -> Tape:
    return Tape([Point(f"lr/{name}", step, 0, lr) for name, rows in lrs.items() for step, lr in rows.items()])


def numbered(*lrs: float) -> dict[int, float]:
    return dict(enumerate(lrs))


def refused(tape: Tape, golden: Any, rel: float = 0.0) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_schedule(tape, golden, rel=rel)
    return str(caught.value)


def test_the_tape_can_be_read_while_it_grows() -> None:
    """It is what the real recorder writes, within the ``with`` and after it; then nothing more is recorded."""
    optimizer = sgd("a", "b")
    with record(optimizer) as tape:
        assert dict(tape) == {}
        train(optimizer, 3)
        assert list(tape["lr/a"].values) == [1.0, 1.0, 0.5]
        optimizer.step()
        assert tape.lr["lr/b"].at(3) == 0.5
    optimizer.step()

    assert (list(tape), len(tape["lr/a"])) == (["lr/a", "lr/b"], 4)


def test_without_optimizers_all_are_recorded() -> None:
    """Also one that a loop makes for itself; afterwards, none."""

    def loop() -> torch.optim.Optimizer:
        train(one := sgd("a"), 2)
        sgd("never")
        train(sgd("b", lr=3.0), 3)
        return one

    with record() as tape:
        optimizer = loop()
    optimizer.step()
    sgd("c").step()

    assert_schedule(tape, {"lr/a": [1.0, 1.0], "lr/sgd_1/b": [3.0, 3.0, 1.5]})


def test_record_takes_what_attach_takes() -> None:
    """Names by the model, the index of the first step, and values beside the lr; wrong input is refused."""
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD([{"params": layer.parameters()} for layer in model], lr=0.1, momentum=0.5)
    with record(optimizer, model=model, first_step=7, also=["momentum"]) as tape:
        optimizer.step()
    with record(model=model, first_step=7, also=["momentum"]) as tape_of_all:
        optimizer.step()
    for one in (tape, tape_of_all):
        assert {key: list(series.steps) for key, series in one.items()} == {
            key: [7] for key in ("lr/0", "lr/1", "momentum/0", "momentum/1")
        }
    for wrong in ({"first_step": -1}, {"also": ["nothing"]}):
        with pytest.raises(ConfigError), record(optimizer, **wrong):
            pass
    with pytest.raises(ConfigError, match="torch optimizers"), record(model):  # type: ignore[arg-type]
        pass


def test_an_exception_in_the_loop_is_the_users_own() -> None:
    """It is raised as it is, and nothing is recorded any more."""
    optimizer = sgd("a")

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    optimizer.register_step_post_hook(fail)
    with pytest.raises(ZeroDivisionError), record(optimizer) as tape:
        optimizer.step()
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert len(tape["lr/a"]) == 1


GOLDEN = [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    "golden",
    [
        lambda step: 0.5 ** (step // 2),
        {"lr/a": GOLDEN},
        {"lr/a": numbered(*GOLDEN)},
        {"lr/a": lambda step: GOLDEN[step]},
        tape_of(a=numbered(*GOLDEN)),
        dict(tape_of(a=numbered(*GOLDEN))),
    ],
    ids=["function", "list", "by step", "function of a key", "tape", "series"],
)
def test_every_kind_of_golden(golden: Any) -> None:
    """Each agrees with the tape that it describes, at every step, and not with one that is off by the last bit."""
    with record(optimizer := sgd("a")) as tape:
        train(optimizer)
    assert_schedule(tape, golden)

    off = tape_of(a=numbered(*GOLDEN[:-1], math.nextafter(0.25, 1)))
    assert "first in step 5: expected 0.25, but the step used 0.25000000000000006" in refused(off, golden)
    assert_schedule(off, golden, rel=1e-12)
    assert "first in step 5" in refused(tape_of(a=numbered(*GOLDEN[:-1], 0.26)), golden, rel=0.03)


def test_the_simulation_is_golden() -> None:
    """What `lrtape.simulate` says without training is what a loop must have used."""
    optimizer = sgd("a", "b")
    golden = lrtape.simulate(optimizer, StepLR(optimizer, 2, 0.5), 6)
    with record(other := sgd("a", "b")) as tape:
        train(other)
    assert_schedule(tape, golden)


def test_the_text_shows_the_first_difference_and_what_is_around_it() -> None:
    """For each key: group, step, expected, used, how many differ, and two neighbours on each side."""
    tape = tape_of(a=numbered(*GOLDEN), b=numbered(1.0, 1.0, 0.5, 0.7, 0.25, 0.7))

    assert refused(tape, lambda step: GOLDEN[step]).splitlines() == [
        "lr/b differs in 2 of 6 steps, first in step 3: expected 0.5, but the step used 0.7.",
        "      step  expected                used",
        "         1  1.0                     1.0",
        "         2  0.5                     0.5",
        ">        3  0.5                     0.7",
        "         4  0.25                    0.25",
        "         5  0.25                    0.7",
    ]


@pytest.mark.parametrize(
    ("lrs", "guess"),
    [
        ([*GOLDEN[1:], 0.125], "is the scheduler stepped before the optimizer?"),
        ([1.0, *GOLDEN[:-1]], "is a step of the scheduler missing?"),
    ],
)
def test_a_schedule_that_is_a_step_off_is_said_to_be(lrs: list[float], guess: str) -> None:
    """The usual mistake, and only where every step fits."""
    assert guess in refused(tape_of(a=numbered(*lrs)), {"lr/a": GOLDEN})
    assert "?" not in refused(tape_of(a=numbered(*lrs[:3], 0.3, *lrs[4:])), {"lr/a": GOLDEN})


def test_missing_and_extra_steps_and_keys_are_named() -> None:
    """All of them, up to eight; the rest is counted."""
    tape = tape_of(a={0: 1.0, 2: 1.0, 3: 1.0}, b=numbered(1.0))

    assert refused(tape, {"lr/a": [1.0, 1.0], "lr/c": [1.0]}).splitlines() == [
        "missing: lr/c; on the tape: lr/a, lr/b.",
        "not expected: lr/b; expected: lr/a, lr/c.",
        "lr/a: step 1 is missing on the tape.",
        "lr/a: steps 2, 3 are not expected.",
    ]
    assert refused(tape, lambda step: 1.0) == "lr/a: step 1 is missing on the tape."
    assert "steps 1, 2, 3, 4, 5, 6, 7, 8, and 11 more are missing" in refused(tape, {"lr/b": [1.0] * 20})


def test_nothing_recorded_is_not_as_expected() -> None:
    """A loop that makes no step does not pass; nor does a golden tape without any lr."""
    assert "no lr was recorded" in refused(Tape(), lambda step: 0.1)
    assert "missing: lr/a; on the tape: no lr." in refused(Tape(), {"lr/a": [0.1]})
    nothing: list[Any] = [Tape(), {}, 0.1]
    for golden in nothing:
        with pytest.raises(ConfigError, match="`golden` must be"):
            assert_schedule(Tape(), golden)


def test_what_is_not_finite_is_compared_too() -> None:
    """NaN is as expected where NaN is expected; an infinite lr is near nothing."""
    tape = tape_of(a=numbered(math.nan, math.inf))
    assert_schedule(tape, {"lr/a": [math.nan, math.inf]})
    assert "expected 1.0, but the step used nan" in refused(tape, {"lr/a": [1.0, math.inf]}, rel=1.0)
    assert "expected inf, but the step used 1.0" in refused(tape_of(a=numbered(1.0)), {"lr/a": [math.inf]}, rel=1.0)


def test_other_values_are_compared_where_they_are_expected() -> None:
    """A loss on either tape is nobody's difference; a momentum that is named is compared."""
    tape = Tape([Point("lr/a", 0, 0, 0.1), Point("loss", 0, 0, 2.0), Point("momentum/a", 0, 0, 0.9)])
    assert_schedule(tape, {"lr/a": [0.1], "momentum/a": [0.9]})
    assert_schedule(tape_of(a={0: 0.1}), tape)
    assert "momentum/a differs" in refused(tape, {"lr/a": [0.1], "momentum/a": [0.8]})


@pytest.mark.parametrize("name", ["golden.csv", "golden.json"])
def test_a_golden_file_keeps_every_digit(name: str, tmp_path: Path) -> None:
    """And groups that begin later; a hundred steps differ from it by one that is off by the last bit."""
    tape = tape_of(a=numbered(0.1 + 0.2, 1e-300, math.nan, 1 / 3), b={2: math.inf, 3: 5e-324})
    path = tmp_path / name
    write_golden(tape, path)

    assert_schedule(tape, path)
    assert_schedule(tape, str(path))
    assert "lr/a differs in 1 of 4 steps" in refused(
        tape_of(a=numbered(0.3, 1e-300, math.nan, 1 / 3), b={2: math.inf, 3: 5e-324}), path
    )
    assert "lr/b: step 2 is missing" in refused(
        tape_of(a=numbered(0.1 + 0.2, 1e-300, math.nan, 1 / 3), b={3: 5e-324}), path
    )


def test_a_golden_csv_is_a_line_for_each_step(tmp_path: Path) -> None:
    """What changes in a schedule can be seen in its diff."""
    write_golden(tape_of(a=numbered(0.1, 0.05), b={1: 1e-05}), tmp_path / "lr.csv")
    assert (tmp_path / "lr.csv").read_text() == "step,lr/a,lr/b\n0,0.1,\n1,0.05,1e-05\n"


def test_a_golden_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """With how to make one."""
    tape = tape_of(a=numbered(0.1))
    with pytest.raises(ConfigError, match=r"Write it once.*write_golden\(tape, '.*none.csv'\)"):
        assert_schedule(tape, tmp_path / "none.csv")
    with pytest.raises(ConfigError, match=r"must end in .csv or .json"):
        write_golden(tape, tmp_path / "golden.txt")
    with pytest.raises(ConfigError, match="`tape` must have learning rates"):
        write_golden(Tape(), tmp_path / "golden.csv")
    for name, text in (
        ("a.json", "[1]"),
        ("b.json", "{"),
        ("c.csv", "step,lr/a\n0,x\n"),
        ("d.csv", ""),
        ("e.csv", "step\n0,1\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=f"{name} is not"):
            assert_schedule(tape, tmp_path / name)
    for rel in (-1, math.nan, True):
        with pytest.raises(ConfigError, match="`rel` must be"):
            assert_schedule(tape, {"lr/a": [0.1]}, rel=rel)


def test_pytest_shows_the_difference_and_not_our_code(pytester: pytest.Pytester) -> None:
    """The failing line is that of the user's test."""
    pytester.makepyfile(
        """
        from lrtape.tape import Point, Tape
        from lrtape.testing import assert_schedule

        def test_it():
            assert_schedule(Tape([Point("lr/a", 0, 0, 0.1)]), {"lr/a": [0.2]})
        """
    )
    out = pytester.runpytest_inprocess("-p", "no:cacheprovider").stdout
    out.fnmatch_lines([">*assert_schedule(Tape*", "E*AssertionError: lr/a differs in 1 of 1 steps*"])
    out.no_fnmatch_line("*raise AssertionError*")
