"""`attach` and `print_lrs`: for the optimizers of one training loop.

Not ``attach.py``: a module of that name would hide the function, for whoever imports the module first.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from torch.nn import Module
from torch.optim import Optimizer

from lrtape.agreement import COMPARE_EVERY_N_STEPS
from lrtape.beside import EVERY_N_STEPS, Beside
from lrtape.beside_recorder import recorder_class
from lrtape.destination import (
    Destination,
    check_compared,
    check_folder,
    check_interval,
    join,
    open_destination,
)
from lrtape.errors import ConfigError, LRTapeError
from lrtape.groups import moving_lrs
from lrtape.idle_companions import IDLE_COMPANIONS
from lrtape.keys import group_names, optimizer_names
from lrtape.lines import format_lrs
from lrtape.open_sessions import OPEN_SESSIONS, Attached
from lrtape.ranks import these_ranks
from lrtape.recording_options import EVERY_STEP, FOLDER, RecordingOptions
from lrtape.replay import Overlap
from lrtape.session import CLOSE_TIMEOUT_S, Session, keys_taken
from lrtape.step_hooks import has_hooks, innermost
from lrtape.tape import Status
from lrtape.tracking.no_run import NoRun

if TYPE_CHECKING:
    from lrtape.destination import Run, RunOrId

ACTIVE_RUN = "active"


class AttachOptions(TypedDict, total=False):
    """The arguments of `attach` that an adapter leaves to its user."""

    names: Sequence[str] | None
    print_every_n_steps: int | None
    folder: str | Path
    keep_spool: bool
    fsync_every_s: float | None
    close_timeout_s: float
    record: str
    lr_log10: bool
    also: Iterable[str]
    also_every_n_steps: int
    compare_ranks_every_n_steps: int | None


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is none of the `AttachOptions`.

    Raises:
        ConfigError: there is no such option.
    """
    unknown = sorted(options.keys() - AttachOptions.__annotations__.keys())
    if unknown:
        raise ConfigError(
            f"the options must be among {', '.join(AttachOptions.__annotations__)}, but {', '.join(unknown)} is given "
            "instead. See `lrtape.attach`."
        )


def attach(
    *optimizers: Optimizer,
    names: Sequence[str] | None = None,
    model: Module | None = None,
    run: "RunOrId" = ACTIVE_RUN,
    print_every_n_steps: int | None = None,
    folder: str | Path = FOLDER,
    keep_spool: bool = False,
    fsync_every_s: float | None = None,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
    record: str = EVERY_STEP,
    lr_log10: bool = False,
    first_step: int | Sequence[int] = 0,
    also: Iterable[str] = (),
    also_every_n_steps: int = EVERY_N_STEPS,
    compare_ranks_every_n_steps: int | None = COMPARE_EVERY_N_STEPS,
) -> Session:
    """Record the lr that every step of these optimizers uses, for every param group, until the session is closed.

    ::

        with lrtape.attach(optimizer):
            train()

    Called again for the same optimizers, with the same arguments and for the same run, it returns the session that is
    open: a cell of a notebook may be run twice. An optimizer is recorded by one session at a time, which may have one
    beside it that only prints; `autolog` leaves it out as long as the session is open.

    A second process sends what is recorded to MLflow; some 230 MB. It is started here, and kept for the next recording:
    it ends when it has had nothing to do for a minute, or with this process.

    In a training of several processes, call it on every rank or on rank 0 alone, after ``init_process_group``: rank 0
    records, and the others print nothing, open no run and no spool, and compare their learning rates with those of
    rank 0.

    Args:
        optimizers: at least one, each once; a wrapper, as Lightning's and Accelerate's, stands for what it wraps.
        names: one for each optimizer; its metric keys are then ``lr/<name>/<group>``. Without names the first
            optimizer has ``lr/<group>``, and any later one ``lr/<class>_<index>/<group>``.
        model: names the param groups, where they have no names of their own, after the modules they belong to. Of
            several optimizers without `names`, one that is an attribute of the model is called by that:
            ``lr/opt_d/<group>`` for ``model.opt_d``, also the first.
        run: ``"active"`` for the MLflow run that is active in this thread. Where none is yet, the session binds to its
            run with the first step, or the first `Session.log`, or when `Session.run` is asked for: to the one that is
            active then, or to a new one that is active until the session ends it. A name that is taken in that run is
            numbered. Else a run of MLflow's, or its id, that somebody else ends; or ``None``: nothing is kept and
            MLflow is not needed, for printing.
        print_every_n_steps: print a line with every group's lr every so many steps, the first step included.
        folder: where the spool lives until the tracking store has everything.
        keep_spool: whether it stays there then.
        fsync_every_s: how often the spool is forced to the disk, in seconds, by the shipper process: the training does
            not wait. By default a spool survives the death of this process, but perhaps not a power failure.
        close_timeout_s: how long `Session.close` waits for the tracking store.
        record: which learning rates the tracking store gets: ``"every_step"``, or, for very long runs, ``"changes"``:
            both sides of every change, the first and the last step, those at `Session.mark`, and one now and then. What
            MLflow draws is the same, and the tape among the artifacts has every step: see ``docs/record.md``.
        lr_log10: whether the store also gets ``lr_log10/<group>``, the logarithm of each lr that it gets; MLflow labels
            every tick below 1e-6 of an axis as 0. An lr that is not above 0 has none.
        first_step: index of the next step of these optimizers, from 0: where a training is resumed from a checkpoint,
            how many steps it had made. Give the id of the old run as `run`, and its curves go on. A list has one for
            each optimizer, as `Session.next_steps` has.
        also: what is recorded beside the lr, for every param group: ``momentum`` (and betas), ``weight_decay``,
            ``grad_norm``, ``update_ratio``, ``effective_lr``; see ``docs/beside_the_lr.md``. For ``update_ratio`` a
            copy of all weights that move is held while such a step runs.
        also_every_n_steps: at each step whose index is a multiple of this.
        compare_ranks_every_n_steps: how often the ranks are compared, if there are several; ``None`` for never. A
            difference is a finding on rank 0, ``ranks-differ``.

    Raises:
        ConfigError: an argument is wrong, or two param groups would share a metric, or some of the optimizers are
            recorded already.
        TrackingError: the tracking store cannot be reached.
    """
    optimizers = tuple(innermost(optimizer) for optimizer in optimizers)
    _check(optimizers, names, model)
    check_interval(print_every_n_steps)
    options = RecordingOptions(folder, keep_spool, fsync_every_s, record, lr_log10)
    check_compared(compare_ranks_every_n_steps)
    first_steps = _first_steps(first_step, len(optimizers))
    beside = Beside.of(also, also_every_n_steps)
    keeps = not (run is None or isinstance(run, NoRun))
    if not these_ranks().records:
        run = None
    asked = {
        "optimizers": tuple(map(id, optimizers)),
        "names": None if names is None else tuple(names),
        "model": None if model is None else weakref.ref(model),
        "print_every_n_steps": print_every_n_steps,
        **{field.name: getattr(options, field.name) for field in fields(options)},
        "folder": str(folder),
        "close_timeout_s": close_timeout_s,
        "first_step": first_steps,
        "also": beside,
        "compare_ranks_every_n_steps": compare_ranks_every_n_steps,
    }
    if (already := _already_open(optimizers, run, keeps, asked)) is not None:
        return already

    names = names or optimizer_names(optimizers, model)
    param_paths = _param_paths(model)
    keys = keys_taken(_run_id(run))
    for position, (optimizer, name, step) in enumerate(zip(optimizers, names, first_steps, strict=True)):
        # Made only to refuse, before anything is begun, two groups of one name or an lr that is not a number.
        recorder_class(beside)(optimizer, position, keys, name, param_paths, first_step=step)

    def open_run(joined: "Run") -> Destination:
        try:
            overlap = None
            if any(first_steps) and not isinstance(joined, NoRun):
                overlap = Overlap(joined.points_from(min(first_steps)))
        except LRTapeError:
            joined.finish(Status.FAILED)
            raise
        return open_destination(
            *(joined, print_every_n_steps, options, overlap, None),
            compare_ranks_every_n_steps,
        )

    if run == ACTIVE_RUN:
        session = _on_active_run(open_run, folder, close_timeout_s, beside)
    else:
        session = Session(open_run(join(run)), close_timeout_s, beside=beside)
    try:
        for optimizer, name, step in zip(optimizers, names, first_steps, strict=True):
            session.add(optimizer, name, param_paths, first_step=step)
    except ConfigError:
        session.close(Status.FAILED)
        raise
    if keeps:
        for optimizer in optimizers:
            for other in OPEN_SESSIONS.autologged(optimizer):
                other.leave_out(optimizer)
    OPEN_SESSIONS.attach(Attached(session, keeps, asked))
    return session


def _on_active_run(
    open_run: "Callable[[Run], Destination]", folder: str | Path, close_timeout_s: float, beside: Beside
) -> Session:
    """A session on the run that is active now, or else on the one that is when the first step is recorded."""
    from lrtape.tracking.active_runs import active_run_id, join_or_start, require_store, unseen  # late: imports mlflow

    thread = threading.get_ident()

    def open_active() -> Destination:
        if not these_ranks().records:  # There was no process group yet when attach() was called.
            return open_run(NoRun())
        with unseen():
            return open_run(join_or_start(thread))

    if active_run_id() is not None:
        return Session(open_active(), close_timeout_s, beside=beside)
    check_folder(folder)
    with unseen():
        require_store()
    if these_ranks().records:
        IDLE_COMPANIONS.expect()  # The first step shall not have to wait for a process to start.
    return Session(open_active, close_timeout_s, beside=beside)


def _check(optimizers: Sequence[Optimizer], names: Sequence[str] | None, model: Module | None) -> None:
    if not optimizers:
        raise ConfigError("`attach` needs at least one optimizer, but was given none: lrtape.attach(optimizer).")
    for optimizer in optimizers:
        if not has_hooks(optimizer):
            raise ConfigError(
                f"`attach` takes torch optimizers, but was given {type(optimizer).__name__} instead: "
                "lrtape.attach(optimizer, model=model)."
            )
    if len(set(map(id, optimizers))) != len(optimizers):
        raise ConfigError("`attach` must be given each optimizer once, but was given one of them twice.")
    if model is not None and not isinstance(model, Module):
        raise ConfigError(f"`model` must be a torch.nn.Module, but is {type(model).__name__} instead.")
    if names is not None and (len(names) != len(optimizers) or len(set(names)) != len(names) or not all(names)):
        raise ConfigError(
            f"`names` must hold one different, non-empty name for each of the {len(optimizers)} optimizers, but is "
            f"{list(names)} instead."
        )


def _already_open(
    optimizers: Sequence[Optimizer], run: "RunOrId", keeps: bool, asked: Mapping[str, Any]
) -> Session | None:
    """The open session that is asked for once more, if there is one; refuses what would record a step twice."""
    wanted = _run_id(run)
    found = [one for optimizer in optimizers for one in OPEN_SESSIONS.attached(optimizer) if one.keeps == keeps]
    if found:
        _require_same(found[0], asked, run, wanted)
        return found[0].session
    for optimizer in optimizers:
        if any(session.own_run_id == wanted for session in OPEN_SESSIONS.autologged(optimizer)):
            raise ConfigError(
                f"`attach` must be given optimizers that are not recorded yet, but autolog records this "
                f"{type(optimizer).__name__} into run {wanted} already. Attach it before its first step in that run, "
                "or switch autolog off, lrtape.autolog(disable=True), and give it a name of its own: names=['...']."
            )
    return None


def _require_same(open_now: Attached, asked: Mapping[str, Any], run: "RunOrId", wanted: str | None) -> None:
    session, before = open_now.session, open_now.asked
    close = "Close that one first: session.close()."
    if asked["optimizers"] != before["optimizers"]:
        raise ConfigError(
            "`attach` must be given all optimizers of a session that is open, in their order, or none, but some of "
            f"these are recorded already by another one. {close}"
        )
    is_same_run = run == ACTIVE_RUN if session.own_run_id is None else session.own_run_id == (wanted or "")
    if not is_same_run:
        raise ConfigError(
            f"`attach` must be given optimizers that are not recorded yet, but a session that is open records these "
            f"into {_named(session.own_run_id)}, and this one is for {_named(wanted)}. {close}"
        )
    differing = [name for name, value in asked.items() if value != before[name]]
    if differing:
        raise ConfigError(
            f"`attach` must be given the same arguments as before where its session is still open, but "
            f"{', '.join(f'`{name}`' for name in differing)} differ. {close}"
        )


def _named(run_id: str | None) -> str:
    return f"run {run_id}" if run_id else "the run that is active at the first step"


def _run_id(run: "RunOrId") -> str | None:
    """The id of the run that is meant; ``None`` where that is not decided yet, empty for none."""
    if run is None or isinstance(run, NoRun):
        return ""
    if run == ACTIVE_RUN:
        from lrtape.tracking.active_runs import active_run_id  # late: mlflow takes a second to import

        return active_run_id()
    if isinstance(run, str):
        return run
    run_id: str = run.run_id if hasattr(run, "run_id") else run.info.run_id
    return run_id


def print_lrs(optimizer: Optimizer, model: Module | None = None) -> None:
    """Print one line with the lr that every param group will use in the next step: ``backbone 1e-05  head 0.001``.

    A group that does not move, see `lrtape.groups`, is ``frozen``.

    Args:
        optimizer: any torch optimizer.
        model: names the param groups, where they have no names of their own, after the modules they belong to.
    """
    names = group_names(optimizer.param_groups, _param_paths(model))
    print(format_lrs(names, moving_lrs(optimizer.param_groups)), flush=True)  # noqa: T201


def _param_paths(model: Module | None) -> dict[int, str]:
    return {} if model is None else {id(param): path for path, param in model.named_parameters()}


def _first_steps(first_step: int | Sequence[int], n_optimizers: int) -> list[int]:
    first_steps = list(first_step) if isinstance(first_step, Sequence) else [first_step] * n_optimizers
    for step in first_steps:
        check_first_step(step)
    if len(first_steps) != n_optimizers:
        raise ConfigError(
            f"`first_step` must be a number, or hold one for each of the {n_optimizers} optimizers, but is "
            f"{first_steps} instead."
        )
    return first_steps


def check_first_step(first_step: int) -> None:
    """Refuse what is not a step index.

    Raises:
        ConfigError: it is not a whole number >= 0.
    """
    if isinstance(first_step, bool) or not isinstance(first_step, int) or first_step < 0:
        raise ConfigError(
            f"`first_step` must be a whole number >= 0, but is {first_step!r} instead. It is the index of the next "
            "step: how many steps the optimizer had made at the checkpoint."
        )
