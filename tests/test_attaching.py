"""The life of what `lrtape.attach` gives: when it binds to its run, and what it does when it is called again."""

import gc
import warnings
import weakref
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

import lrtape
from lrtape.errors import ConfigError, TrackingError
from lrtape.keys import optimizer_names
from lrtape.tracking.history import read_run


def sgd(name: str = "g") -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "name": name}], lr=0.5)


def runs(store: str) -> list[str]:
    return [run.info.run_id for run in MlflowClient(tracking_uri=store).search_runs(["0"])]


def test_a_session_joins_the_run_that_is_active_at_its_first_step(store: str) -> None:
    """attach() before start_run() is as good as after it; a name that is taken by then is numbered in every step."""
    mlflow.set_tracking_uri(store)
    early, late = sgd(), sgd()
    with lrtape.attach(early) as session:
        assert (session.run_id, runs(store)) == (None, [])
        with mlflow.start_run() as run:
            with lrtape.attach(late):
                late.step()
                for _ in range(3):
                    early.step()
            assert (session.run_id, session.groups[0].key) == (run.info.run_id, "lr/g_2")

    tape = read_run(run.info.run_id, store)
    assert {key: list(series.steps) for key, series in tape.items()} == {"lr/g": [0], "lr/g_2": [0, 1, 2]}
    assert runs(store) == [run.info.run_id]


def test_a_session_that_finds_no_run_starts_one(store: str) -> None:
    """At the first value of any kind, and active: what the user logs goes there too. It ends with the session."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd()
    with lrtape.attach(optimizer) as session:
        session.log("train/loss", 2.0, step=0)
        mlflow.log_metric("mine", 1.0)
        optimizer.step()
    run = MlflowClient(tracking_uri=store).get_run(session.run.run_id)

    assert (run.info.status, run.data.metrics) == ("FINISHED", {"train/loss": 2.0, "mine": 1.0, "lr/g": 0.5})
    assert len(runs(store)) == 1


def test_a_session_that_records_nothing_leaves_no_run(store: str, tmp_path: Path) -> None:
    """Nor a folder, nor the database of a store that nobody has chosen."""
    mlflow.set_tracking_uri("sqlite:///another.db")
    with lrtape.attach(sgd()) as session:
        pass

    assert session.run.run_id == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_what_cannot_be_bound_is_said_once_and_the_training_goes_on(store: str, tmp_path: Path) -> None:
    """The store, or the folder, went away between attach() and the first step."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd()
    with lrtape.attach(optimizer) as session:
        mlflow.set_tracking_uri("http://127.0.0.1:9")
        with pytest.warns(UserWarning, match="cannot record, and the training goes on without: .* does not answer"):
            optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()
    assert session.steps == 2


def test_what_can_never_be_bound_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer, one that is a folder, and a spool's folder that is a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="does not answer"):
        lrtape.attach(sgd())
    mlflow.set_tracking_uri("mlruns")
    with pytest.raises(ConfigError, match=r"of mlflow.set_tracking_uri\(\) .* must be a database or a server"):
        lrtape.attach(sgd())
    mlflow.set_tracking_uri("sqlite:///mine.db")
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="`folder` must be a place where lrtape can write, but is 'taken'"):
        lrtape.attach(sgd(), folder="taken")


def test_a_cell_may_be_run_twice(store: str) -> None:
    """The same optimizers, arguments and run give the same session, which the outermost `with` ends."""
    mlflow.set_tracking_uri(store)
    optimizer = sgd()
    first = lrtape.attach(optimizer)
    with lrtape.attach(optimizer) as session:
        optimizer.step()
        with lrtape.attach(optimizer) as again:
            optimizer.step()
        optimizer.step()
    assert first is session is again
    assert (session.is_over, session.steps) == (True, 3)
    assert list(read_run(session.run.run_id, store)["lr/g"].steps) == [0, 1, 2]


def test_an_explicit_close_closes() -> None:
    """Also within `with`; the next attach() is a new session."""
    optimizer = sgd()
    with lrtape.attach(optimizer, run=None) as session:
        session.close()
        optimizer.step()
        with lrtape.attach(optimizer, run=None) as new:
            optimizer.step()
    assert (session.steps, new.steps) == (0, 1)


def test_what_would_record_a_step_twice_is_refused(store: str) -> None:
    """Another run, some of the optimizers, other arguments: each is named, with the way out."""
    mlflow.set_tracking_uri(store)
    one, two = sgd("one"), sgd("two")
    run_id = MlflowClient(tracking_uri=store).create_run("0").info.run_id
    with lrtape.attach(one, two):
        refused: list[tuple[list[Any], dict[str, Any], str]] = [
            ([one], {}, "all optimizers of a session that is open, in their order, or none"),
            ([one, sgd()], {}, "all optimizers of a session"),
            ([one, two], {"run": run_id}, f"into the run that is active at the first step, and this one .* {run_id}"),
            ([one, two], {"names": ["a", "b"], "keep_spool": True}, "but `names`, `keep_spool` differ. Close"),
        ]
        for optimizers, options, said in refused:
            with pytest.raises(ConfigError, match=said):
                lrtape.attach(*optimizers, **options)
        with lrtape.attach(one, run=None, print_every_n_steps=5):
            pass  # printing beside it is no second record
    with pytest.raises(ConfigError, match="each optimizer once"):
        lrtape.attach(one, one)


def test_a_value_after_the_end_is_warned_about_once() -> None:
    """It is not recorded, and the warning names it."""
    with lrtape.attach(sgd(), run=None) as session:
        pass
    with pytest.warns(UserWarning, match="'val/acc' of step 7 was logged after the session had ended"):
        session.log("val/acc", 0.5, step=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.log("val/acc", 0.5, step=8)


def test_the_loss_itself_can_be_logged() -> None:
    """With its graph: neither a warning nor, where warnings are errors, an exception."""
    with lrtape.attach(sgd(), run=None) as session, warnings.catch_warnings():
        warnings.simplefilter("error")
        session.log("train/loss", torch.zeros(1, requires_grad=True).sum(), step=0)


def test_an_open_session_keeps_no_model() -> None:
    """A notebook that forgets to close frees the GPU all the same."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = lrtape.attach(optimizer, model=model, run=None)
    optimizer.step()
    gone = weakref.ref(model), weakref.ref(model.weight)
    del model, optimizer
    gc.collect()

    assert [reference() for reference in gone] == [None, None]
    assert session.steps == 1
    session.close()


class GAN(torch.nn.Module):
    """Its optimizers are attributes, as in many trainers."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.d = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        self.opt_g = torch.optim.Adam(self.g.parameters())
        self.opt_d = torch.optim.Adam(self.d.parameters())
        self.adam_1 = torch.optim.Adam(self.d.parameters())


@pytest.mark.parametrize(
    ("attributes", "with_model", "expected"),
    [
        (["opt_g", "opt_d"], True, ["opt_g", "opt_d"]),
        (["opt_d"], True, [""]),
        (["opt_g", "opt_d"], False, ["", "adam_1"]),
        (["opt_d", ""], True, ["opt_d", "adam_1"]),
        (["", "opt_d"], True, ["", "opt_d"]),
        (["adam_1", ""], True, ["adam_1", "adam_1_"]),
    ],
)
def test_optimizers_are_named_by_the_attributes_of_the_model(
    attributes: list[str], with_model: bool, expected: list[str]
) -> None:
    """Else by class and order, the first by nothing; one alone needs no name; and no two are the same."""
    gan, other = GAN(), torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    optimizers = [getattr(gan, name) if name else other for name in attributes]

    assert optimizer_names(optimizers, gan if with_model else None) == expected


def test_attach_names_optimizers_and_groups_by_the_model() -> None:
    """`attach(g, d, model=gan)`: both by their attribute, their groups by the module they share."""
    gan = GAN()
    with lrtape.attach(gan.opt_g, gan.opt_d, model=gan, run=None) as session:
        assert [recorder.groups[0].key for recorder in session._recorders] == ["lr/opt_g/g", "lr/opt_d/d"]


def test_a_name_that_was_refused_is_not_taken(store: str) -> None:
    """What was to be recorded with it is refused as a whole, and leaves nothing behind in the run."""
    mlflow.set_tracking_uri(store)
    with mlflow.start_run() as run, lrtape.attach(sgd(), names=["y"]):
        first, second = sgd(), sgd()
        with pytest.raises(ConfigError, match="share the metric 'lr/y/g'"):
            lrtape.attach(first, second, names=["x", "y"])
        with lrtape.attach(first, second, names=["x", "z"]):
            first.step()
            second.step()

    assert {*read_run(run.info.run_id, store)} == {"lr/x/g", "lr/z/g"}


def test_another_rank_opens_nothing(store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is attached there, also twice, beside a session that prints, or before the process group is known."""
    mlflow.set_tracking_uri(store)
    early = sgd()
    unbound = lrtape.attach(early)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    optimizer = sgd()
    with unbound, lrtape.attach(optimizer) as session, lrtape.attach(optimizer, run=None, print_every_n_steps=1):
        assert lrtape.attach(optimizer) is session
        early.step()
        optimizer.step()
    assert mlflow.active_run() is None
    assert runs(store) == []
    assert not (tmp_path / ".lrtape").exists()
