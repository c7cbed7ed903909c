"""The Python of the pages that users copy from."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> Iterator[tuple[str, str | None]]:
    """Each block of Python, and the text that follows it at once: what it fails with."""
    for found in BLOCK.finditer(page):
        yield found[1], found[2]


def run(page: str) -> int:
    """Runs all blocks of a page, one after the other, and the tests in them; returns how many there were."""
    names: dict[str, Any] = {}
    n_blocks = 0
    for source, text in blocks(page):
        n_blocks += 1
        if text is None:
            exec(source, names)
        else:
            with pytest.raises(AssertionError) as caught:
                exec(source, names)
            assert str(caught.value) == text.rstrip("\n")
    for name, value in names.items():
        if name.startswith("test_"):
            value()
    return n_blocks


@pytest.mark.parametrize(("name", "n_blocks"), [("testing.md", 5), ("beside_the_lr.md", 2)])
def test_what_a_page_shows_runs(name: str, n_blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, as it stands there; and what it says that fails, fails with that text."""
    monkeypatch.chdir(tmp_path)
    assert run((DOCS / name).read_text()) == n_blocks


def test_a_page_that_does_not_run_is_found() -> None:
    """An exception, a text that is another one, and a test that fails."""
    with pytest.raises(NameError):
        run("```python\nnothing_of_this_name\n```\n")
    with pytest.raises(AssertionError):
        run("```python\nassert False, 'one'\n```\n\n```text\nanother\n```\n")
    with pytest.raises(ZeroDivisionError):
        run("```python\ndef test_it():\n    1 / 0\n```\n")
