"""Runs the commands of a page in this process, since each of its own would import torch and mlflow anew."""

import argparse
import contextlib
import io
import itertools
import os
import re
import runpy
import sys
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import hydra
import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra

from blocks import Command
from lrtape.app.config import check
from lrtape.app.main import main as train
from lrtape.app.sweep.command import main as sweep
from lrtape.app.sweep.command import training_arguments
from lrtape.app.sweep.grid import expand
from lrtape.cli import main as lrtape

ROOT = Path(__file__).parents[2]
SWEEPS = ("python scripts/sweep.py", "lrtape sweep")
TRAININGS = ("python train.py", "lrtape train")


class Accepted(BaseException):
    """A command has read its arguments, and finds nothing wrong with them."""


class Shell:
    """Runs commands, or sees what can be seen without running them. Each method takes one command.

    Args:
        folder: where commands are run.
        stands_for: what a person is to put in the place of a word: ``RUN`` in ``lrtape show RUN``.
    """

    def __init__(self, folder: Path, stands_for: Mapping[str, str]) -> None:
        self._folder = folder
        self._stands_for = stands_for

    def run(self, command: Command, *appended: str) -> str:
        """Runs it, with some words more; returns what it printed on stdout. It must end with exit code 0."""
        words = [*self._words(command), *appended]
        with self._in_process(words, command.environment) as out:
            code = self._exit_code(words)
        assert code == 0, f"{' '.join(words)} ended with exit code {code}:\n{out.getvalue()}"
        return out.getvalue()

    def compose(self, command: Command, *appended: str) -> None:
        """Composes and checks every config of a training, or of a sweep's trainings."""
        arguments = [*_training_arguments(self._words(command)), *appended]
        given = get_args_parser().parse_args(arguments)
        search = [] if given.config_dir is None else [f"hydra.searchpath=[file://{self._folder / given.config_dir}]"]
        name = given.config_name or "train"
        points, _ = expand((), given.overrides) if given.multirun else ([], [])
        GlobalHydra.instance().clear()
        with hydra.initialize_config_module("lrtape.conf", version_base="1.3"):
            for overrides in [point.overrides for point in points] or [given.overrides]:
                check(hydra.compose(name, [*overrides, *search]), self._folder)

    def read_arguments(self, command: Command) -> str | None:
        """Lets a program of ours read its arguments, and stops it then; one that reads none must be given none."""
        words = self._words(command)
        if words[0] == "python" and "argparse" not in (ROOT / words[1]).read_text():
            assert words[2:] == [], f"{words[1]} takes no arguments"
            return None
        with self._in_process(words, command.environment) as out, _stopping_when_arguments_are_read():
            try:
                code = self._exit_code(words)
            except Accepted:
                return None
        raise AssertionError(f"{command} ended with exit code {code}:\n{out.getvalue()}")

    def read_torchrun(self, command: Command) -> None:
        """Reads the options of torchrun, and composes the training that it starts, or reads what a script is given."""
        from torch.distributed.run import get_args_parser as torchrun

        given = torchrun().parse_args(self._words(command)[1:])
        if given.no_python:
            self.compose(Command((given.training_script, *given.training_script_args)))
        elif given.training_script == "train.py":
            self.compose(Command(("python", given.training_script, *given.training_script_args)))
        else:
            self.read_arguments(Command(("python", given.training_script, *given.training_script_args)))

    def read_mlflow(self, command: Command) -> None:
        """Lets MLflow read the arguments of a command of its own."""
        from mlflow.cli import cli

        _, name, *arguments = self._words(command)
        found = cli.get_command(click.Context(cli), name)  # type: ignore[no-untyped-call]
        assert found is not None, f"mlflow has no command {name}"
        found.make_context(name, arguments)

    def read_pip(self, command: Command) -> None:
        """Sees that what is installed is this package, with extras that it has, and the constraints that it has."""
        words = self._words(command)
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[:2] == ["pip", "install"]
        for before, word in itertools.pairwise(words[1:]):
            if before == "-c":
                assert (ROOT / word).is_file(), f"there is no {word}"
            elif not word.startswith("-"):
                found = re.fullmatch(r"(?:\.|lrtape)(?:\[([\w,]+)\])?", word)
                assert found is not None, f"{word} is not this package"
                assert {*(found[1] or "test").split(",")} <= {*extras}, f"{word} has an extra that there is not"

    def read_pytest(self, command: Command) -> None:
        """Sees that the tests are there."""
        assert [word for word in self._words(command)[1:] if not (ROOT / word).exists()] == []

    def nothing(self, command: Command) -> None:
        """Leaves it to whoever else runs it."""

    def write(self, path: str, text: str) -> None:
        """Writes a file of the page, and sees that it can be used: Python runs, and a config composes."""
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if file.suffix == ".py":
            runpy.run_path(str(file))
            return
        folder, *groups, _ = Path(path).parts
        choice = [f"{'/'.join(groups)}={file.stem}"] if groups else ["--config-name", file.stem]
        self.compose(Command(("lrtape", "train", "--config-dir", folder, *choice)))

    def _words(self, command: Command) -> list[str]:
        return [
            re.sub(r"\b[A-Z]+\b", lambda name: self._stands_for.get(name[0], name[0]), word) for word in command.words
        ]

    @contextlib.contextmanager
    def _in_process(self, words: Sequence[str], environment: Mapping[str, str]) -> Iterator[io.StringIO]:
        """As at the beginning of a process, and afterwards as before; yields what is printed, warnings last."""
        out, err = io.StringIO(), io.StringIO()
        GlobalHydra.instance().clear()
        modules = {*sys.modules}
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self._folder)
            patch.setattr(sys, "path", [*sys.path])
            patch.setattr(sys, "argv", [*words])
            patch.setattr(warnings, "formatwarning", warnings.formatwarning)
            for name, value in environment.items():
                patch.setenv(name, value)
            yield out
        out.write(err.getvalue())
        os.environ.pop("HYDRA_FULL_ERROR", None)
        GlobalHydra.instance().clear()
        for name in {*sys.modules} - modules:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(self._folder)):
                del sys.modules[name]  # a user's own, which another folder has, too

    def _exit_code(self, words: Sequence[str]) -> Any:
        try:
            match words:
                case ["python", "train.py", *arguments]:
                    sys.argv = ["train.py", *arguments]
                    train()
                case ["python", "scripts/sweep.py", *arguments]:
                    sweep(arguments, SWEEPS[0])
                case ["python", script, *arguments]:
                    sys.argv = [script, *arguments]
                    sys.path.insert(0, str((ROOT / script).parent))  # as python does, and run_path does not
                    runpy.run_path(str(ROOT / script), run_name="__main__")
                case ["lrtape", *_]:
                    lrtape()
                case _:
                    raise AssertionError(f"nobody knows how to run {' '.join(words)}")
        except SystemExit as end:
            return end.code or 0
        return 0


def _training_arguments(words: Sequence[str]) -> list[str]:
    """What the training app is given by a command."""
    for program in TRAININGS:
        if [*words[:2]] == program.split():
            return [*words[2:]]
    for program in SWEEPS:
        if [*words[:2]] == program.split():
            return training_arguments(words[2:], program)
    raise AssertionError(f"{' '.join(words)} trains nothing")


@contextlib.contextmanager
def _stopping_when_arguments_are_read() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            _raise_after(patch, name)
        yield


def _raise_after(patch: pytest.MonkeyPatch, name: str) -> None:
    original = getattr(argparse.ArgumentParser, name)

    def read(*arguments: Any, **options: Any) -> NoReturn:
        original(*arguments, **options)
        raise Accepted

    patch.setattr(argparse.ArgumentParser, name, read)
