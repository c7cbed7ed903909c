import os
import subprocess
import sys
from pathlib import Path

import pytest

from lrtape.app.sweep.gpu_claims import VISIBLE, claim_gpu, visible_gpus

CLAIM_AND_WAIT = """
import sys
from pathlib import Path
from lrtape.app.sweep.gpu_claims import claim_gpu
print(claim_gpu(["3", "5"], Path(sys.argv[1])), claim_gpu(["3", "5"], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def claim(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CLAIM_AND_WAIT, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def told(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def test_each_process_has_a_gpu_of_its_own_until_it_ends(tmp_path: Path) -> None:
    """Two processes claim different GPUs, each one twice the same; a third one shares; the dead one's is free again."""
    with claim(tmp_path) as first, claim(tmp_path) as second:
        of_first, of_second = told(first), told(second)
        with claim(tmp_path) as third:
            assert set(told(third)) <= {"3", "5"}
            third.communicate()
        first.kill()
        first.wait()
        with claim(tmp_path) as fourth:
            assert told(fourth) == of_first
            fourth.communicate()
        second.communicate()

    assert sorted([of_first[0], of_second[0]]) == ["3", "5"]
    assert of_first[0] == of_first[1]


def test_nothing_is_claimed_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment stays as it is."""
    monkeypatch.delenv(VISIBLE, raising=False)

    assert claim_gpu((), tmp_path) == ""
    assert VISIBLE not in os.environ


def test_gpus_are_called_as_the_environment_calls_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may see two of eight gives those on, and no other."""
    monkeypatch.setenv(VISIBLE, "4, GPU-8a")
    assert visible_gpus(2) == ("4", "GPU-8a")
    monkeypatch.delenv(VISIBLE)
    assert visible_gpus(2) == ("0", "1")
    assert visible_gpus(0) == ()
