"""``lrtape bench``: what recording costs on this machine, on a store of its own, of which nothing is left."""

import math
import os
import tempfile
import time
from pathlib import Path

import torch

from lrtape.cpus import n_cpus
from lrtape.errors import ConfigError
from lrtape.overhead import Loop, Pair, Quartiles, added_cpu, machine, reading_and_one_write
from lrtape.tracking.active_runs import unseen

STEPS_A_BLOCK = {1: 1000, 4: 1000, 50: 200}
"""By the number of param groups: a step without recording takes longer, too, the more there are."""
MIN_S, MAX_S = 1.0, 600.0
MIN_PAIRS = 3
BUSY_LOAD = 0.25
"""For each CPU, before anything is measured."""
_PAIRS_A_SECOND = 2
"""Of all the time there is; a pair takes some 30 ms, and the second table has the time that is left."""
_MAX_BLOCK_S = 0.5
_US = 1e6

HOW_TO_READ = (
    "The first table is the least that your training thread pays for a step: the loop does nothing else, and finds\n"
    "everything in the processor's caches. Between the steps of a model it pays several times as much.\n"
    "The second table is a whole loop with its shipper, which has a core of its own where there are two."
)


def bench(seconds: float) -> int:
    """Measure for about so long, and print a page.

    Args:
        seconds: from now on; what the last measurement and the end take comes on top.

    Raises:
        ConfigError: `seconds` is none that makes sense.
    """
    if not (math.isfinite(seconds) and MIN_S <= seconds <= MAX_S):
        raise ConfigError(f"`--seconds` must be a number from {MIN_S:g} to {MAX_S:g}, but is {seconds:g} instead.")
    deadline = time.monotonic() + seconds
    block_s = min(_MAX_BLOCK_S, seconds / 20)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # or the loop takes the shipper's core
    try:
        with tempfile.TemporaryDirectory(prefix="lrtape-bench-") as name, unseen():
            _measure(Path(name), seconds, block_s, deadline)
    finally:
        torch.set_num_threads(n_threads)
    return 0


def _measure(folder: Path, seconds: float, block_s: float, deadline: float) -> None:
    load = os.getloadavg()[0]
    print(f"What recording costs here: {machine(('lrtape', 'torch', 'mlflow'))}\n", flush=True)
    loop = Loop(f"sqlite:///{folder / 'mlflow.db'}", folder / "spools")
    try:
        # Meanwhile the shipper starts.
        n_pairs = max(MIN_PAIRS, round(seconds * _PAIRS_A_SECOND))
        print("CPU time added to a step, us  lower quartile   median   upper quartile   floor   pairs")
        for n_groups, n_steps in STEPS_A_BLOCK.items():
            added = added_cpu(n_groups, folder, n_pairs, n_steps)
            floor = reading_and_one_write(n_groups, folder)
            name = f"{n_groups:>3} param group{'s' if n_groups > 1 else ''}"
            quartiles = f"{added.lower:>14.2f}{added.median:>9.2f}{added.upper:>17.2f}"
            print(f"  {name:<29}{quartiles}{floor:>8.2f}{added.n:>8}", flush=True)
        print("  floor: reading each lr and one write, alone; on and off in alternation\n")
        is_quiet = loop.wait_for_shipper()
        pairs: list[Pair] = []
        while len(pairs) < MIN_PAIRS or time.monotonic() < deadline:
            pairs.append(loop.pair(len(pairs) % 2 == 0, block_s))
        by_hand_s = loop.by_hand(block_s)
    finally:
        n_rows, is_complete = loop.close()
    _print_loop(pairs, by_hand_s)
    stored = "all of them are in the store" if is_complete else "NOT ALL of them are in the store"
    print(f"  {n_rows:,} rows were recorded, and {stored}.\n\n{HOW_TO_READ}")
    if n_cpus() == 1:
        print("This machine has one CPU: the loop and the shipper share it.")
    if load > BUSY_LOAD * n_cpus() or not is_quiet:
        print(f"Other things ran here, too (load {load:.1f}): run it again when nothing else does.")


def _print_loop(pairs: list[Pair], by_hand_s: float) -> None:
    off = Quartiles.of([pair.off for pair in pairs])
    ratio = Quartiles.of([pair.on / pair.off for pair in pairs])
    added_us = Quartiles.of([(pair.on - pair.off) * _US for pair in pairs])
    print(f"A loop of {off.median * 1e3:.2f} ms a step, 4 groups, SQLite       on / off   added to a step")
    print(
        f"  lrtape, median of {ratio.n} pairs (quartiles)   {ratio.median:.3f} ({ratio.lower:.3f}, {ratio.upper:.3f})"
        f"{added_us.median:>9.0f} us"
    )
    print(
        f"  mlflow.log_metrics in every step       {by_hand_s / off.median:.3f}               "
        f"{(by_hand_s - off.median) * _US:>9.0f} us"
    )
