"""Mistakes that people make, seeded into real loops, and what is said about them."""

import math
import re
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as schedulers

from lrtape.checks.case import Thresholds
from lrtape.checks.registry import CHECKS, CODES, check
from lrtape.plan import Plan
from lrtape.simulation import plan_of, simulate
from lrtape.tape import Finding, Point, Tape

Record = Callable[[Optimizer], Callable[[], Tape]]

EPOCHS = 10
PER_EPOCH = 6
N_STEPS = EPOCHS * PER_EPOCH


def optimizer_of(*lrs: float) -> SGD:
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "name": f"g{index}"} for index, lr in enumerate(lrs)
    ]
    return SGD(groups, lr=0.1, momentum=0.9)


class Mistake:
    """One training: its optimizer, its scheduler, and what was meant. `loop` is right; a subclass makes it wrong."""

    code = ""
    interval = "step"
    accumulate = 1
    lrs: tuple[float, ...] = (0.1, 0.01)
    never_updated: Collection[str] = ()

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.CosineAnnealingLR(optimizer, N_STEPS if self.interval == "step" else EPOCHS)

    def plan(self, optimizer: Optimizer, scheduler: Any) -> Plan:
        return plan_of(
            optimizer,
            scheduler,
            N_STEPS,
            interval=self.interval,
            steps_per_epoch=PER_EPOCH,
            accumulate_grad_batches=self.accumulate,
        )

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for _ in range(EPOCHS):
            for _ in range(PER_EPOCH):
                optimizer.step()
                if self.interval == "step":
                    scheduler.step()
            if self.interval == "epoch":
                scheduler.step()

    def findings(self, record: Record) -> list[Finding]:
        optimizer = optimizer_of(*self.lrs)
        scheduler = self.scheduler(optimizer)
        plan = self.plan(optimizer, scheduler)
        read = record(optimizer)
        self.loop(optimizer, scheduler)
        return check(read(), plan, never_updated=self.never_updated)


class SteppedPerBatch(Mistake):
    code = "stepped-every-step"
    interval = "epoch"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for _ in range(N_STEPS):
            optimizer.step()
            scheduler.step()


class SteppedPerMicroBatch(Mistake):
    code = "stepped-every-step"
    interval = "epoch"
    accumulate = 2

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for batch in range(N_STEPS * 2):
            if batch % 2:
                optimizer.step()
            scheduler.step()


class SteppedPerEpoch(Mistake):
    code = "stepped-every-epoch"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for _ in range(EPOCHS):
            for _ in range(PER_EPOCH):
                optimizer.step()
            scheduler.step()


class SteppedByEachProcess(Mistake):
    """Accelerate steps a prepared scheduler once for each of its processes."""

    code = "stepped-several-times"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for _ in range(N_STEPS):
            optimizer.step()
            for _ in range(4):
                scheduler.step()


class SteppedForEachMicroBatch(Mistake):
    code = "stepped-several-times"
    accumulate = 4

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for batch in range(N_STEPS * 4):
            if batch % 4 == 3:
                optimizer.step()
            scheduler.step()


class SteppedEveryOtherTime(Mistake):
    code = "stepped-too-rarely"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for step in range(N_STEPS):
            optimizer.step()
            if step % 2:
                scheduler.step()


class SteppedBefore(Mistake):
    code = "stepped-before-optimizer"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for _ in range(N_STEPS):
            scheduler.step()
            optimizer.step()


class SteppedBeforeTheEpoch(Mistake):
    code = "stepped-before-optimizer"
    interval = "epoch"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for _ in range(EPOCHS):
            scheduler.step()
            for _ in range(PER_EPOCH):
                optimizer.step()


class NeverStepped(Mistake):
    code = "scheduler-not-stepped"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for _ in range(N_STEPS):
            optimizer.step()


class StepsSkipped(Mistake):
    """A GradScaler skips steps in the middle, and the scheduler goes on."""

    code = "optimizer-steps-skipped"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for step in range(N_STEPS):
            if step not in {7, 8, 30}:
                optimizer.step()
            scheduler.step()


class FirstStepSkipped(Mistake):
    """The scale of a GradScaler is too high at first, and it is known that steps were skipped."""

    code = "optimizer-steps-skipped"

    def plan(self, optimizer: Optimizer, scheduler: Any) -> Plan:
        plan = super().plan(optimizer, scheduler)
        return Plan(plan.n_steps, scheduler=plan.scheduler, simulated=plan.simulated, skipped_steps=1)

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for step in range(N_STEPS):
            if step:
                optimizer.step()
            scheduler.step()


class OtherLr(Mistake):
    code = "other-base-lr"

    def plan(self, optimizer: Optimizer, scheduler: Any) -> Plan:
        planned = optimizer_of(0.2, 0.02)
        return super().plan(planned, self.scheduler(planned))


class WarmUpInTheLoop(Mistake):
    code = "differs-from-plan"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for step in range(N_STEPS):
            scheduled = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] *= min(1.0, (step + 1) / 10)
            optimizer.step()
            for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
                group["lr"] = lr
            scheduler.step()


class NothingMeant(Mistake):
    """A shape that is wrong by its config alone: what is trained is what was planned."""

    def plan(self, optimizer: Optimizer, scheduler: Any) -> Plan:
        plan = super().plan(optimizer, scheduler)
        return Plan(plan.n_steps, plan.interval, plan.steps_per_epoch, scheduler=plan.scheduler)


class GammaForEpochs(NothingMeant):
    code = "decays-too-fast"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.ExponentialLR(optimizer, 0.7)


class StepSizeForEpochs(NothingMeant):
    code = "decays-too-fast"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.StepLR(optimizer, 3, 0.1)


class StepSizeBeyondTheRun(NothingMeant):
    code = "never-changes"
    interval = "epoch"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.StepLR(optimizer, 30, 0.1)


class CosineRisesAgain(NothingMeant):
    code = "horizon-too-short"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.CosineAnnealingLR(optimizer, EPOCHS)


class CosineNeverDecays(NothingMeant):
    code = "horizon-too-long"
    interval = "epoch"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.CosineAnnealingLR(optimizer, N_STEPS)


class MilestoneBeyondTheRun(NothingMeant):
    code = "horizon-too-long"
    interval = "epoch"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.MultiStepLR(optimizer, [5, 30], 0.1)


class ReachesZero(NothingMeant):
    code = "lr-zero"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 40))


class StartsAtZero(NothingMeant):
    """torch's own example of LambdaLR."""

    code = "lr-zero"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.LambdaLR(optimizer, lambda step: step // 30)


class NothingTrained(NothingMeant):
    code = "lr-zero"
    lrs = (0.0, 0.0)


class GoesBelowZero(NothingMeant):
    code = "lr-negative"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.LambdaLR(optimizer, lambda step: 1 - step / 40)


class BecomesNaN(NothingMeant):
    code = "lr-not-finite"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.LambdaLR(optimizer, lambda step: math.nan if step == 20 else 1.0)


class OneFloorForAll(NothingMeant):
    code = "ratio-changes"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.CosineAnnealingLR(optimizer, N_STEPS, eta_min=0.005)


class SecondSchedulerOnOneGroup(NothingMeant):
    code = "ratio-changes"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for step in range(N_STEPS):
            optimizer.param_groups[1]["lr"] *= 1.0 if step < 20 else 0.95
            optimizer.step()
            scheduler.step()


class LrSetForOneStep(NothingMeant):
    code = "spike"

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for step in range(N_STEPS):
            scheduled = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] *= 10.0 if step == 25 else 1.0
            optimizer.step()
            for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
                group["lr"] = lr
            scheduler.step()


class AccuracyThatShouldFall(Mistake):
    code = "monitor-wrong-mode"
    interval = "epoch"
    given = tuple(0.5 + 0.04 * epoch for epoch in range(EPOCHS))
    monitor = "val/acc"
    mode: Literal["min", "max"] = "min"

    def scheduler(self, optimizer: Optimizer) -> Any:
        return schedulers.ReduceLROnPlateau(optimizer, self.mode, patience=2)

    def plan(self, optimizer: Optimizer, scheduler: Any) -> Plan:
        plan = plan_of(optimizer, scheduler, N_STEPS, interval="epoch", steps_per_epoch=PER_EPOCH, metrics=self.given)
        return replace(plan, scheduler={**plan.scheduler, "monitor": self.monitor})

    def loop(self, optimizer: Optimizer, scheduler: Any) -> None:
        for metric in self.given:
            for _ in range(PER_EPOCH):
                optimizer.step()
            scheduler.step(metric)


class LossThatShouldRise(AccuracyThatShouldFall):
    given = tuple(0.9 - 0.04 * epoch for epoch in range(EPOCHS))
    monitor = "val/loss"
    mode = "max"


class SmallLrs(Mistake):
    code = "lr-below-axis"
    lrs = (1e-5, 3e-8)


class FrozenGroup(Mistake):
    code = "group-never-updated"
    never_updated = ("lr/g1",)


def all_mistakes(kind: type[Mistake] = Mistake) -> list[type[Mistake]]:
    return [found for sub in kind.__subclasses__() for found in (sub, *all_mistakes(sub)) if found.code]


MISTAKES = all_mistakes()


def test_the_table_of_mistakes_is_long_enough() -> None:
    """At least twenty, and every code at least once."""
    assert len(MISTAKES) >= 20
    assert {mistake.code for mistake in MISTAKES} == set(CODES)


@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.filterwarnings("ignore:.*while step")
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_found_and_named(record: Record, mistake: type[Mistake]) -> None:
    """A mistake in a real loop, recorded by the real recorder, has one finding, of the right code."""
    findings = mistake().findings(record)

    assert [finding.code for finding in findings] == [mistake.code], findings


@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_finding_names_the_place_and_the_fix(record: Record, mistake: type[Mistake]) -> None:
    """Its key and step are on the tape, and its sentence names something of the user's: a config key or a call."""
    (finding,) = mistake().findings(record)

    assert finding.key in {"lr/g0", "lr/g1"}
    assert 0 <= finding.step < N_STEPS
    assert finding.message.endswith((".", ")"))
    assert re.search(r"`(scheduler|optimizer|trainer|param_groups|tracking)\b", finding.message)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_training_without_a_mistake_has_no_finding(record: Record, interval: str) -> None:
    """The same loop, done right."""
    training = Mistake()
    training.interval = interval

    assert training.findings(record) == []


def test_a_training_that_still_runs_is_judged_by_what_it_has() -> None:
    """The beginning of a planned tape has no finding, whatever its length."""
    optimizer = optimizer_of(0.1, 0.01)
    scheduler = schedulers.MultiStepLR(optimizer, [30, 50], 0.1)
    plan = plan_of(optimizer, scheduler, N_STEPS)
    assert plan.simulated is not None
    for n_steps in (1, 5, 12, 29, 31, 59):
        begun = Tape(point for point in plan.simulated.points() if point.step < n_steps)
        assert check(begun, plan) == []


def test_without_a_plan_only_the_tape_is_judged() -> None:
    """What is wrong by itself is found without knowing what was meant; an empty tape has no finding."""
    steps = [Point("lr/a", step, step, 0.1 if step < 5 else 0.0) for step in range(40)]
    fallen = [Point("lr/a", step, step, 0.1 if step < 5 else 1e-5) for step in range(40)]

    assert {finding.code for finding in check(Tape(steps))} == {"decays-too-fast", "lr-zero"}
    assert [finding.code for finding in check(Tape(fallen))] == ["decays-too-fast"]
    assert check(Tape()) == []
    assert check(Tape([Point("train/loss", 0, 0, 1.0)])) == []


def test_small_lrs_are_noted_where_they_matter() -> None:
    """More than 10 % of the steps below 1e-6, and above 0, of any group; not the end of a cosine, not zeros, not a run
    that has the logarithms, and not beside what is really wrong.
    """
    optimizer = optimizer_of(1e-3, 1e-3)
    cosine = plan_of(optimizer, schedulers.CosineAnnealingLR(optimizer, 1000), 1000)
    assert cosine.simulated is not None
    small = Tape([Point("lr/a", step, step, 1e-3) for step in range(100)])
    small = Tape([*small.points(), *(Point("lr/b", step, step, 9e-7 if step < 11 else 1e-5) for step in range(100))])

    assert check(cosine.simulated, cosine) == []
    (finding,) = check(small)
    assert (finding.code, finding.key, finding.step, finding.severity) == ("lr-below-axis", "lr/b", 0, "note")
    assert "lr_log10/b" in finding.message
    assert check(small, Plan(100, lr_log10=True)) == []
    assert check(Tape([Point("lr/a", step, step, 1e-6 if step < 50 else 0.1) for step in range(100)])) == []
    assert [found.code for found in check(Tape([Point("lr/a", step, step, -1e-7) for step in range(100)]))] == [
        "lr-negative"
    ]


def test_errors_come_first() -> None:
    """Of several findings the worst one is the first."""
    points = [Point("lr/a", step, step, -1.0 if step > 30 else 0.0) for step in range(40)]
    severities = [finding.severity for finding in check(Tape([*points, Point("lr/a", 40, 40, 1.0)]))]

    assert severities[0] == "error"
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_thresholds_can_be_changed() -> None:
    """What counts as too fast is the user's to say."""
    tape = Tape(Point("lr/a", step, step, 0.1 if step < 20 else 0.005) for step in range(100))

    assert check(tape) == []
    assert [finding.code for finding in check(tape, thresholds=Thresholds(decayed=0.1))] == ["decays-too-fast"]


def test_the_checks_are_fast() -> None:
    """10,000 steps of four groups, compared with their plan: well below a second of CPU time."""
    optimizer = optimizer_of(0.1, 0.03, 0.01, 0.003)
    plan = plan_of(optimizer, schedulers.CosineAnnealingLR(optimizer, 10_000), 10_000)
    assert plan.simulated is not None
    begin = time.process_time()
    assert check(plan.simulated, plan) == []

    assert time.process_time() - begin < 1.0
    assert len(CHECKS) == len(set(CHECKS))


def test_a_plan_from_the_middle_of_a_training_counts_what_was_stepped_before() -> None:
    """A horizon is that of the whole training: what is left of it fits into the steps that are left."""
    optimizer = optimizer_of(0.1)
    scheduler = schedulers.CosineAnnealingLR(optimizer, 100)
    for _ in range(60):
        optimizer.step()
        scheduler.step()
    plan = plan_of(optimizer, scheduler, 40)

    assert plan.simulated is not None
    assert [finding.code for finding in check(plan.simulated, plan) if finding.code.startswith("horizon")] == []


def test_a_one_cycle_that_ends_early_would_fail() -> None:
    """It raises in the middle of the run: an error, from the config alone."""
    optimizer = optimizer_of(0.1)
    tape = simulate(optimizer, schedulers.OneCycleLR(optimizer, 0.1, 30), 30)
    config = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "total_steps": 30}
    (finding,) = check(tape, Plan(N_STEPS, scheduler=config))

    assert (finding.code, finding.severity, finding.step) == ("horizon-too-short", "error", 30)
    assert "raises an error after 30 calls" in finding.message
