from typing import Any

import pytest
import torch
from torch import nn

from lrtape.errors import ConfigError
from lrtape.patterns import by_pattern


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1))


def test_each_entry_gets_what_its_regex_is_found_in() -> None:
    """A regex is searched for in the path; an entry without one gets the others; lr, multiple and decay are its."""
    groups = by_pattern(
        net(),
        0.1,
        [
            {"name": "first", "regex": r"^0\.", "lr": 0.5},
            {"name": "others", "lr_mult": 0.5},
            {"name": "norms", "regex": r"^1\.", "weight_decay": 0.0, "lr_mult": None},
        ],
    )

    assert {group["name"]: [path for path, _ in group["params"]] for group in groups} == {
        "first": ["0.weight", "0.bias"],
        "others": ["2.weight", "2.bias"],
        "norms": ["1.weight", "1.bias"],
    }
    assert [group["lr"] for group in groups] == [0.5, 0.05, 0.1]
    assert ["weight_decay" in group for group in groups] == [False, False, True]
    optimizer = torch.optim.SGD(groups, weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]


def test_frozen_parameters_need_no_group() -> None:
    """They are in none, and no pattern has to match them."""
    model = net()
    model[0].requires_grad_(False)  # type: ignore[index]

    groups = by_pattern(model, 0.1, [{"name": "norm", "regex": "^1"}, {"name": "last", "regex": "^2"}])
    assert [path for group in groups for path, _ in group["params"]] == ["1.weight", "1.bias", "2.weight", "2.bias"]


ONE = {"name": "one", "regex": "weight"}
REST = {"name": "rest"}
REFUSED: list[tuple[Any, str]] = [
    ([ONE], "the parameter '0.bias' must be in one of `param_groups.groups`, but matches none of 'one'. Add a group"),
    ([ONE, {"name": "two", "regex": "^0"}, REST], "the parameter '0.weight' must be in one of"),
    ([ONE, {"name": "two", "regex": "^0"}, REST], "but matches 'one' and 'two'. Make one `regex` narrower"),
    (
        [{"name": "one", "regex": "a("}, REST],
        "`param_groups.groups.0.regex` must be a regular expression, but is 'a(' instead: missing ), unterminated "
        "subpattern at position 1.",
    ),
    ([{"name": "one", "regex": 3}, REST], "`param_groups.groups.0.regex` must be a regular expression, but is 3"),
    (
        [{"name": "one", "regex": "embed"}, REST],
        "`param_groups.groups.0` must match a parameter, but 'one' matches none",
    ),
    ([{"name": "all", "regex": "."}, REST], "`param_groups.groups.1` must match a parameter, but 'rest' matches none"),
    ([ONE, REST, {"name": "others"}], "must have each regex once, but has 'none' 2 times"),
    ([ONE, {"name": "one"}], "must have each name once, but has 'one' 2 times"),
    ([{"regex": "weight"}, REST], "`param_groups.groups.0` must be a mapping with a `name`"),
    ([{"name": 3}], "`param_groups.groups.0` must be a mapping with a `name`"),
    (["weight"], "`param_groups.groups.0` must be a mapping with a `name`, but is 'weight'"),
    ([], "`param_groups.groups` must be a list with at least one group, but is []"),
    (3, "`param_groups.groups` must be a list with at least one group, but is 3"),
    ([{**ONE, "lrs": 3}, REST], "`param_groups.groups.0.lrs` is not a key of a group. Valid there: name, regex, lr"),
    ([{**ONE, "lr": 0.1, "lr_mult": 2}, REST], "must have an `lr` or an `lr_mult`, but has both, 0.1 and 2"),
    ([{**ONE, "lr": -1}, REST], "`param_groups.groups.0.lr` must be a number >= 0, but is -1 instead"),
    ([ONE, {**REST, "lr_mult": "a"}], "`param_groups.groups.1.lr_mult` must be a number >= 0, but is 'a' instead"),
    ([ONE, {**REST, "weight_decay": True}], "`param_groups.groups.1.weight_decay` must be a number >= 0, but is True"),
]


@pytest.mark.parametrize(("groups", "said"), REFUSED)
def test_wrong_entries_are_refused(groups: Any, said: str) -> None:
    """The message names the entry and what it has, or the parameter that is in none or in two."""
    with pytest.raises(ConfigError) as refusal:
        by_pattern(net(), 0.1, groups)
    assert said in str(refusal.value)
