from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig

from lrtape.app.config import Settings, check
from lrtape.app.sweep.planning import SweepPlan, plan_sweep

Plan = Callable[..., SweepPlan]
SettingsOf = Callable[..., Settings]


@pytest.fixture
def settings_of(compose: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SettingsOf:
    """The settings of a sweep as its driver checks them, in an empty folder: `settings_of("sweep.seeds=2")`."""
    monkeypatch.chdir(tmp_path)
    return lambda *base: check(compose(*base), tmp_path)


@pytest.fixture
def plan(compose: Callable[..., DictConfig], settings_of: SettingsOf) -> Plan:
    """Plans a sweep as its driver does: `plan("scheduler=steplr", "scheduler.gamma=0.1,0.5")`; grids by keyword."""

    def make(*arguments: str, grids: Sequence[object] = (), base: Sequence[str] = ()) -> SweepPlan:
        settings = settings_of(*base)
        settings.sweep.grids = list(grids)
        return plan_sweep(settings, [*base, *arguments], lambda overrides: compose(*overrides))

    return make
