"""``lrtape why``."""

from dataclasses import replace

from lrtape.cli.stored import open_history, plan_of, tapes_of
from lrtape.errors import ConfigError
from lrtape.plan import Plan, scheduler_of_params
from lrtape.tape import Series, Tape
from lrtape.tracking.history import History
from lrtape.tracking.tags import STEPS, STEPS_PER_EPOCH
from lrtape.why import frozen_keys
from lrtape.why import why as reason


def why(run_id: str, step: int, key: str | None, tracking_uri: str | None) -> int:
    """Say why the learning rates of a run changed at a step, a line for each group.

    Args:
        run_id: of a run.
        step: index of the optimizer step, from 0.
        key: of one group; by default all of them that have this step, or are frozen in it.
        tracking_uri: where the run is; see `open_history`.

    Raises:
        ConfigError: the run has no learning rates, or no such key or step; or the URI is wrong.
        SpoolError: its tape cannot be read.
        TrackingError: there is no such run, or the store does not answer.
    """
    history = open_history(run_id, tracking_uri)
    tape = _tape(history)
    if not tape.lr:
        raise ConfigError(f"a run must have learning rates, but run {run_id} has none: {', '.join(tape) or 'nothing'}.")
    plan = replace(_plan(history, tape), simulated=plan_of(history))
    moving = [name for name, series in tape.lr.items() if series.at(step) is not None]
    for name in [key] if key is not None else (moving + frozen_keys(tape, step) or tape.lr):
        print(reason(tape, name, step, plan))
    return 0


def _tape(history: History) -> Tape:
    """What was recorded; where that is not among the artifacts, what the store has."""
    tapes = tapes_of(history)
    if tapes:
        return Tape.union(tapes.values())
    keys = history.keys()
    return Tape(point for key in keys for point in history.points(key))


def _plan(history: History, tape: Tape) -> Plan:
    """As far as the run tells it.

    Raises:
        ConfigError: the scheduler is stepped after each epoch, and nobody knows how long one is.
    """
    params, tags = history.params(), history.tags()
    scheduler = scheduler_of_params(params)
    interval = scheduler.get("interval", "epoch") if scheduler else "step"
    n_recorded = max(series.steps[-1] for series in tape.lr.values()) + 1
    n_steps = max(_number(tags.get(STEPS)), n_recorded)
    epoch_steps = _number(tags.get(STEPS_PER_EPOCH)) or _length_of_epoch(tape)
    if interval == "epoch" and not epoch_steps:
        raise ConfigError(
            f"a run whose scheduler is stepped after each epoch must tell how long one is, but run {history.run_id} "
            f"has neither a tag {STEPS_PER_EPOCH} nor a metric val/loss. Set the tag: steps of one epoch."
        )
    return Plan(n_steps, interval, epoch_steps or None, scheduler=scheduler)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _length_of_epoch(tape: Tape) -> int:
    """Of a run without the tag: it validates at the end of its first epoch; 0 where it does not."""
    validated = tape.get("val/loss", Series()).steps
    return validated[0] + 1 if validated and validated[0] >= 0 else 0
