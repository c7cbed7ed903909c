from collections.abc import Sequence

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lrtape.app.sweep.grid import MAX_POINTS, expand, quote
from lrtape.errors import ConfigError


def names(grids: Sequence[object], *arguments: str) -> list[str]:
    return [point.name for point in expand(grids, arguments)[0]]


def test_the_command_line_alone_is_a_grid() -> None:
    """Every combination of the swept values is a point, in order, and the names have only what is swept."""
    assert names([], "scheduler=steplr", "scheduler.gamma=0.1,0.5", "scheduler.step_size=2,5") == [
        *("gamma=0.1 step_size=2", "gamma=0.1 step_size=5", "gamma=0.5 step_size=2", "gamma=0.5 step_size=5"),
    ]


def test_a_union_of_grids() -> None:
    """Each schedule has its own hyperparameters; a key that only one of them has distinguishes its points."""
    grids = [
        {"scheduler": "steplr", "scheduler.gamma": [0.1, 0.5]},
        {"scheduler": "cosineannealinglr", "scheduler.eta_min": [0, 1e-5]},
    ]
    points, _ = expand(grids, ["optimizer.lr=0.1"])

    assert [point.name for point in points] == [
        *("steplr gamma=0.1", "steplr gamma=0.5", "cosineannealinglr eta_min=0", "cosineannealinglr eta_min=1e-05"),
    ]
    assert points[0].overrides == ("scheduler=steplr", "scheduler.gamma=0.1", "optimizer.lr=0.1")
    assert points[3].values == {"scheduler": "cosineannealinglr", "scheduler.eta_min": "1e-05"}


def test_the_command_line_is_stronger_than_a_grid() -> None:
    """A key that both have is taken from the command line; what only that sweeps multiplies every grid."""
    grids = [{"scheduler": "steplr", "scheduler.gamma": [0.1, 0.5]}]

    assert names(grids, "scheduler.gamma=0.3", "optimizer.lr=1,2") == ["lr=1", "lr=2"]


def test_a_deletion_stays_as_it_was_written() -> None:
    """`~data` is no value that is swept; every point deletes."""
    points, _ = expand([], ["~data", "+data.seed=1,2"])

    assert [point.overrides for point in points] == [("~data", "+data.seed=1"), ("~data", "+data.seed=2")]


def test_points_are_unique() -> None:
    """A point that two grids have is one point."""
    assert names([{"a.b": [1, 2]}, {"a.b": [2, 3]}]) == ["b=1", "b=2", "b=3"]


def test_keys_that_end_alike_keep_their_whole_names() -> None:
    """`gamma` of two groups cannot be told apart by its last part."""
    assert names([], "scheduler.gamma=1,2", "optimizer.gamma=3,4")[0] == "scheduler.gamma=1 optimizer.gamma=3"


def test_seeds_are_no_values_of_a_point() -> None:
    """Swept seeds repeat the points, and are given apart."""
    points, seeds = expand([], ["scheduler.gamma=0.1,0.5", "seed=1,2,3"])

    assert len(points) == 2
    assert seeds == ["1", "2", "3"]
    assert not any(override.startswith("seed") for point in points for override in point.overrides)


@pytest.mark.parametrize(
    ("grids", "arguments", "message"),
    [
        ([{"scheduler.gamma": []}], [], r"sweep.grids\[0\]. must give at least one value for scheduler.gamma"),
        (["steplr"], [], r"sweep.grids\[0\]. must be a mapping .* but is 'steplr' instead"),
        ([{"seed": [1, 2]}], [], "must not sweep `seed`.*sweep.seeds=3"),
        ([], ["scheduler.gamma=interval(0.1,0.9)"], "has 'scheduler.gamma=interval.*lrtape_optuna"),
        ([{"a": list(range(200)), "b": list(range(200))}], [], f"at most {MAX_POINTS:,} points"),
        ([{"a": [{1, 2}]}], [], "must be a number, a text, a list or a mapping, but is {1, 2} instead"),
    ],
)
def test_what_is_no_grid_is_refused(grids: Sequence[object], arguments: list[str], message: str) -> None:
    """Each mistake is one sentence that says what was given and what to do."""
    with pytest.raises(ConfigError, match=message):
        expand(grids, arguments)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1)


@given(st.recursive(plain | text, lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_what_is_quoted_is_read_back(value: object) -> None:
    """Hydra's own parser reads every quoted value as what it was: numbers as numbers, texts as texts."""
    (override,) = OverridesParser.create().parse_overrides([f"key={quote(value)}"])
    read = override.value()

    assert read == value
    assert type(read) is type(value)
