"""A real browser, as somebody has it who has never seen the page: headless Chromium with an empty profile."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
"""Debian's; no other one is downloaded. ``None`` where there is none."""
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]
DEADLINE_S = 90.0
"""For whatever takes a second on an idle machine."""
_LOADING = ".ant-skeleton, [class*=skeleton], [class*=Skeleton], [class*=spinner], [class*=Spinner]"

# Each curve is drawn twice: once to be looked at, and once for the mouse, which skips the other.
_CURVES = """chart => chart.data.filter(trace => trace.metricKey && trace.hoverinfo !== 'skip').map(trace => ({
    run: trace.name || trace.uuid,
    key: trace.metricKey,
    steps: Array.from(trace.x),
    values: Array.from(trace.y),
}))"""
_STROKES = "lines => lines.map(line => getComputedStyle(line).stroke)"


@dataclass(frozen=True)
class Curve:
    """One curve as it is drawn: at most 320 points of it."""

    run: str
    key: str
    steps: list[float]
    values: list[float]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, which is ended with the block."""
    expect.set_options(timeout=1000 * DEADLINE_S)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def page_at(
    browser: Browser, url: str, width: int = 1400, height: int = 1400, has_assistant: bool = True
) -> Iterator[Page]:
    """A page in a profile of its own, which is empty.

    Args:
        browser: of `chromium`.
        url: to open.
        width: of the window, in pixels.
        height: of it.
        has_assistant: whether MLflow (3.17) may open its assistant at the first visit; it takes a quarter of the page.
    """
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(1000 * DEADLINE_S)
    if not has_assistant:
        context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    try:
        page = context.new_page()
        page.goto(url)
        yield page
    finally:
        context.close()


def card(page: Page, title: str) -> Locator:
    """The chart of that title, on a page of MLflow's: its card, with the legend."""
    return page.locator("[data-testid='experiment-view-compare-runs-card']").filter(
        has=page.get_by_text(title, exact=True)
    )


def curves(chart: Locator) -> list[Curve]:
    """Every curve of a chart, by run and metric; waits until some are drawn."""
    chart.locator(".scatterlayer .trace").first.wait_for(state="attached")
    drawn: list[dict[str, Any]] = chart.locator(".js-plotly-plot").first.evaluate(_CURVES)
    return [Curve(**curve) for curve in drawn if curve["steps"]]


def colors(chart: Locator) -> set[str]:
    """Of the curves, as ``#RRGGBB``."""
    strokes: list[str] = chart.locator(".scatterlayer .trace path.js-line").evaluate_all(_STROKES)
    channels = [[int(number) for number in re.findall(r"\d+", stroke)[:3]] for stroke in strokes]
    return {"#{:02X}{:02X}{:02X}".format(*rgb) for rgb in channels}


def scale_of_y(chart: Locator) -> str:
    """``log`` or ``linear``."""
    return str(chart.locator(".js-plotly-plot").first.evaluate("chart => chart._fullLayout.yaxis.type"))


def rows(page: Page) -> list[str]:
    """The names of the runs that are listed, from the top."""
    page.locator(".ag-row a").first.wait_for()
    names: list[str] = page.locator(".ag-row a").all_inner_texts()
    return names


def unfold(page: Page) -> None:
    """Show all of a run's description; a hundred pixels of it are seen without that."""
    page.get_by_text("Show more").first.click()


def shoot(page: Page) -> bytes:
    """A picture of a page, when nothing is being fetched there any more, and nothing moves."""
    page.wait_for_function(f"document.querySelectorAll({_LOADING!r}).length === 0")
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    page.mouse.move(0, 0)  # nothing is pointed at
    before = b""
    while (picture := page.screenshot(animations="disabled")) != before:
        before = picture
        page.wait_for_timeout(500)
    return picture
