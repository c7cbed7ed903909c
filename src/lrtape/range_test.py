"""`lr_range`: the LR range test of one training loop, after which everything is as it was before."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from lrtape.errors import ConfigError
from lrtape.groups import is_frozen
from lrtape.keys import group_names
from lrtape.range_curve import EXPLODE_AT, SMOOTHING, RangeResult, Smoother, check_range, exponential_lrs, has_exploded
from lrtape.snapshot import Snapshot

MIN_LR = 1e-6
MAX_LR = 10.0
N_STEPS = 200
MAX_SKIPPED = 32
"""Calls in a row that make no step: a ``GradScaler`` halves its scale of 2 ** 16 in each of them."""

OnStep = Callable[[int, float, float, float], object]


def lr_range(
    optimizer: Optimizer,
    train_step: Callable[[], Tensor | float],
    model: Module | None = None,
    *,
    others: Sequence[Any] = (),
    min_lr: float = MIN_LR,
    max_lr: float = MAX_LR,
    n_steps: int = N_STEPS,
    group: str | None = None,
    base_lr: float | None = None,
    smoothing: float = SMOOTHING,
    explode_at: float = EXPLODE_AT,
    on_step: OnStep | None = None,
) -> RangeResult:
    """Train for some steps with an lr that grows exponentially, and read a good one from the losses. Nothing is kept.

    ::

        batches = itertools.cycle(loader)

        def train_step():
            inputs, targets = next(batches)
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            return loss

        result = lrtape.lr_range(optimizer, train_step, model)
        print(result)  # Suggested lr:  0.0123  (step 118, where the loss falls fastest)

    The lr of step ``i`` is ``min_lr * (max_lr / min_lr) ** (i / (n_steps - 1))``. It stops early where the smoothed
    loss explodes: see `lrtape.range_curve.has_exploded`. What the suggestion means, and why it is not the lr of the
    lowest loss: see `RangeResult`.

    Afterwards the optimizer, the model, the `others` and the global random generators are exactly as they were, also
    where `train_step` raises: see `lrtape.snapshot.Snapshot`. Whatever else `train_step` uses, an iterator of batches
    say, has gone on. Begin to record after it: for `attach` and `autolog`, its steps are steps of a training.

    Args:
        optimizer: of the model, new or in the middle of a training.
        train_step: makes one optimizer step, as the training does, and returns its loss. It must not set the lr before
            the step. A call that makes no step, as a ``GradScaler`` does on an overflow, is tried again.
        model: restored with its buffers and modes; without it, only what is in the optimizer is.
        others: what else `train_step` changes: schedulers, a ``GradScaler``, a second optimizer, an averaged model.
        min_lr: of the first step.
        max_lr: of the last step.
        n_steps: how many, 20 at least.
        group: varies the lr of the param group of this name alone, and leaves the others; by default all are varied,
            and keep their proportions, but for those that are frozen (see `lrtape.groups`), whose lr moves nothing.
        base_lr: the lr that `min_lr` to `max_lr` stand for, where groups differ: a group whose lr is twice this gets
            twice the lr. By default that of the group with the largest one. Without meaning for one `group`.
        smoothing: see `lrtape.range_curve.Smoother`.
        explode_at: how many times the best smoothed loss is an explosion.
        on_step: called after each step with its index from 0, its lr, its loss, and the smoothed loss.

    Raises:
        ConfigError: an argument is wrong, or `train_step` makes no step, or two, or sets the lr itself.
    """
    check_range(min_lr, max_lr, n_steps, smoothing, explode_at)
    scales = _scales(optimizer, model, group, base_lr)
    lrs = exponential_lrs(min_lr, max_lr, n_steps)
    losses: list[float] = []
    smoothed: list[float] = []
    smoother, best = Smoother(smoothing), math.inf
    snapshot = Snapshot([part for part in (model, optimizer, *others) if part is not None])
    try:
        with _watched(optimizer) as used:
            for step, lr in enumerate(lrs):
                expected = [_scaled(group, lr, scales.get(index)) for index, group in enumerate(optimizer.param_groups)]
                losses.append(_step(train_step, used, expected))
                smoothed.append(smoother.add(losses[-1]))
                best = min(best, smoothed[-1])
                if on_step is not None:
                    on_step(step, lr, losses[-1], smoothed[-1])
                if has_exploded(smoothed[-1], best, explode_at):
                    break
    finally:
        snapshot.restore()
    names = _names(optimizer, model)
    return RangeResult(
        lrs=tuple(lrs[: len(losses)]),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        scales={names[index]: scale for index, scale in scales.items()},
        n_planned=n_steps,
        smoothing=smoothing,
        explode_at=explode_at,
    )


def _names(optimizer: Optimizer, model: Module | None) -> list[str]:
    paths = {} if model is None else {id(parameter): path for path, parameter in model.named_parameters()}
    return group_names(optimizer.param_groups, paths)


def _scales(optimizer: Optimizer, model: Module | None, group: str | None, base_lr: float | None) -> dict[int, float]:
    """By the index of each group that is varied: its lr, as a multiple of the lr of the test."""
    names = _names(optimizer, model)
    if group is not None:
        if names.count(group) != 1:
            raise ConfigError(f"`group` must be the name of one param group, of {names}, but is {group!r} instead.")
        if is_frozen(optimizer.param_groups[names.index(group)]):
            raise ConfigError(
                f"`group` must be a param group that moves, but {group!r} is frozen: no loss tells anything about its "
                "lr. Test it when it is thawed, lrtape.groups.thaw(optimizer.param_groups, epoch), or test another one."
            )
        return {names.index(group): 1.0}
    # A scheduler may have begun already, with a warm-up from 0 say.
    own = {
        index: float(member.get("initial_lr", member["lr"]))
        for index, member in enumerate(optimizer.param_groups)
        if not is_frozen(member)
    }
    base = max(own.values(), default=0.0) if base_lr is None else base_lr
    if not 0 < base < math.inf:
        raise ConfigError(
            f"`base_lr` must be a number > 0, but is {base!r} instead. By default it is the largest lr of the groups, "
            f"{list(own.values())}; any will do, where there is one group: it is overwritten by the test."
        )
    return {index: lr / base for index, lr in own.items()}


def _scaled(group: dict[str, Any], lr: float, scale: float | None) -> float:
    """Set the lr of a group that is varied; returns what its next step is to use."""
    if scale is not None:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * scale)  # the object that a captured graph, or a compiled step, knows
        else:
            group["lr"] = lr * scale
    return float(group["lr"])


@contextlib.contextmanager
def _watched(optimizer: Optimizer) -> Iterator[list[list[float]]]:
    """The lrs of every step that is made, as they are used."""
    used: list[list[float]] = []
    depth = 0

    def before(*_: object) -> None:
        nonlocal depth
        if not depth:  # a step() that calls super().step() fires its hooks twice
            used.append([float(group["lr"]) for group in optimizer.param_groups])
        depth += 1

    def after(*_: object) -> None:
        nonlocal depth
        depth -= 1

    hooks = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
    try:
        yield used
    finally:
        for hook in hooks:
            hook.remove()


def _step(train_step: Callable[[], Tensor | float], used: list[list[float]], expected: list[float]) -> float:
    """One step that was made; returns its loss."""
    for _ in range(MAX_SKIPPED):
        used.clear()
        returned = train_step()
        loss = returned.item() if isinstance(returned, Tensor) else float(returned)
        if len(used) > 1:
            raise ConfigError(
                f"`train_step` must make one optimizer step, but made {len(used)}. Return from it after each step."
            )
        if used and used[0] != expected:
            raise ConfigError(
                f"`train_step` must leave the lr to the range test, which set {expected}, but its step used {used[0]}. "
                "Leave out what sets the lr before optimizer.step()."
            )
        if used or not math.isfinite(loss):
            return loss
    raise ConfigError(
        f"`train_step` must make a step of this optimizer, but made none in {MAX_SKIPPED} calls. Call "
        "optimizer.step() in it, on the optimizer that lr_range was given."
    )
