import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from lrtape.errors import ConfigError
from lrtape.keys import MAX_KEY_CHARACTERS, Keys, group_names, legal_key


@given(st.text())
def test_every_text_becomes_a_key_that_mlflow_takes(text: str) -> None:
    """`legal_key` is legal for MLflow whatever it is given, and leaves a legal key alone."""
    key = legal_key(text)

    _validate_metric_name(key)  # type: ignore[no-untyped-call]
    assert len(key) <= MAX_KEY_CHARACTERS
    assert legal_key(key) == key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("lr/backbone.layer1", "lr/backbone.layer1"),
        ("lr/layer[0]=a#b", "lr/layer_0__a_b"),
        ("/a//b/../c/", "a/b/_/c"),
        ("", "_"),
    ],
)
def test_what_is_illegal_is_written_otherwise(text: str, key: str) -> None:
    """Illegal characters become underscores, and path components that MLflow refuses go."""
    assert legal_key(text) == key


def test_long_keys_stay_apart() -> None:
    """Two long names that differ at their ends only get different keys."""
    assert legal_key("x" * 300 + "a") != legal_key("x" * 300 + "b")


def groups_of(*groups: dict[str, Any]) -> list[dict[str, Any]]:
    return torch.optim.SGD(list(groups), lr=0.1).param_groups


def test_a_given_name_comes_first() -> None:
    """The group's own name wins over what its parameters share."""
    layer = torch.nn.Linear(1, 1)

    assert group_names(groups_of({"params": list(layer.named_parameters("layer1")), "name": "mine"})) == ["mine"]


def test_param_names_give_the_common_module() -> None:
    """A group without a name is called after the module that all its parameters belong to."""
    block = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    groups = groups_of(
        {"params": list(block.named_parameters("backbone"))},
        {"params": list(torch.nn.Linear(1, 1).named_parameters("head"))},
    )
    assert group_names(groups) == ["backbone", "head"]


def test_the_model_gives_names_where_the_groups_have_none() -> None:
    """Plain parameters are found in the model by identity."""
    model = torch.nn.ModuleDict({"enc": torch.nn.Linear(1, 1), "dec": torch.nn.Linear(1, 1)})
    groups = groups_of(*({"params": list(model[name].parameters())} for name in ("dec", "enc")))

    assert group_names(groups, {id(param): path for path, param in model.named_parameters()}) == ["dec", "enc"]


def test_the_index_is_the_last_resort() -> None:
    """Nothing shared, nothing known, or two groups of one module: the index, padded so that it sorts."""
    layer = torch.nn.Linear(1, 1)
    groups = groups_of({"params": [("a.weight", layer.weight)]}, {"params": [("a.bias", layer.bias)]})
    assert group_names(groups) == ["group_00", "group_01"]
    assert group_names(groups_of({"params": list(torch.nn.Linear(1, 1).parameters())})) == ["group_00"]


@given(st.lists(st.tuples(st.text(max_size=5), st.sampled_from(["", "adam_1", "x"])), max_size=20))
def test_numbered_keys_are_unique_and_legal(groups: list[tuple[str, str]]) -> None:
    """No two groups ever share a key, whatever their names are."""
    keys = Keys()
    made = [keys.reserve_numbered(name, optimizer).key for name, optimizer in groups]

    assert len(set(made)) == len(made)
    for key in made:
        _validate_metric_name(key)  # type: ignore[no-untyped-call]


def test_later_optimizers_have_a_part_of_their_own() -> None:
    """The first optimizer has lr/<group>, a later one lr/<optimizer>/<group>."""
    keys = Keys()

    assert keys.reserve("head").key == "lr/head"
    assert keys.reserve("head", "adam_1").key == "lr/adam_1/head"


def test_a_duplicate_is_refused_by_name() -> None:
    """Two groups of one name are refused with the metric that they would share and the way out."""
    keys = Keys()
    keys.reserve("head")

    with pytest.raises(ConfigError, match=re.escape("share the metric 'lr/head'") + ".*name"):
        keys.reserve("head")
