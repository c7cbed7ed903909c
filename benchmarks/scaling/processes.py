"""Processes that are measured from outside: what they use, and a real ``mlflow server``."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BENCHMARKS = str(Path(__file__).parents[1])
LOOK_S = 0.05
START_S = 120.0
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}


def start(
    *arguments: object, folder: Path | None = None, out: "int | IO[str]" = subprocess.PIPE
) -> "subprocess.Popen[str]":
    """Start Python on these arguments, in a folder; ``-m scaling.drain`` is found. Complaints are seen, or go to `out`.

    Args:
        arguments: of Python.
        folder: the current one by default.
        out: takes what is printed.
    """
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=out,
        stderr=None if out == subprocess.PIPE else subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=_environment() | {"PYTHONPATH": os.pathsep.join([BENCHMARKS, *_python_path()])},
    )


def _environment() -> dict[str, str]:
    """Of this process, but for the store of whoever measures: what is measured has one of its own."""
    return {name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | ENVIRONMENT


def _python_path() -> list[str]:
    return [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []


def printed_by(*arguments: object) -> str:
    """Run Python on these arguments; returns what it prints.

    Raises:
        RuntimeError: it fails.
    """
    with start(*arguments) as process:
        out = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}: {out}")
    return out


def memory_kib(pid: int) -> tuple[int, int]:
    """Resident memory of a process, now and at its peak; zeros where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = {name: text.split()[0] for name, _, text in (line.partition(":") for line in lines) if text.strip()}
    return int(fields.get("VmRSS", 0)), int(fields.get("VmHWM", 0))


def shipper_of(pid: int) -> int | None:
    """The shipper process that a training has started, if it runs."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"lrtape.companion" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A server with one worker, on a SQLite store in a folder, as long as the block lasts; yields its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "server-artifacts")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(), start_new_session=True)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {(folder / 'server.log').read_text()}")
            time.sleep(LOOK_S)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5.0).close()
    except OSError:
        return False
    return True
