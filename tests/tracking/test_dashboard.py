import hashlib
import json
from collections.abc import Sequence

import pytest
from mlflow import MlflowClient

from lrtape.tape import Point
from lrtape.tracking.dashboard import (
    LEARNING_RATES,
    MAX_LRS,
    Compared,
    Contents,
    SeedingSink,
    seed_dashboard,
    ui_version,
)
from lrtape.tracking.links import AVERAGED, DASHBOARD
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.shared_view import SHARED_VIEW, decode, encode, is_understood_by, version_of

OLD, NAMED, LONG = (3, 11), (3, 15), (3, 16)


def tag_of(run: MlflowRun, view: str = DASHBOARD) -> str | None:
    client = MlflowClient(tracking_uri=run.tracking_uri)
    tags: dict[str, str] = client.get_experiment(run.experiment_id).tags
    return tags.get(SHARED_VIEW + view)


def curves_in(run: MlflowRun, section: str = LEARNING_RATES) -> list[list[str]]:
    charts = decode(tag_of(run))["compareRunCharts"]
    return [chart["selectedMetricKeys"] for chart in charts if chart["metricSectionId"] == section]


def test_all_groups_are_in_one_chart_whatever_run_had_them(store: str) -> None:
    """A later run adds its groups and its metrics to the same view, and takes none away; the axis is logarithmic."""
    run = MlflowRun.create(store)
    seed_dashboard(run, ["lr/b", "lr/a", "train/loss", "health/skipped_steps"])
    seed_dashboard(MlflowRun.create(store), ["lr/c", "val/acc"])

    assert curves_in(run) == [["lr/a", "lr/b", "lr/c"]]
    assert curves_in(run, "Training") == [["train/loss"], ["val/acc"]]
    charts = decode(tag_of(run))["compareRunCharts"]
    assert [chart["scaleType"] for chart in charts][:3] == ["log", "linear", "linear"]


def test_the_run_itself_tells_what_else_it_has(store: str) -> None:
    """A metric that somebody has logged without lrtape is on the dashboard, too."""
    run = MlflowRun.create(store)
    MlflowClient(tracking_uri=store).log_metric(run.run_id, "eval/f1", 0.5)
    seed_dashboard(run, ["lr/a"])

    assert curves_in(run, "Training") == [["eval/f1"]]


def test_it_is_written_only_when_there_is_something_new(store: str) -> None:
    """The same metrics once more, in any order: the tag stays as it is, to the millisecond of its writing."""
    run = MlflowRun.create(store)
    seed_dashboard(run, ["lr/a", "lr/b"])
    first = tag_of(run)
    seed_dashboard(run, ["lr/b"])
    seed_dashboard(run)
    assert tag_of(run) == first

    seed_dashboard(run, ["lr/c"])
    assert tag_of(run) != first


def test_the_groups_of_the_newest_run_are_never_left_out(store: str) -> None:
    """Of too many, the oldest are."""
    contents = Contents().with_keys(f"lr/old_{index:02}" for index in range(MAX_LRS)).with_keys(["lr/new"])

    assert "lr/new" in contents.lrs
    assert len(contents.lrs) == MAX_LRS


def test_many_groups_take_no_room_from_the_results_and_the_same_run_changes_nothing_twice() -> None:
    """Forty groups with all that can be recorded beside them: losses and accuracy have their charts."""
    beside = ("lr", "lr_log10", "frozen", "momentum", "weight_decay", "grad_norm")
    groups = [f"{kind}/layer{index:02}" for kind in beside for index in range(40)]
    keys = [*groups, "train/loss", "val/acc", "val/loss"]
    contents = Contents().with_keys(keys)

    assert contents.metrics == ["train/loss", "val/acc", "val/loss"]
    assert len(contents.lrs) == MAX_LRS
    assert contents.with_keys(keys) is contents


def test_a_sweep_puts_the_best_first(store: str) -> None:
    """Sorted by its objective in its direction; columns and coordinates are what was swept, by the names of params."""
    run = MlflowRun.create(store, params={"scheduler.name": "steplr", "scheduler.gamma": 0.1})
    compared = Compared("val/acc", "max", [["scheduler"], ["scheduler.gamma"]], run_id=run.run_id)
    seed_dashboard(run, ["lr/a", "train/loss", "val/acc"], compared)
    state = decode(tag_of(run))

    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/acc`", False)
    assert state["selectedColumns"] == [
        "metrics.`val/acc`",
        "tags.`lr.verdict`",
        "params.`scheduler.name`",
        "params.`scheduler.gamma`",
    ]
    parallel = [chart for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL"]
    assert [chart["selectedParams"] for chart in parallel] == [["scheduler.name"], ["scheduler.gamma"]]
    assert curves_in(run, "Training") == [["val/acc"], ["train/loss"]]
    assert tag_of(run, AVERAGED) is None

    seed_dashboard(run, compared=Compared("val/loss", "min", [["scheduler.gamma"]], True, run.run_id))
    state = decode(tag_of(run))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/loss`", True)
    assert decode(tag_of(run, AVERAGED))["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "lrtape.point"}]


def test_every_section_but_the_first_three_is_folded(store: str) -> None:
    """MLflow's own charts are complete, below, and take no room."""
    run = MlflowRun.create(store)
    keys = ["lr/a", "lr/b", "grad_norm/a", "train/loss", "plain"]
    seed_dashboard(run, keys)
    state = decode(tag_of(run))

    shown = {section["name"]: section["display"] for section in state["compareRunSections"]}
    assert shown == {
        "Learning rates": True,
        "Training": True,
        "grad_norm": False,
        "lr": False,
        "Model metrics": False,
        "train": False,
    }
    own = [chart["metricKey"] for chart in state["compareRunCharts"] if chart["isGenerated"]]
    assert own == sorted(keys)


@pytest.mark.parametrize("text", ["", "{}", "deflate;nonsense", '{"state": 1}', "[1]", '{"state": "deflate;eJwD"}'])
def test_what_somebody_else_has_written_is_replaced(store: str, text: str) -> None:
    """A tag that cannot be read is no reason to have no dashboard."""
    run = MlflowRun.create(store)
    MlflowClient(tracking_uri=store).set_experiment_tag(run.experiment_id, SHARED_VIEW + DASHBOARD, text)
    seed_dashboard(run, ["lr/a"])

    assert curves_in(run) == [["lr/a"]]


def test_it_never_fails(store: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that is away, and a run that is not there: it is logged, without the password, and that is all."""
    run = MlflowRun.create(store)
    run.tracking_uri = "http://someone:secret@127.0.0.1:9"
    seed_dashboard(run, ["lr/a"])
    assert "cannot write the dashboard" in caplog.text
    assert "secret" not in caplog.text
    assert "All runs:" in run.how_to_look()


def test_each_version_is_given_what_it_reads() -> None:
    """A name from 3.15 on; what would be too long is not written; what no version knows is not written either."""
    state = Contents(["lr/a"]).state()
    old, named = encode(state, "Learning rates", OLD), encode(state, "Learning rates", NAMED)
    assert old is not None
    assert named is not None
    assert old.startswith("deflate;")
    assert json.loads(named)["name"] == "Learning rates"
    assert decode(old) == decode(named) == json.loads(json.dumps(state))

    long = Contents([f"metric/{hashlib.sha256(bytes([index])).hexdigest()}" for index in range(100)]).state()
    assert encode(long, "", NAMED) is None
    assert encode(long, "", LONG) is not None

    assert version_of("3.17.2") == (3, 17)
    assert version_of("nonsense") is None
    assert [is_understood_by(version) for version in ((2, 22), (3, 10), OLD, (3, 99), (4, 0))] == [
        *(False, False, True, True, False)
    ]


def test_a_database_is_shown_by_the_mlflow_that_is_here(store: str) -> None:
    """And a server that does not tell its version is taken for the oldest one."""
    assert ui_version(store) >= OLD
    assert ui_version("http://127.0.0.1:9") == OLD


class Kept:
    """A sink that keeps what it is sent, and refuses once."""

    def __init__(self) -> None:
        self.sent: list[Point] = []
        self.refuses = False

    def send(self, points: Sequence[Point]) -> None:
        if self.refuses:
            raise ConnectionError
        self.sent += points


def test_the_dashboard_is_there_while_the_training_goes_on(store: str) -> None:
    """It is seeded as soon as the first points are stored, not before."""
    run, kept = MlflowRun.create(store), Kept()
    sink = SeedingSink(kept, run)
    kept.refuses = True
    with pytest.raises(ConnectionError):
        sink.send([Point("lr/a", 0, 0, 0.1)])
    assert tag_of(run) is None

    kept.refuses = False
    sink.send([Point("lr/a", 0, 0, 0.1), Point("train/loss", 0, 0, 1.0)])
    assert curves_in(run) == [["lr/a"]]
    assert len(kept.sent) == 2


def test_the_printed_link_is_that_of_the_dashboard_once_there_is_one(store: str) -> None:
    """`All runs` before; the other view is told where a sweep had seeds."""
    run = MlflowRun.create(store)
    page = f"http://127.0.0.1:5000/#/experiments/{run.experiment_id}/runs?compareRunsMode=CHART"
    assert f"\nAll runs:  {page}" in run.how_to_look()

    seed_dashboard(run, ["lr/a"], Compared("val/loss", "min", [], has_seeds=True))
    said = run.how_to_look()
    assert f"\nDashboard: {page}&workflowType=machine_learning&viewStateShareKey=lrtape\n" in said
    assert "All runs" not in said
    assert "viewStateShareKey=lrtape-averaged\nThis run:" in said
