"""Where a training is tracked: in an MLflow run, or nowhere."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrtape.app.config import TrackingSettings
from lrtape.app.sweep.child import current_child
from lrtape.errors import TrackingError
from lrtape.plan import Plan
from lrtape.ranks import these_ranks
from lrtape.run_creation import create_run
from lrtape.tracking.no_run import NoRun
from lrtape.tracking.planned_run import PlannedRun
from lrtape.tracking.sink import RefusedError
from lrtape.tracking.tags import STEPS, STEPS_PER_EPOCH
from lrtape.tracking.uri import mask_credentials, resolve_tracking_uri


def open_run(
    settings: TrackingSettings, cfg: DictConfig, overrides: Sequence[str], plan: Plan | None = None
) -> PlannedRun | NoRun:
    """Start the run of a training, with its config as params, or only plan it; in a sweep, as a child.

    Args:
        settings: where to.
        cfg: the config, resolved; what it says of a sweep is no param of a training.
        overrides: what the user gave on the command line.
        plan: of a training: how long it is.

    Raises:
        TrackingError: the store cannot be reached, and ``when_unreachable`` is not ``spool``; or it refuses.
    """
    if not settings.enabled:
        return NoRun()

    uri = resolve_tracking_uri(settings.uri, name="`tracking.uri`")
    child = current_child.get()
    params = flatten(config_of(cfg))
    tags = {
        "lrtape.version": version("lrtape"),
        "lrtape.overrides": mask_credentials(" ".join(overrides)),
    }
    if (n_ranks := these_ranks().n_ranks) > 1:
        tags["lrtape.n_ranks"] = str(n_ranks)
    if plan is not None:
        tags |= {STEPS: str(plan.n_steps), STEPS_PER_EPOCH: str(plan.steps_per_epoch)}
    name, parent_run_id = settings.run_name, None
    if child is not None:
        name, parent_run_id = child.trial.name, child.parent_run_id
        tags |= child.tags(Path(settings.folder))
    run = PlannedRun(Path(settings.folder), uri, settings.experiment, name, params, tags, parent_run_id)
    try:
        create_run(run)
    except KeyboardInterrupt:
        run.let_go()  # The companion clears away what it is at.
        raise
    except Exception as error:
        is_away = isinstance(error, TrackingError) and not isinstance(error, RefusedError)
        if settings.when_unreachable == "fail" or not is_away:
            run.discard()
            raise
        print(f"lrtape: {error} Training all the same; the run is planned in {run.folder.path}.", file=sys.stderr)  # noqa: T201
    if child is not None:
        child.is_begun = True
    return run


def config_of(cfg: DictConfig) -> dict[str, Any]:
    """The config of a training as plain values, credentials not masked; what it says of a sweep is none of it."""
    config: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    return {key: value for key, value in config.items() if key != "sweep"}


def flatten(value: Any, prefix: str = "") -> dict[str, object]:
    """A nested config as dotted keys and texts; credentials masked."""
    if isinstance(value, dict) and value:
        items = [flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
        return {key: text for item in items for key, text in item.items()}
    return {prefix: mask_credentials(str(value))}
