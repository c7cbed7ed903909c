"""The dashboard of an experiment: the first thing that a person sees of its learning rates in the MLflow UI.

MLflow alone shows a sweep as one folded row, and each param group in a chart of its own.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import mlflow
from mlflow import MlflowClient

from lrtape.tape import Point
from lrtape.tracking.links import AVERAGED, DASHBOARD
from lrtape.tracking.preflight import CONNECT_TIMEOUT_S, refuse_unreachable
from lrtape.tracking.shared_view import (
    FIRST_VERSION,
    SHARED_VIEW,
    State,
    Version,
    decode,
    encode,
    is_understood_by,
    line_chart,
    make_state,
    parallel_chart,
    plain_chart,
    remembered,
    version_of,
)
from lrtape.tracking.sink import Sink
from lrtape.tracking.tags import POINT
from lrtape.tracking.uri import is_server, mask_credentials
from lrtape.trials import MIN

if TYPE_CHECKING:
    from lrtape.tracking.mlflow_run import MlflowRun

_NAMES = {DASHBOARD: "Learning rates", AVERAGED: "Learning rates, averaged over seeds"}

LEARNING_RATES, TRAINING, SWEEP = "Learning rates", "Training", "Sweep"
"""Sections."""
MAX_LRS, MAX_METRICS, MAX_RESULTS, MAX_OTHERS, MAX_GRIDS, MAX_PARAMS = 30, 8, 30, 30, 4, 8
"""Curves in one chart; charts of training metrics, open, and folded below; of everything else; of sweeps; params of one
of them."""
RESEED_PAUSE_S = 30.0

_LR, _SYSTEM = "lr/", "system/"
_NO_SECTION = "Model metrics"
"""Where MLflow puts a metric that has no section in its key."""
_BESIDE = (
    "lr",
    "lr_log10",
    "health",
    "frozen",
    "momentum",
    "weight_decay",
    "grad_norm",
    "update_ratio",
    "effective_lr",
)
"""Begin the keys of what is no result of a training."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compared:
    """What a sweep compares.

    Attributes:
        objective: a metric.
        direction: ``min`` or ``max``.
        grids: the swept keys of the config, a list for each set of points that share them.
        has_seeds: whether points are trained more than once.
        run_id: a trial, which tells what its params are called; empty for none.
    """

    objective: str
    direction: str
    grids: Sequence[Sequence[str]] = ()
    has_seeds: bool = False
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a dashboard is made of. It only grows, up to a limit, whatever is recorded into its experiment.

    Attributes:
        keys: of metrics.
        objective: of the newest sweep; empty for none.
        direction: of it.
        grids: params that were swept together, the newest first.
        has_seeds: whether a sweep has points that were trained more than once.
    """

    keys: Sequence[str] = ()
    objective: str = ""
    direction: str = ""
    grids: Sequence[Sequence[str]] = field(default_factory=tuple)
    has_seeds: bool = False

    @classmethod
    def of(cls, state: State) -> Self:
        """What a view was made of; nothing where that cannot be told."""
        own = remembered(state)
        try:
            return cls(
                [str(key) for key in own.get("keys", ())],
                str(own.get("objective", "")),
                str(own.get("direction", "")),
                [[str(param) for param in grid] for grid in own.get("grids", ())],
                bool(own.get("has_seeds")),
            )
        except TypeError:
            return cls()

    def with_keys(self, keys: Iterable[str]) -> Self:
        """The same with more metrics. There is room for so many of each kind: those of the newest run come first."""
        known = dict.fromkeys([*sorted(keys), *self.keys])
        lrs = [key for key in known if key.startswith(_LR)]
        results = [key for key in known if _is_result(key)]
        others = [key for key in known if not (_is_result(key) or key.startswith((_LR, _SYSTEM)))]
        chosen = [*lrs[:MAX_LRS], *results[:MAX_RESULTS], *others[:MAX_OTHERS]]
        return self if {*chosen} == {*self.keys} else replace(self, keys=chosen)

    def with_sweep(self, compared: Compared, grids: Sequence[Sequence[str]]) -> Self:
        """The same with another sweep, whose objective is the one that counts from now on."""
        unique = dict.fromkeys(tuple(grid) for grid in (*grids, *self.grids) if grid)
        return replace(
            self,
            objective=compared.objective,
            direction=compared.direction,
            grids=[list(grid) for grid in unique][:MAX_GRIDS],
            has_seeds=self.has_seeds or compared.has_seeds,
        )

    @property
    def lrs(self) -> list[str]:
        """The keys of param groups."""
        return sorted(key for key in self.keys if key.startswith(_LR))

    @property
    def metrics(self) -> list[str]:
        """The keys of what a training comes to, the objective first."""
        results = filter(_is_result, self.keys)
        return sorted(results, key=lambda key: (key != self.objective, not key.startswith("train"), key))

    def state(self, averaged_over: str = "", is_whole: bool = True) -> State:
        """The view of it.

        Args:
            averaged_over: see `make_state`.
            is_whole: whether each metric has a chart of its own, too, folded below, as MLflow would make it.
        """
        lrs, metrics = self.lrs, self.metrics[:MAX_METRICS]
        charts = []
        if lrs:
            charts.append(line_chart(LEARNING_RATES, lrs, is_log=True))
        charts += [line_chart(TRAINING, [key]) for key in metrics]
        if self.objective and not averaged_over:  # mlflow 3.17 draws no mean of a param that is a text
            charts += [parallel_chart(SWEEP, grid, [self.objective]) for grid in self.grids]
        charts += [plain_chart(key.rpartition("/")[0] or _NO_SECTION, key) for key in sorted(self.keys) if is_whole]
        params = dict.fromkeys(param for grid in self.grids for param in grid)
        return make_state(
            charts,
            [
                *([_column("metrics", self.objective)] if self.objective else []),
                _column("tags", "lr.verdict"),
                *(_column("params", param) for param in [*params][:MAX_PARAMS]),
            ],
            _column("metrics", self.objective) if self.objective else "attributes.start_time",
            self.objective != "" and self.direction == MIN,
            {LEARNING_RATES: (1, 400), TRAINING: (min(3, max(2, len(metrics))), 300), SWEEP: (1, 320)},
            averaged_over,
            {
                "keys": self.keys,
                "objective": self.objective,
                "direction": self.direction,
                "grids": self.grids,
                "has_seeds": self.has_seeds,
            },
        )


def _is_result(key: str) -> bool:
    return not key.startswith(_SYSTEM) and key.partition("/")[0] not in _BESIDE


def _column(kind: str, key: str) -> str:
    return f"{kind}.`{key}`"


def seed_dashboard(run: "MlflowRun", keys: Iterable[str] = (), compared: Compared | None = None) -> None:
    """See that the experiment of a run has its dashboard, and that what the run has is on it.

    A few requests, one of them a write where something is new. Two processes that do this at once may lose what one of
    them adds, until it does it again. Never fails: what goes wrong is logged. Not for the training thread.

    Args:
        run: of any training or sweep.
        keys: of its metrics; those that the store has of it are added.
        compared: by the sweep that the run is.
    """
    try:
        refuse_unreachable(run.tracking_uri)
        version = ui_version(run.tracking_uri)
        if not is_understood_by(version):
            return
        client = MlflowClient(tracking_uri=run.tracking_uri)
        tags = client.get_experiment(run.experiment_id).tags
        before = Contents.of(decode(tags.get(SHARED_VIEW + DASHBOARD)))
        contents = before.with_keys({*keys, *client.get_run(run.run_id).data.metrics})
        if compared is not None:
            contents = contents.with_sweep(compared, _params_of(compared, client))
        if not contents.keys:
            return
        for view, tag in {DASHBOARD: "", **({AVERAGED: POINT} if contents.has_seeds else {})}.items():
            state = contents.state(tag)
            if json.loads(json.dumps(state)) == decode(tags.get(SHARED_VIEW + view)):
                continue
            text = encode(state, _NAMES[view], version) or encode(contents.state(tag, False), _NAMES[view], version)
            if text is None:
                _log.warning("cannot write the dashboard: it would be too long for a tag")
            else:
                client.set_experiment_tag(run.experiment_id, SHARED_VIEW + view, text)
    except Exception as error:  # noqa: BLE001 - a nicety, which may cost nobody anything
        _log.warning("cannot write the dashboard: %s: %s", type(error).__name__, mask_credentials(str(error)))


def _params_of(compared: Compared, client: MlflowClient) -> list[list[str]]:
    """The swept keys as params of a trial: of a choice of the config, as ``scheduler``, only its name is one."""
    params: Mapping[str, Any] = client.get_run(compared.run_id).data.params if compared.run_id else {}
    found = []
    for grid in compared.grids:
        names = [next(filter(params.__contains__, (key, f"{key}.name", f"{key}._target_")), key) for key in grid]
        found.append(list(dict.fromkeys(names))[:MAX_PARAMS])
    return found


def ui_version(tracking_uri: str) -> Version:
    """The version of the MLflow that shows what is in a store; the oldest one, where a server does not tell.

    Args:
        tracking_uri: absolute; of a database, the MLflow that is installed here is asked.
    """
    text = mlflow.__version__
    if is_server(tracking_uri):
        try:
            # mlflow 3.17 asks for credentials at this page, too, and has no public function for it.
            from mlflow.utils.credentials import get_default_host_creds
            from mlflow.utils.rest_utils import http_request

            creds: Any = get_default_host_creds(tracking_uri)  # type: ignore[no-untyped-call]
            text = str(
                http_request(creds, "/version", "GET", timeout=CONNECT_TIMEOUT_S, max_retries=0).text  # type: ignore[no-untyped-call]
            )
        except Exception as error:  # noqa: BLE001 - a gateway may not know the page
            _log.warning("cannot tell the version of the server: %s", mask_credentials(str(error)))
            return FIRST_VERSION
    return version_of(text) or FIRST_VERSION


def views_of(run: "MlflowRun") -> set[str]:
    """The ids of the views that the experiment of a run has; none where nobody can tell. A request."""
    try:
        refuse_unreachable(run.tracking_uri)
        tags = MlflowClient(tracking_uri=run.tracking_uri).get_experiment(run.experiment_id).tags
    except Exception:  # noqa: BLE001 - then there are no links to them
        return set()
    return {key.removeprefix(SHARED_VIEW) for key in tags if key.startswith(SHARED_VIEW)}


class SeedingSink:
    """A sink that has the dashboard seeded with what passes it: at once, and now and then, if there are new metrics.

    So the dashboard is there while the training goes on. Used by the shipper.

    Args:
        sink: takes the points.
        run: whose they are.
    """

    def __init__(self, sink: Sink, run: "MlflowRun") -> None:
        self._sink = sink
        self._run = run
        self._keys: set[str] = set()
        self._n_seeded = 0
        self._next_s = 0.0

    def send(self, points: Sequence[Point]) -> None:
        """See `Sink.send`."""
        self._sink.send(points)
        self._keys.update(point.key for point in points)
        if len(self._keys) > self._n_seeded and time.monotonic() >= self._next_s:
            seed_dashboard(self._run, self._keys)
            self._n_seeded = len(self._keys)
            self._next_s = time.monotonic() + RESEED_PAUSE_S
