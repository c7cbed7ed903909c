import pytest

from lrtape.lines import LinePrinter, format_lr, format_lrs
from lrtape.tape import Group, GroupLayout, Record


@pytest.mark.parametrize(
    ("lr", "text"),
    [
        (0.001, "0.001"),
        (1e-7, "1e-07"),
        (1.0000000000000002e-06, "1e-06"),
        (0.0, "0"),
        (123.0, "123"),
        (1e-30, "1e-30"),
    ],
)
def test_an_lr_is_readable_at_any_magnitude(lr: float, text: str) -> None:
    """A small lr never reads 0.000000, and the last bits of a float do not show."""
    assert format_lr(lr) == text


def test_the_next_lr_stands_beside_the_used_one() -> None:
    """Used and next cannot be mistaken for one another."""
    assert format_lrs(["a", "b"], [0.01, 1.0], [0.001, 1.0]) == "a 0.01 (next 0.001)  b 1 (next 1)"


def test_lines_are_printed_for_every_nth_step(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps 0, n, 2n, ... are printed with every group, and a second optimizer is told apart."""
    printer = LinePrinter(2)
    printer.write(GroupLayout(0, (Group("a", "lr/a"), Group("b", "lr/b"))))
    printer.write(GroupLayout(1, (Group("a", "lr/adam_1/a"),)))
    for step in range(3):
        printer.write(Record(0, step, 0, [0.1, 1e-7]))
    printer.write(Record(1, 0, 0, [1.0]))

    assert capsys.readouterr().out.splitlines() == [
        "step 0  a 0.1  b 1e-07",
        "step 2  a 0.1  b 1e-07",
        "step 0  adam_1/a 1",
    ]


def test_a_group_that_does_not_move_is_frozen() -> None:
    """It has no lr; when the next step thaws it, it has a next one."""
    assert format_lrs(["a", "b"], [None, 1.0]) == "a frozen  b 1"
    assert format_lrs(["a", "b"], [None, 1.0], [None, 0.5]) == "a frozen  b 1 (next 0.5)"
    assert format_lrs(["a", "b"], [None, 1.0], [0.01, 0.5]) == "a frozen (next 0.01)  b 1 (next 0.5)"
