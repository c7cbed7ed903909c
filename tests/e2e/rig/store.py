"""Real stores: a SQLite file, read by raw SQL, and a real ``mlflow server`` on one."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rig.place import Place


@dataclass(frozen=True)
class Store:
    """A SQLite store of MLflow's. Read without MLflow, so that it cannot hide a row."""

    path: Path

    @property
    def uri(self) -> str:
        """For MLflow."""
        return f"sqlite:///{self.path}"

    def copy(self, path: Path) -> "Store":
        """A copy; nobody may be writing."""
        return Store(Path(shutil.copy(self.path, path)))

    def _select(self, sql: str, *values: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=60.0)) as connection:
            return connection.execute(sql, values).fetchall()

    def run_ids(self) -> list[str]:
        """Every run, deleted ones included."""
        return [str(run_id) for (run_id,) in self._select("select run_uuid from runs")]

    def run_ids_of(self, experiment: str) -> list[str]:
        """Every run of an experiment, deleted ones included; none where there is no such experiment."""
        sql = "select run_uuid from runs join experiments using (experiment_id) where experiments.name = ?"
        return [str(run_id) for (run_id,) in self._select(sql, experiment)]

    def values(self, run_id: str, prefix: str = "lr/") -> dict[tuple[str, int], list[float]]:
        """The value of every row of a run, by key and step; more than one where a step was stored twice."""
        sql = "select key, step, value from metrics where run_uuid = ? and key like ? || '%'"
        found: dict[tuple[str, int], list[float]] = {}
        for key, step, value in self._select(sql, run_id, prefix):
            assert isinstance(key, str)
            assert isinstance(step, int)
            assert isinstance(value, float)
            found.setdefault((key, step), []).append(value)
        return found

    def status(self, run_id: str) -> str:
        """How the run ended."""
        return str(self._select("select status from runs where run_uuid = ?", run_id)[0][0])

    def start_ms(self, run_id: str) -> int:
        """When it began, in Unix milliseconds."""
        return int(str(self._select("select start_time from runs where run_uuid = ?", run_id)[0][0]))

    def tags(self, run_id: str) -> dict[str, str]:
        """Its tags."""
        return {
            str(key): str(value)
            for key, value in self._select("select key, value from tags where run_uuid = ?", run_id)
        }

    def params(self, run_id: str) -> dict[str, str]:
        """Its params."""
        return {
            str(key): str(value)
            for key, value in self._select("select key, value from params where run_uuid = ?", run_id)
        }


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """``mlflow server`` on a SQLite store; killed and started as often as needed, always on one port.

    Args:
        place: where it runs.
        store: behind it.
    """

    def __init__(self, place: Place, store: Store) -> None:
        self.store = store
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        place, path = self._place, self.store.path
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.store.uri, "--workers", "1"]
        command += ["--artifacts-destination", str(path.with_suffix(".artifacts"))]
        self._process = place.start(command, path.with_suffix(".server"))
        place.wait_until(self.answers, f"{self.uri} answers")

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5.0).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill it with all its workers; a request that it works on gets no answer."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._place.wait_until(lambda: not self.answers(), f"{self.uri} is dead")
