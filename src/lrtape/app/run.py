"""Where a training is tracked: in an MLflow run, or nowhere."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lrtape.app.config import TrackingSettings
from lrtape.tracking.no_run import NoRun
from lrtape.tracking.uri import mask_credentials

if TYPE_CHECKING:
    from lrtape.tracking.mlflow_run import MlflowRun


def open_run(settings: TrackingSettings, cfg: DictConfig, overrides: Sequence[str]) -> "MlflowRun | NoRun":
    """Start the run of a training, with its config as params, or stand in for one.

    Args:
        settings: where to.
        cfg: the config, resolved.
        overrides: what the user gave on the command line.

    Raises:
        TrackingError: the store cannot be reached.
    """
    if not settings.enabled:
        return NoRun()
    from lrtape.tracking.mlflow_run import MlflowRun  # late: mlflow takes a second to import

    return MlflowRun.create(
        settings.uri,
        settings.experiment,
        settings.run_name,
        params=flatten(OmegaConf.to_container(cfg)),
        tags={"lrtape.version": version("lrtape"), "lrtape.overrides": mask_credentials(" ".join(overrides))},
    )


def flatten(value: Any, prefix: str = "") -> dict[str, object]:
    """A nested config as dotted keys and texts; credentials masked."""
    if isinstance(value, dict) and value:
        items = [flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
        return {key: text for item in items for key, text in item.items()}
    return {prefix: mask_credentials(str(value))}
