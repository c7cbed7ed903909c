"""What a person sees: a real sweep, a real server, and a browser that has never been there."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

pytest.importorskip("playwright", reason="the browser is driven by playwright: pip install -e '.[test]'")

from playwright.sync_api import Browser, Page, expect

from lrtape.colors import RUNS
from lrtape.tracking.links import AVERAGED, UI_ADDRESS
from lrtape.tracking.tags import RUN_COLOR, SWEEP, TRIAL
from rig.browser import CHROMIUM, card, chromium, colors, curves, page_at, rows, scale_of_y
from rig.place import LRTAPE, Place
from rig.store import Server, Store

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")

GROUPS = ("lr/layer1", "lr/layer2", "lr/layer3")
GAMMAS, SEEDS, DROP = (0.1, 0.5), (0, 1), 23
"""A training has 23 steps in an epoch, and its lr drops after each."""
SWEEP_COMMAND = (
    f"{LRTAPE} train -m scheduler=steplr scheduler.gamma=0.1,0.5 scheduler.step_size=1 sweep.seeds=2 "
    "param_groups=layerwise 'param_groups.factors=[0.01,0.1,1.0]' trainer.epochs=2 trainer.device=cpu"
)


@dataclass(frozen=True)
class Seen:
    """A sweep that is over, what its command has printed, and where it can be looked at."""

    store: Store
    server: Server
    said: str

    def page(self, name: str) -> str:
        """The address of a page that was printed, where it is now."""
        found = re.search(rf"^{name}: +{re.escape(UI_ADDRESS)}(\S+)$", self.said, re.MULTILINE)
        assert found, f"no line {name!r} in\n{self.said}"
        return self.server.uri + found[1]

    def runs(self) -> list[Run]:
        """All of them."""
        client = MlflowClient(tracking_uri=self.store.uri)
        return list(client.search_runs([found.experiment_id for found in client.search_experiments()]))

    def children(self) -> list[Run]:
        """The trials, best first."""
        return sorted(
            (run for run in self.runs() if TRIAL in run.data.tags), key=lambda run: float(run.data.metrics["val/loss"])
        )


@pytest.fixture(scope="module")
def seen(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """A sweep of two points with two seeds, of three param groups, and a server on its store."""
    with Place(tmp_path_factory.mktemp("browser") / "place") as place:
        store = Store(fresh_store).copy(place.folder / "mlflow.db")
        server = Server(place, store)
        with ThreadPoolExecutor(1) as beside:
            started = beside.submit(server.start)
            said = place.shell(SWEEP_COMMAND)
            started.result()
        assert said.returncode == 0, said.stderr
        yield Seen(store, server, said.stdout)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser; each test has a profile of its own."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def dashboard(browser: Browser, seen: Seen) -> Iterator[Page]:
    """The page that the command says to open, to be looked at."""
    with page_at(browser, seen.page("Dashboard")) as page:
        yield page


def test_the_dashboard_shows_all_groups_of_all_runs_in_one_chart(dashboard: Page, seen: Seen) -> None:
    """One chart has a curve for each group of each trial, on a log axis, in the colour of its run, and a legend."""
    chart = card(dashboard, " vs ".join(GROUPS))
    drawn = curves(chart)
    children = seen.children()

    assert sorted((curve.run, curve.key) for curve in drawn) == sorted(
        (run.info.run_name, key) for run in children for key in GROUPS
    )
    assert len(drawn) == 12
    assert scale_of_y(chart) == "log"
    assert colors(chart) == {run.data.tags[RUN_COLOR] for run in children} == set(RUNS[:4])
    for run in children:
        for key in GROUPS:
            expect(chart.get_by_text(f"{run.info.run_name} ({key})", exact=True)).to_have_count(1)


def test_steplr_is_seen_to_drop_at_its_step(dashboard: Page) -> None:
    """The curve is flat up to the last step of the first epoch, and lower by gamma from the next one on."""
    for curve in curves(card(dashboard, " vs ".join(GROUPS))):
        gamma = next(gamma for gamma in GAMMAS if f"gamma={gamma} " in f"{curve.run} ")
        drawn = dict(zip(curve.steps, curve.values, strict=True))
        assert list(drawn) == list(range(2 * DROP))
        assert len({drawn[step] for step in range(DROP)}) == 1
        assert {drawn[step] for step in range(DROP, 2 * DROP)} == {drawn[DROP]}
        assert drawn[DROP] == pytest.approx(gamma * drawn[0])


def test_the_dashboard_lists_every_trial_and_the_best_one_first(dashboard: Page, seen: Seen) -> None:
    """The children of the sweep stand there, not its folded run alone, in the order of the objective."""
    assert rows(dashboard)[:4] == [run.info.run_name for run in seen.children()]
    assert len(rows(dashboard)) == 5


def test_the_dashboard_has_its_charts_in_this_order(dashboard: Page) -> None:
    """Learning rates, training with the objective first, the sweep; and nothing is empty."""
    card(dashboard, "Parallel Coordinates").locator("svg, canvas").first.wait_for(state="attached")
    cards = dashboard.get_by_test_id("experiment-view-compare-runs-card").all_inner_texts()
    titles = [text.partition("\n")[0] for text in cards]

    assert titles == [" vs ".join(GROUPS), "val/loss", "train/loss", "val/acc", "Parallel Coordinates"]
    assert dashboard.get_by_text("No chart data available").count() == 0
    assert dashboard.get_by_text("shared view state").count() == 0  # begins what MLflow says of one that it cannot read
    for text in ("scheduler.gamma", "val/loss"):
        expect(card(dashboard, "Parallel Coordinates").get_by_text(text).first).to_be_visible()


def test_the_table_has_the_verdict_the_objective_and_what_was_swept(browser: Browser, seen: Seen) -> None:
    """One click on the list: the columns are there, and each training has its verdict."""
    with page_at(browser, seen.page("Dashboard")) as page:
        rows(page)
        page.locator("label").filter(has=page.locator("input[value=TABLE]")).click()

        for name in ("lr.verdict", "val/loss", "scheduler.gamma"):
            expect(page.locator(".ag-header-cell").filter(has_text=name)).to_have_count(1)
        verdicts = page.locator(".ag-cell[col-id*='lr.verdict']")
        expect(verdicts.filter(has_text=re.compile("^ok$"))).to_have_count(4)


def test_seeds_are_averaged_on_request(browser: Browser, seen: Seen) -> None:
    """The other link of a sweep with seeds: a curve for each point and group."""
    with page_at(browser, seen.page("Averaged")) as page:
        drawn = curves(card(page, " vs ".join(GROUPS)))

        assert AVERAGED in page.url
        assert len(drawn) == len(GROUPS) * len(GAMMAS)
        assert {curve.run.rpartition(".gamma=")[2] for curve in drawn} == {str(gamma) for gamma in GAMMAS}


def test_the_page_of_a_run_reads_itself(browser: Browser, seen: Seen) -> None:
    """Verdict, picture, the drop of each group at its step, and a link to one chart of all groups of this run alone."""
    best = seen.children()[0].info
    address = f"{seen.server.uri}/#/experiments/{best.experiment_id}/runs/{best.run_id}"
    with page_at(browser, f"{address}?workflowType=machine_learning") as page:
        expect(page.get_by_text("Learning rates: ok")).to_be_visible()
        page.wait_for_function("document.querySelector('img[src*=\"curve.svg\"]')?.naturalWidth > 0")
        page.get_by_text("Show more", exact=True).click()
        expect(page.get_by_text(f"1, at step {DROP}")).to_have_count(len(GROUPS))
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="All groups in one chart").click()
        chart = opened.value.locator(".js-plotly-plot").locator("..")
        assert sorted(curve.key for curve in curves(chart)) == sorted(GROUPS)
        assert {curve.run for curve in curves(chart)} == {best.run_name}
        assert scale_of_y(chart) == "log"


def test_the_lr_of_every_step_can_be_read(browser: Browser, seen: Seen) -> None:
    """The link to look closer: pointing at the step before the drop, and at that of the drop, tells what they used."""
    best = seen.children()[0].info
    address = f"{seen.server.uri}/#/experiments/{best.experiment_id}/runs/{best.run_id}/artifacts/lr/curve.html"
    with page_at(browser, f"{address}?workflowType=machine_learning") as page:
        frame = page.frame_locator("iframe")
        plot = frame.locator("#plot")
        box = plot.bounding_box()
        assert box is not None
        left, right = 76, 16
        said = []
        for step in (DROP - 1, DROP):
            share = (step + 0.5) / (2 * DROP)
            plot.hover(position={"x": left + share * (box["width"] - left - right), "y": box["height"] / 2})
            said.append(frame.locator("#read").inner_text())

        assert [text.split("   ")[0] for text in said] == [f"step {DROP - 1}", f"step {DROP}"]
        assert "layer3 0.01" in said[0].split("   ")
        assert "layer3 0.01" not in said[1].split("   ")


def test_the_run_of_the_sweep_is_one_of_them_without_a_curve(seen: Seen) -> None:
    """It is listed, with its report, and no colour of the palette is spent on it."""
    (parent,) = [run for run in seen.runs() if SWEEP in run.data.tags]
    assert parent.data.tags[RUN_COLOR] not in RUNS
