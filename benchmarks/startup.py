"""How long one waits: ``python benchmarks/startup.py > benchmarks/startup-$(date +%F).md`` (five minutes).

Every command is a process of its own, in an environment as the README's first command makes it, and in alternation with
what it is compared with. What is imported the first time after an installation is compiled first: not measured here.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lrtape.overhead import Quartiles

TRAIN_PY = Path(__file__).parent.parent / "train.py"
N_STEPS = 20
TRAINING = ("scheduler=steplr", f"trainer.max_steps={N_STEPS}", "trainer.device=cpu", "checks=off")
WITHOUT = "tracking=off"
WITHOUT_MODEL = "tracking.log_model=off"
MLFLOW_FIRST = (
    "import runpy, sys; import mlflow; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
FIRST_LINE = "trainer.print_every_n_steps=1"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command takes, in seconds: until its end, until its first line, and of the CPU, with its shipper."""

    wall_s: float
    first_line_s: float
    cpu_s: float


def cost(command: Sequence[str], folder: Path) -> Cost:
    """Run one command of Python's."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    with tempfile.TemporaryFile("w+") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log
        )
        assert process.stdout is not None
        process.stdout.readline()
        first_line_s = time.perf_counter() - begin
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - begin
        log.seek(0)
        if process.returncode != 0:
            sys.exit(
                f"{' '.join(command)} must end with exit code 0, but ended with {process.returncode}:\n{log.read()}"
            )
    return Cost(wall_s, first_line_s, usage.ru_utime + usage.ru_stime)


def alternated(commands: dict[str, Sequence[str]], folder: Path, n_rounds: int) -> dict[str, list[Cost]]:
    """Each command once in every round, after one round that is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for index in range(n_rounds + 1):
        order = list(commands) if index % 2 else list(commands)[::-1]
        for name in order:
            measured = cost(commands[name], folder)
            if index:
                costs[name].append(measured)
        print(f"round {index} of {n_rounds}", file=sys.stderr)
    return costs


def quartiles(values: Sequence[float]) -> str:
    """Median, and quartiles behind it, in seconds."""
    of = Quartiles.of(values)
    return f"{of.median:.2f} s ({of.lower:.2f} to {of.upper:.2f})"


def main() -> None:
    """Measure, and print the result as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="how often each command is run")
    n_rounds = parser.parse_args().rounds
    if n_rounds < 2:
        parser.error(f"`--rounds` must be at least 2, but is {n_rounds} instead.")
    train = str(TRAIN_PY.resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cost((train, *TRAINING), folder)  # the store exists from here on
        imports = alternated(
            {
                "`import torch`": ("-c", "import torch"),
                "`import mlflow`": ("-c", "import mlflow"),
                "`import lrtape`": ("-c", "import lrtape"),
                "`train.py --help`": (train, "--help"),
            },
            folder,
            n_rounds,
        )
        begun = alternated(
            {
                "tracked": (train, *TRAINING, FIRST_LINE),
                "`tracking=off`": (train, *TRAINING, FIRST_LINE, WITHOUT),
            },
            folder,
            n_rounds,
        )
        trained = alternated(
            {
                "`tracking=off`": (train, *TRAINING, WITHOUT),
                "`tracking=off`, with `import mlflow`": ("-c", MLFLOW_FIRST, train, *TRAINING, WITHOUT),
                "tracked, `tracking.log_model=off`": (train, *TRAINING, WITHOUT_MODEL),
                "tracked": (train, *TRAINING),
            },
            folder,
            n_rounds,
        )
    versions = ", ".join(f"{name} {version(name)}" for name in ("lrtape", "torch", "mlflow", "hydra-core"))
    print(f"# How long one waits, {time.strftime('%Y-%m-%d')}\n")
    print(f"`python benchmarks/startup.py --rounds {n_rounds}` on {os.cpu_count()} cores, {platform.platform()}.")
    print(f"Python {platform.python_version()}, {versions}. Median, and quartiles in brackets.")
    print(f"The trainings: `train.py {' '.join(TRAINING)}`.\n")
    print("## Imports, and a first answer\n")
    print("| command | CPU | wall |\n|---|---|---|")
    for name, costs in imports.items():
        print(f"| {name} | {quartiles([one.cpu_s for one in costs])} | {quartiles([one.wall_s for one in costs])} |")
    print("\nTarget of `train.py --help`: at most 0.6 s of the CPU.\n")
    print("## From the command to the first step\n")
    print("| training | wall |\n|---|---|")
    for name, costs in begun.items():
        print(f"| {name} | {quartiles([one.first_line_s for one in costs])} |")
    both = [
        torch.wall_s + mlflow.wall_s
        for torch, mlflow in zip(imports["`import torch`"], imports["`import mlflow`"], strict=True)
    ]
    print(f"| `import torch` and `import mlflow` alone, added | {quartiles(both)} |\n")
    print(f"## A whole training of {N_STEPS} steps, into a store that exists\n")
    print("| training | wall | longer than without tracking, but with `import mlflow` |\n|---|---|---|")
    baseline = trained["`tracking=off`, with `import mlflow`"]
    for name, costs in trained.items():
        longer = [one.wall_s - base.wall_s for one, base in zip(costs, baseline, strict=True)]
        print(
            f"| {name} | {quartiles([one.wall_s for one in costs])} "
            f"| {'' if costs is baseline else quartiles(longer)} |"
        )
    print("\nTarget: tracked, at most 1.0 s longer.")


if __name__ == "__main__":
    main()
