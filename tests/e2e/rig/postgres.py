"""A cluster of PostgreSQL, in a folder of its own and on a free port of the loopback, gone afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from rig.store import free_port

DEADLINE_S = 120.0
_DEBIAN = "/usr/lib/postgresql/*/bin"
"""Where Debian keeps what is not for everybody's path."""


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs, the newest; ``None`` where it is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = [path for path in Path("/").glob(_DEBIAN[1:]) if (path / "initdb").exists()]
    return max(folders, key=lambda path: int(path.parent.name), default=None)


class Postgres:
    """A cluster. PostgreSQL refuses to run as root: there it is the user ``postgres``, else who runs this.

    Args:
        programs: see `find_postgres`.

    Attributes:
        port: of the loopback, where a password is asked for.
        folder: with its socket, where its administrator needs none.
    """

    def __init__(self, programs: Path) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # where another user can go
        self._programs = programs
        self._user = None if os.getuid() else pwd.getpwnam("postgres").pw_uid
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        data = self.folder / "data"
        auth = ["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]
        self._run(programs / "initdb", "--pgdata", data, *auth)
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self.folder / "log"
        self._run(programs / "pg_ctl", "start", "--wait", "--pgdata", data, "--log", log, "--options", options)

    def shell(self, commands: str, answers: str = "") -> str:
        """What its administrator types; returns what that says.

        Args:
            commands: lines for bash.
            answers: what is asked for on the way, passwords say: a line each.
        """
        return self._run("bash", "-euo", "pipefail", "-c", commands, answers=answers)

    def close(self) -> None:
        """Leave nothing behind."""
        self._run(self._programs / "pg_ctl", "stop", "--mode=immediate", "--pgdata", self.folder / "data")
        shutil.rmtree(self.folder)

    def _run(self, *command: str | Path, answers: str = "") -> str:
        done = subprocess.run(
            command,
            input=answers,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env={
                "PATH": f"{self._programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                "PGHOST": str(self.folder),
                "PGPORT": str(self.port),
                "PGUSER": "postgres",
            },
            user=self._user,
            start_new_session=True,  # without a terminal, on which createuser would ask
            timeout=DEADLINE_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ends with {done.returncode}: {done.stdout}")
        return done.stdout
