import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from lrtape.errors import ConfigError
from lrtape.range_curve import exponential_lrs, smooth
from lrtape.spool_folder import SpoolFolder
from lrtape.tape import Tape
from lrtape.tracking.history import read_run

ROOT = Path(__file__).parents[2]
Train = Callable[..., float]

SHORT = ["experiment=lr_range", "range.n_steps=60", "trainer.batch_size=128"]


def the_run(store: str) -> tuple[Run, Tape]:
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return run, read_run(run.info.run_id, store)


def test_a_range_test_is_a_run_like_any_other(
    train_in_process: Train, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow has every group's lr, the loss and the smoothed loss of each step, the suggestion and the command as tags,
    and the picture; and the terminal shows the curve, the suggestion and the command.
    """
    lowest = train_in_process(*SHORT, "optimizer=sgd", "param_groups=head_and_backbone", "range.max_lr=100")
    run, tape = the_run(store)
    n_steps = len(tape["train/loss"])

    assert (run.info.run_name, run.info.status, run.data.tags["lrtape.complete"]) == ("lr_range", "FINISHED", "true")
    assert 20 < n_steps < 60  # it has diverged before the end
    assert list(tape["lr/head"].values) == exponential_lrs(1e-6, 100, 60)[:n_steps]
    assert list(tape["lr/backbone"].values) == pytest.approx([lr / 10 for lr in tape["lr/head"].values])
    assert list(tape["range/smoothed_loss"].values) == smooth(tape["train/loss"].values, 0.9)
    assert lowest == min(tape["range/smoothed_loss"].values[6:])

    lr = float(run.data.tags["lrtape.range.suggested_lr"])
    assert 0.001 < lr < float(run.data.tags["lrtape.range.diverged_at_lr"])
    assert float(run.data.tags["lrtape.range.diverged_at_lr"]) == tape["lr/head"].values[-1]
    path = MlflowClient(tracking_uri=store).download_artifacts(run.info.run_id, "lr/range.png", str(tmp_path))
    with Image.open(path) as picture:
        assert picture.size == (1200, 750)

    out = capsys.readouterr().out
    assert "-> (lr)" in out
    assert f"Suggested lr:  {lr:.6g}" in out
    assert f"For each group:  backbone {lr / 10:.6g}  head {lr:.6g}" in out
    command = run.data.tags["lrtape.range.command"]
    assert f"To use it:     {command}\n" in out
    assert command.endswith(
        f" trainer.batch_size=128 optimizer=sgd param_groups=head_and_backbone optimizer.lr={float(f'{lr:.3g}'):g}"
    )
    assert not (tmp_path / "output" / "checkpoints").exists()


def test_one_group_alone(train_in_process: Train, store: str) -> None:
    """`range.group` varies the lr of one, leaves the other, and the command sets that one alone."""
    train_in_process(*SHORT, "optimizer.lr=0.002", "param_groups=head_and_backbone", "range.group=head")
    run, tape = the_run(store)

    assert set(tape["lr/backbone"].values) == {0.0002}
    assert tape["lr/head"].values[0] == 1e-6
    factor = float(run.data.tags["lrtape.range.suggested_lr"]) / 0.002
    assert f"param_groups.head_lr_mult={float(f'{factor:.3g}'):g}" in run.data.tags["lrtape.range.command"].split()
    assert "optimizer.lr=0.002" in run.data.tags["lrtape.range.command"].split()


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["optimizer=muon"], ["optimizer.lr", "optimizer.adamw.lr"]),
        (["param_groups=layerwise", "param_groups.factors={layer1: 2.0}"], ["optimizer.lr"]),
        (["scheduler=onecyclelr"], ["optimizer.lr"]),
        (["param_groups=frozen_backbone", "param_groups.backbone_lr_mult=0.5"], ["optimizer.lr"]),
        (
            ["param_groups=by_pattern", "param_groups.groups=[{name: a, regex: bias, lr: 0.003}, {name: b}]"],
            [],  # a group that has an lr of its own does not follow the optimizer's
        ),
    ],
)
def test_the_command_sets_what_was_suggested(
    train_in_process: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    keys: list[str],
) -> None:
    """Every key that it takes, as the lr of Muon's other half; and where no key does it, there is no wrong command."""
    monkeypatch.chdir(tmp_path)
    train_in_process(*SHORT, *overrides, "tracking=off")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("To use it:")]

    given = [argument.partition("=")[0] for argument in shlex.split(line)]
    assert [key for key in ("optimizer.lr", "optimizer.adamw.lr") if key in given] == keys
    assert ("no single key" in line) == (not keys)
    assert "experiment" not in given


def test_a_loss_that_never_falls_gets_no_suggestion(
    train_in_process: Train, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, there is no command, and the run has the reason."""
    train_in_process(*SHORT, "range.max_lr=1e-5")
    run, _ = the_run(store)

    assert "The loss never falls between lr 1e-06 and 1e-05" in run.data.tags["lrtape.range.problem"]
    assert "lrtape.range.suggested_lr" not in run.data.tags
    out = capsys.readouterr().out
    assert "No suggestion. The loss never falls" in out
    assert "To use it" not in out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["range.min_lr=1", "range.max_lr=0.1"], "`range.min_lr` must be less than `range.max_lr`, but is 1.0"),
        (["range.n_steps=5"], "`range.n_steps` must be a whole number >= 20, but is 5"),
        (["range.group=neck"], r"`range.group` must be one of the param groups that move, \['all'\], or null for all"),
        (["range.group=backbone", "param_groups=frozen_backbone"], r"that move, \['head'\], .* is 'backbone' instead"),
        (["optimizer.lr=0"], "`optimizer.lr` must be above 0 for a range test"),
        (["trainer.resume=last"], "`trainer.resume` must be null with `range`"),
    ],
)
def test_a_wrong_range_is_refused(train_in_process: Train, store: str, overrides: list[str], message: str) -> None:
    """Before there is a run."""
    with pytest.raises(ConfigError, match=message):
        train_in_process("experiment=lr_range", *overrides)
    assert MlflowClient(tracking_uri=store).get_experiment_by_name("lrtape") is None


def test_the_printed_command_trains(tmp_path: Path) -> None:
    """As people use it: run the test, paste the command that it prints, and the loss falls."""

    def run(command: list[str]) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    out = run([sys.executable, str(ROOT / "train.py"), *SHORT, "tracking=off"])
    (line,) = [line for line in out.splitlines() if line.startswith("To use it:")]
    program, script, *arguments = shlex.split(line.removeprefix("To use it:"))
    assert (program, script) == ("python", str(ROOT / "train.py"))
    assert arguments[:2] == ["trainer.batch_size=128", "tracking=off"]

    out = run([sys.executable, script, *arguments, "trainer.epochs=3"])
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 3
    assert float(lines[-1].split("val/acc")[1]) > 0.6


def test_a_store_that_is_away_gets_the_suggestion_later(
    train_in_process: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is planned, with the tags and the picture, for `lrtape recover` to create."""
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="lrtape recover"):
        train_in_process(
            *SHORT, "tracking.uri=http://127.0.0.1:9", "tracking.when_unreachable=spool", "tracking.close_timeout_s=0"
        )
    (folder,) = SpoolFolder.find(tmp_path / ".lrtape")
    tags = folder.load_tags()

    assert 1e-6 < float(tags["lrtape.range.suggested_lr"]) < 10
    assert "optimizer.lr=" in tags["lrtape.range.command"]
    assert (folder.artifacts / "lr/range.png").is_file()
