"""Finds the run of a sweep, and what was planned for it."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from lrtape.errors import ConfigError
from lrtape.tracking.history import History
from lrtape.tracking.store import asking, opening
from lrtape.tracking.tags import COMMAND, DIRECTION, OBJECTIVE, REFUSED, SAME, SWEEP, TRIALS
from lrtape.trials import SweepRun, Trial

REPORT_FOLDER = "sweep"
"""Among the artifacts of a sweep's run: its report."""
PLANNED = f"{REPORT_FOLDER}/trials.json"
"""Among the artifacts of a sweep's run: every trial, as it was planned."""

_MAX_LISTED = 5


def find_sweep(name: str, tracking_uri: str, experiment: str | None = None) -> SweepRun:
    """The run of a sweep.

    Args:
        name: its id; or that of the sweep, of whose runs the newest is taken; or its title, if only one has it.
        tracking_uri: absolute.
        experiment: to look in; by default all.

    Raises:
        ConfigError: there is no such sweep, or there are several.
        TrackingError: the store does not answer, or refuses.
    """
    with opening(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri)
    with asking(tracking_uri):
        experiments = {found.experiment_id: found.name for found in client.search_experiments()}
        wanted = [number for number, title in experiments.items() if experiment in {None, title}]
        if not wanted:
            raise ConfigError(
                f"`experiment` must be one of {', '.join(experiments.values())}, but is {experiment!r} instead."
            )
        run = _by_id(client, name) if name.isalnum() else None
        found = [run] if run is not None and run.info.experiment_id in wanted else []
        if not found:
            newest: list[Run] = client.search_runs(wanted, f"tags.`{SWEEP}` LIKE '%'", order_by=["start_time DESC"])
            found = [run for run in newest if run.data.tags[SWEEP] == name][:1]
            found = found or [run for run in newest if run.info.run_name == name]
            if not found:
                known = ", ".join(f"{run.info.run_name!r} ({run.data.tags[SWEEP]})" for run in newest[:_MAX_LISTED])
                raise ConfigError(f"SWEEP must be a sweep, or the id of its run, but is {name!r}: {known or 'no one'}.")
    if len(found) > 1:
        ids = ", ".join(run.info.run_id for run in found[:_MAX_LISTED])
        raise ConfigError(
            f"SWEEP must name one sweep, but {len(found)} are called {name!r}. Give the id of one: {ids}."
        )
    run = found[0]
    if SWEEP not in run.data.tags:
        raise ConfigError(f"SWEEP must be the run of a sweep, but {name} is another one ({run.info.run_name}).")
    return _sweep_run(run, experiments.get(run.info.experiment_id, ""), tracking_uri)


def _by_id(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def _sweep_run(run: Run, experiment: str, tracking_uri: str) -> SweepRun:
    tags = run.data.tags
    planned = _planned(History(run.info.run_id, tracking_uri))
    n_trials = tags.get(TRIALS, "") if planned is None else ""
    return SweepRun(
        run.info.run_id,
        tags[SWEEP],
        str(run.info.run_name),
        run.info.status,
        experiment,
        tags.get(OBJECTIVE, ""),
        tags.get(DIRECTION, ""),
        tags.get(COMMAND, ""),
        _not_trained(tags) if planned is None else planned,
        int(n_trials) if n_trials.isdecimal() else 0,
    )


def _planned(history: History) -> tuple[Trial, ...] | None:
    """Every trial; ``None`` where the driver has left no list, as that of a search does not know them before."""
    text = history.text(PLANNED)
    try:
        return None if text is None else msgspec.json.decode(text, type=tuple[Trial, ...])
    except msgspec.MsgspecError:
        return None  # of another version


def _not_trained(tags: Mapping[str, str]) -> tuple[Trial, ...]:
    """Those that will not be trained, as tags tell of them."""
    refused, same = (_mapping(tags.get(key, "{}")) for key in (REFUSED, SAME))
    return (
        *(Trial(name, name, refusal=why) for name, why in refused.items()),
        *(Trial(name, name, same_as=trial_id) for name, trial_id in same.items()),
    )


def _mapping(text: str) -> dict[str, str]:
    try:
        loaded: Any = json.loads(text)
    except ValueError:  # a tag is cut at 8,000 characters
        return {}
    return {str(key): str(value) for key, value in loaded.items()} if isinstance(loaded, dict) else {}
