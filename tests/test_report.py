import csv
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from mlflow import MlflowClient
from PIL import Image

from lrtape.errors import ConfigError
from lrtape.leaderboard import rank
from lrtape.report.page import MAX_CHARACTERS, page
from lrtape.report.sweep_report import Report, Reporter
from lrtape.report.table import text
from lrtape.report.verdict import schedule_verdict, verdict
from lrtape.report.winner import command_of, config_of
from lrtape.tape import Point, Status
from lrtape.tape_file import write_tape
from lrtape.tracking.dashboard import Contents
from lrtape.tracking.find_sweep import PLANNED, find_sweep
from lrtape.tracking.links import AVERAGED, DASHBOARD
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.mlflow_sink import MlflowSink
from lrtape.tracking.shared_view import SHARED_VIEW, decode
from lrtape.tracking.tags import (
    BEST,
    ERROR,
    FINISHED_TRIALS,
    NOTE,
    OBJECTIVE,
    SEED,
    SWEEP,
    THREADS,
    TRIAL,
    TRIALS,
    VALUES,
)
from lrtape.trials import SweepRun, Trial, TrialRun

COMMAND = "python train.py -m scheduler.gamma=0.1,0.5 scheduler.step_size=2,5"
RESOLVED = "seed: 0\nmodel:\n  hidden: []\ntracking:\n  uri: null\n  folder: .lrtape\nsweep:\n  grids:\n  - a: 1\n"

Child = Callable[..., str]


@pytest.fixture
def sweep(store: str) -> MlflowRun:
    """The run of a sweep, as a driver opens it."""
    tags = {SWEEP: "abc123", OBJECTIVE: "val/loss", "lrtape.sweep.direction": "min", "lrtape.sweep.command": COMMAND}
    return MlflowRun.create(store, run_name="two by two", tags=tags)


@pytest.fixture
def child(sweep: MlflowRun, store: str, tmp_path: Path) -> Child:
    """Adds a trial that is over to the sweep; returns the id of its run."""

    def add(gamma: str, step_size: str, seed: int, score: float | None, error: str = "", has_tape: bool = True) -> str:
        name = f"gamma={gamma} step_size={step_size} seed={seed}"
        values = {"scheduler.gamma": gamma, "scheduler.step_size": step_size}
        tags = {TRIAL: name, VALUES: json.dumps(values), SEED: str(seed)}
        run = MlflowRun.create(store, run_name=name, tags=tags, parent_run_id=sweep.run_id)
        points = [Point("lr/all", step, 1000 + step, float(gamma) ** (step // int(step_size))) for step in range(10)]
        if has_tape:
            write_tape(tmp_path / "tape-x.parquet", points, {})
            run.log_artifact(tmp_path / "tape-x.parquet", "lr")
        else:
            MlflowSink(store, run.run_id).send(points)
        run.log_text(RESOLVED, "config/resolved.yaml")
        ending = {OBJECTIVE: repr(score)} if score is not None else {ERROR: error}
        run.set_tags({**ending, "lr.verdict": "ok"})
        run.finish(Status.FINISHED if score is not None else Status.FAILED)
        return run.run_id

    return add


@pytest.fixture
def four_points(child: Child) -> None:
    """A grid of two by two with two seeds, of which one training has failed."""
    for gamma, step_size, first, second in (
        ("0.1", "2", 0.9, 0.8),
        ("0.1", "5", 0.50, 0.51),
        ("0.5", "2", 0.30, 0.31),
    ):
        child(gamma, step_size, 0, first)
        child(gamma, step_size, 1, second)
    child("0.5", "5", 0, 0.2)
    child("0.5", "5", 1, None, "RuntimeError: the cable | was *pulled*")


@pytest.fixture(autouse=True)
def quiet_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command and the driver have it."""
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def report_on(run: MlflowRun, folder: Path = Path(".lrtape")) -> Report:
    return Reporter(run.run_id, run.tracking_uri, folder).report()


def tags_of(run: MlflowRun) -> dict[str, str]:
    return dict(MlflowClient(run.tracking_uri).get_run(run.run_id).data.tags)


def artifacts_of(run: MlflowRun) -> list[str]:
    return [found.path for found in MlflowClient(run.tracking_uri).list_artifacts(run.run_id, "sweep")]


@pytest.mark.usefixtures("four_points")
def test_a_search_that_goes_on_says_how_many_are_to_come(sweep: MlflowRun) -> None:
    """It has no list of its trials, but the number of them; when it is over, those that it has trained count."""
    sweep.set_tags({TRIALS: "20"})
    report_on(sweep)
    tags = tags_of(sweep)
    assert tags[NOTE].startswith("7 of 20 trainings are finished. So far:")
    assert tags[FINISHED_TRIALS] == "7/20"

    sweep.finish(Status.FINISHED)
    report_on(sweep)
    assert tags_of(sweep)[FINISHED_TRIALS] == "7/8"


@pytest.mark.usefixtures("four_points")
def test_the_page_says_who_won_and_who_failed_and_why(sweep: MlflowRun) -> None:
    """Its first line is the verdict, of a point whose seeds all finished; the failed one is named with its error."""
    sweep.finish(Status.FAILED)
    made = report_on(sweep)
    tags = tags_of(sweep)
    note = tags[NOTE]

    first = note.splitlines()[0]
    assert first.startswith("**gamma=0.5 step_size=2** is best: val/loss 0.305 ± 0.0071 (2 seeds)")
    assert "is more than the noise of the seeds" in first
    assert "- **gamma=0.5 step_size=5 seed=1** failed: RuntimeError: the cable \\| was \\*pulled\\*" in note
    assert (tags[FINISHED_TRIALS], tags[BEST]) == ("7/8", "gamma=0.5 step_size=2: val/loss 0.305 ± 0.0071")
    assert COMMAND in note
    for picture in ("lr_curves.png", "heatmap.png", "effects.png"):
        assert f"](get-artifact?path=sweep/{picture}&run_uuid={sweep.run_id})" in note
        assert f"sweep/{picture}" in artifacts_of(sweep)
        with Image.open(made.folder / picture) as image:
            assert image.width <= 950, "MLflow shows no more"
    assert made.command in note
    assert verdict(made.board, made.sweep) in made.text()


@pytest.mark.usefixtures("four_points")
def test_the_files_have_every_point(sweep: MlflowRun) -> None:
    """The CSV, and the table that MLflow shows as `log_table` makes it, have a row for each, with all its runs."""
    made = report_on(sweep)
    with (made.folder / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))

    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["name"] for row in rows][-1] == "gamma=0.5 step_size=5"
    last = rows[-1]
    assert (last["scheduler.gamma"], last["n"], last["n_trials"], last["status"]) == ("0.5", "1", "2", "failed")
    assert last["error"] == "RuntimeError: the cable | was *pulled*"
    assert [len(row["run_ids"].split()) for row in rows] == [2, 2, 2, 2]
    assert float(rows[0]["val/loss"]) == pytest.approx(0.305)
    table = json.loads((made.folder / "leaderboard.json").read_text())
    assert table["columns"] == list(rows[0])
    assert len(table["data"]) == 4
    assert json.loads(tags_of(sweep)["mlflow.loggedArtifacts"]) == [{"path": "sweep/leaderboard.json", "type": "table"}]


def test_curves_come_from_tapes_or_metrics_or_are_missing(sweep: MlflowRun, child: Child, store: str) -> None:
    """A child without a tape is drawn from its metrics; one whose tape is damaged and which has none is left out."""
    child("0.1", "2", 0, 1.0)
    child("0.5", "2", 0, 2.0, has_tape=False)
    broken = child("0.5", "5", 0, 3.0)
    artifacts = Path(str(MlflowClient(store).get_run(broken).info.artifact_uri))
    (artifacts / "lr" / "tape-x.parquet").write_bytes(b"no tape")

    reporter = Reporter(sweep.run_id, store, Path(".lrtape"))
    made = reporter.report()
    curves = reporter._curves.read(made.board.standings)
    assert [point.standing.name for point in curves] == ["gamma=0.1 step_size=2", "gamma=0.5 step_size=2"]
    assert [next(iter(point.curves["lr/all"]))[-1] for point in curves] == [(10, 0.1**4), (10, 0.5**4)]
    assert "sweep/lr_curves.png" in artifacts_of(sweep)


def test_what_was_planned_and_not_trained_is_told(sweep: MlflowRun, child: Child) -> None:
    """Equal points, refused ones and those that nobody has begun are on the page, with what they equal and why."""
    run_id = child("0.1", "2", 0, 1.0)
    trial = "gamma=0.1 step_size=2 seed=0"
    planned = [
        Trial(trial, "gamma=0.1 step_size=2", values={"scheduler.gamma": "0.1", "scheduler.step_size": "2"}),
        Trial(
            "b", "gamma=0.1 step_size=9", values={"scheduler.gamma": "0.1", "scheduler.step_size": "9"}, same_as=trial
        ),
        Trial(
            "c", "gamma=0 step_size=2", values={"scheduler.gamma": "0", "scheduler.step_size": "2"}, refusal="lr-zero"
        ),
        Trial("d", "gamma=0.1 step_size=3", values={"scheduler.gamma": "0.1", "scheduler.step_size": "3"}),
    ]
    sweep.log_text(msgspec.json.encode(planned).decode(), PLANNED)

    made = report_on(sweep)
    note = tags_of(sweep)[NOTE]
    assert "- gamma=0.1 step_size=2: gamma=0.1 step_size=9" in note
    assert "- **gamma=0 step_size=2** was refused: lr-zero" in note
    assert tags_of(sweep)[FINISHED_TRIALS] == "1/3"
    assert [(point.name, point.status) for point in made.board.standings][-2:] == [
        ("gamma=0 step_size=2", "refused"),
        ("gamma=0.1 step_size=3", "waiting"),
    ]
    assert made.winner is not None
    assert made.winner.run_id == run_id


def test_a_sweep_without_a_result_has_a_report(sweep: MlflowRun, child: Child) -> None:
    """There is no winner, no command and no heat map, and the page says so."""
    child("0.1", "2", 0, None, "RuntimeError: no")
    made = report_on(sweep)

    assert (made.winner, made.command) == (None, "")
    assert tags_of(sweep)[NOTE].startswith("0 of 1 trainings are finished. So far: No training has a result.")
    assert "sweep/heatmap.png" not in artifacts_of(sweep)
    assert BEST not in tags_of(sweep)


def test_a_sweep_is_found_by_its_run_its_id_and_its_title(sweep: MlflowRun, store: str) -> None:
    """The newest run of a sweep counts; a title that two sweeps have is refused, and so is a run that is no sweep."""
    assert find_sweep("abc123", store) == find_sweep("two by two", store) == find_sweep(sweep.run_id, store)
    again = MlflowRun.create(store, run_name="two by two", tags={SWEEP: "abc123"})
    other = MlflowRun.create(store, run_name="plain")
    assert find_sweep("abc123", store).run_id == again.run_id

    for name, said in (
        ("two by two", again.run_id),
        ("nobody", "'two by two' (abc123)"),
        (other.run_id, "another one"),
    ):
        with pytest.raises(ConfigError) as refused:
            find_sweep(name, store)
        assert said in str(refused.value)
    with pytest.raises(ConfigError, match="must be one of"):
        find_sweep("abc123", store, "no such experiment")


def runs_of(points: dict[str, Sequence[float]]) -> list[TrialRun]:
    return [
        TrialRun(
            f"{name}{seed}", f"{name}{seed}", f"{name} seed={seed}", Status.FINISHED, {"scheduler": name}, seed, score
        )
        for name, scores in points.items()
        for seed, score in enumerate(scores)
    ]


A_SWEEP = SweepRun("r" * 32, "abc123", "title", Status.FINISHED, "lrtape", "val/loss", "min", COMMAND)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ({"a": [1.0], "b": [2.0]}, "may be noise: from one seed nobody can tell. Use sweep.seeds=3."),
        ({"a": [1.0, 1.1], "b": [2.0]}, "may be noise: from one seed nobody can tell"),
        ({"a": [1.0, 1.01, 1.02], "b": [2.0, 2.01, 2.02]}, "Its lead of 1 over b is more than the noise"),
        ({"a": [1.0, 2.0], "b": [1.1, 2.1]}, "Its lead of 0.1 over b is within the noise"),
        ({"a": [1.0, 1.0], "b": [1.0, 1.0]}, "the same as b."),
        ({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}, "the same as 2 other points."),
        ({"a": [1.0]}, "it is the only point that has a result."),
        ({}, "No training has a result."),
    ],
)
def test_the_verdict_says_whether_it_is_noise(points: dict[str, Sequence[float]], said: str) -> None:
    """Who is best, by how much, and whether that can be told at all."""
    assert said in verdict(rank(runs_of(points), "val/loss", "min"), A_SWEEP)


def test_schedules_are_compared_by_their_best_points() -> None:
    """With how many points each one had, as more of them have a better best."""
    board = rank(runs_of({"steplr": [1.0, 1.01, 1.02], "cosine": [2.0, 2.01, 2.02]}), "val/loss", "min")
    assert schedule_verdict(board) == (
        "Best of each schedule: steplr 1.01 ± 0.01 (its only point); cosine 2.01 ± 0.01 (its only point). Its lead of "
        "1 over cosine is more than the noise of the seeds (95% interval 0.98 to 1)."
    )


def test_a_page_of_many_points_fits_into_a_tag() -> None:
    """MLflow would cut it: rows go first, and the verdict, the command and the pictures stay."""
    names = [f"a_very_long_name_of_a_schedule_{'x' * 100}_{index}" for index in range(200)]
    board = rank(runs_of({name: [float(index)] for index, name in enumerate(names)}), "val/loss", "min")
    made = page(board, A_SWEEP, "the command", None, ["lr_curves.png"])

    assert len(made) <= MAX_CHARACTERS
    assert made.startswith(f"**{names[0]}** is best")
    assert "lr_curves.png" in made
    assert len(text(board).splitlines()) < 100


def test_a_long_command_is_wrapped_and_can_still_be_pasted() -> None:
    """MLflow makes the page as wide as its longest line; a shell reads the lines as the same words."""
    words = ["python", "train.py", "-m", *(f"scheduler.gamma_{index}=0.1,0.5" for index in range(20)), "a='{b:[1, 2]}'"]
    board = rank(runs_of({"a": [1.0]}), "val/loss", "min")
    made = page(board, replace(A_SWEEP, command=shlex.join(words)), "", None, [])
    shown = made.partition("```\n")[2].partition("\n```")[0]

    assert max(map(len, shown.splitlines())) < 110
    assert shlex.split(shown.replace("\\\n", "")) == words


def test_the_winners_config_has_no_grid_and_no_user() -> None:
    """What says of the sweep is its objective; a masked user is left to the environment; a text is kept as it is."""
    resolved = RESOLVED.replace("uri: null", "uri: http://***@host").replace("seed: 0", "seed: 3\nx: 1.0e-08")
    made = config_of(resolved, A_SWEEP, TrialRun("run", "t", "name", Status.FINISHED))

    assert "grids" not in made
    assert "  uri: null\n" in made
    assert "\nx: 1.0e-08\n" in made
    assert "sweep:\n  objective: val/loss\n  direction: min\n" in made


@pytest.mark.parametrize(
    ("typed", "program"),
    [
        ("python train.py -m a=1,2", "python train.py"),
        ("lrtape train -m a=1,2", "lrtape train"),
        ("python apps/my_train.py -m a=1,2", "python apps/my_train.py"),
        ("python scripts/sweep.py steplr", "lrtape train"),
        ("", "lrtape train"),
    ],
)
def test_the_command_has_the_program_that_trained(
    typed: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a folder as it is seen from where the sweep was started."""
    monkeypatch.chdir(tmp_path)
    sweep = SweepRun("r", "s", "t", Status.FINISHED, "e", "o", "min", typed)
    run = TrialRun("r", "t", "n", Status.FINISHED)
    found = command_of(sweep, run, Path(".lrtape/sweeps/s"))
    assert found == f"{program} --config-dir .lrtape/sweeps/s --config-name best"
    few = TrialRun("r", "t", "n", Status.FINISHED, tags={THREADS: "1000"})
    assert command_of(sweep, few, Path(".lrtape/sweeps/s")) == f"OMP_NUM_THREADS=1000 {found}"


def test_the_dashboard_knows_what_the_sweep_compares(sweep: MlflowRun, four_points: None) -> None:
    """Its objective, its direction, what differs between points, and that there are seeds to average."""
    report_on(sweep)
    tags = MlflowClient(sweep.tracking_uri).get_experiment(sweep.experiment_id).tags
    contents = Contents.of(decode(tags[SHARED_VIEW + DASHBOARD]))

    assert (contents.objective, contents.direction, contents.has_seeds) == ("val/loss", "min", True)
    assert contents.grids == [["scheduler.gamma", "scheduler.step_size"]]
    assert SHARED_VIEW + AVERAGED in tags


def test_each_schedule_has_coordinates_of_its_own(sweep: MlflowRun, child: Child) -> None:
    """MLflow leaves out a run that lacks one of them: what only some points have is in another chart."""
    for name, values in {
        "steplr gamma=0.1": {"scheduler": "steplr", "scheduler.gamma": "0.1"},
        "steplr gamma=0.5": {"scheduler": "steplr", "scheduler.gamma": "0.5"},
        "cosineannealinglr": {"scheduler": "cosineannealinglr"},
    }.items():
        run = MlflowRun.create(
            sweep.tracking_uri,
            run_name=name,
            tags={TRIAL: name, VALUES: json.dumps(values), SEED: "0", OBJECTIVE: "0.5"},
            parent_run_id=sweep.run_id,
        )
        run.finish(Status.FINISHED)
    report_on(sweep)
    tags = MlflowClient(sweep.tracking_uri).get_experiment(sweep.experiment_id).tags

    assert Contents.of(decode(tags[SHARED_VIEW + DASHBOARD])).grids == [["scheduler"], ["scheduler.gamma"]]
