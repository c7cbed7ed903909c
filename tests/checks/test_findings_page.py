import re
from pathlib import Path

import msgspec
import pytest

from lrtape.agreement import RANKS_DIFFER
from lrtape.checks.registry import CODES
from lrtape.replay import JUMP_ON_RESUME, REPLAY_DIFFERS
from lrtape.step_findings import AMBIGUOUS_LR, CUDA_GRAPH, STEPS_SKIPPED
from lrtape.tape import Finding

PAGE = (Path(__file__).parents[2] / "docs" / "findings.md").read_text()
SECTIONS = dict(re.findall(r"^### `([\w-]+)`\n(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
ALL_CODES = [*CODES, AMBIGUOUS_LR, CUDA_GRAPH, STEPS_SKIPPED, REPLAY_DIFFERS, JUMP_ON_RESUME, RANKS_DIFFER]


def test_every_code_has_a_section_and_every_section_a_code() -> None:
    """Nothing is found that is not explained, and nothing is explained that is not found."""
    assert sorted(SECTIONS) == sorted(ALL_CODES)
    assert len(ALL_CODES) == len(set(ALL_CODES))


def test_the_table_has_every_code_of_the_source() -> None:
    """A code that is given to `Finding` somewhere is in the table above: all of them are constants of their modules."""
    source = Path(__file__).parents[2] / "src" / "lrtape"
    used = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r"^[A-Z_]+ = \"([a-z]+(?:-[a-z]+)+)\"$", path.read_text(), flags=re.MULTILINE)
    }

    assert set(ALL_CODES) <= used | {"spike"}


@pytest.mark.parametrize("code", ALL_CODES)
def test_a_section_says_what_how_and_what_to_do(code: str) -> None:
    """Each explains what the finding means, how it comes about, and the fix."""
    parts = re.findall(r"^\*\*(\w[\w ]*):\*\* \S", SECTIONS[code], flags=re.MULTILINE)

    assert parts == ["Means", "Comes about", "Fix"]


def test_a_finding_of_an_older_spool_has_a_severity() -> None:
    """Findings were written without one: they read as warnings."""
    old = msgspec.msgpack.encode({"code": "ambiguous-lr", "message": "A sentence.", "key": "lr/a", "step": 3})

    assert msgspec.msgpack.decode(old, type=Finding) == Finding("ambiguous-lr", "A sentence.", "lr/a", 3, "warning")
    new = Finding("lr-zero", "A sentence.", "lr/a", 3, "error")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(new), type=Finding) == new
