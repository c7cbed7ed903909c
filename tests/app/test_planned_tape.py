import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from lrtape.app.data import Data, digits
from lrtape.app.interrupts import Interrupted
from lrtape.cli.stored import open_history, plan_of
from lrtape.cli.why import why
from lrtape.tape import Tape
from lrtape.tracking.history import read_run

Train = Callable[..., float]

BY_HAND = 10
"""The step for which somebody sets an lr."""
STEPS_PER_EPOCH = 6


class Meddled(torch.optim.SGD):
    """Can be found by whoever wants to set its lr."""

    stepped: "Meddled | None" = None
    n_steps = 0
    stop_at: int | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        Meddled.stepped = self
        if Meddled.stop_at == Meddled.n_steps:
            signal.raise_signal(signal.SIGINT)
        Meddled.n_steps += 1
        super().step(closure)


def meddling() -> Data:
    """Digits with a loss that doubles the lr of the first group, as a callback might, before one of the steps."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled() and Meddled.n_steps == BY_HAND and Meddled.stepped is not None:
            Meddled.stepped.param_groups[0]["lr"] *= 2
        return nn.functional.cross_entropy(outputs, targets)

    data = digits()
    return Data(data.train, data.val, loss, classification=True)


HERE = f"{__name__}"
PLAIN = (
    *("optimizer=sgd", f"optimizer._target_={HERE}.Meddled", "param_groups=head_and_backbone"),
    *("trainer.epochs=4", "trainer.batch_size=256"),
)
BY_A_CALLBACK = ("~data", f"+data._target_={HERE}.meddling", *PLAIN)


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    Meddled.stepped, Meddled.n_steps, Meddled.stop_at = None, 0, None
    yield
    Meddled.stepped, Meddled.n_steps, Meddled.stop_at = None, 0, None


def the_run(store: str) -> str:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    run_id: str = run.info.run_id
    return run_id


def rows(tape: Tape | None) -> dict[str, tuple[list[int], list[float]]]:
    assert tape is not None
    return {key: (list(series.steps), list(series.values)) for key, series in tape.lr.items()}


def test_a_change_by_a_callback_is_told_from_the_schedulers(
    train_in_process: Train, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a schedule that changes at every step: what was set by hand is, what comes after it is the scheduler's, and
    the other group was never touched.
    """
    train_in_process(*BY_A_CALLBACK, "scheduler=cosineannealinglr")

    def said(step: int) -> list[str]:
        capsys.readouterr()
        why(the_run(store), step, None, store)
        return capsys.readouterr().out.splitlines()

    backbone, head = said(BY_HAND)
    assert backbone.startswith(f"lr/backbone changed at step {BY_HAND} from ")
    assert ": changed outside the scheduler: by the plan it goes from " in backbone
    assert "CosineAnnealingLR: half a cosine down" in head
    for step in (BY_HAND - 1, BY_HAND + 1):
        assert all("CosineAnnealingLR: half a cosine down" in line for line in said(step))


def test_the_plan_is_kept_before_the_training_ends(train_in_process: Train, store: str) -> None:
    """It is there, for all steps, with a run that was interrupted; and it is no tape of what was recorded."""
    Meddled.stop_at = 8
    with pytest.raises(Interrupted):
        train_in_process(*PLAIN, "scheduler=cosineannealinglr")
    history = open_history(the_run(store), store)
    plan, recorded = plan_of(history), read_run(the_run(store), store).lr

    assert {key: len(steps) for key, (steps, _) in rows(plan).items()} == {"lr/backbone": 24, "lr/head": 24}
    assert plan is not None
    assert rows(plan.until(9)) == rows(recorded)
    assert history.tapes(Path()) != []
    assert not any(path.name.startswith("planned") for path in history.tapes(Path()))


@pytest.mark.parametrize("stop_at", [None, 20])
def test_a_metric_makes_a_plan_when_it_is_known(train_in_process: Train, store: str, stop_at: int | None) -> None:
    """What ReduceLROnPlateau would have done with the recorded metric, and not beyond the last recorded step."""
    Meddled.stop_at = stop_at
    with contextlib.suppress(Interrupted):
        train_in_process(*PLAIN, "scheduler=reducelronplateau", "scheduler.patience=0", "scheduler.threshold=0.9")
    plan, recorded = plan_of(open_history(the_run(store), store)), read_run(the_run(store), store)

    assert len(recorded["lr/head"]) == (24 if stop_at is None else stop_at + 1)
    assert rows(plan) == rows(recorded)
    assert len(set(recorded["lr/head"].values)) > 1, "the case is wrong: no lr was reduced"


def test_each_part_of_a_resumed_training_has_its_own_plan(
    train_in_process: Train, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its first step on; before it, the plan is what it was, and a change of the config is no change by hand."""
    steplr = ("scheduler=steplr", "scheduler.step_size=1")
    Meddled.stop_at = 2 * STEPS_PER_EPOCH - 1
    with pytest.raises(Interrupted):
        train_in_process(*PLAIN, *steplr)
    Meddled.stop_at = None
    train_in_process("trainer.resume=last", *steplr, "scheduler.gamma=0.5", "trainer.resume_override=true")
    plan, recorded = plan_of(open_history(the_run(store), store)), read_run(the_run(store), store)

    assert rows(plan) == rows(recorded)
    capsys.readouterr()
    why(the_run(store), 2 * STEPS_PER_EPOCH, "lr/head", store)
    assert "outside" not in capsys.readouterr().out


def test_what_is_not_tracked_keeps_no_plan(train_in_process: Train, store: str, tmp_path: Path) -> None:
    """And a training whose scheduler is stepped by its own mean loss, which is not recorded, has none to keep."""
    train_in_process(*PLAIN, "tracking=off")
    assert not [*tmp_path.rglob("planned-*")]
    train_in_process(*PLAIN, "scheduler=reducelronplateau", "scheduler.monitor=train/loss")
    assert plan_of(open_history(the_run(store), store)) is None
