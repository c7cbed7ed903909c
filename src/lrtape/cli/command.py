"""What the command ``lrtape`` takes, and where errors become messages and exit codes."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lrtape.errors import LRTapeError
from lrtape.quick_exit import exit_quickly

EXIT_REFUSED = 2
"""Of a wrong input, and of whatever cannot be done at all."""


def main() -> None:
    """Run one command. Installed as the script ``lrtape``."""
    exit_quickly()
    if sys.argv[1:2] == ["train"]:
        _train(sys.argv[2:])  # Hydra reads its own arguments
        return
    if sys.argv[1:2] == ["sweep"]:
        _sweep(sys.argv[2:])
        return
    if sys.argv[1:2] == ["preview"]:
        sys.exit(_preview(sys.argv[2:]))  # and so are these
    arguments = _parser().parse_args()
    # A person waits: MLflow would try for minutes without a word, or print a bar for every file.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a link to an empty page
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `lrtape show ... | head`
        # Or the interpreter flushes once more, and says so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (LRTapeError, OSError) as error:
        print(f"lrtape: {error}", file=sys.stderr)
        code = EXIT_REFUSED
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lrtape", description="A tape recorder for learning rates.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("train", help="train a model and record its learning rates; `lrtape train --help` says more")
    commands.add_parser("sweep", help="train every point of a grid; `lrtape sweep --help` says more")
    commands.add_parser(
        "preview", help="draw a schedule without training, and say what looks wrong; `lrtape preview --help` says more"
    )

    status = commands.add_parser("status", help="say what is recorded here, how much of it is stored, and what to do")
    status.add_argument("folder", nargs="?", type=Path, default=Path(".lrtape"), help="default: .lrtape")
    status.set_defaults(run=_status)

    show = commands.add_parser("show", help="draw the learning rates of a run, or of a file, in the terminal")
    show.add_argument(
        "source", metavar="SPOOL|RUN", help="a spool folder, a spool or a tape file; else the id of a run"
    )
    show.add_argument(
        "--key", metavar="PATTERN", help="only these keys: 'lr/*' (default: lr/* is drawn, all are listed)"
    )
    show.add_argument("--csv", action="store_true", help="print every row instead, as key,step,time_ms,value")
    _add_tracking_uri(show)
    show.set_defaults(run=_show)

    verify = commands.add_parser(
        "verify",
        help="compare every row that MLflow has of a run with its tapes",
        description="Exit code: 0 if all is equal, 1 if not, 2 if it cannot be compared.",
    )
    verify.add_argument("run_id", metavar="RUN", help="the id of a run")
    verify.add_argument(
        "--folder",
        type=Path,
        default=Path(".lrtape"),
        help="where spools are that still belong to it; default: .lrtape",
    )
    _add_tracking_uri(verify)
    verify.set_defaults(run=_verify)

    why = commands.add_parser("why", help="say why the learning rates of a run changed at a step")
    why.add_argument("run_id", metavar="RUN", help="the id of a run")
    why.add_argument("--step", type=int, required=True, help="index of the optimizer step, from 0")
    why.add_argument("--key", help="of one param group: lr/head (default: all)")
    _add_tracking_uri(why)
    why.set_defaults(run=_why)

    report = commands.add_parser(
        "report",
        help="say which point of a sweep is best, by how much, and whether that is more than noise",
        description="The table, the pictures and the config of the best point go to the page of the sweep's run in "
        "MLflow, and into FOLDER/sweeps.",
    )
    report.add_argument("sweep", metavar="SWEEP", help="the id of its run, or its own id, or its title")
    report.add_argument("--experiment", metavar="NAME", help="to look in; default: all")
    report.add_argument("--watch", action="store_true", help="again whenever a training has ended, until all have")
    report.add_argument("--folder", type=Path, default=Path(".lrtape"), help="for the files; default: .lrtape")
    report.add_argument("--driver", type=int, help=argparse.SUPPRESS)
    _add_tracking_uri(report)
    report.set_defaults(run=_report)

    bench = commands.add_parser(
        "bench",
        help="measure what recording costs on this machine, in some fifteen seconds",
        description="On a store of its own, in a temporary folder; nothing is left behind.",
    )
    bench.add_argument("--seconds", type=float, default=10.0, help="how long, about; default: 10")
    bench.set_defaults(run=_bench)

    recover = commands.add_parser("recover", help="send what crashed trainings left in their spools to MLflow")
    recover.add_argument("folder", nargs="?", type=Path, default=Path(".lrtape"), help="default: .lrtape")
    recover.add_argument(
        "--tracking-uri", help="default: the URI in the spool, or $MLFLOW_TRACKING_URI where that hides a password"
    )
    recover.set_defaults(run=_recover)
    return parser


def _add_tracking_uri(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else mlflow.db in this folder")


# Each command is imported when it runs: `lrtape --help` needs nothing of what they need.


def _train(arguments: list[str]) -> None:
    from lrtape.app.main import main as train

    sys.argv = ["lrtape train", *arguments]
    train()


def _sweep(arguments: list[str]) -> None:
    from lrtape.app.sweep.command import main as sweep

    sweep(arguments, "lrtape sweep")


def _preview(arguments: list[str]) -> int:
    from lrtape.app.preview_command import main as preview

    return preview(arguments)


def _status(arguments: argparse.Namespace) -> int:
    from lrtape.cli.status import status

    return status(arguments.folder)


def _show(arguments: argparse.Namespace) -> int:
    from lrtape.cli.show import show

    return show(arguments.source, arguments.tracking_uri, arguments.key, arguments.csv)


def _verify(arguments: argparse.Namespace) -> int:
    from lrtape.cli.verify import verify

    return verify(arguments.run_id, arguments.tracking_uri, arguments.folder)


def _why(arguments: argparse.Namespace) -> int:
    from lrtape.cli.why import why

    return why(arguments.run_id, arguments.step, arguments.key, arguments.tracking_uri)


def _report(arguments: argparse.Namespace) -> int:
    from lrtape.cli.report import report

    return report(
        arguments.sweep,
        arguments.tracking_uri,
        arguments.experiment,
        arguments.folder,
        arguments.watch,
        arguments.driver,
    )


def _bench(arguments: argparse.Namespace) -> int:
    from lrtape.cli.bench import bench

    return bench(arguments.seconds)


def _recover(arguments: argparse.Namespace) -> int:
    from lrtape.cli.recover import recover

    return recover(arguments.folder, arguments.tracking_uri)
