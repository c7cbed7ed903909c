import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from lrtape.tracking.history import read_run

STEPS = list(range(10))


def adam(*lrs: float) -> torch.optim.Adam:
    return torch.optim.Adam([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs])


def recomputed(optimizer: torch.optim.Optimizer, scheduler: Any = None) -> list[list[float]]:
    """What torch alone uses in ten epochs of one step; one column for each group."""
    rows = []
    for _ in range(10):
        rows.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return [list(column) for column in zip(*rows, strict=True)]


def step_lr() -> list[list[float]]:
    optimizer = adam(0.01)
    return recomputed(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1))


@pytest.mark.parametrize(
    ("experiment", "nominal", "exact"),
    [
        ("one_group", {"all": [1e-3] * 10}, recomputed(adam(0.001))),
        ("steplr", {"all": [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]}, step_lr()),
        ("two_groups", {"layer1": [1e-3] * 10, "layer2": [1e-2] * 10}, recomputed(adam(0.001, 0.01))),
    ],
)
def test_the_founding_cases(
    train_in_process: Callable[..., float],
    store: str,
    capsys: pytest.CaptureFixture[str],
    experiment: str,
    nominal: dict[str, list[float]],
    exact: list[list[float]],
) -> None:
    """Ten epochs of one step. MLflow has, for each group and step, exactly what torch alone would use, which is the
    nominal value up to the last bits of a float; the console shows the used and the next lr of every group, readable.
    """
    train_in_process(f"experiment={experiment}")
    client = MlflowClient(tracking_uri=store)
    stored = client.get_experiment_by_name("lrtape")
    assert stored is not None
    (run,) = client.search_runs([stored.experiment_id])
    tape = read_run(run.info.run_id, store)

    assert run.info.run_name == experiment
    assert run.info.status == "FINISHED"
    assert set(tape.lr) == {f"lr/{name}" for name in nominal}
    assert list(tape["train/loss"].steps) == STEPS
    for (name, expected), column in zip(nominal.items(), exact, strict=True):
        assert list(tape[f"lr/{name}"].steps) == STEPS
        assert list(tape[f"lr/{name}"].values) == column
        assert column == pytest.approx(expected, rel=1e-12)

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 10
    for epoch, line in enumerate(lines):
        shown = "  ".join(
            f"{name} {column[epoch]:.6g}" + (f" (next {column[epoch + 1]:.6g})" if epoch < 9 else "")
            for name, column in zip(nominal, exact, strict=True)
        )
        assert line.startswith(f"epoch {epoch + 1:2}/10  step {epoch}  {shown}  train/loss ")


def test_the_next_lr_is_shown_beside_the_used_one(
    train_in_process: Callable[..., float], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As text, so that nobody mistakes one for the other: the epoch before a drop uses the old lr, and after the last
    step there is no next one.
    """
    train_in_process("experiment=steplr", "tracking=off")
    out = capsys.readouterr().out

    assert re.findall(r"all (\S+) (?:\(next (\S+)\))?", out) == [
        *(("0.01", "0.01"), ("0.01", "0.001"), ("0.001", "0.001"), ("0.001", "0.0001"), ("0.0001", "0.0001")),
        *(("0.0001", "1e-05"), ("1e-05", "1e-05"), ("1e-05", "1e-06"), ("1e-06", "1e-06"), ("1e-06", "")),
    ]


@pytest.mark.parametrize(
    ("overrides", "epochs", "steps"),
    [
        (["trainer.print_every_n_epochs=4"], [4, 8, 10], []),
        (["trainer.print_every_n_epochs=null"], [], []),
        (["trainer.print_every_n_epochs=null", "trainer.print_every_n_steps=3"], [], [0, 3, 6, 9]),
    ],
)
def test_how_often_a_line_is_printed(
    train_in_process: Callable[..., float],
    store: str,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    epochs: list[int],
    steps: list[int],
) -> None:
    """Every so many epochs and after the last, or every so many steps from the first on, or never; 1e-7 is readable."""
    train_in_process("experiment=one_group", "optimizer.lr=1e-7", "tracking=off", *overrides)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]

    assert [(int(line.split()[1].partition("/")[0]), int(line.split()[3])) for line in lines] == [
        *((epoch, epoch - 1) for epoch in epochs),
        *((step + 1, step) for step in steps),
    ]
    assert all(re.search(r"  all 1e-07( \(next 1e-07\))?  ", line) for line in lines)
    assert not any("0.000000" in line for line in lines)
