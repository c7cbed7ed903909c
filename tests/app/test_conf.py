import inspect
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch.optim import lr_scheduler, swa_utils

import lrtape.conf
from lrtape.app.config import SCHEDULER_KEYS, check
from lrtape.app.schedule import Length, build_schedule, resolve_horizons
from lrtape.optimizers import MuonWithAdamW
from lrtape.schedules import (
    Constant,
    cyclic_lr,
    exponential_lr,
    inverse_sqrt,
    lambda_lr,
    multiplicative_lr,
    one_cycle_lr,
    swa_lr,
    warmup_cosine,
    warmup_linear,
    wsd,
)

CONF = Path(next(iter(lrtape.conf.__path__)))
CHOICES = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))
SCHEDULERS = [choice for group, choice in CHOICES if group == "scheduler"]

OPTIMIZERS = [choice for group, choice in CHOICES if group == "optimizer"]

DELIBERATE = {
    "optimizer/sgd": {"lr", "momentum"},
    "optimizer/adamw": {"lr"},
    "optimizer/asgd": {"lr"},
    "optimizer/lbfgs": {"max_iter", "line_search_fn"},
    "optimizer/muon": {"lr", "adamw"},
    "optimizer/radam": {"lr"},
    "optimizer/rmsprop": {"lr"},
}
"""Where a default of ours is not torch's: it is chosen for `digits`."""

PASSED = {"self", "params", "optimizer", "model"}
"""What lrtape passes itself."""

TORCHS_OWN = {
    lambda_lr: lr_scheduler.LambdaLR,
    multiplicative_lr: lr_scheduler.MultiplicativeLR,
    exponential_lr: lr_scheduler.ExponentialLR,
    cyclic_lr: lr_scheduler.CyclicLR,
    one_cycle_lr: lr_scheduler.OneCycleLR,
    swa_lr: swa_utils.SWALR,
}
"""Functions of ours that stand for a class of torch."""

OURS = {Constant: "constant", warmup_cosine: "warmup_cosine", warmup_linear: "warmup_linear", wsd: "wsd"} | {
    inverse_sqrt: "inverse_sqrt"
}
"""What torch has no class for."""

NO_CONFIG = {
    "LRScheduler": "the class that the others are made from",
    "Optimizer": "the class that the others are made from",
    "SparseAdam": "takes sparse gradients alone, which no model here has",
}
"""Classes of torch that have no config, and why."""


def raw(group: str, choice: str) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def arguments_of(target: str) -> dict[str, Any]:
    """Every argument of a class or function, and its default."""
    found = get_object(target)
    arguments = {
        name: parameter.default
        for name, parameter in inspect.signature(TORCHS_OWN.get(found, found)).parameters.items()
        if name not in PASSED
    }
    return arguments | ({"n": None} if "n" in inspect.signature(found).parameters else {})


def is_share(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(item, str) and item.endswith("%") for item in values)


def public_classes(module: ModuleType, base: type) -> set[str]:
    return {
        name
        for name, found in vars(module).items()
        if inspect.isclass(found) and issubclass(found, base) and not name.startswith("_")
    }


def without_config(classes: set[str], choices: list[str]) -> set[str]:
    """Classes of torch that have neither a config nor a reason to have none."""
    return {name for name in classes if name.lower() not in choices} - NO_CONFIG.keys()


def test_the_table_of_choices_is_not_empty() -> None:
    """The tests below look at the configs that are really there."""
    assert {("scheduler", "steplr"), ("optimizer", "adamw"), ("model", "mlp"), ("tracking", "off")} <= set(CHOICES)


def test_every_class_of_torch_has_a_config() -> None:
    """A scheduler or an optimizer that a new torch brings is missed here, unless there is a reason to leave it out."""
    schedulers = public_classes(lr_scheduler, lr_scheduler.LRScheduler) | {"SWALR"}
    optimizers = public_classes(torch.optim, torch.optim.Optimizer)

    assert without_config(schedulers, SCHEDULERS) == set()
    assert without_config(optimizers, OPTIMIZERS) == set()
    assert NO_CONFIG.keys() <= schedulers | optimizers, "a reason for a class that is gone"
    assert {*SCHEDULERS} == {name.lower() for name in schedulers - NO_CONFIG.keys()} | {*OURS.values()}


def test_a_class_without_a_config_is_found() -> None:
    """The test above can fail."""
    assert without_config({"StepLR", "NewLR", "SparseAdam"}, SCHEDULERS) == {"NewLR"}
    assert "StepLR" in public_classes(lr_scheduler, lr_scheduler.LRScheduler)


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
    assert choice == OURS.get(built, TORCHS_OWN.get(built, built).__name__.lower())


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
    compose: Callable[..., DictConfig], group: str, choice: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the defaults of everything else; nothing is left to fill in."""
    if choice == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    cfg = compose(f"{group}={choice}")
    settings = check(cfg, Path.cwd())

    assert OmegaConf.missing_keys(cfg) == set()
    assert settings.tracking.uri == {"off": None, "server": "http://tracking:5000"}.get(choice, store)


def test_the_whole_config_and_its_kinds_are_found_as_a_package() -> None:
    """`lrtape.conf` is a package that Hydra reads from, in the wheel as in the checkout."""
    with hydra.initialize_config_module("lrtape.conf", version_base="1.3"):
        assert set(hydra.compose("train")) == {
            *(
                "model",
                "data",
                "optimizer",
                "scheduler",
                "param_groups",
                "trainer",
                "tracking",
                "seed",
                "checks",
                "sweep",
            )
        }


def test_muon_lists_every_argument_of_adamw_too() -> None:
    """With torch's defaults, but for `params`."""
    expected = arguments_of("torch.optim.AdamW")

    assert raw("optimizer", "muon")["adamw"] == expected | {"betas": list(expected["betas"])}
    assert get_object(raw("optimizer", "muon")["_target_"]) is MuonWithAdamW


MODEL_OF = {
    "one_sample": ["model.in_features=10", "model.out_features=2", "trainer.epochs=1"],
    "digits": ["trainer.epochs=3"],
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("data", "groups"), [("one_sample", "single"), ("digits", "layerwise")])
def test_every_scheduler_trains_without_a_warning(
    train_in_process: Callable[..., float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    scheduler: str,
    groups: str,
) -> None:
    """For one step or three epochs, with the defaults of its config: no wrong order, no horizon that is too short."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = train_in_process(
            f"data={data}",
            *MODEL_OF[data],
            f"scheduler={scheduler}",
            f"param_groups={groups}",
            *(["scheduler.monitor=train/loss"] if scheduler == "reducelronplateau" else []),
            "trainer.batch_size=256",
            "tracking=off",
        )

    assert 0 < loss < 10


HORIZONS = {
    "steplr": ("step_size", 0.3),
    "cosineannealinglr": ("T_max", 1.0),
    "cosineannealingwarmrestarts": ("T_0", 0.25),
    "onecyclelr": ("total_steps", 1.0),
    "polynomiallr": ("total_iters", 1.0),
    "swalr": ("anneal_epochs", 0.25),
}


@pytest.mark.parametrize("scheduler", HORIZONS)
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
    horizon, share = HORIZONS[scheduler]

    assert state["last_epoch"] == n_scheduler_steps
    assert state[horizon] == round(share * n_scheduler_steps)


def schedule_of(cfg: DictConfig, length: Length, lr: float = 1.0, n_groups: int = 1) -> tuple[Any, torch.optim.SGD]:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(n_groups)]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    return build_schedule(resolve_horizons(cfg, length), optimizer), optimizer


@pytest.mark.parametrize("scheduler", [choice for choice in SCHEDULERS if choice != "reducelronplateau"])
@pytest.mark.parametrize("length", [Length(1, 5), Length(20, 460), Length(2000, 2000)])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_default_fits_a_run_of_any_length(compose: Callable[..., DictConfig], scheduler: str, length: Length) -> None:
    """Every step has an lr, of no more than the optimizer's, and half of them 1 % of that or more."""
    schedule, optimizer = schedule_of(compose(f"scheduler={scheduler}"), length)
    used = []
    for _ in range(schedule.n_calls(length)):
        used.append(optimizer.param_groups[0]["lr"])
        schedule.scheduler.step()

    assert min(used) > 0
    assert max(used) <= 1.0000001
    assert sum(lr >= 0.01 for lr in used) >= len(used) / 2


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_schedulers_within_schedulers_are_built_on_the_one_optimizer(compose: Callable[..., DictConfig]) -> None:
    """Each has its shares of the run, functions of ours work within, and any number can be overridden."""
    linear = "{_target_: torch.optim.lr_scheduler.LinearLR, total_iters: 20%}"
    line = "{_target_: lrtape.schedules.lambda_lr, lr_lambda: '1 - epoch / n', n: 60%}"
    swa = "{_target_: lrtape.schedules.swa_lr, swa_lr: 0.1, anneal_epochs: 10%, anneal_strategy: linear}"
    cfg = compose(
        "scheduler=sequentiallr",
        f"scheduler.schedulers=[{linear}, {line}, {swa}]",
        "scheduler.schedulers.2.swa_lr=0.25",
        "scheduler.milestones=[20%, 80%]",
    )
    schedule, optimizer = schedule_of(cfg, Length(1, 20), lr=0.6, n_groups=2)
    parts = schedule.scheduler._schedulers

    assert (parts[0].total_iters, parts[1].lr_lambdas[0].n, parts[2].anneal_epochs) == (4, 12, 2)
    assert all(part.optimizer is optimizer for part in parts)
    used = []
    for _ in range(20):
        used.append(optimizer.param_groups[1]["lr"])
        schedule.scheduler.step()
    assert used[:4] == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert used[4:16] == pytest.approx([0.6 * (1 - epoch / 12) for epoch in range(12)])
    assert used[18:] == pytest.approx([0.25, 0.25])
    schedule.scheduler.load_state_dict(torch.load(saved(schedule.scheduler.state_dict()), weights_only=True))


def saved(state: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_the_default_sequence_is_a_warmup_and_a_cosine(compose: Callable[..., DictConfig]) -> None:
    """At every step, for any number of groups: the closed form of `warmup_cosine` with the same warm-up."""
    overrides = ["scheduler=warmup_cosine", "scheduler.warmup_iters=10%"]
    rows: list[list[float]] = []
    for cfg in (compose("scheduler=sequentiallr"), compose(*overrides)):
        schedule, optimizer = schedule_of(cfg, Length(1, 200), n_groups=3)
        rows.append([])
        for _ in range(200):
            rows[-1] += [group["lr"] for group in optimizer.param_groups]
            optimizer.step()
            schedule.scheduler.step()
    assert rows[0] == pytest.approx(rows[1], rel=1e-6)


def test_a_list_has_a_value_for_each_group(compose: Callable[..., DictConfig]) -> None:
    """`max_lr`, `min_lr`, `lr_lambda` and the like; `_convert_` makes real lists of them."""
    cases: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "onecyclelr": ("max_lr=[0.1,0.2]", lambda s: [group["max_lr"] for group in s.optimizer.param_groups]),
        "cycliclr": ("max_lr=[0.1,0.2]", lambda s: s.max_lrs),
        "reducelronplateau": ("min_lr=[0.1,0.2]", lambda s: s.min_lrs),
        "swalr": ("swa_lr=[0.1,0.2]", lambda s: [group["swa_lr"] for group in s.optimizer.param_groups]),
        "lambdalr": ("lr_lambda=['0.1 + 0 * epoch',0.2]", lambda s: s.get_last_lr()),
    }
    for choice, (override, values) in cases.items():
        cfg = compose(f"scheduler={choice}", f"scheduler.{override}")
        schedule, _ = schedule_of(cfg, Length(2, 20), n_groups=2)
        assert values(schedule.scheduler) == [0.1, 0.2]


def half_of(epoch: int) -> float:
    return 0.5**epoch


@pytest.mark.parametrize(
    "given",
    [
        "lr_lambda=0.5 ** epoch",
        "lr_lambda='1 / 2 ** epoch'",
        f"lr_lambda={{_target_: hydra.utils.get_method, path: {__name__}.half_of}}",
        f"lr_lambda={{_target_: {__name__}.half_of, _partial_: true}}",
    ],
)
def test_lr_lambda_is_arithmetic_or_a_function(
    train_in_process: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """From the command line, to a checkpoint that loads with `weights_only=True`."""
    monkeypatch.chdir(tmp_path)
    train_in_process(
        "scheduler=lambdalr", f"scheduler.{given}", "trainer.epochs=3", "trainer.batch_size=512", "tracking=off"
    )
    checkpoint = torch.load(tmp_path / "output" / "checkpoints" / "last.pt", weights_only=True)
    assert checkpoint["used_lrs"] == [0.01 / 4]


class Lion(torch.optim.Optimizer):
    """A third party's: the sign of the gradient, and no argument but the lr."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad.sign()


LION = ["~optimizer", f"+optimizer={{_target_: {__name__}.Lion, lr: 0.001}}"]


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "lion"])
def test_every_optimizer_learns_within_a_few_steps(
    train_in_process: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """With the defaults of its config, on the digits, under a schedule; its state loads with `weights_only=True`."""
    monkeypatch.chdir(tmp_path)
    loss = train_in_process(
        *(LION if optimizer == "lion" else [f"optimizer={optimizer}"]),
        "scheduler=warmup_cosine",
        "trainer.epochs=10",
        "trainer.batch_size=256",
        "trainer.max_steps=24",
        "tracking=off",
    )

    assert loss < 2.295  # before it begins: 2.311
    assert torch.load(tmp_path / "output" / "checkpoints" / "last.pt", weights_only=True)["optimizer"]["state"] or (
        optimizer == "lion"
    )


@pytest.mark.parametrize("groups", [choice for group, choice in CHOICES if group == "param_groups"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_every_split_trains(
    train_in_process: Callable[..., float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    groups: str,
    model: str,
) -> None:
    """With the defaults of its config; the groups have names that can be read."""
    monkeypatch.chdir(tmp_path)
    train_in_process(
        f"param_groups={groups}", f"model={model}", "trainer.epochs=2", "trainer.batch_size=512", "tracking=off"
    )
    checkpoint = torch.load(tmp_path / "output" / "checkpoints" / "last.pt", weights_only=True)

    names = [group["name"] for group in checkpoint["optimizer"]["param_groups"]]
    layers = ["layer1", "layer2", "layer3"] if model == "mlp" else ["conv1", "conv2", "head"]
    assert (
        names
        == {
            "single": ["all"],
            "layerwise": layers,
            "layerwise_decay": layers,
            "no_decay": ["decay", "no_decay"],
            "head_and_backbone": ["backbone", "head"],
            "frozen_backbone": ["backbone", "head"],
            "by_pattern": ["biases", "weights"],
        }[groups]
    )
    line = capsys.readouterr().out.splitlines()[0]
    assert all(f"{name} " in line for name in names)


def test_a_frozen_backbone_thaws_in_the_middle_of_a_training(
    train_in_process: Callable[..., float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the epochs it does not move, and then it does; also in a training that is resumed after that."""
    monkeypatch.chdir(tmp_path)
    weights = []
    last = tmp_path / "output" / "checkpoints" / "last.pt"
    overrides = ["param_groups=frozen_backbone", "trainer.batch_size=512", "param_groups.unfreeze_at_epoch=2"]
    for epochs, more in ((1, []), (2, []), (3, []), (4, [f"trainer.resume={last}", "trainer.resume_override=true"])):
        train_in_process(*overrides, f"trainer.epochs={epochs}", "tracking=off", *more)
        checkpoint = torch.load(last, weights_only=True)
        weights.append(checkpoint["model"]["layer1.weight"])
        assert [group.get("frozen") for group in checkpoint["optimizer"]["param_groups"]] == [epochs < 3, None]

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], weights[3])


def test_constant_is_ours() -> None:
    """`constant` is the null object; torch's `ConstantLR`, which multiplies, is something else."""
    assert get_object(raw("scheduler", "constant")["_target_"]) is Constant
