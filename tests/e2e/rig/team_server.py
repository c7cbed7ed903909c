"""The server of ``docs/server.md``: on PostgreSQL, with users and passwords, by the commands of that page."""

import subprocess
from pathlib import Path

import psycopg
import requests

from rig.page import Page
from rig.place import Place
from rig.postgres import Postgres
from rig.store import Server, Store

PAGE = Page("server.md")
PORT_OF_THE_PAGE = "127.0.0.1:5000"
ROLE = "swordfish-of-the-role"
ADMIN = "swordfish-of-the-admin"
ADA = "swordfish-of-ada"
BOB = "swordfish-of-bob"
"""Passwords; Ada trains, and what Bob may is said where he does something."""


class PostgresStore(Store):
    """A store of MLflow's in PostgreSQL, read as its administrator, without MLflow.

    Args:
        path: names its files.
        postgres: the cluster that it is in.
    """

    def __init__(self, path: Path, postgres: Postgres) -> None:
        super().__init__(path)
        object.__setattr__(self, "_postgres", postgres)

    _postgres: Postgres

    @property
    def uri(self) -> str:
        """See `Store.uri`; libpq finds the port and the password where the page has put them."""
        return "postgresql+psycopg://mlflow@127.0.0.1/mlflow"

    def _select(self, sql: str, *values: str) -> list[tuple[object, ...]]:
        cluster = self._postgres
        with psycopg.connect(
            host=str(cluster.folder),
            port=cluster.port,
            user="postgres",
            dbname="mlflow",
            cursor_factory=psycopg.ClientCursor,
        ) as connection:
            return connection.execute(sql.replace("%", "%%").replace("?", "%s").encode(), values).fetchall()


class TeamServer(Server):
    """``mlflow server`` as the page starts it, but for its port, and with one worker. Who trains in its place is Ada.

    Args:
        place: where it runs; its home folder is that of the server's user.
        postgres: an empty cluster.
    """

    def __init__(self, place: Place, postgres: Postgres) -> None:
        super().__init__(place, PostgresStore(place.folder / "team", postgres))
        self.postgres = postgres
        self.folder = place.folder / "server"
        self.folder.mkdir()
        place.variables |= {
            "HOME": str(self.folder),
            "PGPORT": str(postgres.port),
            "MLFLOW_PORT": str(self.port),
            "MLFLOW_WORKERS": "1",
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_USERNAME": "ada",
            "MLFLOW_TRACKING_PASSWORD": ADA,
        }
        (by_administrator,) = PAGE.commands("The database")
        once, self._first, self._start = PAGE.commands("The server")
        postgres.shell(by_administrator, f"{ROLE}\n{ROLE}\n")
        assert self.type(once, f"{ROLE}\n").returncode == 0
        self._is_new = True
        self.start()
        (add_user,) = PAGE.commands("A user")
        added = self.type(add_user, f"{ADMIN}\n{ADA}\n")
        assert added.returncode == 0, added.stderr
        self.as_admin("POST", "2.0/mlflow/users/create", username="bob", password=BOB)

    def start(self) -> None:
        """See `Server.start`."""
        answers = f"{ADMIN}\n" if self._is_new else ""
        commands = self._first + self._start if self._is_new else self._start
        self._is_new = False
        self._process = self._place.start(
            ["bash", "-euo", "pipefail", "-c", commands], self.folder / "server", self.folder, answers
        )
        process = self._process
        self._place.wait_until(lambda: self.answers() or process.poll() is not None, f"{self.uri} answers")
        if process.poll() is not None:
            raise RuntimeError((self.folder / "server.err").read_text())

    def type(self, commands: str, answers: str = "", cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run commands of the page, where its port is this server's; returns what they say.

        Args:
            commands: for bash.
            answers: what is asked for on the way, a line each.
            cwd: where; in the folder of the server by default.
        """
        commands = commands.replace(PORT_OF_THE_PAGE, f"127.0.0.1:{self.port}")
        return self._place.bash(commands, cwd or self.folder, answers)

    def as_user(self, name: str, password: str) -> str:
        """The address with a user and a password in it."""
        return f"http://{name}:{password}@127.0.0.1:{self.port}"

    def as_admin(self, method: str, endpoint: str, **body: str) -> None:
        """What an admin does about users and permissions, as `AuthServiceClient` does: that imports the whole server.

        Raises:
            requests.HTTPError: it is refused.
        """
        url = f"{self.uri}/api/{endpoint}"
        requests.request(method, url, json=body, auth=("admin", ADMIN), timeout=60.0).raise_for_status()
