"""What a training shows while it runs: a progress bar on a terminal, and a line now and then everywhere."""

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, SupportsFloat

from tqdm import tqdm

from lrtape.app.config import TrainerSettings
from lrtape.lines import format_lrs

Lrs = Sequence[float | None]
"""One for each param group; ``None`` for one that is frozen."""


class Console:
    """Prints the learning rates of every group. A context manager: leaving it closes the progress bar.

    Lines go to stdout: ``epoch 3/20  step 68  all 0.003 (next 0.0003)  train/loss 0.1234``. The lr is what that step
    used; the next one is what the scheduler has set for the step after it, if there is one.

    Args:
        settings: how often to print.
        names: of the param groups.
        n_epochs: of the whole training.
        n_steps: of the whole training.
        first_step: index of the step that a resumed training begins with.
    """

    def __init__(
        self, settings: TrainerSettings, names: Sequence[str], n_epochs: int, n_steps: int, first_step: int = 0
    ) -> None:
        self._every_n_epochs = settings.print_every_n_epochs
        self._every_n_steps = settings.print_every_n_steps
        self._names = names
        self._n_epochs = n_epochs
        self._n_steps = n_steps
        show = sys.stderr.isatty() if settings.progress_bar is None else settings.progress_bar
        self._bar = tqdm(total=n_steps, initial=first_step, unit="step", disable=not show, dynamic_ncols=True)

    def step(self, epoch: int, step: int, lrs: Lrs, next_lrs: Lrs, loss: SupportsFloat) -> None:
        """Show one step; epoch and step are counted from 0. A loss on a GPU is waited for where it is shown."""
        is_drawn = self._bar.update()
        if is_drawn:
            self._bar.set_postfix_str(f"loss {float(loss):.4g}  {format_lrs(self._names, lrs)}", refresh=False)
        if self._every_n_steps is not None and step % self._every_n_steps == 0:
            self._line(epoch, step, lrs, next_lrs, {"train/loss": float(loss)})

    def epoch(self, epoch: int, step: int, lrs: Lrs, next_lrs: Lrs, metrics: Mapping[str, float]) -> None:
        """Show the end of an epoch and its last step; both are counted from 0."""
        is_last = epoch + 1 == self._n_epochs
        if self._every_n_epochs is not None and ((epoch + 1) % self._every_n_epochs == 0 or is_last):
            self._line(epoch, step, lrs, next_lrs, metrics)

    def _line(self, epoch: int, step: int, lrs: Lrs, next_lrs: Lrs, metrics: Mapping[str, float]) -> None:
        width = len(str(self._n_epochs))
        values = [f"{name} {value:.4g}" for name, value in metrics.items()]
        lr = format_lrs(self._names, lrs, next_lrs if step + 1 < self._n_steps else None)
        line = "  ".join([f"epoch {epoch + 1:{width}}/{self._n_epochs}", f"step {step}", lr, *values])
        self._bar.write(line, file=sys.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
