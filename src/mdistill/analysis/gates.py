"""Validation gates: from measured numbers to "good enough to use" or not. No simulation and no files in here."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from mdistill.analysis.accuracy import Deviation
from mdistill.analysis.rdf import (
    jensen_shannon,
    largest_radius,
    rdf,
    sampling_divergence,
    segment_scatter,
    species_pairs,
    wasserstein,
)
from mdistill.analysis.reweighting import UNIT, Spread
from mdistill.analysis.settings import GateLimits
from mdistill.analysis.statistics import Curve
from mdistill.estimates import Estimate, Gate, exactly, gate, slope_of, unknown, worst_gate
from mdistill.types import Trajectory
from mdistill.units import GPA, PS

_SHELL_A, _FARTHEST_A = 0.05, 8.0
"""Width of the RDFs' shells and their largest distance, Å."""
_HARDLY_ANY = 0.01
_LEAST_SEGMENTS = 4
NVE_DRIFT, STABILITY = "NVE drift", "stability"
"""Names of the gates without which production does not begin."""
NO_FORCE = 1e-4
"""Below this (eV/Å) a pair force in a scan counts as none."""


def force_gates(force: Mapping[str, Deviation], limits: GateLimits) -> list[Gate]:
    r"""One gate over the temperatures (and "all"), one over the elements; the worst decides (meV/Å).

    ⟨|ΔF_i|⟩ ≤ f max(a, s ⟨|F_i|⟩)      F_i: Cartesian component of a teacher force   a: `force_eV_A`   s: `force_relative`
    f: 1, or `element_factor` for an element

    Both sides are means of absolute components. The mean length ⟨|F|⟩ is twice ⟨|F_i|⟩ where directions are random.

    Args:
        force: Force deviations as in `accuracy.Accuracy.force`.
    """
    elements = {name: d for name, d in force.items() if name != "all" and not name.endswith(" K")}
    temperatures = {name: d for name, d in force.items() if name not in elements}

    def judged(groups: Mapping[str, Deviation], factor: float) -> dict[str, tuple[Estimate, float]]:
        return {name: (d.mean_absolute.scaled(1e3, "meV/Å"), factor * force_limit(d, limits)) for name, d in groups.items()}

    what = "mean absolute error of a force component"
    return [
        worst_gate("force error", judged(temperatures, 1.0), what),
        worst_gate("force error per element", judged(elements, limits.element_factor), what),
    ]


def force_limit(force: Deviation, limits: GateLimits) -> float:
    """Largest mean absolute error of a force component, meV/Å; see `force_gates`."""
    return 1e3 * max(limits.force_eV_A, limits.force_relative * force.component)


def energy_gate(energy: Mapping[str, Deviation], limits: GateLimits) -> Gate:
    """Mean absolute energy error per atom at every temperature (meV/atom)."""
    limit = 1e3 * limits.energy_eV_atom
    judged = {name: (d.mean_absolute.scaled(1e3, "meV/atom"), limit) for name, d in energy.items()}
    return worst_gate("energy error", judged, "mean absolute energy error")


def stress_gate(stress: Mapping[str, Deviation], limits: GateLimits) -> Gate:
    """Mean absolute stress error at every temperature (GPa)."""
    judged = {
        name: (d.mean_absolute.scaled(1.0 / GPA, "GPa"), max(limits.stress_GPa, limits.stress_relative * d.scale / GPA))
        for name, d in stress.items()
    }
    return worst_gate("stress error", judged, "mean absolute stress error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Difference between the RDFs of one pair.

    Attributes:
        divergence: Jensen–Shannon divergence (base 2).
        noise: The part of it that finite sampling alone would give.
        shift: Wasserstein-1 distance, Å.
        scatter: Standard deviation of that part from sample to sample; the noise itself where None.
        shift_noise: What sampling alone would give as shift, Å.
    """

    divergence: float
    noise: float
    shift: float
    scatter: float | None = None
    shift_noise: float = 0.0


def overlap(first: Curve, second: Curve, *, segments: Curve | None = None) -> Overlap | None:
    """Compare two RDFs on the same shells; None where neither has pairs in range, divergence 1 where only one has.

    A few pairs at the very edge of the range are none: fewer than 1 % of what an ideal gas would have there.

    Args:
        first, second: The two; the shorter run first.
        segments: The second run in blocks as long as the first run: what sampling alone gives is then how far one block
            lies from the others (slow motions included); else it is judged by the halves of each run.
    """
    share = [float(np.average(curve.y, weights=curve.x**2)) for curve in (first, second)]
    empty = [mean == 0.0 or max(share) < _HARDLY_ANY for mean in share]
    if any(empty):
        return None if all(empty) else Overlap(divergence=1.0, noise=0.0, shift=float(first.x[-1]))
    divergence, shift = jensen_shannon(first, second), wasserstein(first, second)
    divergences, shifts = segment_scatter(segments) if segments is not None else (np.zeros(0), np.zeros(0))
    if len(divergences) < _LEAST_SEGMENTS:
        return Overlap(divergence=divergence, noise=sampling_divergence(first, second), shift=shift)
    return Overlap(
        divergence=divergence, noise=float(divergences.mean()), shift=shift, scatter=float(divergences.std(ddof=1)),
        shift_noise=float(shifts.mean() + 2.0 * shifts.std(ddof=1)),
    )  # fmt: skip


def rdf_overlaps(first: Trajectory, second: Trajectory, *, segments: int = 0) -> dict[str, tuple[Curve, Curve, Overlap]]:
    """RDFs of every pair of elements in two trajectories, and how they differ, by pair; without pairs that have none in range.

    Args:
        first, second: Of the same atoms; the shorter run first.
        segments: The second run is this many runs as long as the first, one after the other (see `overlap`).
    """
    reach = min(largest_radius(first), largest_radius(second), _FARTHEST_A)
    shells, overlaps = {"r_max": reach, "bins": max(10, round(reach / _SHELL_A))}, {}
    for pair in species_pairs(second):
        one = rdf(first, pair=pair, **shells)  # type: ignore[arg-type]
        other = rdf(second, pair=pair, blocks=segments or 10, **shells)  # type: ignore[arg-type]
        difference = overlap(one, other, segments=other if segments else None)
        if difference is not None:
            overlaps["–".join(pair)] = one, other, difference
    return overlaps


def rdf_gate(overlaps: Mapping[str, Overlap], limits: GateLimits, *, broken: Mapping[str, str] | None = None) -> Gate:
    """Jensen–Shannon divergence of every pair, freed of what finite sampling alone gives; Wasserstein-1 beside.

    measured = max over pairs of max(0, divergence − noise); error = its scatter from sample to sample (a divergence well
    below it cannot be seen). As the largest of some dozens of pairs, it fails beyond one error above the limit.
    `broken` names dynamics that were stopped, with the reason; then the gate fails.
    """
    if broken:
        why = "; ".join(f"stopped at {name}: {reason}" for name, reason in broken.items())
        return gate("RDF overlap", unknown(), limits.rdf_divergence, why)
    judged = {
        name: (Estimate(value=max(0.0, o.divergence - o.noise), error=_scatter(o), unit=""), limits.rdf_divergence)
        for name, o in overlaps.items()
    }
    verdict = _beyond_error("RDF overlap", judged, "Jensen–Shannon divergence")
    shifts = {f"{name}, Wasserstein-1": exactly(o.shift, "Å") for name, o in overlaps.items()}
    moved = [name for name, o in overlaps.items() if o.shift > max(limits.rdf_shift_A, o.shift_noise)]
    blurred = [name for name, o in overlaps.items() if _scatter(o) > limits.rdf_divergence]
    beside = f"; largest Wasserstein-1 distance {max((o.shift for o in overlaps.values()), default=0.0):.3f} Å"
    beside += f" (beyond {limits.rdf_shift_A} Å and sampling: {', '.join(moved)})" if moved else ""
    beside += f"; too few samples to see a difference of the size of the limit: {', '.join(blurred)}" if blurred else ""
    return replace(verdict, detail=verdict.detail + beside, parts=verdict.parts | shifts)


def _scatter(alike: Overlap) -> float:
    return alike.noise if alike.scatter is None else alike.scatter


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Drift (eV/atom/ps, with error) and fluctuation about it (eV/atom, root mean square) of the total energy."""

    slope: Estimate
    fluctuation: Estimate


def energy_drift(times: Float[np.ndarray, " frame"], energies: Float[np.ndarray, " frame"], n_atoms: int) -> Drift:
    """Straight line through the total energy of an NVE run (`estimates.slope_of`).

    Args:
        times: fs.
        energies: Total (kinetic + potential) energy, eV.
        n_atoms: N.
    Raises:
        BadInput: Fewer than 10 frames, or values that are not finite.
    """
    times_ps, per_atom = np.asarray(times, dtype=float) / PS, np.asarray(energies, dtype=float) / n_atoms
    slope, fluctuation = slope_of(times_ps, per_atom, "eV/atom/ps", fluctuation_unit="eV/atom", name="NVE energies")
    return Drift(slope=slope, fluctuation=fluctuation)


def drift_gate(runs: Mapping[str, Drift | str], limits: GateLimits) -> Gate:
    """|drift| of the total energy (meV/atom/ps) in every NVE run; a run that was stopped is given by the reason (text) and fails.

    A run fails where |drift| exceeds the limit by more than two standard errors, and where its error is larger than half
    the limit: the run is then too short for a verdict.
    """
    limit, unit = 1e3 * limits.drift_eV_atom_ps, "meV/atom/ps"
    stopped = [f"{name}: {run}" for name, run in runs.items() if isinstance(run, str)]
    if stopped:
        return gate(NVE_DRIFT, unknown(unit), limit, "; ".join(stopped))
    done = {name: run for name, run in runs.items() if not isinstance(run, str)}
    judged = {n: (abs(d.slope.scaled(1e3, unit)), limit) for n, d in done.items()}
    verdict = worst_gate(NVE_DRIFT, judged, "|drift| of the total energy")
    beyond = [n for n, (e, _) in judged.items() if not gate(n, e, limit, errors=2.0).passed]
    unclear = [n for n, (e, _) in judged.items() if (e.error or 0.0) > 0.5 * limit]
    beside = "; fluctuation about it " + ", ".join(
        f"{1e3 * (d.fluctuation.value or 0.0):.2g} meV/atom ({n})" for n, d in done.items()
    )
    beside += f"; run too short for a verdict (error above half the limit): {', '.join(unclear)}" if unclear else ""
    parts = verdict.parts | {f"{name}, fluctuation": d.fluctuation.scaled(1e3, "meV/atom") for name, d in done.items()}
    return replace(verdict, passed=bool(done) and not beyond and not unclear, detail=verdict.detail + beside, parts=parts)


def stability_gate(completed_ps: float, asked_ps: float, *, temperature_K: float, reason: str = "") -> Gate:
    """Whether MD at `temperature_K` (1.2 × the highest) ran to its end; `reason`: why the guard stopped it."""
    passed = not reason and completed_ps >= asked_ps * (1.0 - 1e-9)
    ending = "without blow-up" if passed else f"and was stopped: {reason or 'it is not complete'}"
    detail = f"MD at {temperature_K:g} K ran {completed_ps:.3g} of {asked_ps:.3g} ps {ending}"
    return replace(gate(STABILITY, exactly(completed_ps, "ps"), asked_ps, detail, sense="at least"), passed=passed)


def unstable(gates: Sequence[Gate]) -> list[Gate]:
    """Failed gates that show unstable dynamics: stability, and NVE drift unless its runs were only too short for a verdict."""

    def beyond(one: Gate) -> bool:
        drifts = [part for part in one.parts.values() if part.unit == one.measured.unit] or [one.measured]
        return any(not gate(one.name, drift, one.limit, errors=2.0).passed for drift in drifts)

    return [one for one in gates if not one.passed and (one.name == STABILITY or (one.name == NVE_DRIFT and beyond(one)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScan:
    """Two atoms alone at growing distance.

    Attributes:
        distance: [point] Å, ascending.
        energy: [point] eV.
        force: [point] eV/Å along the pair, positive pushes the atoms apart.
    """

    distance: Float[np.ndarray, " point"]
    energy: Float[np.ndarray, " point"]
    force: Float[np.ndarray, " point"]


def force_flips(scan: PairScan) -> int:
    """Sign changes of the pair force along the scan, two more where it starts attractive (the atoms would fall together).

    Forces below `NO_FORCE` count as zero, so that rounding does not change signs.
    """
    signs = np.sign(scan.force[np.abs(scan.force) > NO_FORCE])
    return int((np.diff(signs) != 0.0).sum()) + 2 * int(len(signs) > 0 and signs[0] < 0)


def energy_minima(scan: PairScan) -> int:
    """Minima of the energy along the scan, counting one at its inner end where the energy rises from there; flat parts, where
    it changes by less than rounding (1e-6 eV), are passed over."""
    change = np.diff(scan.energy)
    down = change[np.abs(change) > 1e-6] < 0.0
    return int((down[:-1] & ~down[1:]).sum()) + int(len(down) > 0 and not down[0])


def repulsion_gate(scans: Mapping[str, PairScan], limits: GateLimits) -> Gate:
    """Every pair repels from the first point on, with at most `force_flips` sign changes and as many energy minima."""
    counts = {name: max(force_flips(s), energy_minima(s)) for name, s in scans.items()}
    broken = [n for n, s in scans.items() if not (np.isfinite(s.energy).all() and np.isfinite(s.force).all())]
    if broken:
        why = f"energy or force not finite for {', '.join(broken)}"
        return gate("short-range repulsion", unknown("flips"), limits.force_flips, why)
    judged = {n: (exactly(c, "flips"), float(limits.force_flips)) for n, c in counts.items()}
    nearest = min((float(s.distance[0]) for s in scans.values()), default=0.0)
    return worst_gate("short-range repulsion", judged, f"sign changes of the pair force from {nearest:.2g} Å outwards")


def production_gates(force: Mapping[str, Deviation], energy: Mapping[str, Estimate], limits: GateLimits) -> list[Gate]:
    """Force errors of production frames by temperature and class, held against `force_limit`; energy errors by temperature.

    A gate fails beyond one standard error above its limit, because these means are over a few dozen frames.

    Args:
        force: Force deviations by name ("700 K, hops").
        energy: Mean absolute energy errors less the offset of each run (meV/atom); where none is known, there is no verdict.
    """
    errors = {name: (d.mean_absolute.scaled(1e3, "meV/Å"), force_limit(d, limits)) for name, d in force.items()}
    name, what, limit = (
        "energy error in production",
        "mean absolute energy error less the mean offset",
        1e3 * limits.energy_eV_atom,
    )
    known = {temperature: (error, limit) for temperature, error in energy.items() if error.value is not None}
    return [
        _beyond_error("force error in production", errors, "mean absolute error of a force component"),
        _beyond_error(name, known, what) if known or not energy else _unpaired(name, "meV/atom", limit),
    ]


def _unpaired(name: str, unit: str, limit: float) -> Gate:
    """A gate without verdict on energies less the mean of each run, where no run has two frames."""
    detail = "no run has two labelled frames; --check.frames sets their number"
    return replace(gate(name, unknown(unit), limit, detail), passed=True, judged=False)


def _beyond_error(name: str, judged: Mapping[str, tuple[Estimate, float]], what: str) -> Gate:
    """The worst of a group, which fails where any of it lies beyond one standard error above its limit."""
    passed = bool(judged) and all(gate(n, estimate, limit, errors=1.0).passed for n, (estimate, limit) in judged.items())
    return replace(worst_gate(name, judged, what), passed=passed)


def overlap_gate(spreads: Mapping[str, tuple[Spread, int]], limits: GateLimits) -> Gate:
    """Spread of student minus teacher energy at every temperature; it fails beyond one standard error above the limit.

    Args:
        spreads: Spread and number of atoms by temperature.
    """
    name, what = "overlap with the teacher", "spread of student − teacher energy"
    judged = {t: (one.width, limits.spread_kT * math.sqrt(atoms)) for t, (one, atoms) in spreads.items()}
    known = {t: pair for t, pair in judged.items() if pair[0].value is not None}
    if judged and not known:
        return _unpaired(name, UNIT, min(limit for _, limit in judged.values()))
    verdict = _beyond_error(name, known, what)
    useful = ", ".join(f"{100.0 * (one.useful.value or 0.0):.2g} % at {t}" for t, (one, _) in spreads.items() if t in known)
    return replace(verdict, detail=f"{verdict.detail}; exp(−σ²), the useful share of reweighted frames: {useful}")


def softening_gate(slopes: Mapping[str, Estimate], limits: GateLimits) -> Gate:
    """Slope of the student's against the teacher's forces, of all atoms and of each element.

    It fails where a slope lies below the limit by more than two standard errors.
    """
    name, known = "softening", {n: slope for n, slope in slopes.items() if slope.value is not None}
    if not known:
        return gate(name, unknown(), limits.force_slope, "nothing to compare: no production frames", sense="at least")
    worst = min(known, key=lambda n: (known[n].value or 0.0) + 2.0 * (known[n].error or 0.0))
    detail = f"slope of student against teacher forces in production, smallest of {len(known)}: {worst}"
    return gate(name, known[worst], limits.force_slope, detail, parts=known, sense="at least", errors=2.0)


def diffusive_gate(slopes: Mapping[str, Estimate], limits: GateLimits, *, bounds: Collection[str] = ()) -> Gate:
    """Whether D and σ are values: d ln MSD / d ln τ at every temperature.

    It has no verdict where D is only a bound, or a slope lies below the limit by more than two standard errors.

    Args:
        slopes: By temperature.
        bounds: Temperatures at which D is an upper limit.
    """
    name, limit = "diffusive", limits.diffusive_slope
    known = {n: slope for n, slope in slopes.items() if slope.value is not None}
    low = [n for n, slope in known.items() if n in bounds or not gate(n, slope, limit, errors=2.0, sense="at least").passed]
    low += [n for n in bounds if n not in known]
    worst = min(known, key=lambda n: known[n].value or 0.0) if known else ""
    measured = known[worst] if known else unknown()
    text = f"MSD grows as τ to this power at the longest lags, smallest of {len(known)}: {worst}" if known else "no MSD"
    text += f"; D and σ are upper bounds at {', '.join(low)}" if low else ""
    verdict = gate(name, measured, limit, text, parts=known, sense="at least", errors=2.0)
    return replace(verdict, passed=True, judged=bool(known) and not low)


def speed_gate(speed_up: Estimate, limits: GateLimits) -> Gate:
    """Teacher's over student's time per force call, measured alternately in one run: at least `speed_up`."""
    detail = f"teacher's time over student's; at least {limits.speed_up:g} is required"
    return gate("speed-up", speed_up, limits.speed_up, detail, sense="at least")
