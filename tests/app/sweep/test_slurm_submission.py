import os
from pathlib import Path

import pytest

from lrtape.app.sweep import slurm_submission
from lrtape.app.sweep.slurm_submission import FOLDER, Backlog, Submission
from lrtape.errors import ConfigError

SQUEUE = """#!/bin/sh
[ -f {answer} ] && cat {answer} || {{ echo "squeue: error: Unable to contact slurm controller" >&2; exit 1; }}
"""


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``squeue`` says; without the file, it does not answer."""
    monkeypatch.setattr("lrtape.app.sweep.slurm_queue.FRESH_S", 0.0)
    answer = tmp_path / "answer"
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(SQUEUE.format(answer=answer))
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    answer.write_text("")
    return answer


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    """Two tasks, noted by a driver that was killed before it learned which job they are."""
    (tmp_path / FOLDER).mkdir()
    return Submission.create(tmp_path / FOLDER / "lrtape-x.json", "lrtape-x", [["a", "b"], ["c"]])


def test_a_driver_that_was_killed_while_it_submitted_is_known_by_the_name_of_its_jobs(
    answer: Path, submission: Submission, tmp_path: Path
) -> None:
    """The trials of tasks that are not over wait; those of a task that is over do not."""
    answer.write_text("7_0|lrtape-x|RUNNING\n7_1|lrtape-x|OUT_OF_MEMORY\n8|other|RUNNING\n")
    assert Backlog(tmp_path).jobs() == {"a": "7_0", "b": "7_0"}
    answer.write_text("")  # forgotten, so over
    assert Backlog(tmp_path).jobs() == {}
    assert Submission.find(tmp_path) == []


def test_jobs_that_slurm_does_not_know_yet_may_still_come(
    answer: Path, submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sbatch goes on when its driver is killed; half a minute later nothing more can come."""
    assert set(Backlog(tmp_path).jobs()) == {"a", "b", "c"}
    monkeypatch.setattr(slurm_submission, "SUBMITTING_S", -1.0)
    assert Backlog(tmp_path).jobs() == {}


def test_while_slurm_does_not_answer_nothing_is_over(answer: Path, submission: Submission, tmp_path: Path) -> None:
    """A trial that may be trained is not trained twice."""
    submission.with_job("7")
    answer.unlink()

    assert Backlog(tmp_path).jobs() == {"a": "7_0", "b": "7_0", "c": "7_1"}


def test_without_slurm_a_sweep_with_jobs_is_refused(
    submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell whether they are over."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match="no `squeue` here"):
        Backlog(tmp_path).jobs()
