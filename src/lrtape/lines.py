"""One line of text for people: learning rates that can be read at any magnitude, and what is wrong."""

import contextlib
import warnings
from collections.abc import Sequence

from lrtape.tape import GroupLayout, Record


def format_lr(lr: float) -> str:
    """Write an lr with up to six significant digits: ``0.001``, ``1e-07``, never ``0.000000``."""
    return f"{lr:.6g}"


def format_lrs(
    names: Sequence[str], lrs: Sequence[float | None], next_lrs: Sequence[float | None] | None = None
) -> str:
    """Write the lr of every group: ``backbone 1e-05  head 0.001``.

    Args:
        names: one for each group.
        lrs: the lr that the step used, one for each group; ``None``, written as ``frozen``, for one that does not move.
        next_lrs: the lr that the next step will use, one for each group; shown as ``(next 0.0001)`` when given.
    """
    texts = []
    for name, lr, next_lr in zip(names, lrs, lrs if next_lrs is None else next_lrs, strict=True):
        text = f"{name} {_lr_or_frozen(lr)}"
        stays_frozen = lr is None and next_lr is None
        texts.append(text if next_lrs is None or stays_frozen else f"{text} (next {_lr_or_frozen(next_lr)})")
    return "  ".join(texts)


def _lr_or_frozen(lr: float | None) -> str:
    return "frozen" if lr is None else format_lr(lr)


class LinePrinter:
    """Prints the lr of every group of every n-th step.

    Args:
        every_n_steps: 1 prints each step; the first step, 0, is always printed.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every_n_steps = every_n_steps
        self._names: dict[int, list[str]] = {}

    def write(self, frame: object) -> None:
        """Print the frame if it is due. Called by the training thread, within ``optimizer.step()``."""
        if isinstance(frame, GroupLayout):
            self._names[frame.optimizer_index] = [group.key.removeprefix("lr/") for group in frame.groups]
        elif isinstance(frame, Record) and frame.step % self._every_n_steps == 0:
            line = f"step {frame.step}  {format_lrs(self._names[frame.optimizer_index], frame.lrs)}"
            with contextlib.suppress(OSError, ValueError):  # stdout may be closed: `... | head`
                print(line, flush=True)  # noqa: T201


def warn(text: str) -> bool:
    """Warn, and say whether that was possible: where warnings are errors, nothing is raised from within a step."""
    try:
        warnings.warn(text, stacklevel=3)
    except UserWarning:
        return False
    return True
