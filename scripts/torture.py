"""Proves that nothing is lost: ``python scripts/torture.py [SCENARIO ...] [--n 100] [--seed 0] [--output FILE]``.

Trainings, their shippers and an MLflow server, all of them real, are killed; disks are filled up, folders and runs are
deleted. What MLflow has afterwards is compared with what each training wrote down by itself. The scenarios are in
``tests/e2e/rig``; ``tests/e2e/test_nothing_lost.py`` runs them in short. This takes about half an hour on two cores,
needs root to mount a small disk, and leaves no process, mount or file behind. Ends with 1 if a promise was broken.
"""

import argparse
import os
import platform
import shlex
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))

from rig import disks, kills, outages, starts
from rig.place import Place
from rig.store import Store
from rig.training import LoopTraining
from rig.verdict import Verdict, judge

N_STEPS = 3000
AWAY_S = 30.0
AWAY_STEPS = 40_000
BAD_S = 3.0
BAD_STEPS = 5000
EXIT_INTERRUPTED = 130

COUNTED = [
    "scenario",
    "case",
    "trainings",
    "steps",
    "rows",
    "lost",
    "doubled",
    "wrong",
    "other promises broken",
    "note",
]
TIMED = ["scenario", "case", "median", "99.9 %", "longest", "control: median", "99.9 %", "longest"]

Scenario = Callable[[Place, LoopTraining, Random, int], Iterable[Verdict]]
SCENARIOS: dict[str, Scenario] = {
    "kill": lambda place, control, rng, n: kills.kill(place, control, rng, n),
    "fork-and-copy": lambda place, control, *_: kills.fork_and_copy(place, control),
    "server-away": lambda place, _, rng, n: outages.server_away(place, rng, AWAY_STEPS, AWAY_S, max(1, n // 100)),
    "bad-answers": lambda place, *_: outages.bad_answers(place, BAD_STEPS, BAD_S),
    "run-deleted": lambda place, control, *_: outages.run_deleted(place, control),
    "disk-full": lambda place, control, *_: disks.disk_full(place, control),
    "folder-deleted": lambda place, control, *_: disks.folder_deleted(place, control),
    "folder-read-only": lambda place, control, *_: disks.folder_read_only(place, control),
    "eight": lambda place, control, *_: starts.eight(place, control),
    "start-without-server": lambda place, *_: starts.start_without_server(place),
}


def tortured(root: Path, names: Sequence[str], n: int, seed: int) -> Iterator[tuple[str, Verdict]]:
    """Let every scenario happen, one after the other, each in a place of its own; say which gave which verdict."""
    with Place(root / "control") as quiet:
        control = LoopTraining(quiet, "control", Store(quiet.folder / "control.db"), N_STEPS)
        yield "none", judge("nothing is done", control)
        for name in names:
            with Place(root / name) as place:
                try:
                    for verdict in SCENARIOS[name](place, control, Random(f"{name} {seed}"), n):
                        yield name, verdict
                except Exception as error:  # noqa: BLE001 - a broken promise like any other
                    yield name, Verdict("cut short", control, broken=[f"{type(error).__name__}: {error}"])


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def counted(verdicts: Sequence[tuple[str, Verdict]]) -> Iterator[Sequence[object]]:
    """One row for every case, and one for all."""
    cases = dict.fromkeys((name, verdict.case) for name, verdict in verdicts)
    for case in cases:
        yield _row(*case, [verdict for name, verdict in verdicts if (name, verdict.case) == case])
    yield _row("**all**", "", [verdict for _, verdict in verdicts])


def _row(scenario: str, case: str, verdicts: Sequence[Verdict]) -> Sequence[object]:
    counts = [verdict.counts for verdict in verdicts]
    notes = "; ".join(dict.fromkeys(verdict.note for verdict in verdicts if verdict.note)) if case else ""
    return [
        scenario,
        case,
        len(verdicts),
        sum(each.steps for each in counts),
        sum(each.rows for each in counts),
        sum(each.lost for each in counts),
        sum(each.doubled for each in counts),
        sum(each.wrong for each in counts),
        sum(len(verdict.broken) for verdict in verdicts),
        notes,
    ]


def timed(verdicts: Sequence[tuple[str, Verdict]]) -> Iterator[Sequence[object]]:
    """One row for every case whose steps were timed."""
    for case in dict.fromkeys((name, verdict.case) for name, verdict in verdicts if verdict.step_times_ms):
        those = [verdict for name, verdict in verdicts if (name, verdict.case) == case]
        disturbed = [time_ms for verdict in those for time_ms in verdict.step_times_ms]
        control = [time_ms for verdict in those for time_ms in verdict.control_times_ms]
        yield [*case, *_quantiles(disturbed), *_quantiles(control)]


def _quantiles(times_ms: Sequence[float]) -> list[str]:
    cuts = statistics.quantiles(times_ms, n=1000)
    return [f"{ms:.2f} ms" for ms in (statistics.median(times_ms), cuts[-1], max(times_ms))]


def report(verdicts: Sequence[tuple[str, Verdict]], seconds: float, interrupted: bool) -> str:
    """The result, in Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("lrtape", "torch", "mlflow", "sqlalchemy", "msgspec"))
    command = shlex.join(["python", "scripts/torture.py", *sys.argv[1:]])
    complaints = [f"{name}: {complaint}" for name, verdict in verdicts for complaint in verdict.complaints]
    return "\n".join(
        [
            f"# Nothing is lost, {time.strftime('%Y-%m-%d')}\n",
            f"`{command}` on {os.cpu_count()} cores, {platform.platform()}, in {seconds / 60:.0f} minutes"
            f"{', interrupted: what was done by then' if interrupted else ''}.",
            f"Python {platform.python_version()}, {versions}.\n",
            "Every row of four learning rates a step was compared with what the training itself wrote down after each "
            "step. A value that a full disk has cost is not counted as lost if the warning counts it: see the note.\n",
            table(COUNTED, counted(verdicts)),
            "## Step times, median, 99.9 % and longest, beside those of a training to which nothing was done\n",
            table(TIMED, timed(verdicts)),
            "## Broken promises\n",
            "\n".join(f"- {complaint}" for complaint in complaints) or "None.",
            "",
        ]
    )


def main() -> None:
    """Torture, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all of {', '.join(SCENARIOS)}")
    parser.add_argument(
        "--n", type=int, default=100, help="number of kills; a hundredth of it for a server that is away"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where the result is written, beside stdout")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left behind

    begin = time.monotonic()
    verdicts: list[tuple[str, Verdict]] = []
    interrupted = False
    try:
        with tempfile.TemporaryDirectory(prefix="torture-") as root:
            names = arguments.scenarios or list(SCENARIOS)
            for name, verdict in tortured(Path(root), names, arguments.n, arguments.seed):
                verdicts.append((name, verdict))
                print(f"{time.monotonic() - begin:6.0f} s  {name}: {verdict.case}", file=sys.stderr)
                for complaint in verdict.complaints:
                    print(f"          BROKEN  {complaint}", file=sys.stderr)
    except KeyboardInterrupt:
        interrupted = True
    text = report(verdicts, time.monotonic() - begin, interrupted)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)
    sys.exit(EXIT_INTERRUPTED if interrupted else any(verdict.complaints for _, verdict in verdicts))


if __name__ == "__main__":
    main()
