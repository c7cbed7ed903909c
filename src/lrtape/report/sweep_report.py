"""Makes the report of a sweep: reads its runs, writes the files, and puts them on the page of its run."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrtape.errors import LRTapeError
from lrtape.leaderboard import Leaderboard, rank
from lrtape.report import table
from lrtape.report.curves import CurveReader
from lrtape.report.page import EFFECTS, HEATMAP, LR_CURVES, page
from lrtape.report.verdict import n_wanted, result, schedule_verdict, verdict
from lrtape.report.winner import FILE, command_of, config_of, representative
from lrtape.tracking.dashboard import Compared, seed_dashboard
from lrtape.tracking.find_sweep import REPORT_FOLDER, find_sweep
from lrtape.tracking.history import History
from lrtape.tracking.mlflow_run import MlflowRun
from lrtape.tracking.sweep_runs import SweepRuns
from lrtape.tracking.tags import BEST, FINISHED_TRIALS, LOGGED_TABLES, NOTE
from lrtape.trials import SweepRun, TrialRun, folder_of_sweep

RESOLVED = "config/resolved.yaml"
"""Among the artifacts of a training: its config."""
CSV, TABLE = "leaderboard.csv", "leaderboard.json"


@dataclass(frozen=True, slots=True)
class Look:
    """What the store has of a sweep now."""

    sweep: SweepRun
    runs: tuple[TrialRun, ...]

    @property
    def ended(self) -> frozenset[tuple[str, str]]:
        """The trainings that are over, and how: while it stays the same, there is nothing new to report."""
        return frozenset((run.run_id, run.status) for run in self.runs if run.end_ms is not None)


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a sweep.

    Attributes:
        board: the points, best first.
        sweep: its run.
        command: trains the winner again; empty where nothing is finished.
        winner: the run that it trains again.
        folder: where the files are.
    """

    board: Leaderboard
    sweep: SweepRun
    command: str
    winner: TrialRun | None
    folder: Path

    def text(self) -> str:
        """For a terminal. Lines without a last line break."""
        lines = [table.text(self.board), "", verdict(self.board, self.sweep)]
        if sentence := schedule_verdict(self.board):
            lines.append(sentence)
        if self.command and self.winner is not None:
            lines += ["", f"To train the best point again (seed {self.winner.seed}):", f"  {self.command}"]
        return "\n".join(lines)


class Reporter:
    """Makes the reports of one sweep, one after another. Used by one thread.

    Args:
        name: see `find_sweep`.
        tracking_uri: absolute.
        folder: where spools are; the files go below it, into a folder of the sweep.
        experiment: see `find_sweep`.

    Raises:
        ConfigError: there is no such sweep, or there are several.
        TrackingError: the store does not answer, or refuses.
    """

    def __init__(self, name: str, tracking_uri: str, folder: Path, experiment: str | None = None) -> None:
        sweep = find_sweep(name, tracking_uri, experiment)
        self._tracking_uri = tracking_uri
        self._run = MlflowRun.join(sweep.run_id, tracking_uri)
        self._runs = SweepRuns(tracking_uri, sweep.experiment)
        self._curves = CurveReader(tracking_uri)
        self.folder = folder_of_sweep(folder, sweep.sweep_id)

    def look(self) -> Look:
        """Ask the store. A few requests.

        Raises:
            TrackingError: the store does not answer, or refuses.
        """
        sweep = find_sweep(self._run.run_id, self._tracking_uri)
        children = self._runs.children(sweep.run_id)
        if sweep.planned and not sweep.n_trials:
            # A sweep of the same name may have had other trials, of other lengths say: nothing to compare with.
            known = {trial.id for trial in sweep.planned}
            children = [run for run in children if run.trial_id in known]
        return Look(sweep, tuple(children))

    def report(self, look: Look | None = None, is_over: bool = False) -> Report:
        """Write the files, upload them, and describe the sweep in its run. Takes some seconds.

        A picture that cannot be drawn is warned about and left out.

        Args:
            look: what to report; by default what the store has now.
            is_over: whether nobody trains any more, although the run of the sweep is not ended yet.

        Raises:
            TrackingError: the store does not answer, or refuses.
            OSError: the files cannot be written.
        """
        look = look or self.look()
        sweep = replace(look.sweep, status="") if is_over else look.sweep
        board = rank(look.runs, sweep.objective, sweep.direction, sweep.planned)
        self.folder.mkdir(parents=True, exist_ok=True)
        table.write_csv(self.folder / CSV, board)
        table.write_json(self.folder / TABLE, board)
        pictures = self._draw(board)
        winner = representative(board)
        command = self._write_winner(sweep, winner) if winner is not None else ""
        report = Report(board, sweep, command, winner if command else None, self.folder)
        self._publish(report, [CSV, TABLE, *([FILE] if command else []), *pictures], pictures)
        return report

    def _draw(self, board: Leaderboard) -> list[str]:
        # Late: matplotlib takes half a second to import.
        from lrtape.report.effects_picture import draw_effects
        from lrtape.report.heatmap import draw_heatmap
        from lrtape.report.lr_picture import draw_lr_curves

        curves = self._curves.read(board.standings)
        painters: dict[str, Callable[[Path], bool]] = {
            LR_CURVES: lambda path: draw_lr_curves(path, board, curves),
            HEATMAP: lambda path: draw_heatmap(path, board),
            EFFECTS: lambda path: draw_effects(path, board),
        }
        drawn = []
        for name, draw in painters.items():
            try:
                if draw(self.folder / name):
                    drawn.append(name)
            except Exception as error:  # noqa: BLE001 - whatever a drawing library makes of strange values
                warnings.warn(f"lrtape could not draw {name}: {type(error).__name__}: {error}", stacklevel=2)
        return drawn

    def _write_winner(self, sweep: SweepRun, winner: TrialRun) -> str:
        """Write its config; returns the command, or nothing where its run has no config."""
        try:
            resolved = History(winner.run_id, self._tracking_uri).text(RESOLVED)
        except LRTapeError as error:
            warnings.warn(f"lrtape could not read the config of the best point: {error}", stacklevel=3)
            return ""
        if resolved is None:
            return ""
        (self.folder / FILE).write_text(config_of(resolved, sweep, winner), encoding="utf-8")
        return command_of(sweep, winner, self.folder)

    def _publish(self, report: Report, files: Sequence[str], pictures: Sequence[str]) -> None:
        board = report.board
        for name in files:
            self._run.log_artifact(self.folder / name, REPORT_FOLDER)
        tags = {
            NOTE: page(board, report.sweep, report.command, report.winner, pictures),
            FINISHED_TRIALS: f"{board.n_finished}/{n_wanted(board, report.sweep)}",
            LOGGED_TABLES: json.dumps([{"path": f"{REPORT_FOLDER}/{TABLE}", "type": "table"}]),
        }
        if board.winner is not None:
            tags[BEST] = f"{board.winner.name}: {board.objective} {result(board.winner)}"
        self._run.set_tags(tags)
        seed_dashboard(self._run, [board.objective], _compared(board))


def _compared(board: Leaderboard) -> Compared:
    """What the dashboard says of a sweep: the values that all points have, and those that only some have, as each
    schedule its own.
    """
    keys = [tuple(standing.values) for standing in board.standings]
    everywhere = tuple(key for key in board.swept() if all(key in own for own in keys))
    grids = []
    for grid in dict.fromkeys([everywhere, *keys]):
        points = [standing.values for standing in board.standings if {*grid} <= {*standing.values}]
        varied = [key for key in grid if len({values[key] for values in points}) > 1]
        if varied:
            grids.append(varied)
    return Compared(
        board.objective,
        board.direction,
        grids,
        any(standing.n_trials > 1 or len(standing.runs) > 1 for standing in board.standings),
        next((run.run_id for standing in board.standings for run in standing.runs), ""),
    )
