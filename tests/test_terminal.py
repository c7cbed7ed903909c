import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtape.tape import Point, Tape
from lrtape.terminal import plot, table

BRAILLE = {chr(code) for code in range(0x2801, 0x2900)}


def tape_of(lr: Callable[[int], float], n_steps: int, key: str = "lr/all") -> Tape:
    return Tape(Point(key, step, step, lr(step)) for step in range(n_steps))


def steplr(step: int) -> float:
    return float(f"1e-{2 + step // 100}")


def canvas(text: str) -> list[tuple[str, str]]:
    """The label and the curves of each line of a plot, from above."""
    lines = [line.split("|", 1) for line in text.splitlines()[1:]]
    return [
        (line[0].strip(), line[1][1:]) for line in lines[: next(i for i, line in enumerate(lines) if "-|-" in line[1])]
    ]


def drawn_columns(text: str) -> dict[str, tuple[int, int]]:
    """The first and the last column in which each labelled line has something."""
    found = {}
    for label, curve in canvas(text):
        if label and curve.strip():
            found[label] = (len(curve) - len(curve.lstrip()), len(curve.rstrip()) - 1)
    return found


def test_each_lr_of_a_step_schedule_is_labelled_and_where_it_is() -> None:
    """With few values the axis says each of them, and a value is drawn from its first step up to the next one's."""
    columns = drawn_columns(plot(tape_of(steplr, 400), width=104, height=16))

    assert list(columns) == ["0.01", "0.001", "0.0001", "1e-05"]
    assert list(columns.values()) == [(0, 20), (20, 40), (40, 60), (60, 79)]


@pytest.mark.parametrize("lr", [3e-4, 1e-8, 0.0, 1e-30, -1.0])
def test_a_constant_lr_is_a_line_that_says_its_value(lr: float) -> None:
    """At any magnitude: one line, labelled, over the whole width."""
    lines = [(label, curve) for label, curve in canvas(plot(tape_of(lambda _: lr, 80), 104, 5)) if curve.strip()]

    assert [label for label, _ in lines] == [f"{lr:.4g}"]
    assert len(lines[0][1]) == 80


def test_a_small_lr_is_readable() -> None:
    """At 1e-8 the axis has a label for each decade, and none reads 0."""
    labels = [label for label, _ in canvas(plot(tape_of(lambda step: 1e-8 * (1 + step), 1000))) if label]

    assert {"1e-05", "1e-06", "1e-07", "1e-08"} <= set(labels)
    assert all(1e-8 <= float(label) <= 1e-5 for label in labels)


@pytest.mark.parametrize("spike", [0.05, 1e-7])
def test_a_spike_of_one_step_in_a_million_is_visible(spike: float) -> None:
    """However many steps share a column, its highest and its lowest value are drawn."""
    smooth = tape_of(lambda step: 1e-3, 1_000_000)
    with_spike = Tape(
        [*(point for point in smooth.points() if point.step != 654_321), Point("lr/all", 654_321, 0, spike)]
    )
    tip = canvas(plot(with_spike))[0 if spike > 1e-3 else -1]

    assert tip[0] == f"{spike:.4g}"
    columns = [column for column, character in enumerate(tip[1]) if character in BRAILLE]
    assert columns == [654_321 // 15_000]  # steps a column, by the labels of the x axis


def test_curves_are_told_apart_without_color() -> None:
    """Each curve has a letter, on its own line and in the legend, where the group is called by its name."""
    tape = Tape(
        Point(f"lr/{name}", step, step, lr)
        for step in range(100)
        for name, lr in (("backbone", 0.001), ("adam_1/head", 0.1))
    )
    text = plot(tape)
    lines = dict(canvas(text))

    assert "a" in lines["0.001"]
    assert "b" in lines["0.1"]
    assert text.splitlines()[-2:] == ["  a  backbone", "  b  adam_1/head"]


def test_a_curve_too_short_for_its_turn_has_its_letter_all_the_same() -> None:
    """A group of one step at the end, among many others, is not left without."""
    tape = Tape([Point(f"lr/{name}", step, 0, i + 1.0) for i, name in enumerate("abcdefg") for step in range(100)])
    tape = Tape([*tape.points(), Point("lr/late", 99, 0, 100.0)])

    assert "h" in dict(canvas(plot(tape)))["100"]


def test_groups_with_the_same_lr_share_a_curve() -> None:
    """A hundred groups of one schedule are one curve and one line of the legend, not a hundred."""
    tape = Tape(Point(f"lr/layer_{index:03}", step, 0, 0.1) for index in range(100) for step in range(10))
    text = plot(tape)

    assert text.splitlines()[-1].startswith("  -  layer_000, layer_001, ")
    assert text.endswith("layer_007 and 92 more")
    assert len(table(tape).splitlines()) == 1 + 100 + 3


def test_zero_is_drawn_on_a_linear_axis() -> None:
    """A warm-up from 0 cannot be on a logarithmic one, and asking for that is refused."""
    tape = tape_of(lambda step: step / 4, 5)
    rows = [index for index, (label, _) in enumerate(canvas(plot(tape, height=17))) if label]

    assert [label for label, _ in canvas(plot(tape)) if label] == ["1", "0.75", "0.5", "0.25", "0"]
    assert rows == [0, 4, 8, 12, 16]
    with pytest.raises(ValueError, match=r"greater than 0, but one is 0\.0"):
        plot(tape, log=True)


def test_what_is_not_finite_is_not_drawn_but_counted() -> None:
    """NaN and infinity leave the curve as it is; a tape of nothing else says so."""
    tape = Tape([*tape_of(steplr, 200).points(), Point("lr/all", 200, 0, math.nan), Point("lr/all", 201, 0, math.inf)])

    assert list(drawn_columns(plot(tape))) == ["0.01", "0.001"]
    assert table(tape).splitlines()[0].endswith("not finite")
    assert table(tape).splitlines()[1].split()[-1] == "2"
    assert plot(tape_of(lambda _: math.nan, 3)) == "There is no finite value to draw."


def test_color_is_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a pipe gets no escape codes; nor does a person who set NO_COLOR."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    tape = tape_of(steplr, 300)

    assert "\x1b" not in plot(tape)
    assert "\x1b[36m" in plot(tape, color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in plot(tape, color=True)


@pytest.mark.parametrize(("width", "height"), [(40, 3), (80, 16), (120, 40)])
def test_a_plot_fits_its_terminal(width: int, height: int) -> None:
    """It is not wider than the terminal, and its curves are as high as was asked."""
    text = plot(tape_of(lambda step: 1.0 / (step + 1), 12_345), width, height)

    assert max(map(len, text.splitlines())) <= width
    assert len(canvas(text)) == height


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Point,
            key=st.sampled_from(["lr/a", "lr/b", "lr/c"]),
            step=st.integers(0, 2**62) | st.integers(0, 20),
            time_ms=st.integers(0, 3),
            value=st.floats() | st.floats(1e-12, 10.0) | st.sampled_from([1.0, math.nextafter(1.0, 2), 5e-324]),
        ),
        min_size=1,
    ),
    st.integers(1, 150),
    st.integers(1, 40),
)
def test_whatever_was_recorded_can_be_shown(points: list[Point], width: int, height: int) -> None:
    """No tape, and no size of a terminal, is too odd for either of them."""
    text = plot(Tape(points), width, height)
    drawn = {character for _, curve in canvas(text) for character in curve} if "|" in text else set()

    assert drawn & (BRAILLE | set("abc")) or text == "There is no finite value to draw."
    assert len(table(Tape(points)).splitlines()) >= 3


def test_the_table_has_one_row_a_key() -> None:
    """Rows, first and last step, first, last and highest value, where that is, and how often the value changes."""
    values = [0.1, 0.1, 0.5, 0.01, math.nan, math.nan]
    tape = Tape(Point("lr/a", 10 + step, 0, value) for step, value in enumerate(values))

    assert [line.split() for line in table(tape).splitlines()[:2]] == [
        [
            "key",
            "rows",
            "first",
            "step",
            "last",
            "step",
            "first",
            "last",
            "peak",
            "at",
            "step",
            "changes",
            "not",
            "finite",
        ],
        ["lr/a", "6", "10", "15", "0.1", "nan", "0.5", "12", "3", "2"],
    ]


@pytest.mark.parametrize(
    ("lr", "n_steps", "text"),
    [
        (lambda _: 3e-4, 500, "0.0003 throughout"),
        (steplr, 350, "step 0: 0.01  step 100: 0.001  step 200: 0.0001  step 300: 1e-05  last step 349: 1e-05"),
        (lambda step: step // 10, 200, "step 0: 0  step 10: 1  step 20: 2  step 30: 3  step 40: 4  step 50: 5  "
         "step 60: 6  step 70: 7  step 80: 8  ... 11 more changes ...  last step 199: 19"),
        (lambda step: step + 1, 10_000, "step 0: 1  step 1: 2  step 2: 3  ... 9,997 more changes ...  "
         "last step 9999: 10000"),
    ],
)  # fmt: skip
def test_the_changes_of_an_lr_are_listed(lr: Callable[[int], float], n_steps: int, text: str) -> None:
    """The first value, each change up to a limit, how many are left out, and the last value."""
    assert table(tape_of(lr, n_steps)).splitlines()[-2:] == ["lr/all", f"  {text}"]
    assert "lr/all" not in table(tape_of(lr, n_steps, key="train/loss"))
