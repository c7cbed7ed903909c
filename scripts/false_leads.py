"""How often the report of a sweep calls a lead more than the noise where all points are equal: `docs/report.md`.

Run it: `python scripts/false_leads.py`.
"""

import random
import statistics

from lrtape.noise import difference

N_SWEEPS = 10_000
SETTINGS = [(2, 2, 1.0), (2, 5, 1.0), (8, 3, 1.0), (8, 3, 3.0)]
"""Points, seeds of each, and by how much half of them are noisier than the others."""


def is_false_lead(n_points: int, n_seeds: int, noisier: float, chance: random.Random) -> bool:
    """One sweep over equal points: whether the best is said to lead the second best by more than the noise."""
    spreads = [noisier if index % 2 else 1.0 for index in range(n_points)]
    points = [[chance.gauss(0, spread) for _ in range(n_seeds)] for spread in spreads]
    best, second = sorted(points, key=statistics.mean)[:2]
    found = difference(best, second)
    return found is not None and found.is_beyond_noise


if __name__ == "__main__":
    for n_points, n_seeds, noisier in SETTINGS:
        chance = random.Random(0)
        share = statistics.mean(is_false_lead(n_points, n_seeds, noisier, chance) for _ in range(N_SWEEPS))
        print(f"{n_points} points, {n_seeds} seeds, half of them {noisier:g} x as noisy: {share:.2%}")
