"""The place: a folder with everything that happens in it, and nothing of it afterwards."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

DEADLINE_S = 300.0
"""For whatever takes seconds on an idle machine."""
POLL_S = 0.05

BIN = Path(sys.executable).parent
LRTAPE = BIN / "lrtape"
TRAIN_PY = Path(__file__).parents[3] / "train.py"


class Place:
    """A folder in which processes run. At its end they are killed, its mounts are undone, and the folder is removed.

    A context manager. Its methods may be called from several threads.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        (self.folder / "tmp").mkdir()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._mounts: list[Path] = []
        self._is_over = False
        self.variables: dict[str, str] = {}
        """Of the environment of every process that is started from now on, beside the usual ones."""

    def start(
        self, command: Sequence[str | Path], out: Path, cwd: Path | None = None, answers: str = ""
    ) -> "subprocess.Popen[bytes]":
        """Start a process, out of reach of Ctrl-C.

        Args:
            command: the program and its arguments; ``lrtape`` and ``python`` are those of this environment.
            out: its stdout and its stderr go to the files with the suffixes ``.out`` and ``.err``.
            cwd: its folder; by default that of the place.
            answers: what it asks for on stdin.
        """
        self._refuse_when_over()
        with out.with_suffix(".out").open("ab") as stdout, out.with_suffix(".err").open("ab") as stderr:
            process = subprocess.Popen(
                command,
                cwd=cwd or self.folder,
                env=self.environment(),
                stdin=subprocess.PIPE if answers else subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._processes.append(process)
        if process.stdin is not None:
            with process.stdin as stdin:
                stdin.write(answers.encode())
        return process

    def shell(self, command: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run what a person would type or paste, and return what it said."""
        return self._run(["/bin/sh", "-c", command], cwd)

    def bash(self, commands: str, cwd: Path | None = None, answers: str = "") -> "subprocess.CompletedProcess[str]":
        """Run lines for bash, which end with the first that fails, without a terminal.

        Args:
            commands: the lines.
            cwd: the folder; by default that of the place.
            answers: what they ask for on stdin.
        """
        return self._run(["bash", "-euo", "pipefail", "-c", commands], cwd, answers)

    def _run(self, command: Sequence[str], cwd: Path | None, answers: str = "") -> "subprocess.CompletedProcess[str]":
        self._refuse_when_over()
        return subprocess.run(
            command,
            input=answers,
            cwd=cwd or self.folder,
            env=self.environment(),
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        """The environment of every process here."""
        given = filter(None, [os.environ.get("PYTHONPATH")])
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HYDRA_"))}
        return kept | {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *given]),
            "TMPDIR": str(self.folder / "tmp"),  # who is killed leaves temporary files behind
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # jobs of MLflow's own, which only take time here
            **self.variables,
        }

    def wait_until(
        self, condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S, poll_s: float = POLL_S
    ) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: it does not hold within `deadline_s`.
        """
        deadline = time.monotonic() + deadline_s
        while not condition():
            self._refuse_when_over()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {deadline_s:.0f} s")
            time.sleep(poll_s)

    def processes_in(self, folder: Path) -> list[int]:
        """The ids of the processes whose current folder is `folder` or below it."""
        return [pid for pid, cwd in _current_folders() if cwd.is_relative_to(folder)]

    def mount_tmpfs(self, folder: Path, n_bytes: int) -> None:
        """Mount a file system of that size, in memory.

        Raises:
            PermissionError: this process may not mount anything.
        """
        folder.mkdir(parents=True, exist_ok=True)
        options = ["-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if mounted.returncode:
            raise PermissionError(mounted.stderr.strip())
        self._mounts.append(folder)

    def close(self) -> None:
        """Leave nothing behind; idempotent."""
        self._is_over = True
        deadline = time.monotonic() + DEADLINE_S
        while (left := self.processes_in(self.folder)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_S)
        for process in self._processes:
            process.kill()
            process.wait()
        for folder in self._mounts:
            subprocess.run(["umount", str(folder)], check=True)
        self._mounts.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _refuse_when_over(self) -> None:
        if self._is_over:
            raise RuntimeError(f"{self.folder} is over")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _current_folders() -> Iterator[tuple[int, Path]]:
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # Others come and go; a dead one that nobody has waited for has no folder.
            yield int(link.parent.name), Path(str(link.readlink()).removesuffix(" (deleted)"))
