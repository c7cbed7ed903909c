"""What a run is to be created with, as a training says it in the folder of its spool. Imports no mlflow."""

from dataclasses import dataclass, field

import msgspec

from lrtape.spool_folder import SpoolFolder
from lrtape.tracking.datasets import LoggedDataset


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a run is created with. No credentials are in it.

    Attributes:
        recording_id: of the recording that the run is for.
        experiment: its name.
        run_name: ``None`` for a random one.
        params: all of them as text.
        tags: as they were where the training ran; MLflow's own, too, as soon as somebody has tried to create the run.
        start_ms: when the training began, in Unix milliseconds.
        parent_run_id: the run that it is nested in; ``None`` for none.
        main_file: what was started there, for MLflow's own tags.
        datasets: what it trains on.
        tracking_uri: where it is to be, credentials masked; see `lrtape.spool.Header`.
    """

    recording_id: str
    experiment: str
    run_name: str | None
    params: dict[str, str]
    tags: dict[str, str]
    start_ms: int
    parent_run_id: str | None = None
    main_file: str = ""
    datasets: list[LoggedDataset] = field(default_factory=list)
    tracking_uri: str = ""


def read_spec(folder: SpoolFolder) -> RunSpec:
    """What is said in a folder.

    Raises:
        OSError: nothing is.
    """
    return msgspec.json.decode(folder.run_spec.read_bytes(), type=RunSpec)


def write_spec(folder: SpoolFolder, spec: RunSpec) -> None:
    """Say it, or something else instead; a reader sees the old or the new one.

    Raises:
        OSError: the disk is full, say.
    """
    new = folder.run_spec.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(spec))
    new.replace(folder.run_spec)
