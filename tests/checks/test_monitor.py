import pytest

from lrtape.checks.registry import check
from lrtape.plan import Plan
from lrtape.tape import Tape


def codes(**scheduler: object) -> list[str]:
    """Of a plan, before anything is known of its learning rates."""
    plateau = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", **scheduler}
    return [finding.code for finding in check(Tape(), Plan(60, "epoch", 6, scheduler=plateau))]


@pytest.mark.parametrize(
    ("monitor", "right"),
    [
        *((name, "min") for name in ("val/loss", "train_loss", "valLoss", "eval.WER", "error_rate", "perplexity")),
        *((name, "max") for name in ("val/acc", "val_f1", "valAccuracy", "metrics/mAP", "top5", "AUROC")),
    ],
)
def test_the_name_of_a_metric_tells_which_way_it_should_go(monitor: str, right: str) -> None:
    """However it is written; and the other way is a finding."""
    wrong = {"min": "max", "max": "min"}[right]

    assert codes(monitor=monitor, mode=right) == []
    assert codes(monitor=monitor, mode=wrong) == ["monitor-wrong-mode"]


@pytest.mark.parametrize("monitor", ["val/score", "glossary", "accent", "loss_vs_acc", None])
def test_of_another_name_nothing_is_said(monitor: str | None) -> None:
    """Nor of one that says both, and of none."""
    assert codes(monitor=monitor, mode="min") == codes(monitor=monitor, mode="max") == []


def test_torchs_default_is_min() -> None:
    """A config need not say it."""
    assert codes(monitor="val/acc") == ["monitor-wrong-mode"]
    assert codes(monitor="val/loss") == []


def test_another_scheduler_has_no_mode_of_that_kind() -> None:
    """CyclicLR has a `mode`, too."""
    assert codes(_target_="torch.optim.lr_scheduler.CyclicLR", monitor="val/acc", mode="min") == []
