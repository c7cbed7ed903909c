import random
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrtape.leaderboard import Leaderboard, rank
from lrtape.standing import PRUNED, REFUSED, WAITING
from lrtape.tape import Status
from lrtape.trials import RUNNING, Trial, TrialRun

Scores = dict[tuple[str, int], float | None]

scores = st.dictionaries(
    st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)),
    st.none() | st.integers(-50, 50).map(lambda number: number / 8),
    max_size=20,
)


def a_run(
    value: str, seed: int, score: float | None, status: str = "", key: str = "scheduler.gamma", **more: object
) -> TrialRun:
    """Of the point `gamma=value`; without a score it has failed."""
    status = status or (Status.FINISHED if score is not None else Status.FAILED)
    name = f"{key.rpartition('.')[2]}={value} seed={seed}"
    return TrialRun(name, name, name, status, {key: value}, seed, score, **more)  # type: ignore[arg-type]


def board_of(found: Scores, direction: str = "min") -> Leaderboard:
    return rank([a_run(value, seed, score) for (value, seed), score in found.items()], "val/loss", direction)


@settings(deadline=None)
@given(scores, st.sampled_from(["min", "max"]))
def test_the_best_mean_is_first(found: Scores, direction: str) -> None:
    """Points go by the mean of their seeds: first those without failed seeds, then those with, then the rest."""
    board = board_of(found, direction)

    assert [point.rank == 0 for point in board.standings] == sorted(point.rank == 0 for point in board.standings)
    for has_failed in (False, True):
        means = [point.mean for point in board.ranked if bool(point.failures) == has_failed]
        assert means == sorted(means, key=lambda mean: mean or 0.0, reverse=direction == "max")
    order = [bool(point.failures) for point in board.ranked]
    assert order == sorted(order)


@settings(deadline=None)
@given(scores)
def test_every_training_counts_once(found: Scores) -> None:
    """No seed is lost or counted twice, and a mean is that of the seeds that finished."""
    board = board_of(found)

    assert board.n_trials == len(found)
    assert board.n_finished == sum(score is not None for score in found.values())
    for point in board.standings:
        own = [score for (value, _), score in found.items() if point.name == f"gamma={value}" and score is not None]
        assert sorted(point.scores) == sorted(own)
        assert point.mean == (statistics.mean(own) if own else None)


@settings(deadline=None)
@given(scores, st.randoms(use_true_random=False))
def test_the_order_of_the_runs_does_not_matter(found: Scores, shuffler: random.Random) -> None:
    """The same runs are the same ranking, but for the order of points with the same mean."""
    items = list(found.items())
    shuffler.shuffle(items)

    def ranks(board: Leaderboard) -> dict[str, int]:
        return {point.name: point.rank for point in board.standings}

    assert ranks(board_of(found)) == ranks(board_of(dict(items)))


@settings(deadline=None)
@given(scores)
def test_max_is_min_of_the_negative(found: Scores) -> None:
    """Both directions rank alike, and a lead is positive in both."""
    low = board_of(found)
    high = board_of({key: None if score is None else -score for key, score in found.items()}, "max")

    assert [point.name for point in low.ranked] == [point.name for point in high.ranked]
    if low.lead is not None and high.lead is not None:
        assert low.lead.gap == pytest.approx(high.lead.gap)
        assert low.lead.is_beyond_noise == high.lead.is_beyond_noise


def test_a_lucky_seed_of_a_point_that_fails_is_no_winner() -> None:
    """A point with a failed seed comes after one whose seeds all finished, however good its others are."""
    board = board_of({("a", 0): 0.01, ("a", 1): None, ("b", 0): 0.5, ("b", 1): 0.6, ("c", 0): None})

    assert [(point.name, point.rank) for point in board.standings] == [("gamma=b", 1), ("gamma=a", 2), ("gamma=c", 0)]
    assert board.lead is not None
    assert board.lead.gap < 0


def test_equal_means_share_a_rank() -> None:
    """Nobody is second who is as good as the first."""
    board = board_of({("a", 0): 1.0, ("b", 0): 1.0, ("c", 0): 2.0})
    assert [point.rank for point in board.standings] == [1, 1, 3]


def test_a_lead_within_the_noise_of_the_seeds_is_no_lead() -> None:
    """Clear where the seeds agree, unclear where they do not, and unknown for one seed."""

    def lead(first: Sequence[float], second: Sequence[float]) -> tuple[bool, bool]:
        scores: Scores = {("a", seed): score for seed, score in enumerate(first)}
        found = board_of(scores | {("b", seed): score for seed, score in enumerate(second)}).lead
        assert found is not None
        return found.is_beyond_noise, found.interval is not None

    assert lead([1.0, 1.01, 1.02], [2.0, 2.01, 2.02]) == (True, True)
    assert lead([1.0, 2.0, 3.0], [1.5, 2.5, 3.5]) == (False, True)
    assert lead([1.0, 1.01, 1.02], [2.0, 2.01]) == (True, True), "the numbers of seeds may differ"
    assert lead([1.0], [2.0, 2.1]) == (False, False)


def test_rivals_are_all_who_cannot_be_told_apart() -> None:
    """Not the second alone: a third one with few or noisy seeds may be as good as the winner."""
    board = board_of(
        {("a", 0): 1.0, ("a", 1): 1.01, ("b", 0): 1.5, ("b", 1): 1.51, ("c", 0): 1.2, ("c", 1): 2.8, ("d", 0): 3.0}
    )
    assert board.lead is not None
    assert board.lead.is_beyond_noise
    assert [point.name for point in board.rivals()] == ["gamma=c", "gamma=d"]


def test_a_point_that_equals_another_one_has_its_scores() -> None:
    """It is listed behind it, takes no place, is not counted as a training, but counts for the effect of its value."""
    planned = [
        Trial("gamma=a seed=0", "gamma=a seed=0", values={"scheduler.gamma": "a"}, seed=0),
        Trial("x", "gamma=b seed=0", values={"scheduler.gamma": "b"}, seed=0, same_as="gamma=a seed=0"),
        Trial("gamma=c seed=0", "gamma=c seed=0", values={"scheduler.gamma": "c"}, seed=0),
    ]
    board = rank([a_run("a", 0, 1.0), a_run("c", 0, 2.0)], "val/loss", "min", planned)

    listed = [(point.name, point.rank, point.same_as, point.mean) for point in board.standings]
    assert listed == [("gamma=a", 1, "", 1.0), ("gamma=b", 1, "gamma=a", 1.0), ("gamma=c", 2, "", 2.0)]
    assert [point.name for point in board.ranked] == ["gamma=a", "gamma=c"]
    assert (board.n_finished, board.n_trials) == (2, 2)
    assert {effect.value: effect.mean for effect in board.effects()} == {"a": 1.0, "b": 1.0, "c": 2.0}


def test_without_a_list_tags_tell_what_equals_what() -> None:
    """Of a sweep whose plan is not among the artifacts, the names alone are known."""
    runs = [a_run("a", seed, 1.0) for seed in (0, 1)]
    planned = [Trial(f"gamma=b seed={seed}", f"gamma=b seed={seed}", same_as=runs[seed].run_id) for seed in (0, 1)]
    planned.append(Trial("gamma=z seed=0", "gamma=z seed=0", refusal="lr-zero: it is 0"))
    board = rank(runs, "val/loss", "min", planned)

    assert [(point.name, point.same_as, point.refusal) for point in board.standings] == [
        ("gamma=a", "", ""),
        ("gamma=b", "gamma=a", ""),
        ("gamma=z", "", "lr-zero: it is 0"),
    ]


@pytest.mark.parametrize(
    ("run", "status", "error"),
    [
        (a_run("a", 0, 1.0), Status.FINISHED, ""),
        (a_run("a", 0, None, error="RuntimeError: no"), Status.FAILED, "RuntimeError: no"),
        (a_run("a", 0, None, Status.KILLED), Status.KILLED, ""),
        (a_run("a", 0, None, RUNNING), RUNNING, ""),
        (a_run("a", 0, None, Status.FINISHED), Status.FAILED, ""),
        (a_run("a", 0, float("nan"), Status.FAILED, error="not finite"), Status.FAILED, "not finite"),
        (a_run("a", 0, 3.0, Status.KILLED, pruned="epoch 3"), PRUNED, "epoch 3"),
    ],
)
def test_a_point_says_how_it_ended(run: TrialRun, status: str, error: str) -> None:
    """A run that finished without an objective has failed; one that a search has ended has not."""
    (point,) = rank([run], "val/loss", "min").standings
    assert (point.status, point.error) == (status, error)
    assert (point.rank == 1) == (status == Status.FINISHED)


def test_what_is_not_begun_waits_and_what_is_refused_is_refused() -> None:
    """Both are listed, and have no rank."""
    values = {"scheduler.gamma": "a"}
    planned = [
        Trial("gamma=a seed=0", "gamma=a seed=0", values=values, seed=0),
        Trial("other", "gamma=a seed=1", values=values, seed=1),
        Trial("z", "gamma=z seed=0", values={"scheduler.gamma": "z"}, seed=0, refusal="why"),
    ]
    board = rank([a_run("a", 0, 1.0)], "val/loss", "min", planned)
    assert [(point.status, point.n, point.n_trials) for point in board.standings] == [(WAITING, 1, 2), (REFUSED, 0, 1)]


def test_the_best_point_of_each_schedule_stands_for_it() -> None:
    """Where schedules are swept over, and nowhere else."""

    def run(schedule: str, gamma: str, score: float) -> TrialRun:
        name = f"{schedule} gamma={gamma}"
        return TrialRun(name, name, name, Status.FINISHED, {"scheduler": schedule, "scheduler.gamma": gamma}, 0, score)

    board = rank([run("steplr", "1", 3.0), run("steplr", "2", 1.0), run("cosine", "1", 2.0)], "val/loss", "min")
    assert [point.name for point in board.schedules] == ["steplr gamma=2", "cosine gamma=1"]
    assert board_of({("a", 0): 1.0, ("b", 0): 1.0}).schedules == []


def test_an_effect_is_the_mean_over_points_and_seeds_where_there_is_one_point() -> None:
    """The spread is over points, or over the seeds of a single one; failed points are counted."""

    def run(x: str, y: str, seed: int, score: float | None) -> TrialRun:
        name = f"x={x} y={y} seed={seed}"
        return TrialRun(name, name, name, Status.FINISHED if score else Status.FAILED, {"x": x, "y": y}, seed, score)

    board = rank(
        [run("1", "1", 0, 1.0), run("1", "1", 1, 3.0), run("1", "2", 0, 4.0), run("2", "1", 0, None)], "loss", "min"
    )
    effects = {(effect.key, effect.value): effect for effect in board.effects()}
    assert (effects["x", "1"].mean, effects["x", "1"].spread) == (3.0, statistics.stdev([2.0, 4.0]))
    assert (effects["y", "1"].mean, effects["y", "1"].spread) == (2.0, statistics.stdev([1.0, 3.0]))
    assert (effects["x", "2"].mean, effects["x", "2"].n_failed) == (None, 1)


def test_swept_numbers_are_in_their_order() -> None:
    """As numbers, shares of the run too; other texts as they came."""
    assert board_of({("10", 0): 1.0, ("9", 0): 1.0, ("1e1", 0): 2.0}).swept() == {"scheduler.gamma": ["9", "10", "1e1"]}
    shares = rank([a_run(text, 0, 1.0) for text in ("100%", "30%")], "loss", "min").swept()
    assert shares == {"scheduler.gamma": ["30%", "100%"]}
