"""The process that refreshes the report beside a sweep, as the driver of the sweep sees it."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

LOG = "report.log"
"""In the folder of the sweep: what the process had to say."""
_STOP_S = 10.0


class ReportCompanion:
    """``lrtape report RUN --watch``, in a process of its own: the driver may be the one that trains.

    It begins with a pause, before it imports anything, so that a short sweep pays nothing for it; and it ends with the
    driver, however that dies. Without it there is no report before the end, so nothing here raises.

    Args:
        run_id: of the sweep.
        tracking_uri: absolute. It goes by the environment: it may hold a password, which nobody shall see in a list of
            processes.
        folder: where spools are.
        sweep_folder: of the sweep.
    """

    def __init__(self, run_id: str, tracking_uri: str, folder: Path, sweep_folder: Path) -> None:
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": tracking_uri,
            # It asks again by itself; MLflow would be silent for minutes.
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "PYTHONWARNINGS": "default",
        }
        self._process: subprocess.Popen[bytes] | None = None
        arguments = ["report", run_id, "--watch", "--folder", str(folder), "--driver", str(os.getpid())]
        with contextlib.suppress(OSError), (sweep_folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-P", "-m", "lrtape.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the sweep
            )

    def __enter__(self) -> "ReportCompanion":
        return self

    def __exit__(self, *_: object) -> None:
        """End it, whatever it is at: the driver makes the last report."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
