"""What a sweep has found out, in sentences: which point is best, by how much, and whether that is more than noise."""

from lrtape.leaderboard import SCHEDULER, Lead, Leaderboard
from lrtape.noise import CONFIDENCE
from lrtape.standing import Standing
from lrtape.trials import RUNNING, SweepRun

_MAX_SCHEDULES = 12


def verdict(board: Leaderboard, sweep: SweepRun) -> str:
    """Who won, by how much, against the noise of the seeds; and how many trainings came to nothing. One line."""
    n_failed = sum(len(point.failures) for point in board.standings if not point.same_as)
    n_refused = sum(point.n_trials for point in board.standings if point.refusal)
    sentences = [*_who_won(board), *_trouble(n_failed, n_refused)]
    if sweep.status == RUNNING:
        sentences.insert(0, f"{board.n_finished} of {n_wanted(board, sweep)} trainings are finished. So far:")
    return " ".join(sentences)


def n_wanted(board: Leaderboard, sweep: SweepRun) -> int:
    """How many trainings the sweep shall have; of a search that goes on, as many as it has trials."""
    return max(board.n_trials, sweep.n_trials if sweep.status == RUNNING else 0)


def schedule_verdict(board: Leaderboard) -> str:
    """Which schedule won, of those that are swept over; empty where that is a single one. One line."""
    best = board.schedules
    if len(best) < 2:
        return ""
    places = [f"{_schedule(point)} {result(point)} ({_of_how_many(point, board)})" for point in best[:_MAX_SCHEDULES]]
    if len(best) > len(places):
        places.append(f"and {len(best) - len(places)} more")
    return f"Best of each schedule: {'; '.join(places)}. {noise_of(board.compare(best[0], best[1]))}"


def result(point: Standing) -> str:
    """``0.1215 ± 0.0075``: the mean of the seeds and their sample standard deviation; without one for one seed."""
    if point.mean is None:
        return "-"
    return f"{point.mean:.4g}" + (f" ± {rounded(point.spread)}" if point.spread is not None else "")


def rounded(value: float) -> str:
    """To two digits: ``0.0075``, ``110``."""
    return f"{float(f'{value:.2g}'):g}"


def noise_of(lead: Lead) -> str:
    """Whether a lead is more than the noise of the seeds."""
    over = f"Its lead of {rounded(lead.gap)} over {lead.second.name}"
    if lead.interval is None:
        return f"{over} may be noise: from one seed nobody can tell. Use sweep.seeds=3."
    interval = f"{CONFIDENCE:.0%} interval {rounded(lead.interval.low)} to {rounded(lead.interval.high)}"
    if lead.is_beyond_noise:
        return f"{over} is more than the noise of the seeds ({interval})."
    return f"{over} is within the noise of the seeds ({interval})."


def _who_won(board: Leaderboard) -> list[str]:
    winner, lead = board.winner, board.lead
    if winner is None:
        return ["No training has a result."]
    mark = f"{winner.name} is best: {board.objective} {result(winner)} ({_seeds(winner.n)})"
    if lead is None:
        return [f"{mark}; it is the only point that has a result."]
    second = lead.second
    if lead.gap > 0:
        sentences = [f"{mark}.", noise_of(lead)]
    elif lead.gap == 0:
        n_equal = sum(point.rank == winner.rank for point in board.ranked) - 1
        sentences = [f"{mark}, the same as {second.name if n_equal == 1 else f'{n_equal} other points'}."]
    else:
        sentences = [f"{mark}; {second.name} has {result(second)}, but a seed of it has failed."]
    n_rivals = len(board.rivals())
    if lead.interval is not None and n_rivals > (0 if lead.is_beyond_noise else 1):
        sentences.append(f"{n_rivals} of {len(board.ranked) - 1} other points cannot be told apart from it.")
    if winner.verdict not in {"", "ok"}:
        sentences.append(f"But mind its learning rates: {winner.verdict}")
    return sentences


def _trouble(n_failed: int, n_refused: int) -> list[str]:
    sentences = []
    if n_failed:
        sentences.append(f"{n_failed} training{'s have' if n_failed > 1 else ' has'} failed.")
    if n_refused:
        sentences.append(f"{n_refused} {'were' if n_refused > 1 else 'was'} refused.")
    return sentences


def _schedule(point: Standing) -> str:
    return point.values.get(SCHEDULER, point.name)


def _of_how_many(point: Standing, board: Leaderboard) -> str:
    schedule = point.values.get(SCHEDULER)
    n_points = sum(other.values.get(SCHEDULER) == schedule for other in board.ranked)
    return f"best of {n_points} points" if n_points > 1 else "its only point"


def _seeds(n: int) -> str:
    return f"{n} seed{'s' if n != 1 else ''}"
