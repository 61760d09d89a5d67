"""Do the intervals of three students hold what they promise? Planted scatter between students, through the package's estimator.

A run has three students with offsets of ln D, a + E/(k_B T), and statistical errors. Told: the share of 95 % intervals that hold
the truth, and χ² per degree of freedom of sets of runs about their weighted mean, as in `benchmarks.repeat`. Rules of the
relative model error: of each temperature alone; at least the median over temperatures (the package's); one for all, the
root mean square.

    python -m benchmarks.studies.committee_intervals [--sets 200]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.record import write_record
from mdistill.analysis.committee import LOG_SCALE, scatter
from mdistill.units import BOLTZMANN

SETS = {
    "450, 500, 550 K, five runs": ((450.0, 500.0, 550.0), (0.05, 0.05, 0.05), 5),
    "500, 700, 900 K, ten runs": ((500.0, 700.0, 900.0), (0.3, 0.1, 0.05), 10),
}
"""Temperatures, statistical error of one student's ln D at each, runs of a set."""
PLANTED = ((0.0, 0.1), (0.0, 0.2), (0.01, 0.1), (0.02, 0.05), (0.0, 0.0))
"""Scatter between students of Eₐ (eV) and of ln D at infinite temperature."""
STUDENTS = 3


def runs_of(
    draw: np.random.Generator, kelvins: np.ndarray, errors: np.ndarray, scatter_of: tuple[float, float], runs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of ln D about the truth, its model error, and the half width of 95 % over the error, each [run, temperature]."""
    energy, prefactor = scatter_of
    shape = (runs, 1, STUDENTS)
    offset = draw.normal(0, prefactor, shape) - draw.normal(0, energy, shape) / (BOLTZMANN * kelvins[:, None])
    logs = offset + draw.normal(0, 1, (runs, len(kelvins), STUDENTS)) * errors[:, None]
    found = [[scatter(of, [error] * STUDENTS, scale=LOG_SCALE) for of, error in zip(row, errors, strict=True)] for row in logs]
    widths = [[f.half_width / np.hypot(f.statistical, f.model) for f in row] for row in found]
    return logs.mean(axis=2), np.array([[f.model for f in row] for row in found]), np.array(widths)


def by_rule(model: np.ndarray) -> dict[str, np.ndarray]:
    """The model error [run, temperature] by each rule."""
    square = np.sqrt((model**2).mean(axis=1, keepdims=True)) * np.ones_like(model)
    return {
        "each alone": model, "at least the median": np.maximum(model, np.median(model, axis=1, keepdims=True)),
        "root mean square": square,
    }  # fmt: skip


def chi_square(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """χ² per degree of freedom of the runs [run, temperature] about their weighted mean."""
    weights = errors**-2.0
    mean = (weights * values).sum(axis=0) / weights.sum(axis=0)
    return np.asarray((weights * (values - mean) ** 2).sum(axis=0) / (len(values) - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, (kelvins, errors, runs) in SETS.items():
        statistical = np.array(errors) / STUDENTS**0.5
        for planted in PLANTED:
            draw, made = np.random.default_rng(1), []
            for _ in range(given.sets):
                values, model, widths = runs_of(draw, np.array(kelvins), np.array(errors), planted, runs)
                made.append({rule: (values, np.hypot(statistical, of), widths) for rule, of in by_rule(model).items()})
            for rule in made[0]:
                sets = [one[rule] for one in made]
                held = [abs(values) < error * width for values, error, width in sets]
                chi = np.array([chi_square(values, error) for values, error, _ in sets])
                rows.append({
                    "set": name, "Eₐ (eV)": planted[0], "ln D": planted[1], "rule": rule,
                    "95 % intervals hold, least": float(np.mean(held, axis=(0, 1)).min()), "all": float(np.mean(held)),
                    "median error": float(np.median([error for _, error, _ in sets])),
                    "χ² above 2": float((chi > 2.0).mean()), "above 2.57": float((chi > 2.57).mean()),
                })  # fmt: skip
    write_record("committee_intervals", {"students": STUDENTS, "sets": given.sets}, rows)


if __name__ == "__main__":
    main()
