"""Every block and every command of README and docs, from top to bottom, as a person would copy them.

A page is run in a folder of its own, in which a sweep of one training is recorded: ``RUN`` and ``SWEEP`` in a command
are these. Blocks of Python share their names. What a block shows as its output, in a block of ``text`` behind it, is
compared; ``...`` there stands for anything. A block that begins with ``# my_conf/model/net.yaml`` is written to that
file. What is done with a command says the first of `RULES` that it matches; one that matches none is a failure.
"""

import contextlib
import doctest
import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from blocks import Block, Command, blocks_of, commands_in_sentences, commands_of
from lrtape.tracking.tags import SWEEP
from set_up import SET_UP, Reading
from shell import ROOT, Shell

pytestmark = pytest.mark.filterwarnings("ignore")  # what frameworks have to say about tiny trainings

THIS = Path(__file__).relative_to(ROOT)
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]

SHORT = ("trainer.epochs=2", "trainer.batch_size=512", "tracking.enabled=false")
"""Appended to a training whose output is not shown: six steps instead of some hundred, and no process to store them."""
PLANNED = ("sweep.dry_run=true", "sweep.seeds=1")
"""Appended to a sweep: every point is composed, checked, built and simulated, once, and none is trained."""

Run = Callable[[Shell, Command], str | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done with the commands that a pattern matches from their beginning.

    Attributes:
        in_block: with one in a block, whose output can be shown there.
        in_sentence: with one in a sentence.
        elsewhere: what runs it as it stands, where `in_block` does not.
    """

    pattern: str
    in_block: Run
    in_sentence: Run
    elsewhere: str = ""


def only(see: Run, command: str, elsewhere: str) -> Rule:
    """For what takes long, needs what is not here, or changes the machine."""
    return Rule(command, see, see, elsewhere)


def plan(shell: Shell, command: Command) -> str:
    return shell.run(command, *PLANNED)


def ask_for_help(shell: Shell, command: Command) -> str:
    return shell.run(command, "--help")


def train_shortly(shell: Shell, command: Command) -> str:
    return shell.run(command, *SHORT)


TRAIN = r"(python train\.py|lrtape train)"
SWEEP_COMMAND = r"(python scripts/sweep\.py|lrtape sweep)"
RULES = (
    only(Shell.read_pip, r"pip install ", ".ci/run"),
    only(Shell.read_pytest, r"pytest\b", ".ci/run"),
    only(Shell.nothing, r"pre-commit install$", ".pre-commit-config.yaml"),
    only(Shell.nothing, r"ray start ", "tests/e2e/test_ray.py"),  # ray is not installed beside the rest
    only(Shell.read_mlflow, r"mlflow (server|ui)", "tests/e2e/rig/store.py"),
    only(Shell.read_torchrun, r"torchrun .*train", "tests/e2e/test_ddp.py"),
    only(Shell.read_torchrun, r"torchrun .*benchmarks/ranks\.py", "benchmarks"),
    only(Shell.compose, rf"{TRAIN} .*hydra/launcher=lrtape_slurm", "tests/e2e/test_slurm.py"),
    only(Shell.compose, rf"{TRAIN} .*hydra/launcher=lrtape_ray", "tests/e2e/test_ray.py"),
    only(Shell.compose, rf"{TRAIN} .*trainer\.resume=", "tests/app/test_resume.py"),  # needs a stopped training
    only(plan, rf"{TRAIN} .*(-m|--multirun) \S", "tests/e2e/test_sweep.py"),
    only(Shell.compose, rf"{SWEEP_COMMAND} --resume ", "tests/e2e/test_sweep.py"),
    only(plan, rf"{SWEEP_COMMAND} \w", "tests/e2e/test_sweep.py"),
    only(
        Shell.read_arguments,
        r"python (benchmarks/\w+|scripts/(torture|compare_monitors|false_leads))\.py",
        "benchmarks",
    ),
    only(Shell.read_arguments, r"python scripts/make_screenshots\.py", "docs/images"),
    only(
        Shell.read_arguments, r"python scripts/(gallery|configuration_page)\.py$", "tests/pages/test_written_pages.py"
    ),
    only(Shell.read_arguments, r"lrtape bench\b", "tests/cli/test_bench.py"),
    Rule(rf"{TRAIN} .*--help$", Shell.run, Shell.run),
    Rule(TRAIN, train_shortly, Shell.compose),
    Rule(r"lrtape (preview|status|show|verify|why|recover|report)\b", Shell.run, Shell.read_arguments),
)

NOT_RUN = {
    ("CONTRIBUTING.md", "errors  tape  keys"): "tests/test_architecture.py",
    ("docs/design.md", "optimizer.step() -> Recorder"): "tests/test_architecture.py",
    ("docs/spool.md", ".lrtape/<run id>"): "tests/test_spool.py",
}
"""Blocks that show something and run nothing, by their page and beginning, and the test that holds what they show."""

PAGE_TESTED_BY = {"docs/server.md": "tests/e2e/test_server.py"}
"""Pages that tests of their own read and run."""


def rule_of(command: Command) -> Rule:
    for rule in RULES:
        if re.match(rule.pattern, str(command)):
            return rule
    raise AssertionError(f"nobody has decided how `{command}` is tested: give it a rule in {THIS}")


@dataclass(slots=True)
class Page:
    """Runs a page.

    Attributes:
        name: of the page.
        folder: where it is run.
        names: of its Python.
        done: commands that some page has run, and that need not be run again.
    """

    name: str
    folder: Path
    shell: Shell
    names: dict[str, Any]
    done: set[str]

    def run(self, text: str) -> None:
        """From top to bottom; then the tests that it has defined, and the commands in its sentences."""
        for block in blocks_of(text):
            self._run(block)
        for name, value in [*self.names.items()]:
            if name.startswith("test_"):
                value()
        for command in commands_in_sentences(text):
            is_name = command.words[0] == "lrtape" and len(command.words) == 2  # `lrtape verify`
            self._once(ask_for_help if is_name else rule_of(command).in_sentence, command)

    def _run(self, block: Block) -> None:
        if block.file is not None:
            self.shell.write(block.file, block.text)
        elif block.language == "python":
            self._compare(block, self._python(block))
        elif block.language == "bash":
            printed = [self._bash(command, block.shown is not None) for command in commands_of(block.text)]
            self._compare(block, printed[-1])
        else:
            assert any(page == self.name and block.text.startswith(text) for page, text in NOT_RUN), (
                f"{self.name}, line {block.line}: nobody has decided how this block is tested, of "
                f"{block.language or 'no language'}. `bash` and `python` run, `text` behind them is their output, "
                f"`# path.yaml` in the first line makes a file; anything else stands in NOT_RUN of {THIS}."
            )

    def _python(self, block: Block) -> str:
        # MLflow keeps a store open by its URI, and a relative one would be that of another page's folder.
        text = block.text.replace("sqlite:///mlflow.db", f"sqlite:///{self.folder / 'mlflow.db'}")
        code = compile("\n" * block.line + text, self.name, "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                exec(code, self.names)
            except AssertionError as error:
                if block.shown is None:
                    raise
                return str(error)
        return printed.getvalue()

    def _bash(self, command: Command, is_shown: bool) -> str | None:
        rule = rule_of(command)
        if is_shown:
            return (rule.in_block if rule.elsewhere else Shell.run)(self.shell, command)
        return self._once(rule.in_block, command)

    def _once(self, run: Run, command: Command) -> str | None:
        """Where neither files of the page nor what is recorded matters, what another page has run is not run again."""
        key = f"{run} {command}"
        if key in self.done:
            return None
        printed = run(self.shell, command)
        if not re.search(r"--config-dir|\b(RUN|SWEEP)\b", str(command)):
            self.done.add(key)
        return printed

    def _compare(self, block: Block, printed: str | None) -> None:
        if block.shown is None:
            return
        assert printed is not None, f"{self.name}, line {block.line}: output is shown of a command that is not run"
        printed = printed.replace(str(self.folder), "/home/you/lrtape")
        shown = re.sub(r"\b[0-9a-f]{12}\.\.\.", "...", block.shown)  # any id
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(shown, printed, options), (
            f"{self.name}, line {block.line} shows\n{block.shown}\nand this came out:\n{printed}"
        )


@pytest.fixture(scope="module")
def recorded(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a training and a sweep in its store, and what stands for them in commands."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copy(fresh_store, folder)
    # A sweep of one training, which is that of the README's first command.
    Shell(folder, {}).run(Command(("lrtape", "train", "-m", "scheduler=steplr")))
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lrtape")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (sweep,) = {run.data.tags[SWEEP] for run in runs if SWEEP in run.data.tags}
    (run_id,) = {run.info.run_id for run in runs if SWEEP not in run.data.tags}
    return folder, {"RUN": run_id, "SWEEP": sweep}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """For nets so small, more only wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def done() -> set[str]:
    return set()


@pytest.fixture
def page(
    recorded: tuple[Path, dict[str, str]], done: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Page]]:
    """Makes a page, by its name, ready to run in a folder of its own."""
    folder, stands_for = recorded
    here = tmp_path / "lrtape"
    shutil.copytree(folder, here)
    for record in here.glob(".lrtape/sweeps/*/*.json"):  # each knows its folder
        record.write_text(record.read_text().replace(str(folder), str(here)))
    monkeypatch.chdir(here)
    mlflow.set_tracking_uri(f"sqlite:///{here / 'mlflow.db'}")
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Page:
            names = SET_UP[name](Reading(here, stands_for["RUN"], stack)) if name in SET_UP else {}
            return Page(name, here, Shell(here, stands_for | {"N": "2"}), names | {"__name__": name}, done)

        yield make


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_shows_runs(name: str, page: Callable[[str], Page]) -> None:
    """From top to bottom, as it stands there; and what it shows as output is what comes out."""
    if name in PAGE_TESTED_BY:
        pytest.skip(f"{PAGE_TESTED_BY[name]} runs it")
    page(name).run((ROOT / name).read_text())


def test_what_is_run_elsewhere_is_there() -> None:
    """Nobody relies on a test that is not there."""
    named = {rule.elsewhere for rule in RULES} | {*NOT_RUN.values()}
    named |= {test for name, test in PAGE_TESTED_BY.items() if (ROOT / name).exists()}

    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```python\nnothing_of_this_name\n```", "nothing_of_this_name"),
        ("```python\nassert False, 'one'\n```\n\n```text\nanother\n```", "another"),
        ("```python\nprint('one')\n```\n\n```text\ntwo\n```", "this came out"),
        ("```python\ndef test_it():\n    raise RuntimeError('it')\n```", "it"),
        ("```bash\nrm -rf build\n```", "nobody has decided how `rm -rf build`"),
        ("```toml\n[a]\n```", "is tested, of toml"),
        ("```text\nalone\n```", "is tested, of text"),
        ("```bash\nlrtape preview scheduler=stepl\n```", "scheduler/stepl"),
        ("```bash\npip install -e '.[nothing]'\n```", "an extra that there is not"),
        ("```yaml\n# my_conf/scheduler/mine.yaml\ndefaults: [nowhere]\n```", "nowhere"),
        ("```python\n1\n", "not closed"),
        ("Type `lrtape verify --folder .`.", "required: RUN"),
        ("Type `lrtape verifi`.", "verifi"),
        ("Type `lrtape preview --proceses 2`.", "proceses"),
        ("Type `python train.py trainer.epoch=2`.", "epoch"),
        ("Type `python benchmarks/overhead.py --fast`.", "takes no arguments"),
    ],
)
def test_what_does_not_run_is_found(text: str, said: str, page: Callable[[str], Page]) -> None:
    """An exception, another output, a test that fails, what nobody has decided, and a command that is refused."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever the page raises
        page("a page").run(text)

    assert said in f"{caught.value}"
