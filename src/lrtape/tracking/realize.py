"""Creates the runs that trainings have planned. Used by companions, and by whoever ships a spool."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace

from mlflow import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from lrtape.errors import TrackingError
from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.planned_run import PLANNED_ID
from lrtape.tracking.run_colors import next_color
from lrtape.tracking.run_spec import RunSpec, read_spec, write_spec
from lrtape.tracking.store import experiment_id, opening
from lrtape.tracking.tags import COMPLETE, MAX_TAG_CHARACTERS, PARENT_RUN_ID, PLANNED, RECORDING
from lrtape.tracking.uri import mask_credentials
from lrtape.trials import RUNNING


def create(folder: SpoolFolder, tracking_uri: str, is_second_try: bool = False) -> MlflowRun:
    """Create the run that is planned in `folder`, as the training that waits for it would.

    What MLflow knows of the process, the user say, is added to the plan: it may have to be created elsewhere.

    Args:
        folder: of the recording.
        tracking_uri: absolute, with credentials where they are needed.
        is_second_try: whether somebody has died who may have created it already.

    Raises:
        ConfigError: see `MlflowRun.create`.
        TrackingError: see there.
    """
    spec = read_spec(folder)
    with _started_as(spec.main_file):
        spec = replace(spec, tags=_of_this_process(spec))
        write_spec(folder, spec)
        if is_second_try and (run := _look_for(spec, tracking_uri)) is not None:
            return run
        tags = {**spec.tags, RECORDING: spec.recording_id}
        return MlflowRun.create(tracking_uri, spec.experiment, spec.run_name, spec.params, tags, spec.parent_run_id)


def _look_for(spec: RunSpec, tracking_uri: str) -> MlflowRun | None:
    with opening(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri)
        run_id = _find(client, experiment_id(client, spec.experiment, tracking_uri), spec.recording_id)
        if run_id is None:
            return None
        run = MlflowRun(tracking_uri, run_id, is_owned=True)
        run.log_params(spec.params)
    return run


def _of_this_process(spec: RunSpec) -> dict[str, str]:
    return {key: mask_credentials(text)[:MAX_TAG_CHARACTERS] for key, text in resolve_tags(spec.tags).items()}


@contextlib.contextmanager
def _started_as(main_file: str) -> Iterator[None]:
    """MLflow (3.17) takes the name of what was started, and its commit, from here."""
    before = sys.argv
    sys.argv = [main_file]
    try:
        yield
    finally:
        sys.argv = before


def realize(folder: SpoolFolder, tracking_uri: str) -> MlflowRun:
    """Create the run that is planned in `folder`, whose training goes on or is over; or find it, if that was done.

    Args:
        folder: of the recording.
        tracking_uri: absolute, with credentials where they are needed.

    Raises:
        ConfigError: its experiment was deleted.
        TrackingError: the store does not answer, or refuses.
    """
    spec = read_spec(folder)
    with opening(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri)
        experiment = experiment_id(client, spec.experiment, tracking_uri)
        run_id = _find(client, experiment, spec.recording_id)
        if run_id is None:
            parent = {} if spec.parent_run_id is None else {PARENT_RUN_ID: spec.parent_run_id}
            own = {PLANNED: spec.recording_id, RECORDING: spec.recording_id}
            tags = next_color(client, experiment) | spec.tags | parent | own
            run_id = client.create_run(experiment, spec.start_ms, tags, spec.run_name).info.run_id
        elif COMPLETE not in client.get_run(run_id).data.tags:  # Whoever has created it has given it up.
            client.update_run(run_id, status=RUNNING)
        run = MlflowRun(tracking_uri, run_id)
        run.log_params(spec.params)
    return run


def find_created(spec: RunSpec, tracking_uri: str) -> MlflowRun | None:
    """The run that was planned, if somebody has created it.

    Args:
        spec: of the run.
        tracking_uri: absolute, with credentials where they are needed.

    Raises:
        TrackingError: the store does not answer, or refuses.
    """
    with opening(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri)
        experiment = client.get_experiment_by_name(spec.experiment)
        run_id = None if experiment is None else _find(client, experiment.experiment_id, spec.recording_id)
    return None if run_id is None else MlflowRun.join(run_id, tracking_uri)


def _find(client: MlflowClient, experiment: str, recording_id: str) -> str | None:
    for tag in (PLANNED, RECORDING):  # The second one alone has a run that `create` has made, and was not resumed.
        found = client.search_runs([experiment], f"tags.`{tag}` = '{recording_id}'")
        if found:
            return str(found[0].info.run_id)
    return None


def find_realized(run_id: str, experiment: str, tracking_uri: str) -> str:
    """The id of a run that was planned, now that it is there; any other id comes back as it is.

    Args:
        run_id: as the training had it.
        experiment: its name.
        tracking_uri: absolute.

    Raises:
        ConfigError: the experiment was deleted.
        TrackingError: the run was not created yet, or the store does not answer.
    """
    if not run_id.startswith(PLANNED_ID):
        return run_id
    recording_id = run_id.removeprefix(PLANNED_ID)
    with opening(tracking_uri):
        client = MlflowClient(tracking_uri=tracking_uri)
        found = _find(client, experiment_id(client, experiment, tracking_uri), recording_id)
    if found is None:
        raise TrackingError(
            f"the run must be in the store, but was only planned, and {mask_credentials(tracking_uri)} has none of "
            f"recording {recording_id} in experiment {experiment!r}. Run `lrtape recover` first."
        )
    return found
