"""Bias and coverage of the diffusivity on walks of exactly known D.

    python -m benchmarks.diffusion_walks [--walks 40]

Each row counts of how many walks the true D lies within ± error and within the 95 % interval; an upper limit counts as the
interval from 0 to the limit. "diffusive": walks with a value and no limit.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.signal import lfilter

from benchmarks.record import write_record
from mdistill.analysis.diffusion import diffusivity
from mdistill.types import Trajectory
from mdistill.units import DIFFUSIVITY_CM2_S

IONS, HOST, SPACING, STEP, HOPS = 24, 28, 50.0, 2.5, 160
"""Ions, atoms of the host, time between frames (fs), length of a hop (Å), lasting hops in a run."""
SHORT, LONG = 2001, 10001
"""Frames of 100 and 500 ps."""
Path = np.ndarray
Walk = Callable[[np.random.Generator], tuple[list[Path], float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Walks of each kind."""

    walks: int = 40


def lasting(random: np.random.Generator, frames: int, *, hops: int = HOPS, together: int = 1, dimensions: int = 3) -> Path:
    """Hops of `together` ions at a time, each for good, on vibrating sites."""
    path = 0.12 * random.normal(size=(frames, IONS, 3))
    for _ in range(random.poisson(hops / together)):
        time, first = random.integers(1, frames), together * random.integers(IONS // together)
        for ion in range(first, first + together):
            path[time:, ion, random.integers(dimensions)] += STEP * random.choice([-1.0, 1.0])
    return path


def returning(random: np.random.Generator, frames: int, *, per_100_ps: float = 48, life_ps: float = 3.0) -> Path:
    """Hops that are taken back."""
    path = np.zeros((frames, IONS, 3))
    for _ in range(random.poisson(per_100_ps)):
        time, stay = random.integers(1, frames), max(1, int(random.exponential(1000.0 * life_ps) / SPACING))
        path[time : time + stay, random.integers(IONS), random.integers(3)] += STEP * random.choice([-1.0, 1.0])
    return path


def caged(random: np.random.Generator, frames: int, *, edge: float, dwell_ps: float) -> Path:
    """Jumps among the eight corners of a cube."""
    site, path = random.integers(0, 2, (IONS, 3)).astype(float), np.zeros((frames, IONS, 3))
    for k in range(frames):
        moving = np.flatnonzero(random.random(IONS) < SPACING / (1000.0 * dwell_ps))
        axis = random.integers(3, size=len(moving))
        site[moving, axis] = 1.0 - site[moving, axis]
        path[k] = edge * site
    return path


def rattling(random: np.random.Generator, frames: int, *, width: float = 0.5, memory_ps: float = 0.0) -> Path:
    """Gaussian displacements of `width` Å per axis about a site, forgotten within `memory_ps`."""
    kept = np.exp(-SPACING / (1000.0 * memory_ps)) if memory_ps else 0.0
    kicks = np.sqrt(1.0 - kept**2) * random.normal(size=(frames, IONS, 3))
    kicks[0] /= np.sqrt(1.0 - kept**2)
    return width * np.asarray(lfilter([1.0], [1.0, -kept], kicks, axis=0))


def true_diffusivity(frames: int, hops: float = HOPS) -> float:
    """cm²/s."""
    return hops * STEP**2 / (6.0 * IONS * (frames - 1) * SPACING) * DIFFUSIVITY_CM2_S


def _runs(one: Callable[[np.random.Generator, int], Path], *, frames: Sequence[int] = (SHORT,), hops: float = HOPS) -> Walk:
    return lambda random: ([one(random, count) for count in frames], true_diffusivity(frames[0], hops))


def _pairs(random: np.random.Generator, frames: int) -> Path:
    return lasting(random, frames) + returning(random, frames)


def _fast_cage(random: np.random.Generator, frames: int) -> Path:
    return lasting(random, frames) + caged(random, frames, edge=1.2, dwell_ps=0.5)


def _closed_cage(random: np.random.Generator, frames: int) -> Path:
    return lasting(random, frames, hops=0) + caged(random, frames, edge=2.4, dwell_ps=33.0)


def _together(random: np.random.Generator, frames: int) -> Path:
    return lasting(random, frames, together=3)


SIX = (SHORT,) * 6
WALKS: dict[str, Walk] = {
    "160 lasting hops": _runs(lasting),
    "and 30 % jump-and-return pairs": _runs(_pairs),
    "the same for 500 ps": _runs(_pairs, frames=(LONG,)),
    "and a fast cage of 8 sites": _runs(_fast_cage),
    "three ions together": _runs(_together),
    "one dimension": _runs(lambda random, frames: lasting(random, frames, dimensions=1)),
    "two dimensions": _runs(lambda random, frames: lasting(random, frames, dimensions=2)),
    "30 hops": _runs(lambda random, frames: lasting(random, frames, hops=30), hops=30),
    "6 runs: lasting hops": _runs(lasting, frames=SIX),
    "6 runs: jump-and-return pairs": _runs(_pairs, frames=SIX),
    "6 runs: fast cage": _runs(_fast_cage, frames=SIX),
    "6 runs: three ions together": _runs(_together, frames=SIX),
    "closed cage, 33 ps a site": _runs(_closed_cage, hops=0),
    "6 runs: closed cage": _runs(_closed_cage, frames=SIX, hops=0),
    "rattling 0.5 Å, white": _runs(rattling, hops=0),
    "rattling 0.5 Å, 1 ps": _runs(lambda random, frames: rattling(random, frames, memory_ps=1.0), hops=0),
    "rattling 0.5 Å, 5 ps": _runs(lambda random, frames: rattling(random, frames, memory_ps=5.0), hops=0),
}


def trajectory_of(path: Path) -> Trajectory:
    """Li ions on `path` (Å) in a host at rest."""
    host = np.zeros((len(path), HOST, 3))
    return Trajectory(
        numbers=torch.tensor([3] * IONS + [16] * HOST),
        positions=torch.from_numpy(np.concatenate([path, host], axis=1)),
        cell=torch.eye(3, dtype=torch.float64).mul(12.0).expand(len(path), 3, 3).clone(),
        times=SPACING * torch.arange(len(path), dtype=torch.float64),
    )


def judge(walk: Walk, seeds: Sequence[int]) -> dict[str, Any]:
    """Bias, coverage and verdicts over walks."""
    values, errors, slopes = [], [], []
    inside = covered = 0
    verdicts: Counter[str] = Counter()
    for seed in seeds:
        paths, true = walk(np.random.default_rng(seed))
        found = diffusivity([trajectory_of(path) for path in paths], species="Li")
        tracer = found.tracer
        verdicts[found.verdict] += 1
        slopes.append((found.slope.value or 0.0, found.slope.error or 0.0))
        low, high = tracer.interval or (0.0, tracer.upper_limit or 0.0)
        covered += low <= true <= high
        if tracer.value is not None and tracer.error is not None:
            assert low < tracer.value < high
            inside += abs(tracer.value - true) < tracer.error
            values.append(tracer.value)
            errors.append(tracer.error)
    slope, slope_error = np.array(slopes).T
    known = len(values) > 1 and true > 0
    return {
        "walks": len(seeds), "diffusive": verdicts["diffusive"], "verdicts": dict(verdicts),
        "mean D / truth": float(np.mean(values)) / true if known else None,
        "its error": float(np.std(values, ddof=1) / np.sqrt(len(values))) / true if known else None,
        "quoted error / truth": float(np.mean(errors)) / true if known else None,
        "scatter / truth": float(np.std(values, ddof=1)) / true if known else None,
        "in ± error": inside, "in 95 %": covered,
        "log slope": float(slope.mean()), "its scatter": float(slope.std(ddof=1)), "its quoted error": float(slope_error.mean()),
        "log slope 1 in 95 %": int((np.abs(slope - 1.0) <= 1.96 * slope_error).sum()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walks", type=int, default=40)
    count = parser.parse_args().walks
    rows = [{"walk": kind} | judge(walk, range(count)) for kind, walk in WALKS.items()]
    write_record("diffusion_walks", Settings(walks=count), rows)


if __name__ == "__main__":
    main()
