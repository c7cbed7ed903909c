import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor

from lrtape.app.data import digits
from lrtape.app.init_from import init_model
from lrtape.app.models import MLP
from lrtape.errors import ConfigError
from lrtape.tape import Tape
from lrtape.tracking.history import read_run

Train = Callable[..., float]
BEST = Path("outputs/pretrain/checkpoints/best.pt")


@pytest.fixture
def pretrained(train_in_process: Train, store: str, tmp_path: Path) -> dict[str, Tensor]:
    """What `experiment=pretrain` leaves where `experiment=transfer` looks for it; the weights."""
    train_in_process("experiment=pretrain", "trainer.epochs=3")
    (tmp_path / "output").rename(tmp_path / "pretrained")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "pretrained").rename(tmp_path / "outputs" / "pretrain")
    weights: dict[str, Tensor] = torch.load(BEST, weights_only=True)["model"]
    return weights


def last_weights(tmp_path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(tmp_path / "output/checkpoints/last.pt", weights_only=True)["model"]
    return weights


def tape_of(run_name: str, store: str) -> Tape:
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run_name}'")
    return read_run(run.info.run_id, store)


def test_a_frozen_backbone_stays_bit_for_bit(
    train_in_process: Train, pretrained: dict[str, Tensor], store: str, tmp_path: Path
) -> None:
    """Pretrained on 0 to 4 and fine-tuned on 5 to 9: the backbone's weights are those of the pretraining, the head is
    another one and learns, and the tape has that the backbone was frozen, and no lr but the head's.
    """
    first = train_in_process("experiment=transfer", "trainer.epochs=1")
    after_one = last_weights(tmp_path)
    last = train_in_process("experiment=transfer", "trainer.epochs=4", "tracking.run_name=longer")
    weights, tape = last_weights(tmp_path), tape_of("longer", store)

    for name, values in pretrained.items():
        is_head = name.startswith("layer3.")
        assert torch.equal(weights[name], values) != is_head
        assert torch.equal(weights[name], after_one[name]) != is_head
    assert last < first
    assert list(tape["frozen/backbone"].values) == [1.0] * 4
    assert "frozen/head" not in tape
    assert set(tape["lr/head"].values) == {0.01}
    assert list(tape.lr) == ["lr/head"]


def test_a_thawed_backbone_is_no_longer_frozen_on_the_tape(
    train_in_process: Train,
    pretrained: dict[str, Tensor],
    store: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One value for each epoch, at its first step; its curve begins with its first used lr, the weights move, and the
    console says the same.
    """
    train_in_process("experiment=transfer", "trainer.epochs=4", "param_groups.unfreeze_at_epoch=2")
    tape = tape_of("transfer", store)

    assert list(tape["frozen/backbone"].values) == [1.0, 1.0, 0.0, 0.0]
    assert list(tape["frozen/backbone"].steps) == [0, 12, 24, 36]
    assert list(tape["lr/backbone"].steps) == list(range(24, 48))
    assert set(tape["lr/backbone"].values) == {0.001}
    assert not torch.equal(last_weights(tmp_path)["layer1.weight"], pretrained["layer1.weight"])
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("epoch") and "val/loss" in line][-4:]
    assert [re.search("backbone (.*)  head", line)[1] for line in lines] == [  # type: ignore[index]
        "frozen",
        "frozen (next 0.001)",
        "0.001 (next 0.001)",
        "0.001",
    ]
    assert "lrtape: " not in err, "neither the plan nor the recording has anything wrong"


def test_layerwise_decay_moves_early_layers_less(
    train_in_process: Train, pretrained: dict[str, Tensor], store: str, tmp_path: Path
) -> None:
    """Every layer has its own curve, 0.3 times the one of the next layer; all move, the first one the least."""
    train_in_process("experiment=transfer_decay", "trainer.epochs=2")
    weights, tape = last_weights(tmp_path), tape_of("transfer_decay", store)

    assert [tape[f"lr/layer{index}"].values[0] for index in (1, 2, 3)] == pytest.approx([0.0009, 0.003, 0.01])
    assert not any(key.startswith("frozen/") for key in tape)
    moved = [float((weights[name] - pretrained[name]).abs().mean()) for name in ("layer1.weight", "layer2.weight")]
    assert 0 < moved[0] < moved[1]


def test_a_training_that_is_resumed_does_not_begin_anew(
    train_in_process: Train, pretrained: dict[str, Tensor], store: str, tmp_path: Path
) -> None:
    """It goes on with its own weights, not with those that it began with, whose file is not even needed."""
    train_in_process("experiment=transfer_decay", "trainer.epochs=2")
    BEST.unlink()
    last = tmp_path / "output/checkpoints/last.pt"
    train_in_process("trainer.epochs=3", f"trainer.resume={last}", "trainer.resume_override=true", "tracking=off")
    resumed = last_weights(tmp_path)
    (tmp_path / "outputs/pretrain/checkpoints/last.pt").rename(BEST)

    torch.save(pretrained, BEST)  # a plain state_dict does as well
    train_in_process("experiment=transfer_decay", "trainer.epochs=3", "tracking=off")
    assert all(torch.equal(resumed[name], values) for name, values in last_weights(tmp_path).items())


def samples(dataset: Any) -> list[Any]:
    """All of them; torch's Dataset does not say that it is sized."""
    return [dataset[index] for index in range(len(dataset))]


def test_some_digits_alone() -> None:
    """Each gets its index as its class, its share validates, and the length is that of what is loaded."""
    data, whole = digits(classes=[7, 5]), digits()
    train, val = ([int(target) for _, target in samples(part)] for part in (data.train, data.val))

    assert (len(train), len(val), train.count(0) + val.count(0), train.count(1) + val.count(1)) == (288, 73, 179, 182)
    (picture,) = {tuple(data.train[0][0].flatten().tolist())}
    pictures = samples(whole.train) + samples(whole.val)
    assert {int(y) for x, y in pictures if tuple(x.flatten().tolist()) == picture} == {[7, 5][train[0]]}


@pytest.mark.parametrize("classes", [[], [3], [3, 3], [3, 10], [-1, 2]])
def test_digits_that_are_none_are_refused(classes: list[int]) -> None:
    """Two or more, and different ones."""
    with pytest.raises(ConfigError, match=r"`data\.classes` must be two or more different digits from 0 to 9, but is"):
        digits(classes=classes)


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_what_is_taken_over_and_what_is_fresh(tmp_path: Path) -> None:
    """By default all but the last layer; `fresh` names others, or none."""
    given = MLP(4, [3, 2], 5).state_dict()
    path = saved(tmp_path, given)
    for fresh, taken in (
        (None, {"layer1", "layer2"}),
        ([], {"layer1", "layer2", "layer3"}),
        (["layer1", "layer2"], {"layer3"}),
    ):
        model = MLP(4, [3, 2], 5)
        before = {name: values.clone() for name, values in model.state_dict().items()}
        init_model(model, path, fresh)
        for name, values in model.state_dict().items():
            expected = given if name.partition(".")[0] in taken else before
            assert torch.equal(values, expected[name])
    init_model(MLP(4, [3, 2], 7), path, None)  # other classes, in a head that is fresh


@pytest.mark.parametrize(
    ("model", "fresh", "message"),
    [
        (MLP(4, [3, 2], 7), [], r"layer3.weight is \(5, 2\) there, and \(7, 2\) in the model"),
        (MLP(4, [3], 5), None, "layer3.bias is not in the model"),
        (MLP(4, [3, 2, 2], 5), None, r"layer3.bias is \(5,\) there, and \(2,\) in the model"),
        (MLP(4, [3, 2], 5), ["head"], r"`trainer.init_fresh` must name layers .*'layer3'.*, but names 'head'"),
        (MLP(4, [3, 2], 5), ["layer1", "layer2", "layer3"], "`trainer.init_fresh` must leave something to take"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, model: MLP, fresh: list[str] | None, message: str) -> None:
    """With the names and shapes of what differs; and the model is as it was."""
    path = saved(tmp_path, MLP(4, [3, 2], 5).state_dict())
    before = {name: values.clone() for name, values in model.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        init_model(model, path, fresh)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_a_file_that_has_no_weights_is_refused(tmp_path: Path) -> None:
    """A folder, nothing, another file, and a file of other things."""
    model = MLP(4, [3, 2], 5)
    (tmp_path / "text.pt").write_text("no checkpoint")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "none.pt", "does not exist. A training leaves last.pt and best.pt"),
        (tmp_path / "text.pt", "cannot be read as one"),
        (saved(tmp_path, {"lr": 0.1}), "has no weights in it"),
    ):
        with pytest.raises(ConfigError, match=f"`trainer.init_from` must be the path of a checkpoint.*{message}"):
            init_model(model, path, None)
