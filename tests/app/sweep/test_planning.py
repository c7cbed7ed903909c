from collections.abc import Callable, Sequence

import pytest
import torch

from lrtape.app.sweep.planning import SweepPlan
from lrtape.errors import ConfigError

Plan = Callable[..., SweepPlan]


class Named(torch.nn.Linear):
    """A user's own model, which is chosen by a name."""

    def __init__(self, name: str) -> None:
        super().__init__(64, 10)
        self.name = name

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return super().forward(pictures.flatten(1))


def equal(plan: SweepPlan) -> dict[str, str]:
    names = {trial.id: trial.name for trial in plan.trials}
    return {trial.name: names[trial.same_as] for trial in plan.trials if trial.same_as}


def test_a_sweep_is_known_by_what_it_trains(plan: Plan) -> None:
    """The id follows from the trials: not from their order or the machine, but from every value and the experiment."""
    first = plan("scheduler=steplr", "scheduler.gamma=0.1,0.5")

    assert plan("scheduler.gamma=0.5,0.1", "scheduler=steplr", "trainer.num_workers=1").id == first.id
    assert plan("scheduler=steplr", "scheduler.gamma=0.1,0.4").id != first.id
    assert plan("scheduler=steplr", "scheduler.gamma=0.1,0.5", "trainer.epochs=3").id != first.id
    assert plan("scheduler=steplr", "scheduler.gamma=0.1,0.5", base=["tracking.experiment=other"]).id != first.id
    named = plan("scheduler=steplr", "scheduler.gamma=0.1,0.5", base=["sweep.name=mine"])
    assert plan("scheduler=steplr", "scheduler.gamma=0.1,0.7", base=["sweep.name=mine"]).id == named.id


def test_a_trial_is_known_by_its_config(plan: Plan) -> None:
    """The same point has the same id in another sweep, whatever its place and its label."""
    (alone,) = plan("scheduler=steplr", "scheduler.gamma=0.5", "scheduler.name=mine").trials
    both = plan("scheduler=steplr", "scheduler.gamma=0.1,0.5").trials

    assert [trial.id == alone.id for trial in both] == [False, True]


def test_only_a_label_is_no_part_of_a_trial(plan: Plan) -> None:
    """`name` is a label in `scheduler`, and an argument in any other group: there it makes another trial."""
    trials = plan("~model", "+model._target_=test_planning.Named", "+model.name=small,large").trials

    assert len({trial.id for trial in trials}) == 2
    assert all(trial.is_trained for trial in trials)


def test_one_config_in_other_words_is_named_and_linked(plan: Plan) -> None:
    """On another device it is the same training: the point is listed, and says which one it equals."""
    assert equal(plan("scheduler=steplr", "trainer.device=cpu,auto")) == {"device=auto": "device=cpu"}


def test_only_the_trainings_own_seed_is_called_so(plan: Plan) -> None:
    """A seed of the data is a value like any other, and keeps its whole name."""
    assert [trial.name for trial in plan("data.seed=1,2").trials] == ["data.seed=1", "data.seed=2"]


def test_seeds_repeat_every_point(plan: Plan) -> None:
    """`sweep.seeds=3` makes three trials of each point, from the config's seed on; `seed=...` names them."""
    trials = plan("scheduler=steplr", "scheduler.gamma=0.1,0.5", base=["sweep.seeds=3", "seed=7"]).trials

    assert [trial.seed for trial in trials] == [7, 8, 9] * 2
    assert [trial.name for trial in trials][:2] == ["gamma=0.1 seed=7", "gamma=0.1 seed=8"]
    assert len({trial.id for trial in trials}) == 6
    assert [trial.seed for trial in plan("scheduler=steplr", "seed=3,5").trials] == [3, 5]


def test_equal_learning_rates_are_trained_once(plan: Plan) -> None:
    """A step_size beyond the run, and two ways to write one schedule, are found; each names the one it equals."""
    beyond = plan("scheduler=steplr", "scheduler.step_size=3,30,40", "trainer.epochs=10")
    assert equal(beyond) == {"step_size=40": "step_size=30"}
    assert beyond.n_steps == 2 * 230

    two_ways = plan(
        "trainer.epochs=10",
        grids=[
            {"scheduler": "steplr", "scheduler.step_size": 5, "scheduler.gamma": 0.1},
            {"scheduler": "multisteplr", "scheduler.milestones": [[5]], "scheduler.gamma": 0.1},
            {"scheduler": "multisteplr", "scheduler.milestones": [[5]], "scheduler.gamma": 0.5},
        ],
    )
    assert list(equal(two_ways).values()) == ["steplr step_size=5 gamma=0.1"]


def test_equal_learning_rates_with_seeds_are_equal_seed_by_seed(plan: Plan) -> None:
    """Another seed is another training."""
    trials = plan("scheduler=steplr", "scheduler.step_size=30,40", "trainer.epochs=10", base=["sweep.seeds=2"])

    assert equal(trials) == {
        "step_size=40 seed=0": "step_size=30 seed=0",
        "step_size=40 seed=1": "step_size=30 seed=1",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("scheduler=onecyclelr", "scheduler.base_momentum=0.8,0.85", "optimizer=sgd"),
        ("scheduler=reducelronplateau", "scheduler.patience=40,50"),
        ("scheduler=steplr", "scheduler.step_size=30", "optimizer.weight_decay=0.1,0.2"),
    ],
)
def test_what_may_train_otherwise_is_not_equal(plan: Plan, arguments: Sequence[str]) -> None:
    """A schedule that moves the momentum too, one that follows a metric, and another optimizer are not equal."""
    assert equal(plan(*arguments)) == {}


def test_strict_checks_refuse_a_trial_and_no_other(plan: Plan) -> None:
    """With `checks=strict` a schedule with a finding is not trained, and the reason is kept; else it is a warning."""
    swept = ["scheduler=exponentiallr", "scheduler.gamma=0.1,0.8"]
    strict = plan(*swept, base=["checks=strict"]).trials
    warned = plan(*swept).trials

    assert [trial.is_trained for trial in strict] == [False, True]
    assert strict[0].refusal.startswith("decays-too-fast: ")
    assert all(trial.is_trained for trial in warned)
    assert warned[0].warning == strict[0].refusal


@pytest.mark.parametrize(
    ("arguments", "base", "message"),
    [
        (["scheduler=steplr", "scheduler.gamma=abc,0.1"], [], "1 of the 2 points.*none was started"),
        (["scheduler=steplr", "+scheduler.gama=0.1,0.5"], [], "`scheduler.gama` is not an argument of torch"),
        (["scheduler.T_max=1,2"], [], "`scheduler.T_max` is not a key of this config"),
        (["seed=0,1"], ["sweep.objective=val/f1"], "must be one of train/loss, val/loss, val/acc, but is 'val/f1'"),
        (["seed=0,1"], ["sweep.objective=val/accuracy_top1"], "must be one of train/loss"),
        (["seed=0,1"], ["sweep.seeds=3"], "`sweep.seeds` must be 1 where `seed` is swept"),
        (["seed=0,1", "trainer.resume=last"], [], "`trainer.resume` must be null in a sweep"),
        (["seed=a,b"], [], "`seed` must be swept over whole numbers"),
        (["data=digits,one_sample"], [], "`sweep.objective` must be set where points measure different metrics"),
    ],
)
def test_a_sweep_that_cannot_be_trained_is_refused(
    plan: Plan, arguments: list[str], base: list[str], message: str
) -> None:
    """What is wrong with a point is said before any is started, in a sentence with the field, the value and the fix."""
    with pytest.raises(ConfigError, match=message):
        plan(*arguments, base=base)


def test_the_direction_follows_from_the_objective(plan: Plan) -> None:
    """The lowest loss or the highest accuracy is best; anything else must be said."""
    assert plan("seed=0,1").direction == "min"
    assert plan("seed=0,1", base=["sweep.objective=val/acc"]).direction == "max"
    assert plan("seed=0,1", base=["sweep.objective=val/acc", "sweep.direction=min"]).direction == "min"
