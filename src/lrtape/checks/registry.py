"""All checks, and the function that runs them."""

from collections.abc import Callable, Collection, Iterator

from lrtape.checks import deviation, horizons, monitor, shape, values
from lrtape.checks.case import Case, Thresholds
from lrtape.plan import Plan
from lrtape.tape import Finding, Severity, Tape

CODES = (
    values.NOT_FINITE,
    values.NEGATIVE,
    values.ZERO,
    values.SPIKE,
    values.NEVER_UPDATED,
    values.BELOW_AXIS,
    shape.NEVER_CHANGES,
    shape.DECAYS_TOO_FAST,
    shape.RATIO_CHANGES,
    horizons.HORIZON_TOO_SHORT,
    horizons.HORIZON_TOO_LONG,
    monitor.WRONG_MODE,
    *deviation.CODES,
)
"""Of all findings of `check`."""

Check = Callable[[Case], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    values.find_not_finite,
    values.find_negative,
    values.find_zero,
    values.find_spikes,
    values.find_never_updated,
    values.find_below_axis,
    shape.find_never_changes,
    shape.find_decays_too_fast,
    shape.find_changing_ratios,
    horizons.find_misfits,
    monitor.find_wrong_mode,
    deviation.find_deviation,
)
CHECKS_OF_A_PLAN: tuple[Check, ...] = (monitor.find_wrong_mode,)
"""Those that need no tape."""

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_SYMPTOMS = frozenset({shape.DECAYS_TOO_FAST, shape.NEVER_CHANGES, values.ZERO})
_CAUSES = frozenset({horizons.HORIZON_TOO_SHORT, horizons.HORIZON_TOO_LONG, *deviation.TIMING_CODES})
"""Where one of them is found, the symptoms say less."""


def check(
    tape: Tape,
    plan: Plan | None = None,
    *,
    never_updated: Collection[str] = (),
    thresholds: Thresholds | None = None,
) -> list[Finding]:
    """Say what may be wrong with the learning rates of a tape, worst first.

    Takes about a microsecond for each step and group.

    Args:
        tape: recorded or simulated; of a recorded one that is shorter than the plan, only what it has is judged, and
            of an empty one nothing but what the plan says of itself.
        plan: what was meant. With its ``simulated`` tape, the recorded one is compared with it; with its ``scheduler``,
            causes and fixes are named.
        never_updated: the keys of groups of which it is known that their parameters never changed or never had a
            gradient.
        thresholds: when something is worth a finding.
    """
    lrs = tape.lr
    n_steps = max((series.steps[-1] for series in lrs.values() if series), default=0) + 1
    case = Case(lrs, plan or Plan(n_steps), thresholds or Thresholds(), never_updated)
    is_empty = not any(len(series) for series in lrs.values())
    findings = [finding for run_check in (CHECKS_OF_A_PLAN if is_empty else CHECKS) for finding in run_check(case)]
    codes = {finding.code for finding in findings}
    if codes & _CAUSES:
        findings = [finding for finding in findings if finding.code not in _SYMPTOMS]
    if any(finding.severity != "note" for finding in findings):  # An lr that is wrong need not be read more easily.
        findings = [finding for finding in findings if finding.code != values.BELOW_AXIS]
    return sorted(findings, key=lambda finding: (_SEVERITIES.index(finding.severity), finding.step))
