"""A tape recorder for learning rates: every param group's used lr, at every step, in MLflow."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrtape.attaching import attach, print_lrs
    from lrtape.autologging import autolog
    from lrtape.checks.registry import check
    from lrtape.errors import (
        ConfigError,
        LRTapeError,
        SpoolError,
        StoppedOnFindingError,
        TrackingError,
        TrainingDivergedError,
    )
    from lrtape.plan import Plan
    from lrtape.range_curve import RangeResult
    from lrtape.range_plot import draw_range, plot_range
    from lrtape.range_test import lr_range
    from lrtape.session import Session
    from lrtape.simulation import plan_of, simulate
    from lrtape.spool import read_spool
    from lrtape.tape import Finding, Group, Point, Record, Series, Status, Tape
    from lrtape.tracking.history import read_run

# Imported when first used: `import lrtape` loads none of torch, mlflow and hydra.
_HOME = {
    "ConfigError": "errors",
    "Finding": "tape",
    "Group": "tape",
    "LRTapeError": "errors",
    "Plan": "plan",
    "Point": "tape",
    "RangeResult": "range_curve",
    "Record": "tape",
    "Series": "tape",
    "Session": "session",
    "SpoolError": "errors",
    "Status": "tape",
    "StoppedOnFindingError": "errors",
    "Tape": "tape",
    "TrackingError": "errors",
    "TrainingDivergedError": "errors",
    "attach": "attaching",
    "autolog": "autologging",
    "check": "checks.registry",
    "draw_range": "range_plot",
    "lr_range": "range_test",
    "plan_of": "simulation",
    "plot_range": "range_plot",
    "print_lrs": "attaching",
    "read_run": "tracking.history",
    "read_spool": "spool",
    "simulate": "simulation",
}

__all__ = [
    "ConfigError",
    "Finding",
    "Group",
    "LRTapeError",
    "Plan",
    "Point",
    "RangeResult",
    "Record",
    "Series",
    "Session",
    "SpoolError",
    "Status",
    "StoppedOnFindingError",
    "Tape",
    "TrackingError",
    "TrainingDivergedError",
    "attach",
    "autolog",
    "check",
    "draw_range",
    "lr_range",
    "plan_of",
    "plot_range",
    "print_lrs",
    "read_run",
    "read_spool",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lrtape' has no attribute {name!r}")
    value = getattr(import_module(f"lrtape.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
