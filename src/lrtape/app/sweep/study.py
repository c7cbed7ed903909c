"""The study of a search: what it has suggested, and what came of it. The only module that imports optuna."""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lrtape.app.build import build
from lrtape.app.sweep.grid import Point
from lrtape.app.sweep.space import Axis, Number, Range, Space
from lrtape.app.sweep.study_link import StudyLink
from lrtape.errors import ConfigError
from lrtape.trials import MIN, Trial

JOURNAL = "optuna.journal"
"""In the folder of a sweep."""
SPACE = "space"
"""The parameter that says which of several spaces a trial is in."""

_TRIAL, _TWIN, _SAME, _ERROR = "lrtape.trial", "lrtape.twin", "lrtape.same_as", "lrtape.error"
_MAX_SEED = 2**31

Made = TypeVar("Made")

SAMPLERS: Mapping[str, Callable[[int, bool], BaseSampler]] = {
    "tpe": lambda seed, is_parallel: TPESampler(seed=seed, constant_liar=is_parallel),
    "random": lambda seed, _: RandomSampler(seed=seed),
    "cmaes": lambda seed, _: CmaEsSampler(seed=seed, warn_independent_sampling=False),
}
PRUNERS: Mapping[str, Callable[[int], BasePruner]] = {
    "none": lambda _: NopPruner(),
    "median": lambda _: MedianPruner(),
    "asha": lambda _: SuccessiveHalvingPruner(min_resource=1),
    "hyperband": lambda n_epochs: HyperbandPruner(min_resource=1, max_resource=n_epochs),
}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A trial of the study.

    Attributes:
        number: from 0.
        state: of it.
        value: what it came to; of a pruned one, what it was when it was pruned; ``None`` where there is none.
        trial: what is trained for it; ``None`` where the driver has died before it knew.
        twin: see `Planner.plan`, as one text.
        same_as: the number of the one whose result it shares, and which alone is trained; ``None`` for none.
        error: why it has failed.
    """

    number: int
    state: TrialState
    value: float | None
    trial: Trial | None
    twin: str
    same_as: int | None
    error: str

    @property
    def has_result(self) -> bool:
        """Whether it was trained to the end, or pruned."""
        return self.state in {TrialState.COMPLETE, TrialState.PRUNED}


class Study:
    """A study of optuna's, in a journal. Used by the driver.

    What it suggests depends on the seed, on what it was told, and on how much it has suggested, but not on whether the
    driver was started anew in between.

    Args:
        study: optuna's.
        sampler: makes the sampler of a suggestion, from a seed.
        seed: of all suggestions.
    """

    def __init__(self, study: optuna.Study, sampler: Callable[[int], BaseSampler], seed: int) -> None:
        self._study = study
        self._sampler = sampler
        self._seed = seed

    @classmethod
    def open(cls, link: StudyLink, direction: str, sampler: Callable[[int], BaseSampler], seed: int) -> Self:
        """Make a study, or go on with the one of that name.

        Args:
            link: where it is.
            direction: ``min`` or ``max``.
            sampler: see `Study`.
            seed: see `Study`.
        """
        study = optuna.create_study(
            storage=_open_storage(link.journal),
            sampler=sampler(seed),
            pruner=build_pruner(link.pruner, link.n_epochs),
            study_name=link.name,
            direction="minimize" if direction == MIN else "maximize",
            load_if_exists=True,
        )
        return cls(study, sampler, seed)

    def ask(self, spaces: Sequence[Space]) -> tuple[int, Point]:
        """The number of the next suggestion, and its point."""
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._sampler(random.Random(f"{self._seed}/{number}").randrange(_MAX_SEED))  # noqa: S311
        trial = self._study.ask()
        names = [space.name for space in spaces]
        name = trial.suggest_categorical(SPACE, names) if len(spaces) > 1 else names[0]
        space = spaces[names.index(name)]
        # The same key means something else in another space.
        prefix = f"{name}/" if len(spaces) > 1 else ""
        values = {key: _suggest(trial, prefix + key, axis) for key, axis in space.axes.items()}
        return trial.number, space.point(values)

    def note(self, number: int, trial: Trial, twin: str, same_as: int | None = None) -> None:
        """Keep what is trained for a suggestion; see `Suggestion`."""
        asked = self._trial(number)
        asked.set_user_attr(_TWIN, twin)
        if same_as is not None:
            asked.set_user_attr(_SAME, same_as)
        asked.set_user_attr(_TRIAL, asdict(trial))  # last: whatever has a trial has the others, too

    def tell(self, number: int, value: float) -> None:
        """A trial was trained to its end."""
        self._study.tell(number, value)

    def tell_pruned(self, number: int) -> None:
        """A trial was ended before."""
        self._study.tell(number, state=TrialState.PRUNED)

    def tell_failed(self, number: int, error: str) -> None:
        """A trial has no result."""
        self._trial(number).set_user_attr(_ERROR, error)
        self._study.tell(number, state=TrialState.FAIL)

    def suggestions(self) -> list[Suggestion]:
        """All of them so far, in order."""
        return [_suggestion(trial) for trial in self._study.get_trials(deepcopy=False)]

    def _trial(self, number: int) -> optuna.Trial:
        frozen = self._study.get_trials(deepcopy=False)[number]
        return optuna.Trial(self._study, frozen._trial_id)


class EpochReporter:
    """Reports the epochs of one trial. Used in the process that trains it.

    Args:
        link: where its study is.
        number: of its suggestion.
    """

    def __init__(self, link: StudyLink, number: int) -> None:
        study = optuna.load_study(
            study_name=link.name,
            storage=_open_storage(link.journal),
            sampler=RandomSampler(),  # it suggests nothing here
            pruner=build_pruner(link.pruner, link.n_epochs),
        )
        self._trial = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def report(self, n_epochs: int, value: float) -> bool:
        """Tell what the objective is after so many epochs; returns whether the trial is to be pruned."""
        self._trial.report(value, n_epochs)
        return self._trial.should_prune()


def count_results(journal: Path, name: str) -> int:
    """How many trials of a study have a result; 0 where there is no such study."""
    if not journal.exists():
        return 0
    storage = _open_storage(str(journal))
    if name not in {study.study_name for study in storage.get_all_studies()}:
        return 0
    trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    return sum(_suggestion(trial).has_result for trial in trials)


def sampler_of(given: Any, is_parallel: bool) -> Callable[[int], BaseSampler]:
    """What makes samplers.

    Args:
        given: ``hydra.sweeper.sampler``: a name, or a mapping with a ``_target_``.
        is_parallel: whether several trials are trained at a time.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(given, str) and given in SAMPLERS:
        named = SAMPLERS[given]
        _try("sampler", given, lambda: named(0, is_parallel))
        return lambda seed: _quietly(lambda: named(seed, is_parallel))
    built: BaseSampler = _build("sampler", given, BaseSampler, SAMPLERS)
    return lambda _: built


def build_pruner(given: Any, n_epochs: int) -> BasePruner:
    """What prunes.

    Args:
        given: ``hydra.sweeper.pruner``: a name, or a mapping with a ``_target_``.
        n_epochs: of the longest trial.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(given, str) and given in PRUNERS:
        return PRUNERS[given](n_epochs)
    pruner: BasePruner = _build("pruner", given, BasePruner, PRUNERS)
    return pruner


def _build(what: str, given: Any, kind: type[Any], names: Mapping[str, Any]) -> Any:
    if not isinstance(given, dict):
        raise ConfigError(
            f"`hydra.sweeper.{what}` must be one of {', '.join(names)}, or a mapping with a `_target_`, but is "
            f"{given!r} instead."
        )
    node = OmegaConf.create(given)
    assert isinstance(node, DictConfig)  # noqa: S101 - it was made from a mapping
    built = _try(what, given.get("_target_"), lambda: build(f"hydra.sweeper.{what}", node))
    if not isinstance(built, kind):
        raise ConfigError(
            f"`hydra.sweeper.{what}` must build one of optuna's {what}s, but {given.get('_target_')} builds "
            f"{type(built).__name__} instead."
        )
    return built


def _try(what: str, name: Any, make: Callable[[], Any]) -> Any:
    try:
        return _quietly(make)
    except ImportError as error:
        raise ConfigError(
            f"`hydra.sweeper.{what}={name}` must have the package that it needs, but has not. {error}"
        ) from error


def _open_storage(journal: str) -> JournalStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return _quietly(lambda: JournalStorage(JournalFileBackend(journal)))


def _quietly(make: Callable[[], Made]) -> Made:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # optuna 4: all of it is stable in 5
        return make()


def _suggest(trial: optuna.Trial, name: str, axis: Axis) -> Number | str:
    if not isinstance(axis, Range):
        return trial.suggest_categorical(name, axis.texts)
    if axis.is_whole:
        return trial.suggest_int(name, int(axis.low), int(axis.high), step=int(axis.step or 1), log=axis.is_log)
    return trial.suggest_float(name, axis.low, axis.high, step=axis.step, log=axis.is_log)


def _suggestion(trial: FrozenTrial) -> Suggestion:
    attributes = trial.user_attrs
    noted = attributes.get(_TRIAL)
    value = None
    if trial.state in {TrialState.COMPLETE, TrialState.PRUNED} and trial.values:
        value = trial.values[0]
    return Suggestion(
        trial.number,
        trial.state,
        value,
        None if noted is None else Trial(**{**noted, "overrides": tuple(noted["overrides"])}),
        attributes.get(_TWIN, ""),
        attributes.get(_SAME),
        attributes.get(_ERROR, ""),
    )
