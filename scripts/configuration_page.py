"""Writes ``docs/configuration.md``, from the files of ``conf`` and the settings that check them.

python scripts/configuration_page.py
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from hydra.utils import get_object

from lrtape.app.config import SCHEDULER_KEYS, RangeSettings, Settings, SweepSettings, TrackingSettings, TrainerSettings

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "configuration.md"

SETTINGS = {
    "trainer": (TrainerSettings, "default"),
    "tracking": (TrackingSettings, "mlflow"),
    "range": (RangeSettings, "default"),
    "sweep": (SweepSettings, "default"),
}
"""Groups whose keys lrtape itself reads, and the choice that lists them all."""

ABOUT = {
    "model": "What is trained: any class or function with a `_target_`, whose arguments are the keys. How to add one "
    "of your own: [the training app](app.md).",
    "data": "What it is trained on: whatever returns a `lrtape.app.data.Data`.",
    "optimizer": "What updates it. `optimizer.<key>` is the argument of the class, by its own name.",
    "scheduler": "How the learning rate goes: [pictures of all](schedules.md). `scheduler.<key>` is the argument of "
    "the class, by its own name; a number of steps or epochs may be a share of the run, `30%`. Three keys are "
    "lrtape's, in each of them: `name` is a label, `interval` is `step` or `epoch`, whichever the scheduler is stepped "
    "after, and `monitor` is the metric that it is given, or null.",
    "param_groups": "Which parameters share a learning rate, and which one: a curve for each group.",
    "trainer": "How long, how often, on what.",
    "tracking": "Where the records go.",
    "range": "What an LR range test does; it takes the place of the training. `experiment=lr_range` chooses it.",
    "sweep": "What several trainings have in common, and what differs: [sweeps](sweeps.md).",
    "experiment": "A whole training by one name: what it chooses from the other groups, and sets.",
}
"""In the order of the page."""

ELSEWHERE = (
    "`hydra/launcher=joblib`, `lrtape_slurm` and `lrtape_ray` train the trials of a sweep in several processes: "
    "[clusters](clusters.md). `hydra/sweeper=lrtape_optuna` searches instead of listing: [Optuna](optuna.md)."
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a config: its value as an override has it, and what a comment says of it."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One file of a group.

    Attributes:
        about: the comment at its beginning.
        target: what is called with the keys; empty where the file has none.
        values: the file as YAML reads it.
        keys: without those that every config of the group has.
    """

    name: str
    about: str
    target: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[Key, ...] = ()


def page() -> str:
    """The whole page."""
    return "\n".join([*_page(), ""])


def _page() -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield "<!-- Written by scripts/configuration_page.py, from conf and lrtape.app.config: edit those. -->"
    yield ""
    yield (
        "Every group, choice and key of the [training app](app.md), with its default. `python train.py "
        "trainer.epochs=5 scheduler=steplr scheduler.gamma=0.5` sets two keys and makes a choice; `python train.py "
        "--cfg job` prints what comes of it. A key that is misspelt, or of a wrong type or range, is refused before "
        "torch is imported."
    )
    yield ""
    primary = _choice(CONF / "train.yaml")
    entries = [entry for entry in primary.values["defaults"] if isinstance(entry, dict)]
    chosen = {group: name for entry in entries for group, name in entry.items()}
    yield "| group | default | choices |"
    yield "|---|---|---|"
    for group in ABOUT:
        names = ", ".join(f"`{choice.name}`" for choice in _choices(group))
        yield f"| [`{group}`](#{group}) | {_code(_text(chosen[group]))} | {names} |"
    yield ""
    yield "Beside the groups there are plain values:"
    yield ""
    types = get_type_hints(Settings)
    yield from _table([key for key in primary.keys if key.name in types and key.name not in ABOUT], types)
    for group, about in ABOUT.items():
        yield ""
        yield f"## {group}"
        yield ""
        yield about
        yield ""
        yield from _group(group)
    yield ""
    yield "## What Hydra adds"
    yield ""
    yield ELSEWHERE


def _group(group: str) -> Iterator[str]:
    choices = _choices(group)
    if group in SETTINGS:
        settings, name = SETTINGS[group]
        (listing,) = [choice for choice in choices if choice.name == name]
        yield listing.about
        yield ""
        yield from _table(listing.keys, get_type_hints(settings))
        choices = [choice for choice in choices if choice.name != name]
        if choices:
            yield ""
    for choice in choices:
        yield f"- **`{group}={choice.name}`**: {choice.about}" + (f" `{choice.target}`" if choice.target else "")
        if group in {"experiment", *SETTINGS}:
            yield from _made_of(choice)
        else:
            yield from _arguments(choice)


def _table(keys: Iterable[Key], types: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | type | default | |"
    yield "|---|---|---|---|"
    for key in keys:
        meaning = key.meaning.replace("|", r"\|")
        yield f"| `{key.name}` | {_type(types[key.name])} | {_code(key.value)} | {meaning} |"


def _arguments(choice: Choice) -> Iterator[str]:
    """The keys of something that is instantiated: in one line, and beneath it what is known of each."""
    if not choice.keys:
        return
    yield "  " + ", ".join(_code(f"{key.name}={key.value}") for key in choice.keys)
    for key in choice.keys:
        if key.meaning:
            yield f"  - `{key.name}`: {key.meaning}"


def _made_of(choice: Choice) -> Iterator[str]:
    """What a choice that gathers others says, as overrides."""
    space = choice.values.get("space")
    for grid in [*choice.values.get("grids", []), *(space if isinstance(space, list) else [space] if space else [])]:
        yield "  - " + " ".join(_code(f"{key}={_swept(value)}") for key, value in grid.items())
    overrides = [
        f"{group.removeprefix('override /')}={_text(name)}"
        for entry in choice.values.get("defaults", [])
        if isinstance(entry, dict)
        for group, name in entry.items()
    ]
    rest = {key: value for key, value in choice.values.items() if key not in {"defaults", "grids", "space"}}
    overrides += [f"{key}={value}" for key, value in _flat(rest)]
    if overrides:
        yield "  " + " ".join(map(_code, overrides))


def _choices(group: str) -> list[Choice]:
    return [_choice(path) for path in sorted((CONF / group).glob("*.yaml"))]


def _choice(path: Path) -> Choice:
    lines = path.read_text().splitlines()
    n_comments = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    about = " ".join(line.removeprefix("#").strip() for line in lines[:n_comments] if "@package" not in line)
    values: dict[str, Any] = yaml.safe_load("\n".join(lines))
    comments = {
        found[1]: found[2] for line in lines[n_comments:] if (found := re.match(r"(\w+):(?: .*)? # (.*)$", line))
    }
    target = values.get("_target_", "")
    known = _documented(target) if target.startswith("lrtape.") else {}
    left_out = {"_target_", "defaults", *(SCHEDULER_KEYS if path.parent.name == "scheduler" else ())}
    keys = tuple(
        Key(name, _text(value), comments.get(name) or known.get(name, ""))
        for name, value in values.items()
        if name not in left_out
    )
    return Choice(path.stem, about, target, values, keys)


def _documented(target: str) -> dict[str, str]:
    """What the docstring of one of our own says of its arguments, without ``torch's own``, which says nothing."""
    text = inspect.getdoc(get_object(target)) or ""
    _, _, rest = text.partition("Args:\n")
    section = re.split(r"\n\s*\n", rest)[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, flags=re.MULTILINE)
    known = {
        name: re.sub(r"\s+", " ", said).replace("``", "`").replace("`None`", "null").rstrip(".") for name, said in found
    }
    return {name: said for name, said in known.items() if said != "torch's own"}


def _type(annotation: Any) -> str:
    if isinstance(annotation, UnionType):
        return " or ".join(_type(part) for part in get_args(annotation))
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        return "list" if item is Any else f"list of {_type(item)}"
    return {type(None): "null", Any: "any"}.get(annotation) or str(annotation.__name__)


def _text(value: Any) -> str:
    """A value as an override has it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").replace(", ", ",").replace("'", "").replace(": ", ":")


def _swept(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, dict) and "high" in value:
        interval = f"interval({_text(value['low'])},{_text(value['high'])})"
        return f"tag(log,{interval})" if value.get("log") else interval
    return _text(value)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", _text(value)


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(page())
