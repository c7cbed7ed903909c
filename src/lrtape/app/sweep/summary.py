"""A sweep in the terminal: its trials before they are trained, and what came of them."""

import math
from collections.abc import Mapping, Sequence

from hydra.core.utils import JobReturn, JobStatus

from lrtape.app.sweep.planning import SweepPlan
from lrtape.trials import MAX, Trial, TrialRun

AGAIN = "The same command trains them again."


def list_trials(plan: SweepPlan) -> str:
    """A line for each trial: what it is called, how long it is, and what is to be known of it before it is trained."""
    names = {trial.id: trial.name for trial in plan.trials}
    width = max(map(len, names.values()))
    lines = []
    for trial in plan.trials:
        notes = []
        if trial.same_as:
            notes.append(f"same learning rates as {names[trial.same_as]}: not trained again")
        if trial.refusal:
            notes.append(f"refused: {trial.refusal}")
        if trial.warning:
            notes.append(f"warning: {trial.warning}")
        lines.append(f"{trial.name:{width}}  {trial.n_steps:>9,} steps  {'; '.join(notes)}".rstrip())
    n_trained = sum(trial.is_trained for trial in plan.trials)
    lines.append(
        f"{plan.title}: {len(plan.trials)} trials, {n_trained} to be trained, {plan.n_steps:,} steps; best is the "
        f"{plan.direction} of {plan.objective}. Sweep {plan.id}."
    )
    return "\n".join(lines)


def summarize(plan: SweepPlan, runs: Mapping[str, TrialRun], remedy: str = AGAIN) -> tuple[str, str]:
    """What came of the trials, best first, and a sentence on what has failed, which is empty if nothing has.

    Args:
        plan: of the sweep.
        runs: those that count, by trial.
        remedy: what to do about failed trials.
    """
    finished = [runs[t.id] for t in plan.trials if t.id in runs and runs[t.id].is_finished]
    finished.sort(key=lambda run: run.objective or 0.0, reverse=plan.direction == MAX)
    lines = [f"{run.name}  {plan.objective} {run.objective:.6g}" for run in finished]
    pruned = [runs[t.id] for t in plan.trials if t.is_trained and t.id in runs and runs[t.id].is_pruned]
    lines += [f"{run.name}  pruned after {run.pruned}" for run in pruned]
    failed = {t.name: t.refusal for t in plan.trials if t.refusal}
    for trial in plan.trials:
        if trial.is_trained and not (trial.id in runs and (runs[trial.id].is_finished or runs[trial.id].is_pruned)):
            failed[trial.name] = runs[trial.id].error or runs[trial.id].status if trial.id in runs else "not begun"
    return "\n".join(lines), _failure(failed, plan, remedy)


def summarize_returns(plan: SweepPlan, trials: Sequence[Trial], returns: Sequence[JobReturn]) -> tuple[str, str]:
    """The same where nothing was tracked: what the trainings themselves returned, as far as they were begun."""
    lines, failed = [], {trial.name: trial.refusal for trial in plan.trials if trial.refusal}
    failed |= {trial.name: "not begun" for trial in trials[len(returns) :]}
    for trial, job in zip(trials, returns, strict=False):
        if job.status == JobStatus.COMPLETED and not math.isfinite(job.return_value):
            failed[trial.name] = f"{plan.objective} is {job.return_value}"
        elif job.status == JobStatus.COMPLETED:
            lines.append(f"{trial.name}  {plan.objective} {job.return_value:.6g}")
        else:
            failed[trial.name] = f"{type(job._return_value).__name__}: {job._return_value}"
    return "\n".join(lines), _failure(failed, plan)


def _failure(failed: Mapping[str, str], plan: SweepPlan, remedy: str = AGAIN) -> str:
    if not failed:
        return ""
    listed = "\n".join(f"  {name}: {why}" for name, why in failed.items())
    return f"{len(failed)} of {len(plan.trials)} trials have no result:\n{listed}\n{remedy}"
