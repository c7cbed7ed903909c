"""The command ``lrtape``, where errors become messages and exit codes."""

import argparse
import sys
from pathlib import Path

from lrtape.errors import ConfigError, LRTapeError
from lrtape.tracking.uri import REFUSED_CREDENTIALS, has_password

EXIT_INCOMPLETE = 1
EXIT_REFUSED = 2


def main() -> None:
    """Run one command. Installed as the script ``lrtape``."""
    if sys.argv[1:2] == ["train"]:
        _train(sys.argv[2:])  # Hydra reads its own arguments
        return
    parser = argparse.ArgumentParser(prog="lrtape", description="A tape recorder for learning rates.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("train", help="train a model and record its learning rates; `lrtape train --help` says more")
    recovering = commands.add_parser("recover", help="send what crashed trainings left in their spools to MLflow")
    recovering.add_argument("folder", nargs="?", type=Path, default=Path(".lrtape"), help="default: .lrtape")
    recovering.add_argument(
        "--tracking-uri", help="default: the URI in the spool, or $MLFLOW_TRACKING_URI where that hides a password"
    )
    arguments = parser.parse_args()
    try:
        sys.exit(_recover(arguments.folder, arguments.tracking_uri))
    except LRTapeError as error:
        print(f"lrtape: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_REFUSED)


def _train(arguments: list[str]) -> None:
    from lrtape.app.main import main as train  # late: hydra is not needed by the other commands

    sys.argv = ["lrtape train", *arguments]
    train()


def _recover(folder: Path, tracking_uri: str | None) -> int:
    from lrtape.recover import recover  # late: msgspec is not needed by the other commands

    if not folder.is_dir():
        raise ConfigError(
            f"`folder` must be a folder of spools, but there is no {folder}. Name the one that was printed."
        )
    if tracking_uri is not None and has_password(tracking_uri):
        raise ConfigError(REFUSED_CREDENTIALS)
    results = []
    for result in recover(folder, tracking_uri):
        results.append(result)
        fate = f"still on disk: {result.problem}" if result.problem else "recovered"
        print(f"{result.folder}: {result.points} values stored, {fate}")  # noqa: T201
    if not results:
        print(f"{folder}: nothing is left behind")  # noqa: T201
    return EXIT_INCOMPLETE if any(result.problem for result in results) else 0
