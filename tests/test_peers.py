"""The parts of ``benchmarks/peers.py`` that judge and report, and the names by which it finds its loops."""

import ast
from pathlib import Path

import pytest

from loops.catalogue import ENTRIES, LOOPS, Entry
from loops.notes import Notes, NotesReader, Step
from measures.cost import WARM_UP, block_of
from measures.page import page
from measures.results import Absence, Arrival, Block, Cost, Death, Pair, Result
from measures.rows import Values, judge

PARTS = Path(__file__).parents[1] / "benchmarks" / "comparison"


def truth(n_steps: int) -> list[Step]:
    return [Step(0, 0, 0, tuple((group + 1) / (step + 1) for group in range(4))) for step in range(n_steps)]


def rows(steps: list[Step], shift: int = 0) -> Values:
    return {(group, step + shift): [lr] for step, used in enumerate(steps) for group, lr in enumerate(used.lrs)}


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_every_loop_is_where_the_catalogue_says(entry: Entry) -> None:
    """A loop is found by its name in its module; looked up without importing a framework."""
    module, _, name = entry.home.partition(":")
    tree = ast.parse((PARTS / "loops" / f"{module}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_notes_are_read_while_they_are_written(tmp_path: Path) -> None:
    """Another process sees every finished row, and only those."""
    notes = Notes(tmp_path / "notes", 3)
    reader = NotesReader(tmp_path / "notes")
    assert reader.steps() == []
    for step in range(2):
        notes.begin_forward()
        notes.end_backward()
        notes.begin_update()
        notes.end_update([step, 1.0, 2.0, 3.0])
    assert reader.n_updates == 2
    assert [step.lrs for step in reader.steps()] == [(0.0, 1.0, 2.0, 3.0), (1.0, 1.0, 2.0, 3.0)]
    assert all(step.updated_cpu_ns >= step.computing_cpu_ns >= 0 for step in reader.steps())


def test_what_is_the_models_own_is_left_out() -> None:
    """Of 10 us of CPU time a step, 7 are for forward and backward pass and the update: 3 are not."""
    steps = [Step(10_000 * index, 7_000, 20_000 * index, ()) for index in range(WARM_UP + 5)]
    assert block_of(steps) == Block(outside_us=3.0, cpu_us=10.0, wall_us=20.0)


@pytest.mark.parametrize("shift", [0, 1, -1])
def test_a_framework_may_count_from_another_number(shift: int) -> None:
    """A constant offset of the step numbers makes no value wrong."""
    steps = truth(5)
    assert judge(rows(steps, shift), steps) == Arrival(landed=20, expected=20, doubled=0, wrong=0, groups=4)


def test_what_is_lost_doubled_or_wrong_is_counted() -> None:
    """Each row that is missing, there twice, or of another value than was used, counts once."""
    steps = truth(5)
    values = rows(steps)
    del values[0, 3]
    values[1, 2].append(values[1, 2][0])
    values[2, 0] = [0.5]
    values[3, 9] = [1.0]
    assert judge(values, steps) == Arrival(landed=19, expected=20, doubled=1, wrong=2, groups=4)
    assert judge(values, steps, open_end=True) == Arrival(landed=19, expected=20, doubled=1, wrong=1, groups=4)


def test_the_page_says_what_was_missed_and_what_was_not_measured() -> None:
    """A target that is missed is in bold, one that is met is not, and what nobody measured has no figure."""
    pair = Pair(off=Block(50.0, 950.0, 1000.0), on=Block(55.0, 960.0, 1010.0))
    cost = Cost(4000, [pair, pair], [0.1, None], Arrival(31_999, 32_000, 0, 0, 4))
    ours = Result("attach", "http", cost=cost, absence=Absence(0.03, 1300, 0, "", "FINISHED"))
    peer = Result("transformers", "sqlite", death=Death(400, 136, 0, "RUNNING", 0.1), failed="it broke")
    lines = page([ours, peer], 20.0)
    (target,) = [line for line in lines if line.startswith(f"| {LOOPS['attach'].title} | http |")]
    assert "| **5.0 us: missed** | 1.010 | **1: missed** | 0 | 4 of 4 | not measured | 0 |" in target
    text = "\n".join(lines)
    assert "**5.0 us** (5.0 us to 5.0 us) | **10.0 us** (10.0 us to 10.0 us)" in text
    assert "| never, in 1 of 2 |" in text
    assert "| not measured | 136 of 400 | RUNNING |" in text
    assert "HF Trainer, MLflowCallback, sqlite: it broke" in text
