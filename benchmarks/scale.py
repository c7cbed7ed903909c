"""What grows with groups, steps and trainings: ``python benchmarks/scale.py > benchmarks/scale-$(date +%F).md``.

Some twenty minutes on two cores that have nothing else to do; on several, it needs the extra ``joblib``. Five
questions, each on real stores:

1. CPU time that recording adds to a step with 1, 4, 50 and 500 param groups.
2. Memory of a training and of its shipper, and the spool, from a thousand steps to a million.
3. How fast the shipper drains a spool, beside MLflow's own ``log_batch``: SQLite, and a real ``mlflow server``.
4. A sweep of 200 short trainings.
5. How long the tape of a million steps takes to open.

Smaller sizes by arguments, see ``--help``. What goes on is told on stderr.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from lrtape.cpus import n_cpus
from lrtape.overhead import Quartiles, added_cpu, machine, reading_and_one_write
from scaling.drain import WAYS
from scaling.growth import Growth, train
from scaling.processes import mlflow_server, printed_by
from scaling.sweeping import STEP_SIZES, STEPS_A_TRAINING, sweep

STEPS_A_BLOCK = {1: 1000, 4: 1000, 50: 200, 500: 30}
"""By the number of groups: a step without recording takes longer, too, the more there are."""
DRAINED_GROUPS = (1, 50)
MIN_OF_CEILING = 0.9
KIB_IN_MIB = 1024


def tell(text: str) -> None:
    """Say on stderr what is done now."""
    print(f"{time.strftime('%X')} {text}", file=sys.stderr, flush=True)


def table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    """Print a table, each row when it is there."""
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def cost_rows(n_pairs: int) -> Iterator[Sequence[str]]:
    """A row for each number of groups."""
    for n_groups, n_steps in STEPS_A_BLOCK.items():
        tell(f"CPU time of a step, {n_groups} groups")
        with tempfile.TemporaryDirectory() as folder:
            added = added_cpu(n_groups, Path(folder), n_pairs, n_steps)
            floor = reading_and_one_write(n_groups, Path(folder))
        quartiles = (f"{cost:.2f} us" for cost in added[:3])
        yield f"{n_groups}", *quartiles, f"{floor:.2f} us", f"{added.median / floor:.1f}"


def growth_rows(folder: Path, sizes: Sequence[int], trained: list[Growth]) -> Iterator[Sequence[str]]:
    """A row for each number of steps; what came of it is added to `trained`."""
    for n_steps in sizes:
        tell(f"{n_steps:,} steps of 4 groups")
        place = folder / f"{n_steps}"
        place.mkdir()
        grown = train(place, n_steps)
        trained.append(grown)
        seen = grown.seen
        yield (
            f"{n_steps:,}",
            f"{seen['rss_kib'] / KIB_IN_MIB:.1f} MiB",
            f"{seen['grown_kib']} KiB",
            f"{grown.first_kib / KIB_IN_MIB:.1f} MiB",
            f"{grown.shipping_kib / KIB_IN_MIB:.1f} MiB",
            f"{grown.peak_kib / KIB_IN_MIB:.1f} MiB",
            f"{seen['spool_bytes'] / n_steps:.1f}",
            f"{seen['loop_s']:.1f} s",
            f"{seen['wait_s']:.1f} s",
            f"{grown.n_rows:,} of {4 * n_steps:,}",
            seen["complete"],
        )


def drained(store: str, n_groups: int, n_rows: int, n_pairs: int) -> Iterator[dict[str, float]]:
    """Rows a second by each of `WAYS`, round by round; each of them is the first one in turn."""
    for index in range(n_pairs):
        tell(f"drain {store.partition(':')[0]}, {n_groups} groups, round {index + 1} of {n_pairs}")
        first = index % len(WAYS)
        yield json.loads(printed_by("-m", "scaling.drain", store, n_groups, n_rows, first).splitlines()[-1])


def drain_rows(stores: dict[str, str], n_rows: int, n_pairs: int) -> Iterator[Sequence[str]]:
    """A row for each store and number of groups."""
    ship, plain, rarely = (way.__name__ for way in WAYS)
    for name, store in stores.items():
        for n_groups in DRAINED_GROUPS:
            rounds = list(drained(store, n_groups, n_rows, n_pairs))
            rates = (statistics.median(found[way] for found in rounds) for way in (ship, plain, rarely))
            yield (
                name,
                f"{n_groups}",
                *(f"{rate:,.0f}" for rate in rates),
                *(_ratio([found[ship] / found[other] for found in rounds]) for other in (plain, rarely)),
            )


def _ratio(ratios: Sequence[float]) -> str:
    lower, median, upper, _ = Quartiles.of(ratios)
    return f"**{median:.3f}** ({lower:.3f} to {upper:.3f})"


def open_rows(grown: Growth, history: Growth | None) -> Iterator[Sequence[str]]:
    """A row for each way to open a tape."""
    (parquet,) = grown.spool.parents[2].glob(f"mlartifacts/*/{grown.seen['run_id']}/artifacts/lr/tape-*.parquet")
    ways: list[tuple[str, tuple[object, ...]]] = [
        ("the Parquet artifact, on this machine", ("parquet", parquet)),
        ("the spool", ("spool", grown.spool)),
    ]
    if history is not None:
        store = f"sqlite:///{history.spool.parents[2] / 'mlflow.db'}"
        ways.append(("MLflow's history, SQLite", ("history", history.seen["run_id"], store)))
    for name, arguments in ways:
        tell(f"open {name}")
        found = json.loads(printed_by("-m", "scaling.opening", *arguments).splitlines()[-1])
        us_a_row = found["seconds"] / found["rows"] * 1e6
        yield (
            *(name, f"{found['rows']:,}", f"{found['seconds']:.1f} s", f"{us_a_row:.2f} us"),
            f"{found['peak_kib'] / KIB_IN_MIB:,.0f} MiB",
        )


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="of blocks, for the CPU time of a step; default: 40")
    parser.add_argument("--steps", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--drains", type=int, default=6, help="rounds, each way the first in turn; default: 6")
    parser.add_argument("--drain-rows", type=int, default=20_000, help="of each way in each round; default: 20000")
    parser.add_argument("--runs", type=int, default=200, help=f"of the sweep, a multiple of {STEP_SIZES}; default: 200")
    parser.add_argument("--jobs", type=int, default=n_cpus(), help="of the sweep at once; default: one for each CPU")
    parser.add_argument(
        "--history-steps", type=int, default=100_000, help="the largest training that is read from MLflow's history"
    )
    given = parser.parse_args()
    if given.runs % STEP_SIZES or given.runs <= 0:
        parser.error(f"--runs must be a multiple of {STEP_SIZES}, but is {given.runs} instead")
    if given.pairs < 2 or given.drains < 2 or min(given.steps) < 1_000:
        parser.error("--pairs and --drains must be at least 2, --steps at least 1000")
    if given.jobs > 1 and find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        parser.error(f"--jobs must be 1 without the extra joblib, but is {given.jobs}: pip install lrtape[joblib]")
    return given


def main() -> None:
    """Measure, and print the result as Markdown."""
    given = arguments()
    torch.set_num_threads(1)
    began = time.monotonic()
    command = " ".join(["python benchmarks/scale.py", *sys.argv[1:]])
    print(f"# What grows, {time.strftime('%F')}\n\n`{command}` on {machine()}.\n")

    print("## CPU time added to a step, on the training thread\n")
    print(f"{given.pairs} pairs of blocks, in alternation. The floor is reading the lr of every group and one write.\n")
    cost_heads = ("groups", "lower quartile", "median", "upper quartile", "floor, alone", "median / floor")
    table(cost_heads, cost_rows(given.pairs))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("\n## Steps of 4 groups\n\nNothing but steps, so that nearly all is left to the shipper; SQLite. Memory")
        print(
            "of the training after 500 steps, and what it has grown by at the last one. Memory of the shipper when the"
        )
        print(
            "first rows are stored, its peak until all are, and its peak with what it does after that. Target: flat.\n"
        )
        trained: list[Growth] = []
        heads = (
            *("steps", "training", "grows by", "shipper, first rows", "peak, shipping", "peak, all"),
            *("spool, bytes a step", "loop", "then waited", "rows stored", "complete"),
        )
        table(heads, growth_rows(folder, sorted(given.steps), trained))
        first, last = trained[0], trained[-1]
        for what, grown_kib in (
            ("while it ships", last.shipping_kib - first.shipping_kib),
            ("over all", last.peak_kib - first.peak_kib),
        ):
            print(
                f"\nThe shipper's peak {what} is {grown_kib / KIB_IN_MIB:+.1f} MiB at {last.n_steps:,} steps.", end=""
            )
        print("\n")

        print("## Drain, in rows a second\n")
        print(
            f"{given.drain_rows:,} rows, {given.drains} rounds, medians. `ship` empties a finished spool; `log_batch`"
        )
        print("is called with 1,000 rows that lie ready, with Python's garbage collector as it is and as the shipper")
        print(f"sets it. Target: at least {MIN_OF_CEILING} of `log_batch`.\n")
        drain_heads = ("store", "groups", "`ship`", "`log_batch`", "the same, collecting rarely")
        with mlflow_server(folder) as server:
            stores = {"SQLite": f"sqlite:///{folder / 'drain.db'}", "`mlflow server`, HTTP": server}
            ratios = ("`ship` / `log_batch` (quartiles)", "`ship` / the same, collecting rarely")
            table((*drain_heads, *ratios), drain_rows(stores, given.drain_rows, given.drains))

        tell(f"a sweep of {given.runs}")
        place = folder / "sweep"
        place.mkdir()
        swept = sweep(place, given.runs, given.jobs)
        print(f"\n## A sweep of {given.runs} trainings of {STEPS_A_TRAINING} steps\n\n`{swept.command}`\n")
        sweep_heads = (
            "FINISHED, every step stored",
            "wall",
            "a training",
            "CPU a training",
            "until the first",
            "report at the end",
        )
        row = (
            *(f"{swept.n_finished} of {given.runs}", f"{swept.wall_s:.0f} s", f"{swept.wall_s / swept.n_runs:.2f} s"),
            *(f"{swept.cpu_s / swept.n_runs:.2f} s", f"{swept.first_s:.1f} s", f"{swept.after_s:.1f} s"),
        )
        table(
            (*sweep_heads, "peak memory of the driver"), iter([(*row, f"{swept.driver_peak_kib / KIB_IN_MIB:.0f} MiB")])
        )

        print(f"\n## Opening the tape of {last.n_steps:,} steps of 4 groups\n")
        readable = [grown for grown in trained if grown.n_steps <= given.history_steps]
        table(("from", "rows", "time", "a row", "peak memory"), open_rows(last, readable[-1] if readable else None))
    print(f"\nAll of it took {(time.monotonic() - began) / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
