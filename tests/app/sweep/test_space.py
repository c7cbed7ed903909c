from typing import Any

import pytest

from lrtape.app.sweep.space import Choice, Range, read_spaces
from lrtape.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "axis"),
    [
        ("a=interval(0.1,0.9)", Range(0.1, 0.9)),
        ("a=interval(1,5)", Range(1.0, 5.0)),
        ("a=int(interval(1,5))", Range(1, 5)),
        ("a=tag(log,interval(1e-4,1e-1))", Range(1e-4, 1e-1, is_log=True)),
        ("a=tag(log,int(interval(1,100)))", Range(1, 100, is_log=True)),
        ("a=range(2,10)", Range(2, 9)),
        ("a=range(2,10,3)", Range(2, 8, step=3)),
        ("a=range(10,2,-1)", Range(3, 10)),
        ("a=range(0.1,0.8,0.2)", Range(0.1, 0.7, step=0.2)),
        ("a=range(2,3)", Choice(("2",))),
        ("a=10%,30%,50%", Choice(("10%", "30%", "50%"))),
        ("a=choice(steplr,exponentiallr)", Choice(("steplr", "exponentiallr"))),
        ("a=[1,2],[3,4]", Choice(("[1,2]", "[3,4]"))),
    ],
)
def test_hydras_sweeps_are_axes(override: str, axis: Range | Choice) -> None:
    """They mean what Hydra says: a range ends before its end, an interval has no whole numbers unless it is cast."""
    (space,) = read_spaces(None, [override, "b=1"])

    assert space.axes == {"a": axis}
    assert space.fixed == {"b": "1"}


def test_the_config_has_the_same_axes() -> None:
    """`{low, high}` is a range, of whole numbers where both are; a list is a choice; a value is fixed."""
    given = {
        "a.x": {"low": 1e-4, "high": 0.1, "log": True},
        "b": {"low": 1, "high": 9, "step": 2},
        "c": [1, "30%"],
        "d": 5,
    }
    (space,) = read_spaces(given, [])

    assert space.axes == {"a.x": Range(1e-4, 0.1, is_log=True), "b": Range(1, 9, step=2), "c": Choice(("1", "30%"))}
    assert space.fixed == {"d": "5"}


def test_the_command_line_wins() -> None:
    """A key that it sets or sweeps is taken from there; what it deletes is deleted in every trial."""
    (space,) = read_spaces({"a": {"low": 0, "high": 1}, "b": [1, 2]}, ["a=7", "b=interval(0,1)", "~c"])

    assert space.fixed == {"a": "7"}
    assert space.at(0.5).overrides == ("~c", "a=7", "b=0.5")


def test_points_are_named_by_their_values() -> None:
    """Short, with every digit in the values."""
    (space,) = read_spaces(
        {"scheduler.gamma": {"low": 0.1, "high": 0.9}, "scheduler.step_size": ["10%", "30%"]}, ["e=2"]
    )
    point = space.point({"scheduler.gamma": 1 / 3, "scheduler.step_size": "30%"})

    assert point.name == "gamma=0.3333 step_size=30%"
    assert point.values == {"scheduler.gamma": "0.3333333333333333", "scheduler.step_size": "30%"}
    assert point.overrides == ("e=2", "scheduler.gamma=0.3333333333333333", "scheduler.step_size=30%")


def test_spaces_are_told_apart() -> None:
    """By what they fix differently, which belongs to the values of their points."""
    spaces = read_spaces(
        [{"scheduler": name, "scheduler.gamma": [0.1, 0.5]} for name in ("steplr", "exponentiallr")], []
    )

    assert [space.name for space in spaces] == ["steplr", "exponentiallr"]
    assert spaces[1].at(1.0).values == {"scheduler": "exponentiallr", "scheduler.gamma": "0.5"}
    assert spaces[1].at(1.0).name == "exponentiallr gamma=0.5"


def test_spaces_that_fix_the_same_have_numbers() -> None:
    """Every space has a name of its own: it is a category."""
    spaces = read_spaces([{"a": [1, 2]}, {"b": [1, 2]}], [])

    assert [space.name for space in spaces] == ["space 0", "space 1"]


@pytest.mark.parametrize(
    "axis", [Range(0.1, 0.9), Range(1e-4, 1.0, is_log=True), Range(2, 9, step=7), Choice(("1", "2"))]
)
def test_the_ends_belong_to_an_axis(axis: Range | Choice) -> None:
    """The first and the last value are those that were given."""
    ends = (axis.low, axis.high) if isinstance(axis, Range) else (axis.texts[0], axis.texts[-1])

    assert (axis.at(0.0), axis.at(1.0)) == ends


@pytest.mark.parametrize(
    ("given", "arguments", "said"),
    [
        (None, ["a=1"], "a search must have something to vary, but nothing is."),
        ({}, [], "a search must have something to vary"),
        (
            None,
            ["a=interval(0.9,0.1)"],
            "`a` must go from a lower to a higher number, but goes from 0.9 to 0.1 instead.",
        ),
        (None, ["a=interval(1,1)"], "must go from a lower to a higher number"),
        (None, ["a=range(3,3)"], "a range must have a value, but 'a=range(3,3)' has none."),
        (
            None,
            ["a=tag(log,interval(0,1))"],
            "must begin above 0 to be drawn by its logarithm, but begins at 0.0 instead.",
        ),
        (None, ["a=tag(lgo,interval(1,2))"], "must have no tag but log, as tag(log,interval(1e-4,1e-1)), but"),
        (None, ["seed=range(0,9)"], "a search must have one seed, but varies `seed`."),
        (3, [], "`sweep.space` must be a mapping from keys of the config to values"),
        ([{"a": [1]}, 3], [], "`sweep.space[1]` must be a mapping"),
        ({"a": []}, [], "a must have at least one value, but has an empty list instead."),
        ({"a": {"low": 1}}, [], "a must have a number as high, but has None instead."),
        ({"a": {"low": "x", "high": 1}}, [], "a must have a number as low, but has 'x' instead."),
        ({"a": {"low": 1, "high": 2, "lgo": True}}, [], "a must have only low, high, log and step, but has ['lgo']."),
        ({"a": {"low": 1, "high": 2, "log": 1}}, [], "a must have true or false as log, but has 1 instead."),
        ({"a": {"low": 1, "high": 2, "log": True, "step": 1}}, [], "must have no step where its logarithm is drawn"),
        (
            {"a": {"low": 1, "high": 9, "step": 3}},
            [],
            "must be a whole number of steps wide, but goes from 1 to 9 by 3.",
        ),
        (
            {"a": {"low": 1, "high": 9, "step": -1}},
            [],
            "must have a step above 0 and within its range, but has -1 instead.",
        ),
        ({"a": {"low": 1, "high": 2, "step": 0.5}}, [], "must have a whole step between whole numbers, but has 0.5."),
    ],
)
def test_a_space_that_is_none_is_refused(given: Any, arguments: list[str], said: str) -> None:
    """With what was given, and what it must be."""
    with pytest.raises(ConfigError) as refusal:
        read_spaces(given, arguments)

    assert said in str(refusal.value)
