import copy
import functools
import gc
import warnings
import weakref
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lrtape.errors import ConfigError
from lrtape.keys import Keys
from lrtape.recorder import Recorder
from lrtape.step_findings import AMBIGUOUS_LR
from lrtape.tape import Finding, GroupLayout, Point, Record


class Memory:
    """Keeps what a recorder writes; can be told to fail."""

    def __init__(self) -> None:
        self.frames: list[GroupLayout | Record | Point | Finding] = []
        self.fails = False
        self.tended = 0

    def write(self, frame: GroupLayout | Record | Point | Finding) -> bool:
        if not self.fails:
            self.frames.append(frame)
        return not self.fails

    def tend(self) -> None:
        self.tended += 1

    @property
    def lrs(self) -> list[list[float]]:
        return [frame.lrs for frame in self.frames if isinstance(frame, Record)]


class NotingSGD(torch.optim.SGD):
    """Notes what its update really uses: the truth, independent of any hook."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.used: list[list[float]] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.used.append([float(group["lr"]) for group in self.param_groups])
        for group in self.param_groups:
            for param in group["params"]:
                param -= group["lr"]


class ChangingSGD(NotingSGD):
    """Changes its param groups within the update, for nobody to see."""

    change: Callable[[list[dict[str, Any]]], Any]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.change(self.param_groups)


def two_groups(**second: Any) -> list[dict[str, Any]]:
    return [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "name": "a"},
        {"params": [torch.nn.Parameter(torch.zeros(1))], "name": "b", **second},
    ]


def recording(optimizer: torch.optim.Optimizer) -> tuple[Recorder, Memory]:
    memory = Memory()
    recorder = Recorder(optimizer, 0, Keys())
    recorder.start(memory)
    return recorder, memory


def test_the_used_lr_is_recorded_and_not_the_next_one() -> None:
    """StepLR(2, 0.1) from 1: the steps used 1, 1, .1, .1, .01, whatever the scheduler set afterwards."""
    optimizer = NotingSGD(two_groups(lr=0.5), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    recorder, memory = recording(optimizer)
    for _ in range(5):
        optimizer.step()
        scheduler.step()

    assert memory.lrs == optimizer.used
    assert memory.lrs[2] == [0.1, 0.05]
    assert recorder.steps == 5
    assert [frame.step for frame in memory.frames if isinstance(frame, Record)] == [0, 1, 2, 3, 4]


def test_an_lr_set_by_hand_is_seen() -> None:
    """Whoever set the lr before the step, it is what is recorded."""
    optimizer = NotingSGD(two_groups(), lr=1.0)
    _, memory = recording(optimizer)
    for lr in (0.3, 0.2):
        optimizer.param_groups[1]["lr"] = lr
        optimizer.step()

    assert memory.lrs == optimizer.used == [[1.0, 0.3], [1.0, 0.2]]


def test_a_tensor_lr_does_not_alias() -> None:
    """A tensor lr that is changed in place afterwards leaves what was recorded alone."""
    optimizer = torch.optim.SGD(two_groups(), lr=torch.tensor(0.5))
    _, memory = recording(optimizer)
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"].fill_(0.25)
    optimizer.step()

    assert memory.lrs == [[0.5, 0.5], [0.25, 0.25]]


def test_a_step_that_raises_is_no_step() -> None:
    """An exception in the closure records nothing, and the steps after it are recorded as usual."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    recorder, memory = recording(optimizer)

    def closure() -> float:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(closure)
    assert (recorder.steps, memory.lrs) == (0, [])
    optimizer.step()
    optimizer.step()
    assert (recorder.steps, len(memory.lrs)) == (2, 2)


def test_a_step_that_calls_super_is_one_step() -> None:
    """A subclass fires the hooks twice in one step: recorded once, with what the inner step used."""

    class WarmUp(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                group["lr"] = 0.125
            super().step(closure)

    torch.optim.SGD(two_groups(), lr=1.0)  # from now on SGD.step has hooks of its own
    optimizer = WarmUp(two_groups(), lr=1.0)
    recorder, memory = recording(optimizer)
    optimizer.step()

    assert memory.lrs == [[0.125, 0.125]]
    assert recorder.steps == 1


def test_an_lr_that_changes_within_a_step_is_a_finding() -> None:
    """Where nothing tells which lr was used, a person is told once, and the first is kept."""
    optimizer = ChangingSGD(two_groups(), lr=1.0)
    optimizer.change = lambda groups: [group.update(lr=group["lr"] / 2) for group in groups]
    recorder, memory = recording(optimizer)
    with pytest.warns(UserWarning, match="lr/a changed from 1.0 to 0.5 while step 0 ran"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()

    assert memory.lrs == [[1.0, 1.0], [0.5, 0.5]]
    assert [(finding.code, finding.key, finding.step) for finding in recorder.findings] == [(AMBIGUOUS_LR, "lr/a", 0)]


def halve(optimizer: torch.optim.Optimizer, closure: Any = None) -> float:
    for group in optimizer.param_groups:
        group["lr"] /= 2
    return 0.0


@pytest.mark.parametrize("by_name", [False, True], ids=["closure", "closure-by-name"])
def test_an_lr_that_a_closure_changes_is_a_finding(by_name: bool) -> None:
    """Torch's own optimizers change no lr, and are not looked at again, unless they run somebody else's code."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    recorder, memory = recording(optimizer)
    args, kwargs = ((), {"closure": lambda: halve(optimizer)}) if by_name else ((lambda: halve(optimizer),), {})
    with pytest.warns(UserWarning, match="lr/a changed from 1.0 to 0.5 while step 0 ran"):
        optimizer.step(*args, **kwargs)

    assert memory.lrs == [[1.0, 1.0]]
    assert [finding.code for finding in recorder.findings] == [AMBIGUOUS_LR]


def halve_before(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def halving(optimizer: torch.optim.Optimizer) -> Any:
        halve(optimizer)
        return step(optimizer)

    return halving


@pytest.mark.parametrize("new", [halve, halve_before(torch.optim.Adagrad.step)], ids=["replaced", "wrapped"])
def test_an_lr_that_somebody_elses_step_changes_is_a_finding(new: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of torch's is torch's own only as long as its ``step()`` is."""
    monkeypatch.setattr(torch.optim.Adagrad, "step", new)
    optimizer = torch.optim.Adagrad(two_groups(), lr=1.0)
    _, memory = recording(optimizer)
    with pytest.warns(UserWarning, match="lr/a changed from 1.0 to 0.5 while step 0 ran"):
        optimizer.step()

    assert memory.lrs == [[1.0, 1.0]]


def test_a_group_added_later_starts_its_own_curve() -> None:
    """A new group gets a key of its own, and no other group is renamed."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    recorder, memory = recording(optimizer)
    optimizer.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "name": "a", "lr": 0.5})
    optimizer.step()

    assert [group.key for group in recorder.groups] == ["lr/a", "lr/b", "lr/a_2"]
    assert memory.lrs == [[1.0, 1.0], [1.0, 1.0, 0.5]]
    assert [type(frame) for frame in memory.frames] == [GroupLayout, Record, GroupLayout, Record]


def test_a_group_that_goes_takes_no_name_with_it() -> None:
    """When the first group is removed, the second keeps its key."""
    optimizer = torch.optim.SGD(two_groups(lr=0.5), lr=1.0)
    recorder, memory = recording(optimizer)
    optimizer.step()
    del optimizer.param_groups[0]
    optimizer.step()

    assert [group.key for group in recorder.groups] == ["lr/b"]
    assert memory.lrs == [[1.0, 0.5], [0.5]]


def test_a_group_that_takes_the_place_of_another_gets_its_own_name() -> None:
    """One group removed and one added between two steps: their number is the same, their curves are not."""
    optimizer = torch.optim.SGD(two_groups(lr=0.5), lr=1.0)
    recorder, _ = recording(optimizer)
    optimizer.step()
    del optimizer.param_groups[1]
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "name": "c"})
    optimizer.param_groups.reverse()
    optimizer.step()

    assert [group.key for group in recorder.groups] == ["lr/c", "lr/a"]


def test_not_even_warnings_as_errors_fail_a_step() -> None:
    """A finding is told by a warning, which must not come out of `optimizer.step()`."""
    optimizer = ChangingSGD(two_groups(), lr=1.0)
    optimizer.change = lambda groups: groups[0].update(lr=0.5)
    recorder, _ = recording(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()

    assert len(recorder.findings) == 1


def test_loading_a_state_keeps_the_names() -> None:
    """`load_state_dict` replaces the groups' dictionaries; their keys stay, also when a group is added after it."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    recorder, _ = recording(optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "name": "c"})
    optimizer.step()

    assert [group.key for group in recorder.groups] == ["lr/a", "lr/b", "lr/c"]


def test_a_copy_records_nothing() -> None:
    """A deep copy of the optimizer has no hooks: its steps are not the original's."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    recorder, _ = recording(optimizer)
    copy.deepcopy(optimizer).step()

    assert recorder.steps == 0


def test_records_wait_for_the_names_of_their_groups() -> None:
    """No record is written before its groups are: without their names it could not be read."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    _, memory = recording(optimizer)
    memory.fails = True
    optimizer.step()
    memory.fails = False
    optimizer.step()

    assert [type(frame) for frame in memory.frames] == [GroupLayout, Record]
    assert isinstance(memory.frames[1], Record)
    assert memory.frames[1].step == 1


def test_an_lr_that_cannot_be_read_does_not_stop_training() -> None:
    """An lr that becomes something odd is warned about once; steps that can be read are recorded."""

    class Lazy(NotingSGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            """Does not care about the lr."""

    optimizer = Lazy(two_groups(), lr=1.0)
    recorder, memory = recording(optimizer)
    optimizer.param_groups[0]["lr"] = None
    with pytest.warns(UserWarning, match="could not record step 0 of Lazy"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()

    assert memory.lrs == [[0.5, 1.0]]
    assert recorder.steps == 1


def test_an_optimizer_without_an_lr_is_refused() -> None:
    """What cannot be recorded is said before training starts."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    optimizer.param_groups[1]["lr"] = None

    with pytest.raises(ConfigError, match="lr of param group 1 of SGD must be a number, but is None"):
        Recorder(optimizer, 0, Keys())


def test_a_stopped_recorder_records_nothing() -> None:
    """After stop() the optimizer is as it was; stopping twice is harmless."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    recorder, memory = recording(optimizer)
    recorder.stop()
    recorder.stop()
    optimizer.step()

    assert memory.frames == []


def test_a_recorder_keeps_no_optimizer_alive() -> None:
    """Nor a parameter, which may be gigabytes on a GPU: both go with their owner, and the recorder stays usable."""
    optimizer = torch.optim.SGD(two_groups(frozen=False), lr=1.0)
    recorder, _ = recording(optimizer)
    optimizer.step()
    gone = weakref.ref(optimizer), weakref.ref(optimizer.param_groups[1]["params"][0])
    del optimizer
    gc.collect()

    assert [reference() for reference in gone] == [None, None]
    recorder.start(Memory())
    recorder.stop()
    assert (recorder.steps, [group.key for group in recorder.groups]) == (1, ["lr/a", "lr/b"])


def test_a_recorder_moves_to_another_run_within_a_step() -> None:
    """By the writer that it replaces, in a post-hook: the step and its names go to the new one, numbered if taken."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    recorder, run, keys = Recorder(optimizer, 0, Keys()), Memory(), Keys()
    keys.reserve("b")

    class Moves(Memory):
        def write(self, frame: GroupLayout | Record | Point | Finding) -> bool:
            assert isinstance(frame, GroupLayout)
            recorder.move(keys, run)
            return run.write(GroupLayout(0, recorder.named_now(frame.groups)))

    recorder.start(Moves())
    for _ in range(2):
        optimizer.step()

    assert {*map(tuple, keys_of(run.frames))} == {("lr/a", "lr/b_2")}
    assert [frame.step for frame in run.frames if isinstance(frame, Record)] == [0, 1]


def test_a_recorder_that_takes_over_within_a_scaled_step_counts_no_skip() -> None:
    """Another run has become active: the step is the new recorder's, and neither of the two believes it was skipped."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.zeros(1)
    old, _ = recording(optimizer)
    new, memory = Recorder(optimizer, 0, Keys()), Memory()

    def take_over(*_: object) -> None:
        old.stop()
        new.start(memory)

    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.zeros(1))
    hook = register_optimizer_step_pre_hook(take_over)
    try:
        scaler.step(optimizer)
    finally:
        hook.remove()
    new.stop()
    old.start(Memory())
    optimizer.step()

    assert memory.lrs == [[1.0, 1.0]]
    assert [(recorder.steps, recorder.skipped_steps) for recorder in (old, new)] == [(1, 0), (1, 0)]


def keys_of(frames: list[GroupLayout | Record | Point | Finding]) -> list[list[str]]:
    return [[group.key for group in frame.groups] for frame in frames if isinstance(frame, GroupLayout)]


def test_a_frozen_group_has_no_rows_until_it_is_thawed() -> None:
    """Its key is there from the beginning and its curve from the first step after the thaw; frozen again, it pauses."""
    optimizer = torch.optim.SGD(two_groups(frozen=True, lr=0.5), lr=1.0)
    recorder, memory = recording(optimizer)
    for frozen in (True, True, False, False, True):
        optimizer.param_groups[1]["frozen"] = frozen
        optimizer.step()

    assert [group.key for group in recorder.groups] == ["lr/a", "lr/b"]
    assert memory.lrs == [[1.0], [1.0], [1.0, 0.5], [1.0, 0.5], [1.0]]
    assert keys_of(memory.frames) == [["lr/a"], ["lr/a", "lr/b"], ["lr/a"]]


def test_a_flag_that_is_taken_away_thaws() -> None:
    """`group.pop("frozen")` is as good as setting it to false: the recording goes on, of every group."""
    optimizer = torch.optim.SGD(two_groups(frozen=True, lr=0.5), lr=1.0)
    recorder, memory = recording(optimizer)
    optimizer.step()
    del optimizer.param_groups[1]["frozen"]
    optimizer.step()

    assert memory.lrs == [[1.0], [1.0, 0.5]]
    assert recorder.steps == 2


def test_a_frozen_group_keeps_its_key_from_others() -> None:
    """A group that is added while another one is frozen does not get its name; a loaded state is the same group."""
    optimizer = torch.optim.SGD(two_groups(frozen=True, lr=0.5), lr=1.0)
    recorder, memory = recording(optimizer)
    optimizer.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "name": "b", "lr": 0.25})
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    state["param_groups"][1]["frozen"] = False
    optimizer.load_state_dict(state)
    optimizer.step()

    assert keys_of(memory.frames) == [["lr/a"], ["lr/a", "lr/b_2"], ["lr/a", "lr/b", "lr/b_2"]]
    assert memory.lrs == [[1.0], [1.0, 0.25], [1.0, 0.5, 0.25]]
    assert [group.key for group in recorder.groups] == ["lr/a", "lr/b", "lr/b_2"]


def test_steps_are_counted_where_all_is_frozen() -> None:
    """A step in which no group moves is a step all the same."""
    groups = [{**group, "frozen": True} for group in two_groups()]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    _, memory = recording(optimizer)
    optimizer.step()
    optimizer.param_groups[0]["frozen"] = False
    optimizer.step()

    assert [(frame.step, frame.lrs) for frame in memory.frames if isinstance(frame, Record)] == [(0, []), (1, [1.0])]


def test_an_lr_that_changes_within_a_step_is_that_of_its_group() -> None:
    """Also where a frozen group comes first, whose own lr says nothing."""
    first, second = two_groups()
    optimizer = ChangingSGD([{**first, "frozen": True}, second], lr=1.0)
    optimizer.change = lambda groups: groups[0].update(lr=0.5)
    recorder, _ = recording(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    optimizer.change = lambda groups: groups[1].update(lr=0.5)
    with pytest.warns(UserWarning, match=r"lr/b changed from 1\.0 to 0\.5 while step 1 ran"):
        optimizer.step()

    assert [(finding.key, finding.step) for finding in recorder.findings] == [("lr/b", 1)]


def test_a_group_that_is_gone_for_a_while_comes_back_by_its_name() -> None:
    """So DeepSpeed steps one group after the other; no key is ever made twice for a group."""
    optimizer = torch.optim.SGD(two_groups(), lr=1.0)
    recorder, memory = recording(optimizer)
    groups = optimizer.param_groups
    for _ in range(3):
        for group in groups:
            optimizer.param_groups = [group]
            optimizer.step()
    optimizer.param_groups = groups
    optimizer.step()

    assert recorder.steps == 7
    keys = {group.key for frame in memory.frames if isinstance(frame, GroupLayout) for group in frame.groups}
    assert keys == {"lr/a", "lr/b"}


def test_groups_that_a_subclass_hides_are_groups_of_the_step() -> None:
    """It updates one group itself, and leaves the other one to ``super().step()``: both have used their lr."""

    class Mixed(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            both = self.param_groups
            self.param_groups = both[1:]
            super().step(closure)
            self.param_groups = both

    optimizer = Mixed(two_groups(lr=0.25), lr=1.0)
    recorder, memory = recording(optimizer)
    for _ in range(3):
        optimizer.step()
    assert memory.lrs == [[1.0, 0.25]] * 3
    assert [group.key for group in recorder.groups] == ["lr/a", "lr/b"]


@pytest.mark.parametrize("lr", [Fraction(1, 10), np.longdouble("0.1"), float("nan"), torch.tensor(float("nan"))])
def test_an_odd_number_is_recorded_as_what_it_is(lr: Any) -> None:
    """A number of any type, also NaN, is no reason to fail a step, nor to say that it has changed."""
    optimizer = NotingSGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr}], lr=1.0)
    recorder, memory = recording(optimizer)
    recorder.record()
    assert repr(memory.lrs) == repr([[float(lr)]])
    assert recorder.findings == []
