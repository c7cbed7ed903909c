import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

import lrtape.conf
from lrtape.app.config import SCHEDULER_KEYS, check
from lrtape.schedules import Constant, one_cycle_lr

CONF = Path(next(iter(lrtape.conf.__path__)))
CHOICES = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))
SCHEDULERS = [choice for group, choice in CHOICES if group == "scheduler"]

DELIBERATE = {
    "optimizer/sgd": {"lr", "momentum"},
    "optimizer/adamw": {"lr"},
}
"""Where a default of ours is not torch's: it is chosen for `digits`."""

PASSED = {"self", "params", "optimizer", "model"}
"""What lrtape passes itself."""


def raw(group: str, choice: str) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def arguments_of(target: str) -> dict[str, Any]:
    """Every argument of a class or function, and its default."""
    built = torch.optim.lr_scheduler.OneCycleLR if get_object(target) is one_cycle_lr else get_object(target)
    return {
        name: parameter.default for name, parameter in inspect.signature(built).parameters.items() if name not in PASSED
    }


def is_share(value: Any) -> bool:
    return isinstance(value, str) and value.endswith("%")


def test_the_table_of_choices_is_not_empty() -> None:
    """The tests below look at the configs that are really there."""
    assert {("scheduler", "steplr"), ("optimizer", "adamw"), ("model", "mlp"), ("tracking", "off")} <= set(CHOICES)
    assert SCHEDULERS == ["constant", "cosineannealinglr", "onecyclelr", "steplr"]


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_says_what_it_is(path: Path) -> None:
    """Its first line is a sentence in a comment; for an experiment, which needs `@package` first, the second."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]

    assert lines[0].startswith("# ")
    assert len(lines[0].split()) >= 4
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize(("group", "choice"), [pair for pair in CHOICES if pair[0] in {"scheduler", "optimizer"}])
def test_a_config_lists_every_argument_with_torchs_default(group: str, choice: str) -> None:
    """So that a misspelt one is refused without importing torch, and that no default is a surprise."""
    config = raw(group, choice)
    expected = arguments_of(config.pop("_target_"))
    given = {key: value for key, value in config.items() if not (group == "scheduler" and key in SCHEDULER_KEYS)}
    assert set(given) == set(expected)

    differing = {
        name
        for name, default in expected.items()
        if default is not inspect.Parameter.empty
        and not is_share(given[name])
        and given[name] != (list(default) if isinstance(default, tuple) else default)
    }
    assert differing == DELIBERATE.get(f"{group}/{choice}", set())


@pytest.mark.parametrize("choice", SCHEDULERS)
def test_a_scheduler_has_our_three_keys_and_a_short_name(choice: str) -> None:
    """`name` fits MLflow's compare page, which cuts at ten characters; the file is named after the class of torch."""
    config = raw("scheduler", choice)

    assert set(SCHEDULER_KEYS) <= set(config)
    assert len(config["name"]) <= 10
    assert config["interval"] in {"step", "epoch"}
    built = get_object(config["_target_"])
    assert choice == (built.__name__.lower() if built is not one_cycle_lr else "onecyclelr")


@pytest.mark.parametrize(
    ("group", "choice"), [pair for pair in CHOICES if pair[0] in {"model", "data", "param_groups"}]
)
def test_our_own_configs_list_every_argument(group: str, choice: str) -> None:
    """For models, data and param groups too; `model` and `lr` are passed by lrtape."""
    config = raw(group, choice)
    expected = arguments_of(config.pop("_target_"))

    assert set(config) == set(expected) - {"lr"}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_is_accepted(
    compose: Callable[..., DictConfig], group: str, choice: str, store: str
) -> None:
    """With the defaults of everything else; nothing is left to fill in."""
    cfg = compose(f"{group}={choice}")
    settings = check(cfg, Path.cwd())

    assert OmegaConf.missing_keys(cfg) == set()
    assert settings.tracking.uri == (None if choice == "off" else store)


def test_the_whole_config_and_its_kinds_are_found_as_a_package() -> None:
    """`lrtape.conf` is a package that Hydra reads from, in the wheel as in the checkout."""
    with hydra.initialize_config_module("lrtape.conf", version_base="1.3"):
        assert set(hydra.compose("train")) == {
            *("model", "data", "optimizer", "scheduler", "param_groups", "trainer", "tracking", "seed")
        }


MODEL_OF = {"one_sample": ["model.in_features=10", "model.out_features=2"], "digits": []}


@pytest.mark.parametrize("groups", ["single", "layerwise"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("data", ["one_sample", "digits"])
def test_every_scheduler_trains_without_a_warning(
    train_in_process: Callable[..., float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    scheduler: str,
    groups: str,
) -> None:
    """For two epochs, with the defaults of its config: no wrong order of steps, no horizon that is too short."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = train_in_process(
            f"data={data}",
            *MODEL_OF[data],
            f"scheduler={scheduler}",
            f"param_groups={groups}",
            "trainer.epochs=2",
            "trainer.batch_size=256",
            "tracking=off",
        )

    assert 0 < loss < 10


@pytest.mark.parametrize("scheduler", [choice for choice in SCHEDULERS if choice != "constant"])
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_scheduler_takes_either_interval(
    train_in_process: Callable[..., float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scheduler: str,
    interval: str,
) -> None:
    """A horizon that is a share of the run follows the interval: 100% of epochs is not 100% of steps."""
    monkeypatch.chdir(tmp_path)
    train_in_process(
        f"scheduler={scheduler}",
        f"scheduler.interval={interval}",
        "trainer.epochs=3",
        "trainer.batch_size=512",
        "tracking=off",
    )
    state = torch.load(tmp_path / "output" / "checkpoints" / "last.pt", weights_only=True)["scheduler"]
    n_scheduler_steps = 3 if interval == "epoch" else 9

    assert state["last_epoch"] == n_scheduler_steps
    horizon = {"steplr": "step_size", "cosineannealinglr": "T_max", "onecyclelr": "total_steps"}[scheduler]
    share = 0.3 if scheduler == "steplr" else 1.0
    assert state[horizon] == round(share * n_scheduler_steps)


def test_constant_is_ours() -> None:
    """`constant` is the null object; torch's `ConstantLR`, which multiplies, is something else."""
    assert get_object(raw("scheduler", "constant")["_target_"]) is Constant
