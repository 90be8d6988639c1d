"""How often does the leaderboard call rows different that are equal, and how often rows that are not?

    python bench/ties.py
    python bench/ties.py 2000

Each line is one kind of leaderboard, simulated 1000 times, or as often as the argument says. A sample has a difficulty,
which a row finds larger or smaller by a number of its own, and a run by its seed: the chance of a right answer is
logistic in their sum. All rows of a leaderboard are drawn alike, so any row that is called different is a mistake.

The figures in docs/sweeps.md are those of this program.
"""

import sys

import numpy as np

from lamella.runs.sample_metrics import Array
from lamella.sweeps.ties import Row, compare_rows

LOGISTIC = 3.0  # the standard deviation of the difficulty of samples, in logits
# rows, runs of a row, samples, standard deviation between seeds in logits
KINDS = [
    (rows, runs, samples, seeds)
    for rows, runs, samples in [
        (2, 1, 200),
        (2, 1, 2000),
        (20, 1, 500),
        (2, 2, 500),
        (2, 2, 2000),
        (5, 2, 1000),
        (20, 2, 2000),
        (2, 3, 500),
        (5, 3, 1000),
        (20, 3, 500),
        (2, 5, 1000),
        (20, 5, 500),
    ]
    for seeds in ((0.0,) if runs == 1 else (0.0, 0.2, 0.5))
]


def answers(
    random: np.random.Generator, rows: int, runs: int, samples: int, seeds: float, ahead: float = 0.0, easy: float = 3.5
) -> list[list[Array]]:
    """Return for each row and run which samples it got right, bool (N,), the row with the highest mean first.

    seeds: by how much runs of a row differ, in logits. ahead: by how many logits the first row is better than all
    others, which are equal. easy: how easy the samples are, in logits.
    """
    difficulty = easy + LOGISTIC * random.standard_normal(samples)
    drawn = []
    for row in range(rows):
        of_row = difficulty + random.standard_normal(samples) + ahead * (row == 0)
        logits = of_row + seeds * random.standard_normal((runs, 1))
        drawn.append(random.random((runs, samples)) < 1 / (1 + np.exp(-logits)))
    return [list(row) for row in sorted(drawn, key=lambda row: -row.mean())]


def share_different(times: int, rows: int, runs: int, samples: int, seeds: float, ahead: float = 0.0) -> float:
    """Return the share of leaderboards of which any row is called different from the best."""
    random = np.random.default_rng(0)
    found = 0
    for number in range(times):
        board: list[Row] = [{0: row} for row in answers(random, rows, runs, samples, seeds, ahead)]
        found += not compare_rows(board, number).tied.all()
    return found / times


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print("rows  runs  samples  seeds  called different")
    for rows, runs, samples, seeds in KINDS:
        share = share_different(times, rows, runs, samples, seeds)
        print(f"{rows:<4}  {runs:<4}  {samples:<7}  {seeds:<5}  {share:.1%}", flush=True)


if __name__ == "__main__":
    main()
