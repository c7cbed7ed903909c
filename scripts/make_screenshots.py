"""Makes the pictures of the docs anew: ``python scripts/make_screenshots.py [dashboard run_page preview_terminal]``.

A real sweep is trained in a temporary folder, and a real ``mlflow server`` shows it to Debian's chromium. Takes about a
minute on two idle cores, and leaves nothing behind but ``docs/images``.
"""

import argparse
import fcntl
import html
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))

from playwright.sync_api import Browser

from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.tags import TRIAL
from rig.browser import CHROMIUM, card, chromium, page_at, shoot, unfold
from rig.place import LRTAPE, Place
from rig.store import Server, Store

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MAX_BYTES = 250_000
N_COLORS = 256
"""Of a picture: a page has few, and the file is a third as large."""
SWEEP_COMMAND: list[str | Path] = [
    *(LRTAPE, "train", "-m", "scheduler=steplr,cosineannealinglr,onecyclelr", "optimizer.lr=0.003,0.01"),
    *("param_groups=head_and_backbone", "trainer.epochs=12", "trainer.device=cpu"),
]
DEADLINE_S = 1800.0
"""For what takes twenty seconds on an idle machine."""
PREVIEW = ["lrtape", "preview", "scheduler=cosineannealinglr", "scheduler.T_max=200", "param_groups=head_and_backbone"]
COLUMNS, ROWS = 110, 60
WIDTH_PX = 1400

# The eight colours of a terminal, dark enough for a white page, which tell curves apart for the colour-blind, too.
INK = {"31": "#D55E00", "32": "#009E73", "33": "#B37A00", "34": "#0072B2", "35": "#AA3377", "36": "#0077AA"}
# Of a letter of Braille: its bits from the lowest one on, in a cell of 4 by 8.
DOTS = ((0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4), (0, 6), (2, 6))
TERMINAL = """<style>
body { margin: 0; background: #fff }
pre { display: inline-block; margin: 0; padding: 18px 24px; font: 14px/17px 'DejaVu Sans Mono', monospace; color: #222 }
svg { width: 1ch; height: 17px; vertical-align: top }
</style><pre>%s</pre>"""


def main() -> int:
    """Make the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["dashboard", "run_page", "preview_terminal"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all by default")
    wanted = parser.parse_args().names or names
    if unknown := {*wanted} - {*names}:
        parser.error(f"NAME must be of {', '.join(names)}, but is {unknown.pop()!r} instead.")
    if CHROMIUM is None:
        parser.error("Debian's chromium must be there, but is not: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder, Place(Path(folder) / "place") as place, chromium() as browser:
        if "preview_terminal" in wanted:
            save("preview_terminal", terminal(browser, typed(PREVIEW, place.folder)))
        if {"dashboard", "run_page"} & {*wanted}:
            for name, picture in pages(browser, place):
                if name in wanted:
                    save(name, picture)
    return 0


def save(name: str, picture: bytes) -> None:
    """Write a picture, small enough for a page of docs."""
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"{name}.png"
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(N_COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}: {path.stat().st_size} bytes")
    if path.stat().st_size > MAX_BYTES:
        raise SystemExit(f"{path.name} must have at most {MAX_BYTES} bytes. Make the window smaller, or N_COLORS.")


def typed(command: list[str], folder: Path) -> str:
    """What a command shows in a terminal, with the colours, and the line that was typed."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=folder,
        env=os.environ | {"TERM": "xterm-256color"},
    )
    os.close(terminal)
    said = b""
    while data := _read(controller):
        said += data
    os.close(controller)
    if process.wait():
        raise SystemExit(said.decode())
    return f"$ {' '.join(command)}\n{said.decode()}".replace("\r\n", "\n").rstrip()


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 1 << 16)
    except OSError:  # on Linux, when the other end is closed
        return b""


def terminal(browser: Browser, said: str) -> bytes:
    """A picture of what a terminal shows."""
    colored = re.sub(
        r"\x1b\[(3\d)m(.*?)\x1b\[0m",
        lambda found: f'<span style="color:{INK.get(found[1], "inherit")}">{found[2]}</span>',
        html.escape(said, quote=False),
    )
    colored = re.sub(r"[\u2800-\u28ff]", lambda found: dots(found[0]), colored)
    page = browser.new_page(viewport={"width": WIDTH_PX, "height": 400})
    page.set_content(TERMINAL % colored)
    picture = page.locator("pre").screenshot()
    page.close()
    return picture


def dots(cell: str) -> str:
    """A letter of Braille, of which curves are made, as wide as the others: few fonts for terminals have them."""
    points = "".join(f"M{x} {y}h1v1h-1z" for bit, (x, y) in enumerate(DOTS) if ord(cell) >> bit & 1)
    return f'<svg viewBox="-.5 -.5 4 8" preserveAspectRatio="none"><path d="{points}" fill="currentColor"/></svg>'


def pages(browser: Browser, place: Place) -> Iterator[tuple[str, bytes]]:
    """A sweep, and then pictures of what MLflow shows of it."""
    log = place.folder / "sweep"
    if place.start(SWEEP_COMMAND, log).wait(DEADLINE_S):
        raise SystemExit(log.with_suffix(".err").read_text())
    store = Store(place.folder / "mlflow.db")
    server = Server(place, store)
    server.start()
    client = MlflowClient(tracking_uri=store.uri)
    runs = client.search_runs(
        [found.experiment_id for found in client.search_experiments()],
        f"tags.`{TRIAL}` LIKE '%'",
        order_by=["metrics.`val/loss`"],
    )
    best = MlflowRun.join(runs[0].info.run_id, store.uri)
    with page_at(browser, f"{server.uri}/{best.links.dashboard()}", WIDTH_PX, 1520, has_assistant=False) as page:
        card(page, "Parallel Coordinates").locator("svg, canvas").first.wait_for(state="attached")
        page.get_by_label("Hide banner").click()  # of what MLflow says about views
        yield "dashboard", shoot(page)
    address = f"{server.uri}/#/experiments/{best.experiment_id}/runs/{best.run_id}?workflowType=machine_learning"
    with page_at(browser, address, WIDTH_PX, 1000, has_assistant=False) as page:
        page.get_by_text("Learning rates:").first.wait_for()
        if page.get_by_text("Show more").count():
            unfold(page)
        yield "run_page", shoot(page)


if __name__ == "__main__":
    sys.exit(main())
