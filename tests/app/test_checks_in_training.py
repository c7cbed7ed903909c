import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lrtape.app.schedule import Schedule
from lrtape.app.watch import Watch
from lrtape.checks.verdict import verdict_on
from lrtape.errors import ConfigError, StoppedOnFindingError
from lrtape.recover import recover
from lrtape.tape import Finding
from lrtape.tracking.history import read_run

Train = Callable[..., float]

QUICK = ("trainer.epochs=6", "trainer.batch_size=256", "trainer.print_every_n_epochs=null")
"""Six steps an epoch."""
TOO_FAST = ("scheduler=exponentiallr", "scheduler.gamma=0.5", "scheduler.interval=step", *QUICK)
RIGHT = ("scheduler=steplr", "scheduler.step_size=2", *QUICK)


def run_of(store: str) -> Any:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    if experiment is None:
        return None
    (run,) = client.search_runs([experiment.experiment_id]) or (None,)
    return run


def report_of(store: str, tmp_path: Path) -> dict[str, Any]:
    """The artifact with the findings."""
    client = MlflowClient(tracking_uri=store)
    (tmp_path / "downloads").mkdir(exist_ok=True)
    path = client.download_artifacts(run_of(store).info.run_id, "lr/findings.json", str(tmp_path / "downloads"))
    report: dict[str, Any] = json.loads(Path(path).read_text())
    return report


def never_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that forgets its scheduler, although the plan has it."""
    monkeypatch.setattr(Schedule, "after_step", lambda _: None)
    monkeypatch.setattr(Schedule, "after_epoch", lambda *_: None)


def test_what_is_wrong_is_said_before_the_training_and_kept_in_the_run(
    train_in_process: Train, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, once; then the findings as an artifact, the worst one as tag and in the description."""
    train_in_process(*TOO_FAST)
    err = capsys.readouterr().err
    tags = run_of(store).data.tags
    report = report_of(store, tmp_path)

    assert err.count("lrtape: warning decays-too-fast: lr/all falls below 1% of its peak 0.01 at step 7 of 36") == 1
    assert err.count("lrtape: ") == 1
    assert [(finding["code"], finding["step"]) for finding in report["findings"]] == [("decays-too-fast", 7)]
    assert tags["lr.verdict"] == report["verdict"]
    assert tags["lr.verdict"].startswith("warning decays-too-fast: lr/all falls below 1% of its peak")
    assert len(tags["lr.verdict"]) <= 300
    assert tags["mlflow.note.content"].replace("\\", "").splitlines()[2] == f"Learning rates: {tags['lr.verdict']}"


def test_a_right_training_is_ok(
    train_in_process: Train, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is said."""
    train_in_process(*RIGHT, "checks=strict")

    assert report_of(store, tmp_path) == {"verdict": "ok", "findings": []}
    assert run_of(store).data.tags["lr.verdict"] == "ok"
    assert "lrtape: " not in capsys.readouterr().err


def test_strict_refuses_a_wrong_schedule(train_in_process: Train, store: str, tmp_path: Path) -> None:
    """In one message that lists what is wrong; there is no run and no output."""
    with pytest.raises(ConfigError) as refusal:
        train_in_process(*TOO_FAST, "checks=strict")

    assert "`checks=strict`, but does:\n  warning decays-too-fast: lr/all falls" in str(refusal.value)
    assert str(refusal.value).splitlines()[-1].endswith("checks=warn")
    assert run_of(store) is None
    assert not (tmp_path / "output").exists()


def test_off_is_off(train_in_process: Train, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said or kept; but a schedule that would fail is refused all the same."""
    train_in_process(*TOO_FAST, "checks=off")
    run = run_of(store)

    assert "lrtape: " not in capsys.readouterr().err
    assert "lr.verdict" not in run.data.tags
    artifacts = MlflowClient(tracking_uri=store).list_artifacts(run.info.run_id, "lr")
    assert "lr/findings.json" not in [artifact.path for artifact in artifacts]
    with pytest.raises(ConfigError, match="must stand 36 calls"):
        train_in_process("scheduler=onecyclelr", "scheduler.total_steps=5", *QUICK, "checks=off")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["checks=loud"], "`checks` must be one of warn, strict, off, but is 'loud' instead."),
        (["trainer.stop_on=[spikes]"], "`trainer.stop_on` must be codes of findings, of lr-not-finite, "),
    ],
)
def test_an_unknown_word_is_refused(train_in_process: Train, overrides: list[str], said: str) -> None:
    """With what there is."""
    with pytest.raises(ConfigError) as refusal:
        train_in_process(*overrides)
    assert said in str(refusal.value)


def test_a_training_that_parts_from_its_plan_is_told(
    train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan is fine, the recording is not: nothing before, one line after, and the verdict."""
    never_step(monkeypatch)
    train_in_process(*RIGHT, "checks=strict")
    err = capsys.readouterr().err

    assert err.count("lrtape: error scheduler-not-stepped: lr/all of step 12 is 0.01, and by the plan 0.001") == 1
    assert run_of(store).info.status == "FINISHED"
    assert run_of(store).data.tags["lr.verdict"].startswith("error scheduler-not-stepped: ")


def test_a_finding_can_end_the_training(train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of the first epoch that shows it: the run has failed, what was recorded is there, and the verdict."""
    never_step(monkeypatch)
    with pytest.raises(
        StoppedOnFindingError, match=r"`trainer\.stop_on` names scheduler-not-stepped: lr/all of step 12"
    ):
        train_in_process(*RIGHT, "trainer.stop_on=[spike,scheduler-not-stepped]", "checks=off")
    run = run_of(store)

    assert run.info.status == "FAILED"
    assert list(read_run(run.info.run_id, store)["lr/all"].steps) == list(range(18))


def test_another_finding_does_not_end_it(train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that are named do."""
    never_step(monkeypatch)
    train_in_process(*RIGHT, "trainer.stop_on=[spike]")

    assert run_of(store).info.status == "FINISHED"


def test_a_metric_is_known_afterwards(train_in_process: Train, store: str, tmp_path: Path) -> None:
    """What ReduceLROnPlateau did with the recorded metric is as planned, and what it did not do is found."""
    plateau = ("scheduler=reducelronplateau", "scheduler.patience=0", "scheduler.threshold=0.9", *QUICK)
    train_in_process(*plateau)
    lrs = set(read_run(run_of(store).info.run_id, store)["lr/all"].values)

    assert len(lrs) > 1
    assert report_of(store, tmp_path) == {"verdict": "ok", "findings": []}


def test_a_forgotten_plateau_is_found(train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side of the same."""
    never_step(monkeypatch)
    train_in_process("scheduler=reducelronplateau", "scheduler.patience=0", "scheduler.threshold=0.9", *QUICK)

    assert run_of(store).data.tags["lr.verdict"].startswith("error scheduler-not-stepped: ")


def test_a_resumed_training_is_judged_from_its_first_step(
    train_in_process: Train, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its steps are where the plan has them; the description has one verdict, the last."""
    overrides = ("scheduler=steplr", "scheduler.step_size=2", *QUICK[1:])
    train_in_process(*overrides, "trainer.epochs=3")
    capsys.readouterr()
    train_in_process(
        *overrides, "trainer.epochs=6", "trainer.resume=last", "trainer.resume_override=true", "checks=warn"
    )
    run = run_of(store)

    assert "lrtape: " not in capsys.readouterr().err
    assert report_of(store, tmp_path) == {"verdict": "ok", "findings": []}
    note = run.data.tags["mlflow.note.content"].splitlines()
    assert (note.count("Learning rates: ok"), note.count("1 param group, 36 optimizer steps.")) == (1, 1)
    assert list(read_run(run.info.run_id, store)["lr/all"].steps) == list(range(36))


def test_a_resumed_training_that_parts_from_its_plan_is_told(
    train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side of the same."""
    overrides = ("scheduler=steplr", "scheduler.step_size=2", *QUICK[1:])
    train_in_process(*overrides, "trainer.epochs=3")
    never_step(monkeypatch)
    train_in_process(*overrides, "trainer.epochs=6", "trainer.resume=last", "trainer.resume_override=true")

    assert run_of(store).data.tags["lr.verdict"].startswith("error ")


def test_a_planned_run_gets_its_verdict_when_it_is_created(
    train_in_process: Train, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is away while training: findings and verdict come with the spool."""
    monkeypatch.setattr("lrtape.shipper_process.ShipperProcess._start", lambda _: None)
    with pytest.warns(UserWarning, match="lrtape recover"):
        train_in_process(
            *TOO_FAST,
            *("tracking.uri='http://127.0.0.1:9'", "tracking.when_unreachable=spool", "tracking.close_timeout_s=0"),
        )
    list(recover(Path(".lrtape"), store))

    assert run_of(store).data.tags["lr.verdict"].startswith("warning decays-too-fast: ")
    assert [finding["code"] for finding in report_of(store, tmp_path)["findings"]] == ["decays-too-fast"]


def test_a_check_that_fails_does_not_fail_the_training(
    train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is warned about; the training is over by then, and all that it recorded is stored."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Watch, "_outcome", broken)
    with pytest.warns(UserWarning, match="could not check what was recorded: ZeroDivisionError"):
        train_in_process(*RIGHT)

    assert run_of(store).info.status == "FINISHED"
    assert len(read_run(run_of(store).info.run_id, store)["lr/all"].steps) == 36


def test_a_training_that_fails_is_judged_too(
    train_in_process: Train, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it has recorded; and its own error is the one that is raised."""
    never_step(monkeypatch)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Watch, "after_epoch", fail)
    with contextlib.suppress(MemoryError):
        train_in_process(*RIGHT)

    assert run_of(store).info.status == "FAILED"
    assert run_of(store).data.tags["lr.verdict"] == "ok"


def test_the_verdict_is_the_worst_finding() -> None:
    """An error before a warning; a note is no reason to worry."""
    note, warning, error = (
        Finding(f"a-{kind}", f"This is a {kind}.", "lr/a", 0, kind) for kind in ("note", "warning", "error")
    )

    assert verdict_on([note, warning, error]) == "error a-error: This is a error."
    assert verdict_on([note, warning]) == "warning a-warning: This is a warning."
    assert verdict_on([note]) == verdict_on([]) == "ok"


UPSIDE_DOWN = ("scheduler=reducelronplateau", "scheduler.monitor=val/acc", *QUICK)


def test_a_metric_that_is_watched_upside_down_is_said_before_the_training(
    train_in_process: Train, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, with the fix; in the verdict, too; strict refuses it, and `stop_on` ends it."""
    with pytest.raises(ConfigError, match=r"error monitor-wrong-mode: .* Set scheduler\.mode=max\."):
        train_in_process(*UPSIDE_DOWN, "checks=strict")
    assert run_of(store) is None
    with pytest.raises(StoppedOnFindingError, match="names monitor-wrong-mode"):
        train_in_process(*UPSIDE_DOWN, "tracking=off", "trainer.stop_on=[monitor-wrong-mode]")
    capsys.readouterr()
    train_in_process(*UPSIDE_DOWN)
    assert capsys.readouterr().err.count("lrtape: error monitor-wrong-mode: `scheduler.mode` is min") == 1
    assert run_of(store).data.tags["lr.verdict"].startswith("error monitor-wrong-mode: ")
