"""A metric that is watched the wrong way round."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lrtape.checks.case import Case
from lrtape.checks.horizons import parts
from lrtape.plan import kind_of, label_of
from lrtape.tape import Finding

WRONG_MODE = "monitor-wrong-mode"

_BETTER_LOW = frozenset(
    {
        *("loss", "losses", "err", "error", "errors", "mse", "rmse", "mae", "mape", "nll", "ce", "bce", "kl"),
        *("perplexity", "ppl", "wer", "cer", "eer", "fid", "lpips", "brier"),
    }
)
_BETTER_HIGH = frozenset(
    {
        *("acc", "accuracy", "top1", "top5", "f1", "precision", "recall", "auc", "auroc", "auprc", "ap", "map"),
        *("iou", "miou", "dice", "bleu", "rouge", "psnr", "ssim", "r2", "ndcg", "mrr", "reward", "return"),
    }
)
"""Words in the names of metrics, in lower case."""


def find_wrong_mode(case: Case) -> Iterator[Finding]:
    """ReduceLROnPlateau with ``mode=min`` for an accuracy, or ``mode=max`` for a loss: it drops while all is well."""
    for part in parts(case.plan):
        if kind_of(part.config) != "reducelronplateau":
            continue
        monitor, mode = _monitor(case, part.config), str(part.config.get("mode", "min"))
        right = _mode_of(monitor)
        if right is None or right == mode:
            continue
        better = "lower" if right == "min" else "higher"
        yield Finding(
            WRONG_MODE,
            f"`{part.prefix}mode` is {mode}, and `scheduler.monitor` is {monitor}, which is better when it is "
            f"{better}: {label_of(part.config)} takes every improvement for a setback, and reduces the lr while the "
            f"training gets better. Set {part.prefix}mode={right}.",
            next(iter(case.tape), monitor),
            0,
            "error",
        )


def _monitor(case: Case, config: Mapping[str, Any]) -> str:
    return str(config.get("monitor") or case.plan.scheduler.get("monitor") or "")


def _mode_of(monitor: str) -> str | None:
    """What the name of a metric says about it; ``None`` where it says nothing, or both."""
    words = set(re.findall(r"[a-z]+\d*", re.sub(r"([a-z])([A-Z])", r"\1 \2", monitor).lower()))
    low, high = bool(words & _BETTER_LOW), bool(words & _BETTER_HIGH)
    return None if low == high else "min" if low else "max"
