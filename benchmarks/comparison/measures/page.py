"""The page: what was measured, as Markdown."""

import statistics
from collections.abc import Callable, Iterable, Sequence

from loops.catalogue import ENTRIES, LOOPS
from measures.results import N_GROUPS, Absence, Cost, Pair, Result

CPU_US, RATIO = 4.0, 1.03
"""Targets of lrtape: the most CPU time that it may add to a step, and wall time with it over wall time without."""

NOT_DONE = "not measured"
RUNNING = "RUNNING"
STORES = {"sqlite": "On SQLite", "http": "Over HTTP to `mlflow server` on loopback, SQLite behind it"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Its lines, and an empty one."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)] + [""]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower one, the median and the upper one."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The median, and the quartiles in brackets."""
    lower, median, upper = map(text, quartiles(values))
    return f"**{median}** ({lower} to {upper})"


def added(pairs: Sequence[Pair], of: str) -> list[float]:
    """What recording adds to a step, pair by pair, in us: one of the fields of `Block`."""
    return [getattr(pair.on, of) - getattr(pair.off, of) for pair in pairs]


def ratios(pairs: Sequence[Pair]) -> list[float]:
    """Wall time with recording over wall time without."""
    return [pair.on.wall_us / pair.off.wall_us for pair in pairs]


def time_text(us: float) -> str:
    """In us or ms, with three digits."""
    if abs(us) < 100:
        return f"{us:.1f} us"
    return f"{us:.0f} us" if abs(us) < 1000 else f"{us / 1000:.2f} ms"


def page(results: Sequence[Result], away_s: float) -> list[str]:
    """All tables, the targets first."""
    lines = ["## The targets of lrtape\n", *_targets(results)]
    for store, title in STORES.items():
        chosen = [result for result in results if result.store == store and (result.cost or result.death)]
        if chosen:
            lines += [f"## {title}\n", *_costs(chosen), *_arrivals(chosen)]
    chosen = [result for result in results if result.absence is not None]
    if chosen:
        lines += [f"## The server gone for {away_s:.0f} s\n", *_absences(chosen)]
    names = {result.name for result in results}
    failures = [f"- {LOOPS[result.name].title}, {result.store}: {result.failed}" for result in results if result.failed]
    if failures:
        lines += ["## Not measured, for an error\n", *failures, ""]
    lines += ["## What was chosen\n"]
    lines += [f"- {entry.title}: {entry.settings}." for entry in ENTRIES if entry.name in names]
    return lines


def _costs(results: Sequence[Result]) -> list[str]:
    head = ["", "a step without", "CPU added by its own work", "CPU added, all", "wall added", "wall on / off"]
    rows = []
    for result in results:
        title, cost = LOOPS[result.name].title, result.cost
        if cost is None:
            rows.append([title, *[NOT_DONE] * len(head)])
            continue
        rows.append(
            [
                title,
                time_text(statistics.median(pair.off.wall_us for pair in cost.pairs)),
                spread(added(cost.pairs, "outside_us"), time_text),
                spread(added(cost.pairs, "cpu_us"), time_text),
                spread(added(cost.pairs, "wall_us"), time_text),
                spread(ratios(cost.pairs), lambda ratio: f"{ratio:.3f}"),
                f"{len(cost.pairs)} x {cost.n_steps}",
            ]
        )
    return table([*head, "pairs x steps"], rows)


def _arrivals(results: Sequence[Result]) -> list[str]:
    head = ["", "groups", "rows landed / expected", "doubled", "wrong", "last row there after"]
    head += ["rows lost at SIGKILL", "run after SIGKILL"]
    rows = []
    for result in results:
        cost, death = result.cost, result.death
        cells = [LOOPS[result.name].title]
        if not LOOPS[result.name].keys:
            continue
        if cost is None or (arrival := cost.arrival) is None:
            cells += [NOT_DONE] * 5
        else:
            cells += [f"{arrival.groups} of {N_GROUPS}", f"{arrival.landed:,} / {arrival.expected:,}"]
            cells += [str(arrival.doubled), str(arrival.wrong), _landing(cost)]
        if death is None:
            cells += [NOT_DONE] * 2
        else:
            n_rows = death.finished * len(LOOPS[result.name].keys)
            wrong = f", {death.wrong} wrong" if death.wrong else ""
            when = "" if death.status == RUNNING else f", {death.over_s:.1f} s later"
            cells += [f"{death.lost} of {n_rows:,}{wrong}", f"{death.status}{when}"]
        rows.append(cells)
    return table(head, rows)


def _landing(cost: Cost) -> str:
    landed = [seconds for seconds in cost.landing_s if seconds is not None]
    if len(landed) < len(cost.landing_s):
        return f"never, in {len(cost.landing_s) - len(landed)} of {len(cost.landing_s)}"
    return spread(landed, lambda seconds: f"{seconds:.2f} s")


def _absences(results: Sequence[Result]) -> list[str]:
    head = ["", "longest step", "steps made", "rows lost", "the training", "run after it"]
    rows = []
    for result in results:
        absence = result.absence
        assert absence is not None
        rows.append(
            [
                LOOPS[result.name].title,
                f"{absence.longest_s:.2f} s",
                f"{absence.finished:,}",
                f"{absence.lost} of {absence.finished * len(LOOPS[result.name].keys):,}",
                _end(absence),
                absence.status,
            ]
        )
    return table(head, rows)


def _end(absence: Absence) -> str:
    if not absence.error:
        return "came to its end"
    return "died of " + absence.error.splitlines()[0][:100].replace("|", "/")


def _targets(results: Sequence[Result]) -> list[str]:
    rows = []
    for result in results:
        if not LOOPS[result.name].is_ours:
            continue
        cells = [LOOPS[result.name].title, result.store]
        if result.cost is None or (arrival := result.cost.arrival) is None:
            cells += [NOT_DONE] * 5
        else:
            missing = arrival.expected - arrival.landed
            cpu_us = quartiles(added(result.cost.pairs, "outside_us"))[1]
            ratio = quartiles(ratios(result.cost.pairs))[1]
            cells += [
                _judged(time_text(cpu_us), cpu_us <= CPU_US),
                _judged(f"{ratio:.3f}", ratio <= RATIO),
                _judged(str(missing), missing == 0),
                _judged(str(arrival.wrong + arrival.doubled), arrival.wrong + arrival.doubled == 0),
                _judged(f"{arrival.groups} of {N_GROUPS}", arrival.groups == N_GROUPS),
            ]
        death, absence = result.death, result.absence
        cells.append(NOT_DONE if death is None else _judged(str(death.lost), death.lost == 0))
        if result.store == "sqlite":
            cells.append("-")
        else:
            cells.append(NOT_DONE if absence is None else _judged(str(absence.lost), absence.lost == 0))
        rows.append(cells)
    head = [
        "",
        "store",
        f"CPU added by its own work, at most {CPU_US:.0f} us",
        f"wall on / off, at most {RATIO}",
        "lost, 0",
        "wrong or doubled, 0",
        "groups, all",
        "lost at SIGKILL, 0",
        "lost with the server gone, 0",
    ]
    return table(head, rows)


def _judged(text: str, is_met: bool) -> str:
    return text if is_met else f"**{text}: missed**"
