import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from mlflow import MlflowClient

from lrtape.app.milestones import milestones
from lrtape.app.preview import preview
from lrtape.app.preview_command import main
from lrtape.tape import Point, Tape
from lrtape.tracking.history import read_run

LAYERWISE = ("param_groups=layerwise", "param_groups.factors=[0.1,0.3,1.0]")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])


def rows(path: Path) -> dict[str, list[float]]:
    """The values of a CSV file, by key."""
    values: dict[str, list[float]] = {}
    for row in csv.DictReader(path.open()):
        assert int(row["step"]) == len(values.setdefault(row["key"], []))
        values[row["key"]].append(float(row["value"]))
    return values


class PickyNet(torch.nn.Sequential):
    """A user's model that cannot be made without values."""

    def __init__(self) -> None:
        linear = torch.nn.Linear(64, 10)
        super().__init__(torch.nn.Flatten(), linear)
        self.scale = linear.weight.abs().max().item()


FROZEN = ("param_groups=frozen_backbone", "param_groups.unfreeze_at_epoch=2")


@pytest.mark.parametrize(
    ("scheduler", "groups"), [("steplr", LAYERWISE), ("warmup_cosine", LAYERWISE), ("steplr", FROZEN)]
)
def test_a_preview_is_what_the_training_records(
    train_in_process: Callable[..., float], store: str, scheduler: str, groups: tuple[str, ...]
) -> None:
    """The same overrides, and every key, step and value the same, to the last bit."""
    overrides = [f"scheduler={scheduler}", "trainer.epochs=4", "trainer.batch_size=256", *groups]
    train_in_process(*overrides)
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("lrtape").experiment_id])  # type: ignore[union-attr]
    recorded = read_run(run.info.run_id, store).lr
    (made,) = preview(overrides)

    assert {key: (list(series.steps), list(series.values)) for key, series in made.tape.items()} == {
        key: (list(series.steps), list(series.values)) for key, series in recorded.items()
    }
    assert len(recorded) == (2 if groups == FROZEN else 3)
    assert made.plan.n_steps == 24


def test_it_trains_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    """No run, no folder, no output; neither MLflow nor the data are loaded."""
    script = (
        "import sys\nfrom lrtape.cli import main\nsys.argv = ['lrtape', 'preview', 'scheduler=onecyclelr']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "print('LOADED', code, sorted({'torch', 'mlflow', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)

    assert ended.stdout.splitlines()[-1] == "LOADED 0 ['torch']", ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_terminal_shows_curve_milestones_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """The first and the last step, and each drop with its epoch; and that nothing is wrong."""
    assert main(["scheduler=steplr", "trainer.epochs=10"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]

    assert err == ""
    assert lines[0] == ["(lr)", "^"]
    assert ["all", "0", "1/10", "0.01", "first"] in lines
    assert ["69", "4/10", "0.001", "drops", "to", "0.1", "of", "it"] in lines
    assert ["229", "10/10", "1e-05", "last"] in lines
    assert out.endswith("Nothing found that looks wrong.\n")


def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """With its severity, its code and what to do; it is no failure of the command."""
    assert main(["scheduler=cosineannealinglr", "scheduler.T_max=20"]) == 0
    out, _ = capsys.readouterr()

    assert re.search(r"^(error|warning)  horizon-too-short  .*T_max", out, flags=re.MULTILINE)
    assert "Nothing found" not in out


def test_several_schedules_are_drawn_into_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of values is a grid, and each curve is labelled with what differs."""
    assert main(["scheduler=steplr,cosineannealinglr", "trainer.epochs=5", "--save", "two.csv"]) == 0
    out, _ = capsys.readouterr()
    assert {"  a  steplr", "  b  cosineannealinglr"} <= set(out.splitlines())
    assert [*rows(tmp_path / "two.csv")] == ["lr/steplr", "lr/cosineannealinglr"]

    grid = preview(["scheduler=steplr", "scheduler.gamma=0.1,0.5", "optimizer.lr=choice(0.1,0.2)", "trainer.epochs=5"])
    assert [made.label for made in grid] == [
        "gamma=0.1 lr=0.1",
        "gamma=0.1 lr=0.2",
        "gamma=0.5 lr=0.1",
        "gamma=0.5 lr=0.2",
    ]
    assert [next(iter(made.tape.values())).values[-1] for made in grid] == pytest.approx(
        [0.001, 0.002, 0.025, 0.05], rel=1e-9
    )


def test_a_metric_that_nobody_knows_is_made_up(capsys: pytest.CaptureFixture[str]) -> None:
    """ReduceLROnPlateau is drawn flat, and says so; with metrics it drops where it would."""
    plateau = ["scheduler=reducelronplateau", "scheduler.patience=1", "trainer.epochs=6"]
    assert main(plateau) == 0
    out, _ = capsys.readouterr()
    assert "note  ReduceLROnPlateau follows val/loss, which nobody knows before the training." in out
    assert "Nothing found" not in out

    assert main([*plateau, "scheduler.mode=max"]) == 0
    assert "error  monitor-wrong-mode  `scheduler.mode` is max" in capsys.readouterr().out

    (made,) = preview(plateau, metrics=[1.0, 0.5])
    series = made.tape["lr/all"]
    drop = milestones(series)[1]
    assert (drop.step, drop.what) == (4 * 23, "drops to 0.1 of it")
    assert "2 values, the last of which goes on" in made.note


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scheduler=stepl"], "steplr"),
        (["trainer.epchs=3"], "`trainer.epchs`"),
        (["trainer.epochs=0"], "`trainer.epochs` must be at least 1"),
        (["scheduler=onecyclelr", "scheduler.total_steps=5"], "must stand 460 calls of step()"),
        (["scheduler=lambdalr", "scheduler.lr_lambda=-1"], "must set learning rates >= 0"),
        (["scheduler=reducelronplateau", "scheduler.monitor=loss"], "`scheduler.monitor` must be one of train/loss"),
        (["optimizer.lr=[1"], "input '[1'"),
        (["optimizer.lr=1,2,3,4", "seed=1,2,3,4"], "at most 12 schedules, to be seen in one picture, but make 16"),
        (["--save", "curve.gif"], "`--save` must end with one of .png, .svg, .html, .csv, but is 'curve.gif'"),
        (["--save", "no/such/curve.png"], "must lie in a folder that exists"),
        (["--metrics", "1,x"], "`--metrics` must be numbers with commas"),
        (["--metrics", "1,2"], "`--metrics` must not be given for Constant, which takes no metric"),
        (["--sve", "a.png"], "`lrtape preview --help`"),
        (["tracking.uri=http://me:hush42@host"], "MLFLOW_TRACKING_URI"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_message(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    """As for a training: exit code 2, what was given and what is expected, and nothing is drawn."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()

    assert (out, err.startswith("lrtape: ")) == ("", True)
    assert said in err
    assert "Traceback" not in err
    assert "hush42" not in err


def test_the_files_are_what_their_names_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PNG and SVG are pictures, with a tick at 1e-08; HTML needs no other file; CSV has every step of every group."""
    for suffix in ("png", "svg", "html", "csv"):
        assert main(["scheduler=onecyclelr", "trainer.epochs=5", *LAYERWISE, "--save", f"lr.{suffix}"]) == 0
    svg = ElementTree.parse(tmp_path / "lr.svg").getroot()
    texts = {"".join(text.itertext()).strip() for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    html = (tmp_path / "lr.html").read_text()

    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert {"layer1", "layer2", "layer3", "1e-08", "0.01"} <= texts
    assert "<svg" in html
    assert "peak, the warm-up ends" in html
    assert re.findall(r'(?:src|href)="(?!#)', html) == []
    assert {key: len(values) for key, values in rows(tmp_path / "lr.csv").items()} == {
        "lr/layer1": 115,
        "lr/layer2": 115,
        "lr/layer3": 115,
    }


def test_an_lr_of_zero_and_one_that_never_changes_can_be_drawn(tmp_path: Path) -> None:
    """Neither has a place of its own on a logarithmic axis."""
    for index, scheduler in enumerate(["scheduler=constant", "scheduler=linearlr,constant"]):
        assert main([scheduler, "trainer.epochs=2", f"optimizer.lr={index and 0}", "--save", f"{index}.png"]) == 0


def test_a_model_that_needs_values_gets_them(tmp_path: Path) -> None:
    """What cannot be built on the meta device is built as a training would; and a folder of configs is found."""
    (tmp_path / "my_conf" / "model").mkdir(parents=True)
    (tmp_path / "my_conf" / "model" / "picky.yaml").write_text(f"_target_: {__name__}.PickyNet\n")

    assert main(["--config-dir", "my_conf", "model=picky", "scheduler=steplr"]) == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1] * 20, [(0, "first, and never changed"), (19, "last")]),
        (
            [*(0.01 * step for step in range(1, 11)), *[0.1] * 5, *(0.1 - 0.005 * step for step in range(1, 21))],
            [
                (0, "first"),
                (9, "peak, the warm-up ends"),
                (15, "begins to fall"),
                (24, "50% of the peak"),
                (33, "10% of the peak"),
                (34, "last"),
            ],
        ),
        (
            [0.5 ** (step // 10) for step in range(120)],
            [
                (0, "first"),
                *((10 * n, "drops to 0.5 of it") for n in (1, 2, 3, 4)),
                (119, "after 7 more changes, last"),
            ],
        ),
        ([1.0] * 5 + [0.5] * 5 + [0.6], [(0, "first"), (5, "drops to 0.5 of it"), (10, "rises to 1.2 of it, last")]),
    ],
)
def test_milestones_are_the_steps_that_matter(values: list[float], expected: list[tuple[int, str]]) -> None:
    """Of a smooth lr the peak and the shares of it, of one in steps each change; the first and the last of any."""
    tape = Tape(Point("lr/a", step, step, value) for step, value in enumerate(values))

    assert [(milestone.step, milestone.what) for milestone in milestones(tape["lr/a"])] == expected


def test_a_group_that_is_frozen_is_shown_as_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    """Until it is thawed, where its curve begins; or in every step."""
    overrides = ["param_groups=frozen_backbone", "scheduler=steplr", "trainer.epochs=10"]
    assert main([*overrides, "param_groups.unfreeze_at_epoch=4"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]

    assert lines[lines.index(["backbone", "0", "1/10", "frozen"]) + 1] == ["92", "5/10", "0.0001", "thawed"]
    assert main([*overrides, "param_groups.unfreeze_at_epoch=null"]) == 0
    out = capsys.readouterr().out

    assert ["backbone", "frozen", "in", "every", "step"] in [line.split() for line in out.splitlines()]
    assert "2 groups" in out
    assert out.endswith("Nothing found that looks wrong.\n")
