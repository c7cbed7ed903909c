"""What may stand in the config, checked as soon as it is composed and before torch is imported."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lrtape.checks.registry import CODES
from lrtape.errors import ConfigError, LRTapeError
from lrtape.range_curve import check_range
from lrtape.tracking.uri import REFUSED_CREDENTIALS, has_password, refuse_no_server, resolve_tracking_uri
from lrtape.trials import MAX, MIN

INTERVALS = ("step", "epoch")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("32", "bf16", "16")
LAST = "last"
"""As `trainer.resume`: the newest checkpoint of the experiment."""
WHEN_UNREACHABLE = ("fail", "spool")
STRICT = "strict"
OFF = "off"
CHECKS = ("warn", STRICT, OFF)
"""What is done about findings."""
DIRECTIONS = (MIN, MAX)
CONTINUE, STOP = "continue", "stop"
ON_FAILURE = (CONTINUE, STOP)
"""What a sweep does when a trial has failed."""
EXTRAS = {
    "hydra/launcher/joblib": 'hydra-joblib-launcher, which is not installed. Install it: pip install "lrtape[joblib]".',
    "hydra/launcher/ray": "hydra-ray-launcher, which is not installed. lrtape's own launcher needs Ray alone: "
    'pip install "lrtape[ray]", and hydra/launcher=lrtape_ray.',
}
"""What configs of other packages need."""
SCHEDULER_KEYS = ("name", "interval", "monitor")
"""The keys of a scheduler's config that are lrtape's, not the scheduler's own."""


@dataclass
class TrainerSettings:
    """The ``trainer`` group; ``conf/trainer/default.yaml`` says what each key means. A path is absolute here."""

    epochs: int
    max_steps: int | None
    batch_size: int
    device: str
    precision: str
    accumulate_grad_batches: int
    clip_grad_norm: float | None
    val_every_n_epochs: int
    print_every_n_epochs: int | None
    print_every_n_steps: int | None
    progress_bar: bool | None
    stop_on_nonfinite: bool
    num_workers: int
    resume: str | None
    resume_override: bool
    stop_on: list[str] = field(default_factory=list)
    init_from: str | None = None
    init_fresh: list[str] | None = None


@dataclass
class TrackingSettings:
    """The ``tracking`` group; ``conf/tracking/mlflow.yaml`` says what each key means. Paths are absolute here."""

    enabled: bool
    uri: str | None
    experiment: str
    run_name: str | None
    folder: str
    close_timeout_s: float
    fsync_every_s: float | None
    keep_spool: bool
    when_unreachable: str
    also: list[str]
    also_every_n_steps: int
    server_only: bool = False


@dataclass
class RangeSettings:
    """The ``range`` group; ``conf/range/default.yaml`` says what each key means."""

    min_lr: float
    max_lr: float
    n_steps: int
    group: str | None
    smoothing: float
    explode_at: float


@dataclass
class SweepSettings:
    """The ``sweep`` group; ``conf/sweep/default.yaml`` says what each key means."""

    name: str | None = None
    objective: str | None = None
    direction: str | None = None
    seeds: int = 1
    on_failure: str = CONTINUE
    dry_run: bool = False
    resume: str | None = None
    grids: list[Any] = field(default_factory=list)
    space: Any = None


@dataclass
class Settings:
    """The part of the config that lrtape itself reads; the rest is instantiated."""

    seed: int
    trainer: TrainerSettings
    tracking: TrackingSettings
    checks: str = "warn"
    range: RangeSettings | None = None
    sweep: SweepSettings = field(default_factory=SweepSettings)


def check(cfg: DictConfig, base: Path) -> Settings:
    """Check the composed config.

    Args:
        cfg: as Hydra composed it.
        base: the folder in which the command was started: relative paths are relative to it.

    Raises:
        ConfigError: a value is of a wrong type or out of range, a key is unknown, or a password stands in it.
    """
    schema = OmegaConf.structured(Settings)
    try:
        plain = _plain(cfg)
        given = {field.name: plain[field.name] for field in dataclasses.fields(Settings) if field.name in plain}
        settings: Settings = OmegaConf.to_object(OmegaConf.merge(schema, given))  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    _require("seed", settings.seed, "in [0, 2**32)", lambda value: 0 <= value < 2**32)
    _require("checks", settings.checks, f"one of {', '.join(CHECKS)}", CHECKS.__contains__)
    _check_trainer(settings.trainer, base)
    _check_tracking(settings.tracking, base)
    _check_optimization(cfg, settings.trainer.precision)
    _check_sweep(settings.sweep)
    if settings.range is not None:
        _check_range(settings.range, settings.trainer)
    return settings


def _check_trainer(trainer: TrainerSettings, base: Path) -> None:
    for name in ("epochs", "max_steps", "batch_size", "accumulate_grad_batches", "val_every_n_epochs"):
        _require(f"trainer.{name}", getattr(trainer, name), "at least 1", lambda value: value >= 1)
    for name in ("print_every_n_epochs", "print_every_n_steps"):
        _require(f"trainer.{name}", getattr(trainer, name), "at least 1, or null for never", lambda value: value >= 1)
    _require("trainer.num_workers", trainer.num_workers, "at least 0", lambda value: value >= 0)
    _require(
        "trainer.clip_grad_norm", trainer.clip_grad_norm, "a number > 0, or null", lambda value: 0 < value < math.inf
    )
    _require("trainer.device", trainer.device, f"one of {', '.join(DEVICES)}", DEVICES.__contains__)
    _require("trainer.precision", trainer.precision, f"one of {', '.join(PRECISIONS)}", PRECISIONS.__contains__)
    for code in trainer.stop_on:
        _require("trainer.stop_on", code, f"codes of findings, of {', '.join(CODES)}", CODES.__contains__)
    if trainer.resume not in {None, LAST}:
        trainer.resume = str(base / Path(trainer.resume).expanduser())
    if trainer.init_from is not None:
        trainer.init_from = str(base / Path(trainer.init_from).expanduser())


def _check_tracking(tracking: TrackingSettings, base: Path) -> None:
    if tracking.uri is not None and has_password(tracking.uri):
        raise ConfigError(REFUSED_CREDENTIALS)
    _require(
        "tracking.close_timeout_s", tracking.close_timeout_s, "a number >= 0", _is_number(lambda value: value >= 0)
    )
    _require(
        "tracking.fsync_every_s",
        tracking.fsync_every_s,
        "a number > 0, or null for never",
        _is_number(lambda value: value > 0),
    )
    _require(
        "tracking.when_unreachable",
        tracking.when_unreachable,
        f"one of {', '.join(WHEN_UNREACHABLE)}",
        WHEN_UNREACHABLE.__contains__,
    )
    _require("tracking.also_every_n_steps", tracking.also_every_n_steps, "at least 1", lambda value: value >= 1)
    if tracking.also:
        from lrtape.beside import Beside  # late: imports torch

        Beside.of(tracking.also, tracking.also_every_n_steps, "tracking.")
    if tracking.enabled:
        if tracking.server_only:
            refuse_no_server(tracking.uri)
        tracking.uri = resolve_tracking_uri(tracking.uri, base, "`tracking.uri`")
    tracking.folder = str(base / tracking.folder)


def _check_sweep(sweep: SweepSettings) -> None:
    _require("sweep.seeds", sweep.seeds, "at least 1", lambda value: value >= 1)
    _require("sweep.direction", sweep.direction, f"one of {', '.join(DIRECTIONS)}, or null", DIRECTIONS.__contains__)
    _require("sweep.on_failure", sweep.on_failure, f"one of {', '.join(ON_FAILURE)}", ON_FAILURE.__contains__)
    for name in ("name", "resume"):
        _require(f"sweep.{name}", getattr(sweep, name), "a text that is not empty, or null", bool)


def _check_range(settings: RangeSettings, trainer: TrainerSettings) -> None:
    check_range(
        settings.min_lr, settings.max_lr, settings.n_steps, settings.smoothing, settings.explode_at, key="range."
    )
    if trainer.resume is not None:
        raise ConfigError(
            "`trainer.resume` must be null with `range`, which trains nothing that could go on, but is "
            f"{trainer.resume!r} instead."
        )


def _check_optimization(cfg: DictConfig, precision: str) -> None:
    for group in ("data", "model", "optimizer", "scheduler", "param_groups"):
        if not isinstance(cfg.get(group), DictConfig):
            raise ConfigError(f"`{group}` must be chosen, but is {cfg.get(group)!r} instead.")
    if cfg.optimizer.get("lr") is None:
        raise ConfigError("`optimizer.lr` must be a number >= 0, but is null instead.")
    for name in ("optimizer.lr", "optimizer.momentum", "optimizer.weight_decay", "scheduler.eta_min"):
        _require(name, OmegaConf.select(cfg, name), "a number >= 0", _is_number(lambda value: value >= 0))
    _require("scheduler.gamma", cfg.scheduler.get("gamma"), "a number > 0", _is_number(lambda value: value > 0))
    max_lr = cfg.scheduler.get("max_lr")
    for peak in max_lr if OmegaConf.is_list(max_lr) else [max_lr]:
        _require("scheduler.max_lr", peak, "a number > 0", _is_number(lambda value: value > 0))
    interval = cfg.scheduler.get("interval", "epoch")
    if interval not in INTERVALS:
        raise ConfigError(f"`scheduler.interval` must be one of {', '.join(INTERVALS)}, but is {interval!r} instead.")
    if cfg.scheduler.get("monitor") is not None and interval != "epoch":
        raise ConfigError("`scheduler.interval` must be epoch where `scheduler.monitor` is set, but is step instead.")
    if precision == "16" and cfg.optimizer.get("fused") and cfg.optimizer.get("momentum"):
        raise ConfigError(
            "`optimizer.fused` must not be true with `optimizer.momentum` and `trainer.precision=16`: torch (2.13) "
            "begins such a momentum with whatever was in memory, if the first step overflows. Use "
            "`trainer.precision=bf16`, or `optimizer.fused=null`."
        )


def _require(name: str, value: Any, expected: str, accepts: Callable[[Any], bool]) -> None:
    """Refuse a value that is there and not accepted."""
    if value is not None and not accepts(value):
        raise ConfigError(f"`{name}` must be {expected}, but is {value!r} instead.")


def _is_number(accepts: Callable[[float], bool]) -> Callable[[Any], bool]:
    def is_accepted_number(value: Any) -> bool:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and accepts(value)
        )

    return is_accepted_number


def _plain(cfg: DictConfig) -> dict[str, Any]:
    container: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    return container


def explain(error: OmegaConfBaseException) -> str:
    """OmegaConf's own sentence, with the key in front, and with the keys that are valid there."""
    sentence = str(error).splitlines()[0].rstrip(".")
    key = error.full_key
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and isinstance(error.parent_node, DictConfig):
        return f"`{key}` is not a key of this config. Valid there: {', '.join(map(str, error.parent_node))}."
    return f"`{key}`: {sentence}." if key else f"{sentence}."


def sentence(error: BaseException) -> str:
    """What is wrong, for people: without a traceback, and without Hydra's search path."""
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException):
        return explain(cause)
    if isinstance(error, OmegaConfBaseException):
        return explain(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file in EXTRAS:
        return f"{'='.join(error.missing_cfg_file.rsplit('/', 1))} needs {EXTRAS[error.missing_cfg_file]}"
    text = str(error).partition("\nConfig search path:")[0].strip()
    return text if isinstance(error, LRTapeError | HydraException) else f"{type(error).__name__}: {text}"
