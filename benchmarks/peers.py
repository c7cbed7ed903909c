"""What recording an lr costs, and what arrives: lrtape beside its peers, on the same work.

In a virtual environment of its own (about 25 minutes on two idle cores)::

    python -m venv .bench
    .bench/bin/pip install -c constraints.txt -e ".[bench]"
    .bench/bin/python benchmarks/peers.py > benchmarks/peers-$(date +%F).md

The same model, data, four param groups and schedule go through every loop of ``comparison/loops/catalogue.py``, each in
a process of its own, with every step recorded. ``--quick`` takes two short pairs of each, to see that all works: its
figures say nothing. Stores, servers, processes and SIGKILLs are real; what is in the store is read by raw SQL.
"""

import argparse
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent / "comparison"))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests" / "e2e"))

from loops.catalogue import LOOPS, Entry
from measures.absence import BEFORE_STEPS, PERIOD_S, absences_of
from measures.cost import WARM_UP, cost_of
from measures.death import AT_STEP, SETTLE_S, SPREAD, death_of
from measures.page import STORES, page
from measures.results import Result
from measures.trainee import Trainee
from rig.place import Place
from rig.store import Server, Store

AWAY_S = 20.0
AT_A_TIME = 3
"""Trainings that the server is taken away from."""
QUICK_PAIRS, QUICK_STEPS = 2, 200
COST, SIGKILL, OUTAGE = MEASURES = ("cost", "sigkill", "outage")
PACKAGES = ("lrtape", "torch", "mlflow", "sqlalchemy", "lightning", "pytorch-ignite", "transformers", "accelerate")

HEAD = f"""Each loop trains the same model on the same batches in the same order, with four named param groups, each
with an lr of its own, and half a cosine stepped after every step; torch has one thread. Every step is recorded. Each
loop has a process of its own, in which trainings with and without recording alternate; a figure is the median of the
pairs, with its quartiles. The first {WARM_UP} steps of a training are left out.

- **CPU added by its own work**: CPU time of the training thread (`time.thread_time`) outside of forward pass, backward
  pass and the arithmetic of the update, in the median step of a training: what is not the model's. **All** is the whole
  of the mean step, with what the model's own arithmetic takes longer because somebody else uses the same processor.
- **Reading four lrs, and one `os.write`** is the least that a file can cost in this loop, in which the model has
  emptied the caches since the step before. In a loop that does nothing else it costs less: `overhead.py` measures that.
- **Last row there after**: from the last update until the store has as many rows as it is to get, looked up by raw SQL
  from another process every 20 ms.
- **Expected** are one row for each step and each of the four groups. **Wrong** is a row whose value is not what the
  optimizer used in the step that it stands for, by its own note within the update; a framework may count its steps from
  any constant number.
- **SIGKILL** strikes at step {AT_STEP} +- {SPREAD}. Rows lost are those of the steps that were over by then, of the
  groups that the loop records, when no process of the training was left and {SETTLE_S:.0f} s had passed.
- **The server** is `mlflow server --workers 1`, in a process of its own.
- **The server gone**: it is killed at step {BEFORE_STEPS}, and started again on the same port and store. There a step
  begins every {PERIOD_S * 1e3:.0f} ms, or as soon as it can; {AT_A_TIME} trainings run at a time. Rows lost are those
  that are not there after the training's end, of the groups that the loop records.
"""


def say(text: str) -> None:
    """How far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def measured(place: Place, entry: Entry, store: Store, uri: str, asked: argparse.Namespace) -> Result:
    """The cost of a loop, and its death, in one process."""
    result = Result(entry.name, "http" if uri.startswith("http") else "sqlite")
    pairs, steps = (QUICK_PAIRS, QUICK_STEPS) if asked.quick else (entry.n_pairs, entry.n_steps)
    with Trainee(place, entry, store, uri) as trainee:
        try:
            trainee.wait_until_loaded()
            if COST in asked.measures:
                result.cost = cost_of(trainee, asked.steps or steps, asked.pairs or pairs)
            if SIGKILL in asked.measures and entry.keys:
                result.death = death_of(trainee, Random(f"{entry.name} {result.store} {asked.seed}"))
        except Exception as error:  # noqa: BLE001 - the others are still to be measured
            result.failed = str(error).partition("\n")[0]
            say(f"{entry.name}: {error}")
    return result


def measure(place: Place, asked: argparse.Namespace) -> list[Result]:
    """Everything that is asked for."""
    entries = [LOOPS[name] for name in asked.only]
    server = Server(place, Store(place.folder / "http.db"))
    server.start()
    server.kill()  # as long as it is not asked for anything, it shall not disturb
    sqlite = server.store.copy(place.folder / "sqlite.db")
    results = []
    for name in sorted(asked.stores, reverse=True):  # SQLite first
        if name == "http":
            server.start()
        store, uri = (sqlite, sqlite.uri) if name == "sqlite" else (server.store, server.uri)
        for entry in entries if {COST, SIGKILL} & {*asked.measures} else []:
            if name == "http" and not entry.keys:  # it was measured once, and has nothing to do with a store
                continue
            say(f"{entry.name} on {name}")
            results.append(measured(place, entry, store, uri, asked))
    if OUTAGE in asked.measures and "http" in asked.stores:
        by_name = {result.name: result for result in results if result.store == "http"}
        recording = [entry for entry in entries if entry.keys]
        for begin in range(0, len(recording), AT_A_TIME):
            together = recording[begin : begin + AT_A_TIME]
            say(f"the server gone: {', '.join(entry.name for entry in together)}")
            try:
                absences = absences_of(place, server, together, asked.away_s)
            except Exception as error:  # noqa: BLE001 - the others are still to be measured
                say(f"not measured: {error}")
                if not server.answers():
                    server.start()
                continue
            for name, absence in absences.items():
                if name not in by_name:
                    results.append(Result(name, "http"))
                    by_name[name] = results[-1]
                by_name[name].absence = absence
    return results


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*LOOPS], default=[*LOOPS], metavar="NAME", help=", ".join(LOOPS))
    parser.add_argument("--stores", nargs="+", choices=[*STORES], default=[*STORES])
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=[*MEASURES])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PAIRS} pairs of {QUICK_STEPS} steps")
    parser.add_argument("--pairs", type=int, help="trainings with and without recording; by default as the page says")
    parser.add_argument("--steps", type=int, help="of a training whose cost is measured; by default as the page says")
    parser.add_argument("--away-s", type=float, default=AWAY_S, help="how long the server is gone")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the SIGKILLs")
    return parser.parse_args(given)


def main() -> None:
    """Measure, and print the result as Markdown."""
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left behind
    begin = time.monotonic()
    with Place(Path(tempfile.mkdtemp(prefix="peers-"))) as place:
        given = filter(None, [os.environ.get("PYTHONPATH")])
        place.variables["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], *given])
        results = measure(place, asked)
    minutes = (time.monotonic() - begin) / 60
    command = shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]])
    print(f"# lrtape and its peers on the same work, {time.strftime('%Y-%m-%d')}\n")
    print(f"`{command}` on {os.cpu_count()} cores, {platform.platform()}; it took {minutes:.0f} minutes.")
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}.\n")
    print(HEAD)
    print("\n".join(page(results, asked.away_s)))


if __name__ == "__main__":
    main()
