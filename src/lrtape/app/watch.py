"""What is wrong with the learning rates of a training: before it, while it runs, and when it is over."""

import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lrtape.app.config import OFF, STRICT
from lrtape.app.planned_tape import keep_plan
from lrtape.checks.registry import check
from lrtape.checks.verdict import line_of, verdict_on
from lrtape.columns import Columns
from lrtape.errors import ConfigError, StoppedOnFindingError
from lrtape.plan import Plan
from lrtape.tape import Finding, Series, Tape

if TYPE_CHECKING:
    from lrtape.session import Session
    from lrtape.tracking.mlflow_run import MlflowRun
    from lrtape.tracking.no_run import NoRun
    from lrtape.tracking.planned_run import PlannedRun

    Run = MlflowRun | PlannedRun | NoRun

Replan = Callable[[Sequence[float | None]], Plan]


class Watch:
    """Holds what a training records against what it plans. Used by the training thread.

    Args:
        plan: of the whole training, simulated unless it depends on a metric.
        mode: ``warn``, ``strict`` or ``off``.
        stop_on: codes of findings that end the training.
        replan: makes the plan anew when the metric of each epoch is known; ``None`` where nobody can.
        first_step: of a training that is resumed: nothing before it was recorded here.
        is_settled: whether nothing that happens can change the plan: no metric, no step that a GradScaler skips.

    Attributes:
        columns: keeps what is recorded; ``None`` where nobody needs it.
        verdict: on what was recorded, when the training is over; empty before, and where nobody judges.
    """

    def __init__(
        self,
        plan: Plan,
        mode: str,
        stop_on: Collection[str] = (),
        replan: Replan | None = None,
        first_step: int = 0,
        is_settled: bool = True,
    ) -> None:
        self.columns = Columns() if mode != OFF or stop_on else None
        self._plan = plan
        self._mode = mode
        self._stop_on = frozenset(stop_on)
        self._replan = replan
        self._first_step = first_step
        self._is_settled = is_settled
        self._told: set[str] = set()
        self.verdict = ""

    def before(self) -> None:
        """Say what is wrong with the plan.

        Raises:
            ConfigError: something is, and the mode is strict.
        """
        if self._mode == OFF:
            return
        findings = check(self._plan.simulated or Tape(), self._plan)
        serious = [finding for finding in findings if finding.severity != "note"]
        if self._mode == STRICT and serious:
            raise ConfigError(
                "the schedule must raise no error and no warning where `checks=strict`, but does:\n"
                + "\n".join(f"  {line_of(finding)}" for finding in serious)
                + "\nChange it, look at it with `lrtape preview`, or train all the same: checks=warn"
            )
        self._tell(findings)

    def begin(self, run: "Run") -> None:
        """Keep the plan with the run that has begun; one that is not settled yet comes when the training is over."""
        if self._is_settled and self._plan.simulated is not None:
            keep_plan(run, self._plan.simulated, self._first_step)

    def after_epoch(self, skipped_steps: int, never_updated: Collection[str] = ()) -> None:
        """See whether the training may go on. Takes about a microsecond for each step and group so far, if at all.

        Args:
            skipped_steps: how many optimizer steps a GradScaler has skipped.
            never_updated: the keys of groups whose parameters have not moved so far.

        Raises:
            StoppedOnFindingError: the recorded lrs show something that ``trainer.stop_on`` names.
        """
        if not self._stop_on:
            return
        for finding in check(*self._outcome(skipped_steps), never_updated=never_updated):
            if finding.code in self._stop_on:
                raise StoppedOnFindingError(
                    f"the training was stopped, as `trainer.stop_on` names {finding.code}: {finding.message}"
                )

    def conclude(self, run: "Run", session: "Session", skipped_steps: int, never_updated: Collection[str] = ()) -> None:
        """Say what is wrong with what was recorded, here and on the tape. Never fails the training.

        Args:
            run: gets the plan, where that was not settled before.
            session: gets the verdict, and the findings but for its own, which have been told already.
            skipped_steps: see `after_epoch`.
            never_updated: see `after_epoch`.
        """
        if self._mode == OFF:
            return
        try:
            recorded, plan = self._outcome(skipped_steps)
            if not self._is_settled:
                known = (plan.simulated or Tape()).until(session.steps)
                keep_plan(run, known, self._first_step)
            findings = check(recorded, plan, never_updated=never_updated)
            self._told |= {finding.code for finding in session.findings}
            self._tell(findings)
            own = [finding for finding in session.findings if finding not in findings]
            self.verdict = verdict_on([*findings, *own])
            session.judge(self.verdict, findings)
        except Exception as error:  # noqa: BLE001 - the training is over, and nothing of it may be lost
            warnings.warn(f"lrtape could not check what was recorded: {error!r}", stacklevel=2)

    def _outcome(self, skipped_steps: int) -> tuple[Tape, Plan]:
        """What was recorded so far, and what was planned, as far as it is known by now."""
        recorded = Tape() if self.columns is None else self.columns.tape()
        plan = replace(self._plan, skipped_steps=skipped_steps)
        if skipped_steps and (plan.interval == "epoch" or plan.thaws):
            # The epochs are shorter than planned, and what happens between two of them rightly comes earlier.
            plan = replace(plan, simulated=None)
        elif self._replan is not None and not self._first_step and not skipped_steps:
            plan = self._replan(_metrics(recorded, plan))
        if self._first_step and plan.simulated is not None:
            recorded = Tape.union([plan.simulated.until(self._first_step), recorded.lr])
        return recorded, plan

    def _tell(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if finding.code not in self._told:
                self._told.add(finding.code)
                print(f"lrtape: {line_of(finding)}", file=sys.stderr, flush=True)  # noqa: T201 - a command


def _metrics(recorded: Tape, plan: Plan) -> list[float | None]:
    """What the scheduler was given after each epoch; nothing after an epoch that has not measured it."""
    series = recorded.get(str(plan.scheduler.get("monitor")), Series())
    measured = dict(zip(series.steps, series.values, strict=True))
    length = plan.steps_per_call
    return [measured.get(min((call + 1) * length, plan.n_steps) - 1) for call in range(plan.n_calls)]
