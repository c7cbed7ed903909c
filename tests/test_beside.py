"""What is recorded beside the lr, compared with what the weights and the gradients say."""

import gc
import math
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, SupportsFloat, TypeGuard

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import lrtape
from lrtape.arrivals import CUDA, Arrival
from lrtape.beside import QUANTITIES, Beside, StepValues
from lrtape.beside_recorder import BesideRecorder
from lrtape.errors import ConfigError
from lrtape.keys import Keys
from lrtape.tape import Group, GroupLayout, Point, Record, Tape
from lrtape.testing import record


def group(name: str, *weights: Any, **more: Any) -> dict[str, Any]:
    return {"params": [Parameter(torch.as_tensor(weight)) for weight in weights], "name": name, **more}


def with_grads(params: Sequence[Parameter], scale: float = 1.0) -> None:
    for index, param in enumerate(params):
        param.grad = torch.full_like(param, (index + 1) * scale)


def two_steps(optimizer: torch.optim.Optimizer, also: Sequence[str]) -> Tape:
    with record(optimizer, also=also) as tape:
        optimizer.step()
        optimizer.step()
    return tape


def values(tape: Any) -> dict[str, list[float]]:
    return {key: list(series.values) for key, series in tape.items() if not key.startswith("lr/")}


def test_momentum_and_weight_decay_are_those_that_the_step_used() -> None:
    """As the lr: what was there at the update, not what a scheduler sets afterwards; betas by their index; of a later
    optimizer with its name.
    """
    one = torch.optim.SGD([group("a", [1.0], momentum=0.5, weight_decay=0.1)], lr=0.1)
    other = torch.optim.AdamW([group("b", [1.0])], lr=0.1, betas=(0.8, 0.9), weight_decay=0.2)
    with record(one, other, also=["weight_decay", "momentum"]) as tape:
        for _ in range(2):
            for optimizer in (one, other):
                optimizer.step()
            one.param_groups[0] |= {"momentum": 0.25, "weight_decay": 0.0}

    assert values(tape) == {
        "momentum/a": [0.5, 0.25],
        "weight_decay/a": [0.1, 0.0],
        "beta1/adamw_1/b": [0.8, 0.8],
        "beta2/adamw_1/b": [0.9, 0.9],
        "weight_decay/adamw_1/b": [0.2, 0.2],
    }
    assert list(tape["momentum/a"].times_ms) == list(tape["lr/a"].times_ms)


def test_a_tensor_is_copied(recwarn: pytest.WarningsRecorder) -> None:
    """A beta that is a tensor, and is changed in place, leaves what was recorded alone; an lr that is one, and is not
    changed, is not said to be.
    """

    class Changes(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            self.param_groups[0]["betas"][0].fill_(0.25)

    optimizer = Changes([group("a", [1.0])], lr=torch.tensor(0.1), betas=(torch.tensor(0.5), torch.tensor(0.75)))
    tape = two_steps(optimizer, ["momentum"])

    assert values(tape) == {"beta1/a": [0.5, 0.25], "beta2/a": [0.75, 0.75]}
    assert not recwarn.list


def test_the_norm_of_the_gradients_is_that_of_the_group() -> None:
    """Of all its parameters together, without those that have no gradient; a group without any has no value."""
    optimizer = torch.optim.SGD([group("a", [3.0, 4.0], [[1.0]], [7.0]), group("b", [1.0])], lr=0.1)
    first, second, _ = optimizer.param_groups[0]["params"]
    first.grad, second.grad = torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])
    with record(optimizer, also=["grad_norm"]) as tape:
        optimizer.step()

    assert values(tape) == {"grad_norm/a": [13.0]}


@pytest.mark.parametrize(
    ("grad", "norm"),
    [
        (
            torch.sparse_coo_tensor(
                torch.tensor([[1, 1, 0]]), torch.tensor([1.0, 2.0, 4.0]), (3,), check_invariants=True
            ),
            5.0,
        ),
        (torch.tensor([3 + 4j, 12j]), 13.0),
        (torch.tensor([30000.0, 40000.0, 0.0], dtype=torch.float16), 50000.0),
        (torch.full((2,), 60000.0, dtype=torch.float16), 60000 * 2**0.5),
        (torch.tensor([3.0, 4.0], dtype=torch.float64), 5.0),
        (torch.full((4096,), 1.0, dtype=torch.bfloat16), 64.0),
    ],
    ids=["sparse, a row twice", "complex", "float16", "float16 that overflows", "float64", "bfloat16"],
)
def test_the_norm_is_right_for_every_kind_of_gradient(grad: Tensor, norm: float) -> None:
    """Rows of a sparse gradient add up; a norm is computed in float32 at least."""
    param = Parameter(torch.ones(grad.shape, dtype=grad.dtype))
    param.grad = grad
    optimizer = torch.optim.SGD([{"params": [param], "name": "a"}], lr=0.0)
    with record(optimizer, also=["grad_norm"]) as tape:
        optimizer.step()

    assert values(tape) == {"grad_norm/a": [pytest.approx(norm, rel=1e-6)]}


def test_one_group_may_have_several_types() -> None:
    """Their norms are put together without losing what the larger type has."""
    optimizer = torch.optim.SGD([group("a", [3.0]), group("b", [1.0])], lr=0.1)
    optimizer.add_param_group({"params": [Parameter(torch.ones(1, dtype=torch.float64)), Parameter(torch.ones(1))]})
    with_grads(optimizer.param_groups[2]["params"])
    with record(optimizer, also=["grad_norm", "update_ratio"]) as tape:
        optimizer.step()

    assert tape["grad_norm/group_02"].at(0) == pytest.approx(5**0.5)
    assert tape["update_ratio/group_02"].at(0) == pytest.approx(0.1 * (5 / 2) ** 0.5)


def test_the_update_ratio_is_what_the_weights_did() -> None:
    """The norm of the update by that of the weights before it, of all that move; weights of zeros have none."""
    optimizer = torch.optim.SGD([group("a", [3.0, 4.0], [12.0]), group("b", [0.0])], lr=0.5)
    optimizer.param_groups[0]["params"].append(Parameter(torch.tensor([100.0]), requires_grad=False))
    params = optimizer.param_groups[0]["params"]
    ratios = []
    with record(optimizer, also=["update_ratio"]) as tape:
        for _ in range(2):
            with_grads([*params[:2], *optimizer.param_groups[1]["params"]])
            before = torch.cat([param.detach().clone() for param in params[:2]])
            optimizer.step()
            after = torch.cat([param.detach() for param in params[:2]])
            ratios.append(((after - before).norm() / before.norm()).item())

    assert values(tape)["update_ratio/a"] == pytest.approx(ratios, rel=1e-6)
    assert list(tape["update_ratio/b"].steps) == [1]


def test_weights_of_complex_numbers_and_of_half_precision_have_a_ratio() -> None:
    """Whatever a weight is made of."""
    optimizer = torch.optim.SGD([group("c", [3 + 4j]), group("h", [2.0])], lr=0.5)
    optimizer.param_groups[1]["params"] = [Parameter(torch.tensor([2.0], dtype=torch.bfloat16))]
    for param_group in optimizer.param_groups:
        with_grads(param_group["params"])
    with record(optimizer, also=["update_ratio"]) as tape:
        optimizer.step()

    assert values(tape) == {"update_ratio/c": [pytest.approx(0.1)], "update_ratio/h": [0.25]}


def test_no_copy_of_the_weights_outlives_its_step() -> None:
    """Not even that of a step that has raised, once the next one begins."""
    alive: list[weakref.ref[Tensor]] = []

    class Fails(torch.optim.SGD):
        fails = False

        def step(self, closure: Any = None) -> Any:
            alive.extend(weakref.ref(one) for one in gc.get_objects() if type(one) is Tensor and one.shape == (1, 77))
            if self.fails:
                raise RuntimeError
            return super().step(closure)

    optimizer = Fails([{"params": [Parameter(torch.ones(1, 77))], "name": "a"}], lr=0.1)
    with record(optimizer, also=["update_ratio"], also_every_n_steps=2):
        optimizer.step()
        assert alive, "there was a copy"
        assert [one for one in alive if one() is not None] == []
        optimizer.step()
        optimizer.fails = True
        with pytest.raises(RuntimeError):
            optimizer.step()
        optimizer.param_groups[0]["params"][0].requires_grad_(False)
        optimizer.fails = False
        optimizer.step()
        assert [one for one in alive if one() is not None] == []


def test_the_gradient_of_a_closure_is_read_after_it() -> None:
    """A closure makes the gradient within the step; before it there is that of the step before, or none."""
    optimizer = torch.optim.SGD([group("a", [1.0])], lr=0.1)
    (param,) = optimizer.param_groups[0]["params"]
    scales = iter((3.0, 5.0, 7.0))

    def closure() -> float:
        param.grad = torch.full_like(param, next(scales))
        return 0.0

    with record(optimizer, also=["grad_norm"]) as tape:
        optimizer.step(closure)
        optimizer.step(closure=closure)
        optimizer.step(closure)

    assert values(tape) == {"grad_norm/a": [3.0, 5.0, 7.0]}

    memory = Memory()
    recorder = BesideRecorder(optimizer, 0, Keys(), beside=Beside.of(["grad_norm"], 1))
    recorder.start(memory)

    def closure_of_a_framework() -> float:
        recorder.reread()  # as Lightning's adapter does
        param.grad = torch.full_like(param, 9.0)
        return 0.0

    optimizer.step(closure_of_a_framework)
    assert [frame.value for frame in memory.frames if isinstance(frame, Point)] == [9.0]


def test_a_gradient_is_read_before_the_update_changes_it() -> None:
    """Some optimizers add the weight decay to the gradient in place."""

    class Spoils(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for param in self.param_groups[0]["params"]:
                param.grad.mul_(100)

    optimizer = Spoils([group("a", [1.0])], lr=0.1)
    with_grads(optimizer.param_groups[0]["params"])
    with record(optimizer, also=["grad_norm"]) as tape:
        optimizer.step()

    assert values(tape) == {"grad_norm/a": [1.0]}


def test_what_a_subclass_does_before_the_update_counts() -> None:
    """It is read next to the update, and once, also where ``step()`` calls ``super().step()``."""

    class Halves(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for param in self.param_groups[0]["params"]:
                param.grad.mul_(0.5)
            return super().step(closure)

    optimizer = Halves([group("a", [1.0])], lr=0.5)
    with_grads(optimizer.param_groups[0]["params"], 0.5)
    with record(optimizer, also=["grad_norm", "update_ratio"]) as tape:
        optimizer.step()

    assert values(tape) == {"grad_norm/a": [0.25], "update_ratio/a": [0.125]}


def test_it_is_read_at_multiples_of_the_interval() -> None:
    """Of the index of the step, also in a training that is resumed, and where a framework has counted on in between."""
    optimizer = torch.optim.SGD([group("a", [1.0])], lr=0.1)
    with record(optimizer, first_step=5, also=["momentum"], also_every_n_steps=4) as tape:
        for _ in range(9):
            optimizer.step()
    assert list(tape["momentum/a"].steps) == [8, 12]
    assert list(tape["lr/a"].steps) == list(range(5, 14))

    memory = Memory()
    recorder = BesideRecorder(optimizer, 0, Keys(), beside=Beside.of(["momentum"], 4))
    recorder.start(memory)
    optimizer.step()
    recorder.align(6)
    for _ in range(4):
        optimizer.step()
    assert [frame.step for frame in memory.frames if isinstance(frame, Point)] == [0, 6, 8]


def test_a_frozen_group_has_none() -> None:
    """It does not move; its values begin with the step in which it is thawed."""
    optimizer = torch.optim.SGD([group("a", [1.0], frozen=True), group("b", [1.0])], lr=0.1)
    with record(optimizer, also=["momentum", "update_ratio"]) as tape:
        optimizer.step()
        optimizer.param_groups[0]["frozen"] = False
        optimizer.step()

    assert [list(tape[f"{name}/a"].steps) for name in ("momentum", "update_ratio", "lr")] == [[1], [1], [1]]
    assert [list(tape[f"{name}/b"].steps) for name in ("momentum", "update_ratio", "lr")] == [[0, 1]] * 3


@pytest.mark.parametrize(("is_fused", "unscales"), [(False, False), (True, False), (True, True)])
def test_under_a_grad_scaler_the_norm_is_the_true_one_and_a_skipped_step_has_none(
    is_fused: bool, unscales: bool
) -> None:
    """A fused optimizer is given gradients that are still multiplied, and is called also for what it then skips. Where
    that step was due, the next one is read.
    """
    optimizer = torch.optim.AdamW([group("a", [3.0, 4.0])], lr=0.1, fused=is_fused)
    (param,) = optimizer.param_groups[0]["params"]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with record(optimizer, also=["grad_norm", "update_ratio"], also_every_n_steps=2) as tape:
        for factor in (float("inf"), 1.0, 1.0, 2.0, float("inf"), 4.0):
            optimizer.zero_grad()
            scaler.scale((param * torch.tensor([3.0, 4.0]) * factor).sum()).backward()
            if unscales:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()

    assert list(tape["lr/a"].steps) == [0, 1, 2, 3]
    assert list(tape["grad_norm/a"].steps) == [0, 2]
    assert list(tape["grad_norm/a"].values) == pytest.approx([5.0, 10.0])
    assert all(0 < ratio < 1 for ratio in tape["update_ratio/a"].values)


class SlowDevice:
    """Holds every tensor; of what was copied, the first `n_finished` are there."""

    n_finished = 0.0
    n_copies = 0
    n_waits = 0

    def holds(self, value: object) -> TypeGuard[Tensor]:
        return isinstance(value, Tensor)

    def copy(self, numbers: Sequence[SupportsFloat]) -> Arrival:
        self.n_copies += 1
        return _SlowArrival(self, self.n_copies, [float(number) for number in numbers])


class _SlowArrival:
    def __init__(self, device: SlowDevice, count: int, numbers: list[float]) -> None:
        self._device = device
        self._count = count
        self._numbers = numbers

    def is_here(self) -> bool:
        return self._count <= self._device.n_finished

    def numbers(self) -> list[float]:
        self._device.n_waits += not self.is_here()
        return self._numbers


class Memory:
    def __init__(self) -> None:
        self.frames: list[Any] = []

    def write(self, frame: Any) -> bool:
        self.frames.append(frame)
        return True

    def tend(self) -> None:
        pass


def test_no_device_is_waited_for_and_values_find_their_step() -> None:
    """While it is behind, nobody knows which steps were skipped: values are written under the index that their step
    turns out to have. What is still under way at the end is waited for.
    """
    optimizer = torch.optim.SGD([group("a", [1.0])], lr=torch.tensor(0.1), fused=True)
    device, memory = SlowDevice(), Memory()
    beside = Beside.of(["grad_norm", "update_ratio"], 2)
    recorder = BesideRecorder(optimizer, 0, Keys(), devices=device, beside=beside)
    recorder.start(memory)
    for step, found_inf in enumerate((0.0, 1.0, 0.0, 0.0, 0.0)):
        optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        with_grads(optimizer.param_groups[0]["params"], float(step))
        optimizer.step()
    assert (memory.frames, device.n_waits) == ([], 0)

    device.n_finished = math.inf
    with_grads(optimizer.param_groups[0]["params"], 5.0)
    optimizer.step()
    optimizer.step()
    rows = [(frame.step, frame.value) for frame in memory.frames if isinstance(frame, Point) and "grad" in frame.key]
    assert rows[:3] == [(0, 0.0), (1, 2.0), (3, 4.0)], "the third call was to be step 2, and was step 1"
    assert [frame.step for frame in memory.frames if isinstance(frame, Record)] == [0, 1, 2, 3, 4, 5]

    device.n_finished = 0
    for _ in range(2):
        optimizer.step()
    recorder.stop()
    rows = [(frame.step, frame.value) for frame in memory.frames if isinstance(frame, Point) and "grad" in frame.key]
    assert rows[-1] == (6, 5.0)


def test_values_are_written_when_they_are_here() -> None:
    """At the next step, also long before the next one that is due; no copy of the weights is held until then."""
    optimizer = torch.optim.SGD([{"params": [Parameter(torch.ones(1, 55))], "name": "a"}], lr=0.1)
    device, memory = SlowDevice(), Memory()
    recorder = BesideRecorder(optimizer, 0, Keys(), devices=device, beside=Beside.of(["update_ratio"], 100))
    recorder.start(memory)
    optimizer.step()
    assert not any(type(one) is Tensor and one.shape == (1, 55) for one in gc.get_objects())

    device.n_finished = 1
    optimizer.step()
    assert [type(frame) for frame in memory.frames] == [GroupLayout, Record], "the step is there, its values are not"
    device.n_finished = math.inf
    optimizer.step()
    assert [frame.step for frame in memory.frames if isinstance(frame, Point)] == [0]
    assert device.n_waits == 0


def test_a_replay_has_no_values() -> None:
    """`Session.record` is called when the update is over: nothing can be compared with what was before."""
    optimizer = torch.optim.SGD([group("a", [1.0])], lr=0.1)
    memory = Memory()
    recorder = BesideRecorder(optimizer, 0, Keys(), beside=Beside.of(["momentum"], 1))
    recorder.start(memory)
    recorder.record()
    recorder.before_step(optimizer, (), {})  # of a step that raises
    recorder.record()
    optimizer.step()

    assert [frame.step for frame in memory.frames if isinstance(frame, Point)] == [2]


def test_what_cannot_be_is_refused_before_the_training() -> None:
    """With what there is."""
    optimizer = torch.optim.SGD([group("a", [1.0])], lr=0.1)
    for also in (["grad_norm", "gradnorm"], "gradnorm", "grad_norm"):
        with pytest.raises(ConfigError, match=r"`also` must be .* momentum, weight_decay, grad_norm, update_ratio"):
            lrtape.attach(optimizer, run=None, also=also)
    for interval in (0, 1.5, True):
        with pytest.raises(ConfigError, match="`also_every_n_steps` must be"):
            lrtape.attach(optimizer, run=None, also=["grad_norm"], also_every_n_steps=interval)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`also` must be"):
        lrtape.autolog(also=["gradnorm"])


def test_what_an_optimizer_does_not_have_is_said_once() -> None:
    """And everything else is recorded."""
    optimizer = torch.optim.Rprop([group("a", [1.0])], lr=0.1)
    with pytest.warns(UserWarning, match="Rprop has nothing that lrtape knows as its") as caught:
        tape = two_steps(optimizer, QUANTITIES)

    assert [str(one.message).rpartition(" ")[2] for one in caught] == ["momentum.", "weight_decay.", "effective_lr."]
    assert set(values(tape)) == {"update_ratio/a"}


def test_what_cannot_be_read_does_not_end_the_training() -> None:
    """It is said once, and the lrs are recorded as ever; not even where warnings are errors a step fails."""

    class Broken(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is Tensor.clone:
                raise NotImplementedError("no copies")
            return super().__torch_function__(function, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    param = Parameter(torch.ones(1).as_subclass(Broken))
    optimizer = torch.optim.SGD([{"params": [param], "name": "a"}], lr=0.1)
    with pytest.warns(UserWarning, match="no copies") as caught:
        two_steps(optimizer, ["update_ratio"])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tape = two_steps(optimizer, ["update_ratio"])
    assert list(tape["lr/a"].steps) == [0, 1]
    assert values(tape) == {}


def test_a_parameter_in_parts_is_left_out() -> None:
    """The norm of a part would lie, and that of the whole would make this process wait for the others. A parameter that
    is whole in this process has its norm.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2,))
        groups = [
            {"params": [Parameter(distribute_tensor(torch.ones(4), mesh, [placement]))], "name": name}
            for placement, name in ((Shard(0), "part"), (Replicate(), "whole"))
        ]
        groups[1]["params"] = [*groups[1]["params"], Parameter(torch.zeros(1))]
        optimizer = torch.optim.SGD(groups, lr=0.5)
        for param_group in optimizer.param_groups:
            with_grads(param_group["params"])
        with pytest.warns(UserWarning, match="in parts on several processes") as caught:
            tape = two_steps(optimizer, ["grad_norm", "update_ratio"])
        whole = [(Group("whole", "lr/whole"), optimizer.param_groups[1])]
        numbers = StepValues(["grad_norm", "update_ratio"], optimizer, whole, (), {}, CUDA).end()
        assert {type(number) for number in numbers} == {float, Tensor}, "plain tensors, which can be copied"
    finally:
        dist.destroy_process_group()

    assert len(caught) == 2
    assert values(tape) == {
        "grad_norm/whole": pytest.approx([8**0.5, 8**0.5]),
        "update_ratio/whole": pytest.approx([0.5**0.5, 1.0]),
    }


def test_values_have_the_names_of_their_groups_in_the_run() -> None:
    """A session that binds to its run with the first step may have to number a name that is taken there."""
    optimizer = torch.optim.SGD([group("a", [1.0])], lr=0.1)
    keys, memory = Keys(), Memory()
    keys.reserve("a")
    recorder = BesideRecorder(optimizer, 0, Keys(), beside=Beside.of(["momentum"], 1))

    class Binds(Memory):
        def write(self, frame: Any) -> bool:
            recorder.move(keys, memory)
            return memory.write(frame)

    recorder.start(Binds())
    optimizer.step()
    assert [frame.key for frame in memory.frames if isinstance(frame, Point)] == ["momentum/a_2"]


def test_autolog_sends_it_to_mlflow(store: str) -> None:
    """As any other metric, and the run is complete."""
    import mlflow

    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run:
        lrtape.autolog(also=["momentum", "update_ratio"], also_every_n_steps=2)
        optimizer = torch.optim.SGD([group("a", [1.0])], lr=0.5)
        with_grads(optimizer.param_groups[0]["params"])
        optimizer.step()
        optimizer.step()
        lrtape.autolog(disable=True)

    tape = lrtape.read_run(run.info.run_id, store)
    assert {key: dict(zip(series.steps, series.values, strict=True)) for key, series in tape.items()} == {
        "lr/a": {0: 0.5, 1: 0.5},
        "momentum/a": {0: 0.0},
        "update_ratio/a": {0: 0.5},
    }
    assert mlflow.get_run(run.info.run_id).data.tags["lrtape.complete"] == "true"
