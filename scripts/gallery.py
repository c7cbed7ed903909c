"""Draws every schedule of ``conf/scheduler``, and writes ``docs/schedules.md``: ``python scripts/gallery.py``.

The pictures are those of ``lrtape preview --save``, with fewer colours, so that all of them together are small.
"""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from lrtape.app.preview_command import main

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf" / "scheduler"
PAGE = ROOT / "docs" / "schedules.md"
PICTURES = ROOT / "docs" / "schedules"
N_COLORS = 32

FAMILIES = {
    "Level, and in steps": ["constant", "constantlr", "steplr", "multisteplr"],
    "Down": ["exponentiallr", "multiplicativelr", "lambdalr", "polynomiallr", "cosineannealinglr", "swalr"],
    "Up first": ["linearlr", "warmup_linear", "warmup_cosine", "wsd", "inverse_sqrt", "onecyclelr"],
    "Again and again": ["cosineannealingwarmrestarts", "cycliclr"],
    "Put together": ["sequentiallr", "chainedscheduler"],
    "Driven by a metric": ["reducelronplateau"],
}
OPTIONS = {"reducelronplateau": ["--metrics", "1,0.9,0.8,0.8,0.8,0.8,0.7,0.7,0.7,0.7,0.7"]}
"""What a schedule needs to show itself."""
MORE = {
    "several_groups": (
        "Several param groups: each has its own lr, and the schedule scales them all.",
        ["scheduler=warmup_cosine", "param_groups=layerwise_decay", "param_groups.decay=0.3"],
    ),
    "several_schedules": (
        "Several schedules in one picture; so are several values of an argument, `scheduler.gamma=0.1,0.5`.",
        ["scheduler=steplr,cosineannealinglr,onecyclelr"],
    ),
    "frozen_backbone": (
        "A group that is frozen at first has no lr until it moves.",
        ["scheduler=cosineannealinglr", "param_groups=frozen_backbone"],
    ),
}


def pictures() -> dict[str, list[str]]:
    """The arguments of ``lrtape preview`` for each picture, by its name."""
    schedules = [name for family in FAMILIES.values() for name in family]
    drawn = {name: [f"scheduler={name}", *OPTIONS.get(name, [])] for name in schedules}
    return drawn | {name: arguments for name, (_, arguments) in MORE.items()}


def page() -> str:
    """The text of the page."""
    return "\n".join([*_page(), ""])


def _page() -> Iterator[str]:
    yield "# Schedules"
    yield ""
    yield "<!-- Written by scripts/gallery.py from conf/scheduler: edit those. -->"
    yield ""
    yield (
        "Every schedule that comes with lrtape, as `lrtape preview` draws it without training: the default arguments, "
        "AdamW with lr 0.01, 20 epochs of 23 steps. A share as `30%` is one of the run's length, so that the shape "
        "stays the same in a longer one. The arguments of each: [configuration](configuration.md#scheduler); what may "
        "be wrong with one: [findings](findings.md). `python scripts/gallery.py` draws this page again."
    )
    for family, names in FAMILIES.items():
        yield ""
        yield f"## {family}"
        for name in names:
            yield from _entry(name, _about(name))
    yield ""
    yield "## More than one curve"
    for name, (about, _) in MORE.items():
        yield from _entry(name, about)


def _entry(name: str, about: str) -> Iterator[str]:
    title = f"`{name}`" if name not in MORE else name.replace("_", " ").capitalize()
    yield ""
    yield f"### {title}"
    yield ""
    yield about
    yield ""
    yield "```bash"
    yield shlex.join(["lrtape", "preview", *pictures()[name], "--save", f"{name}.png"])
    yield "```"
    yield ""
    yield f"![{name.replace('_', ' ')}: learning rate over steps](schedules/{name}.png)"


def _about(name: str) -> str:
    """The comment at the beginning of its config."""
    lines = (CONF / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))


def draw(name: str, arguments: list[str]) -> None:
    """Draws one picture."""
    path = PICTURES / f"{name}.png"
    if main([*arguments, "--save", str(path)]) != 0:
        sys.exit(f"{name} cannot be drawn")
    Image.open(path).convert("RGB").quantize(N_COLORS).save(path, optimize=True)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, arguments in pictures().items():
        draw(name, arguments)
    PAGE.write_text(page())
