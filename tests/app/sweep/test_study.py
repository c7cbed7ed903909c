"""Real studies of optuna's, in real journals."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra `optuna` is not installed")

from optuna.pruners import MedianPruner
from optuna.trial import TrialState

from lrtape.app.sweep.space import Choice, Range, Space, read_spaces
from lrtape.app.sweep.study import EpochReporter, Study, build_pruner, count_results, sampler_of
from lrtape.app.sweep.study_link import StudyLink
from lrtape.errors import ConfigError
from lrtape.trials import Trial

N_EPOCHS = 9
SPACE = Space("", {"b": "1"}, {"a": Range(0.0, 1.0), "c": Range(1, 9), "d": Choice(("10%", "30%"))})


def link_in(folder: Path, pruner: Any = "none") -> StudyLink:
    return StudyLink(str(folder / "optuna.journal"), "study", pruner, N_EPOCHS)


def open_in(folder: Path, pruner: Any = "none", sampler: Any = "tpe") -> Study:
    return Study.open(link_in(folder, pruner), "min", sampler_of(sampler, is_parallel=False), seed=0)


@pytest.mark.parametrize(
    "pruner",
    [
        "asha",
        "hyperband",
        "median",
        {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 3, "reduction_factor": 2},
    ],
)
def test_a_poor_trial_is_pruned_before_its_last_epoch(tmp_path: Path, pruner: Any) -> None:
    """By each pruner, from what trials report by objects of their own, as other processes do; never the best."""
    study = open_in(tmp_path, pruner)
    link = link_in(tmp_path, pruner)
    values = {}
    for quality in [0.5, 0.3, 0.9, 0.1, 0.8, 0.7, 0.6, 0.95, 0.2, 0.85, 0.99, 0.4]:
        number, _ = study.ask([SPACE])
        reporter = EpochReporter(link, number)
        for epoch in range(1, N_EPOCHS + 1):
            if reporter.report(epoch, quality + 1 / epoch):
                study.tell_pruned(number)
                values[number] = (quality, epoch)
                break
        else:
            study.tell(number, quality)
    pruned = {one.number for one in study.suggestions() if one.state == TrialState.PRUNED}

    assert pruned == values.keys()
    assert 1 <= len(pruned) < 12
    assert all(1 <= epoch < N_EPOCHS and quality > 0.1 for quality, epoch in values.values())


def test_no_pruner_prunes_nothing(tmp_path: Path) -> None:
    """`pruner=none`."""
    study = open_in(tmp_path)
    study.tell(study.ask([SPACE])[0], 0.0)

    assert not EpochReporter(link_in(tmp_path), study.ask([SPACE])[0]).report(1, 1e9)


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_driver_that_is_started_anew_suggests_the_same(tmp_path: Path, sampler: str) -> None:
    """As one that was not: a sampler whose seed began anew would suggest its first points again."""
    if sampler == "cmaes":
        pytest.importorskip("cmaes", reason="the extra `optuna` is not installed")
    names: list[list[str]] = []
    for folder, is_restarted in ((tmp_path / "one", False), (tmp_path / "two", True)):
        folder.mkdir()
        study = open_in(folder, sampler=sampler)
        names.append([])
        for _ in range(14):
            study = open_in(folder, sampler=sampler) if is_restarted else study
            number, point = study.ask([SPACE])
            study.tell(number, (float(point.values["a"]) - 0.3) ** 2)
            names[-1].append(point.name)

    assert names[0] == names[1]
    assert len(set(names[0])) > 7


def test_what_was_noted_is_read_again(tmp_path: Path) -> None:
    """From the journal, by another driver: trials, what they share, and why they have failed."""
    study = open_in(tmp_path)
    trials = [
        Trial(str(number), f"a={number}", (f"a={number}",), {"a": str(number)}, number=number) for number in range(4)
    ]
    for trial in trials:
        study.ask([SPACE])
        study.note(trial.number or 0, trial, "twin", same_as=0 if trial.number == 1 else None)
    study.tell(0, 0.5)
    study.tell_failed(2, "the cable was pulled")
    found = open_in(tmp_path).suggestions()

    assert [one.trial for one in found] == trials
    assert [one.same_as for one in found] == [None, 0, None, None]
    assert [one.value for one in found] == [0.5, None, None, None]
    assert (found[2].error, found[2].twin, found[3].state) == ("the cable was pulled", "twin", TrialState.RUNNING)


def test_which_space_is_a_category(tmp_path: Path) -> None:
    """Each trial has the keys of one space alone; the same key may mean something else in each."""
    spaces = read_spaces(
        [{"s": "one", "s.a": {"low": 0.1, "high": 0.2}}, {"s": "two", "s.a": [5, 6], "s.b": [1, 2]}], []
    )
    study = open_in(tmp_path)
    points = []
    for _ in range(12):
        number, point = study.ask(spaces)
        study.tell(number, 1.0)
        points.append(point)

    assert {point.values["s"] for point in points} == {"one", "two"}
    assert {tuple(point.values) for point in points} == {("s", "s.a"), ("s", "s.a", "s.b")}
    assert all((0.1 <= float(point.values["s.a"]) <= 0.2) == (point.values["s"] == "one") for point in points)


def test_results_are_counted_by_study(tmp_path: Path) -> None:
    """Finished and pruned ones; a file that is not there has none."""
    study = open_in(tmp_path)
    for _ in range(4):
        study.ask([SPACE])
    study.tell(0, 1.0)
    study.tell_pruned(1)
    study.tell_failed(2, "")

    assert count_results(tmp_path / "optuna.journal", "study") == 2
    assert count_results(tmp_path / "optuna.journal", "another") == 0
    assert count_results(tmp_path / "nothing.journal", "study") == 0
    assert not (tmp_path / "nothing.journal").exists()


def test_a_pruner_or_sampler_can_be_anybodys() -> None:
    """A `_target_` with its arguments, as everywhere in the config."""
    pruner = build_pruner({"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 2}, N_EPOCHS)

    assert isinstance(pruner, MedianPruner)
    assert pruner._n_startup_trials == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "ahsa",
            "must be one of none, median, asha, hyperband, or a mapping with a `_target_`, but is 'ahsa' instead.",
        ),
        (
            {"_target_": "optuna.pruners.MedianPruner", "warmup": 2},
            "`hydra.sweeper.pruner.warmup` is not an argument of",
        ),
        ({"_target_": "torch.nn.ReLU"}, "must build one of optuna's pruners, but torch.nn.ReLU builds ReLU instead."),
        ({"_target_": "nowhere.Pruner"}, "`hydra.sweeper.pruner"),
    ],
)
def test_a_pruner_that_is_none_is_refused(given: Any, said: str) -> None:
    """With what there is."""
    with pytest.raises(ConfigError) as refusal:
        build_pruner(given, N_EPOCHS)

    assert said in str(refusal.value)
