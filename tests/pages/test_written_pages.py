"""Pages that scripts write, and figures that were measured."""

import re
import runpy
from pathlib import Path

import pytest

from shell import ROOT

DOCS = ROOT / "docs"
MAX_PICTURES_BYTES = 600_000
FIGURE = re.compile(r"\d[\d,.]*\d?(?= ?(?:us|ms|s|KiB|MB|rows|trainings|kills)\b)|(?<=\*\*)[\d.,]+(?=\*\*)")
"""A number with a unit of measurement, or a bold one."""


@pytest.mark.parametrize("script", ["configuration_page", "gallery"])
def test_a_written_page_is_up_to_date(script: str) -> None:
    """It is what its script writes now: configs have not changed since."""
    written = runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))

    assert written["PAGE"].read_text() == written["page"](), f"run: python scripts/{script}.py"


def test_every_key_that_lrtape_reads_is_explained() -> None:
    """Each row of a table has a last column: the comment behind the key in its YAML file."""
    rows = re.findall(r"^\| `[^`]+` \| .*$", (DOCS / "configuration.md").read_text(), flags=re.MULTILINE)

    assert len(rows) > 40
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_schedule_is_in_the_gallery() -> None:
    """Once each, with a picture; all pictures together are small."""
    page = (DOCS / "schedules.md").read_text()
    pictures = re.findall(r"\]\(schedules/(\w+)\.png\)", page)
    in_family = re.findall(r"^### `(\w+)`$", page, flags=re.MULTILINE)

    assert sorted(in_family) == sorted(path.stem for path in (ROOT / "conf" / "scheduler").glob("*.yaml"))
    assert sorted(pictures) == sorted(path.stem for path in (DOCS / "schedules").iterdir())
    assert sum(path.stat().st_size for path in (DOCS / "schedules").iterdir()) < MAX_PICTURES_BYTES


def wrong_figures(page: str, folder: Path) -> list[str]:
    """What is wrong with the figures of a page: each section cites one file of a folder, the newest of its kind."""
    wrong = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        cited = re.findall(r"\]\(\.\./benchmarks/([\w-]+\.md)\)", section)
        figures = FIGURE.findall(section)
        if not cited:
            wrong += [f"{title}: nothing is cited for {figure}" for figure in figures]
            continue
        text = "\n".join((folder / name).read_text() for name in cited)
        numbers = set(re.findall(r"\d[\d,.]*\d|\d", text))
        wrong += [f"{title}: {figure} is not in {cited}" for figure in figures if figure not in numbers]
        for name in cited:
            kind = name[: -len("-2026-01-01.md")]
            newest = max(path.name for path in folder.glob(f"{kind}-20??-??-??.md"))
            wrong += [f"{title}: {newest} is newer than {name}"] if newest != name else []
    return wrong


def test_every_figure_stands_in_the_file_that_is_cited() -> None:
    """Of the page about performance; and what it cites is the newest measurement."""
    page = (DOCS / "performance.md").read_text()

    assert len(FIGURE.findall(page)) > 15
    assert wrong_figures(page, ROOT / "benchmarks") == []


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("## Cost\n\n4.9 us, by [this](../benchmarks/a-2026-01-02.md).", "4.9 is not in"),
        ("## Cost\n\n4.8 us, by [this](../benchmarks/a-2026-01-01.md).", "a-2026-01-02.md is newer"),
        ("## Cost\n\n4.8 us.", "nothing is cited"),
    ],
)
def test_a_figure_that_nobody_measured_is_found(page: str, said: str, tmp_path: Path) -> None:
    """Another figure, an old file, and none."""
    for day in (1, 2):
        (tmp_path / f"a-2026-01-0{day}.md").write_text("| 4.8 us |\n")

    assert said in "\n".join(wrong_figures(page, tmp_path))


def links(page: Path) -> list[tuple[str, str]]:
    """Where a page points to, in this repository: a file, and a heading in it."""
    found = re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text())
    return [(str((page.parent / path).resolve()) if path else str(page), anchor) for path, anchor in found]


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub makes them into addresses."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file or folder that is there, and a heading that it has."""
    broken = [
        (path, anchor)
        for path, anchor in links(page)
        if not Path(path).exists() or (anchor and anchor not in anchors(Path(path)))
    ]

    assert broken == []


def test_the_index_has_every_page() -> None:
    """And nothing that is not there."""
    index = DOCS / "README.md"
    linked = {Path(path).name for path, _ in links(index)}

    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} == linked - {
        "README.md",
        "benchmarks",
        "CONTRIBUTING.md",
    }
