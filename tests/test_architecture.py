"""The house of the package: which module may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lrtape

PACKAGE = Path(__file__).parents[1] / "src" / "lrtape"

# A module imports only from lines above its own; `tracking` and `app` also within themselves.
LAYERS = [
    [
        "errors",
        "forks",
        "tape",
        "keys",
        "arithmetic",
        "shapes",
        "plan",
        "trials",
        "cpus",
        "ranks",
        "quick_exit",
        "colors",
        "changes",
        "lines",
        "markdown",
        "recording_options",
    ],
    [
        "checks",
        "compare",
        "spool",
        "spool_folder",
        "tape_file",
        "groups",
        "step_hooks",
        "step_findings",
        "arrivals",
        "schedules",
        "reasons",
        "snapshot",
        "effective_lr",
        "golden",
        "outline",
        "curve_svg",
        "noise",
        "standing",
    ],
    [
        "companion_words",
        "recorder",
        "columns",
        "terminal",
        "curve_page",
        "tracking",
        "why",
        "patterns",
        "optimizers",
        "range_curve",
        "leaderboard",
        "selection",
        "beside",
    ],
    ["companion_process"],
    ["idle_companions"],
    [
        "shipper_process",
        "run_creation",
        "beside_recorder",
        "shipper",
        "simulation",
        "range_plot",
        "report",
        "picture",
        "run_page",
    ],
    ["outbox"],
    ["verification", "replay", "agreement"],
    ["delivery", "training_process"],
    ["companion", "destination"],
    ["session", "recover", "range_test"],
    ["open_sessions", "tapes_of_thread"],
    ["attaching", "autologging"],
    ["testing", "overhead"],
    ["app"],
    ["cli", "adapters"],
]
MAY_IMPORT_WITHIN_LINE = {"errors", "tape", "keys", "tracking", "app"}
ONLY_IN = {
    "mlflow": {"tracking"},
    "hydra": {"app"},
    "omegaconf": {"app"},
    "optuna": {"app"},
    "lightning": {"adapters"},
    "pytorch_lightning": {"adapters"},
    "transformers": {"adapters"},
}
LEVEL = {module: level for level, line in enumerate(LAYERS) for module in line}


def imports(source: str) -> set[str]:
    """Every module that a source imports, at its top or later, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            homes = [lrtape._HOME.get(alias.name, alias.name) for alias in node.names]
            found |= {f"lrtape.{home}" for home in homes} if node.module == "lrtape" else {str(node.module)}
    return found


def violations(module: str, imported: set[str]) -> list[str]:
    """What `module` (its first name below lrtape) must not import."""
    bad = [name for name in imported if module not in ONLY_IN.get(name.split(".")[0], {module})]
    for name in imported:
        other = name.split(".")[1] if name.startswith("lrtape.") else module
        if other in LEVEL and other != module and LEVEL[other] >= LEVEL[module]:
            bad += [name] if other not in MAY_IMPORT_WITHIN_LINE or LEVEL[other] > LEVEL[module] else []
    return sorted(bad)


SOURCES = [
    path
    for path in PACKAGE.rglob("*.py")
    if path.parent.name != "conf" and path.name not in {"__init__.py", "__main__.py"}
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_the_layers_above_it(path: Path) -> None:
    """A module imports from lines above its own; mlflow is known to tracking alone, hydra to app alone."""
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")

    assert module in LEVEL, f"{module} has no place in LAYERS yet"
    assert violations(module, imports(path.read_text())) == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("spool", "from lrtape.recorder import Recorder"),
        ("spool", "import lrtape.recorder"),
        ("tape", "from lrtape import attach"),
        ("recorder", "import mlflow"),
        ("session", "from hydra.utils import instantiate"),
        ("shipper", "from lrtape.outbox import Outbox"),
    ],
)
def test_the_layer_test_can_fail(module: str, statement: str) -> None:
    """An import upward, sideways, by way of the package, or of a library that belongs elsewhere is found."""
    assert len(violations(module, imports(f"import os\n{statement}"))) == 1


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy libraries a fresh interpreter has loaded after `statement`."""
    code = (
        f"{statement}\nimport sys\nprint(*({{'torch', 'mlflow', 'hydra', 'omegaconf', 'sklearn'}} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_importing_lrtape_is_light() -> None:
    """`import lrtape` loads none of torch, mlflow and hydra."""
    assert loaded_by("import lrtape") == set()


def test_importing_what_tests_need_is_light() -> None:
    """`import lrtape.testing` loads none of them: a test that compares two tapes needs no torch."""
    assert loaded_by("import lrtape.testing") == set()


def test_recording_without_a_run_needs_no_mlflow() -> None:
    """`attach(run=None)` and its recording load torch, but neither mlflow nor hydra."""
    statement = (
        "import torch, lrtape\n"
        "optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)\n"
        "with lrtape.attach(optimizer, run=None):\n    optimizer.step()"
    )
    assert loaded_by(statement) == {"torch"}


def test_the_light_import_test_can_fail() -> None:
    """A heavy import is seen."""
    assert loaded_by("import omegaconf") == {"omegaconf"}


def test_every_public_name_is_there() -> None:
    """`__all__` and the attributes of the package agree, and an unknown attribute is refused as usual."""
    assert all(getattr(lrtape, name) is not None for name in lrtape.__all__)
    assert dir(lrtape) == lrtape.__all__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lrtape.no_such_name
