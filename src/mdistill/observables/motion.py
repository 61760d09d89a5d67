"""Collective conductivity, Haven ratio, directions and hops of the mobile ion: measured, and as tables, notes and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mdistill.analysis.axes import OPEN, Directions, directions
from mdistill.analysis.collective import Collective, collective_diffusion
from mdistill.analysis.conductivity import conductivity
from mdistill.analysis.diffusion import Diffusion
from mdistill.analysis.hops import RETURN_TIME, Hops, hop_statistics
from mdistill.analysis.msd import displacements, frame_spacing
from mdistill.analysis.settings import DiffusionSettings
from mdistill.estimates import Estimate, unknown
from mdistill.runs.results import Cell, Figure, Series, Table
from mdistill.types import Trajectory
from mdistill.units import PS

ENOUGH_HOPS = 30
"""Fewest hops of which lengths are drawn."""
BIN = 0.5
"""Width of a bin of hop lengths (Å)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Motion of the mobile ion at one temperature, beside its tracer diffusivity.

    Attributes:
        label: Temperature as text, "–" where unknown.
        correlated: Collective conductivity (mS/cm); None without temperature or volume.
        collective, directions, hops: See `mdistill.analysis`.
    """

    label: str
    correlated: Estimate | None
    collective: Collective
    directions: Directions | None
    hops: Hops

    @property
    def together(self) -> bool:
        """Whether the Haven ratio differs from 1 by its 95 % interval."""
        low, high = self.collective.haven.interval or (0.0, 2.0)
        return self.collective.haven.value is not None and not low <= 1.0 <= high


def measure_motion(
    trajectories: Sequence[Trajectory], tracer: Diffusion, settings: DiffusionSettings, *, label: str = "–", charge: float = 0.0,
    temperature_K: float | None = None, volume: float | None = None, model: float = 0.0,
) -> Motion:  # fmt: skip
    """Collective motion, directions and hops of independent runs of one state.

    Args:
        trajectories: Unwrapped runs.
        tracer: Their tracer diffusivity.
        settings: Hop distance and seed.
        label: Temperature as text.
        charge: Of one ion (e).
        temperature_K: Temperature; None where unknown.
        volume: Mean cell volume (Å³); None: an open cell.
        model: Relative model error of the diffusivity, which the collective conductivity carries too.
    """
    moved, spacing = [displacements(run, species=tracer.species) for run in trajectories], frame_spacing(trajectories[0])
    first = trajectories[0]
    hosted = first.numbers.shape[0] > tracer.ions
    nothing = Collective(diffusivity=unknown("cm²/s"), haven=unknown())
    collective = nothing
    if hosted and tracer.detected:
        collective = collective_diffusion(moved, spacing, tracer=tracer.tracer, hops=tracer.hops, seed=settings.seed)
    correlated = None
    if temperature_K and volume:
        shared = replace(tracer, tracer=collective.diffusivity)
        correlated = _widened(conductivity(shared, charge=charge, temperature_K=temperature_K, volume=volume), model)
    cell = np.mean([run.cell.double().cpu().numpy().mean(axis=0) for run in trajectories], axis=0)
    return Motion(
        label=label,
        correlated=correlated,
        collective=collective,
        directions=directions(moved, spacing, tracer=tracer.tracer, cell=cell) if tracer.detected else None,
        hops=hop_statistics(moved, spacing, distance=settings.hop_distance),
    )


def _widened(estimate: Estimate, relative: float) -> Estimate:
    """The estimate with one more independent relative error."""
    value, interval = estimate.value, estimate.interval
    if not relative or interval is None or not interval[0] > 0:
        return estimate
    middle = value or float(np.sqrt(interval[0] * interval[1]))
    low, high = (float(np.hypot(np.log(middle / end), 1.96 * relative)) for end in interval)
    interval = (middle * float(np.exp(-low)), middle * float(np.exp(high)))
    error = None if value is None else float(np.hypot(estimate.error or 0.0, value * relative))
    return replace(estimate, error=error, interval=interval, upper_limit=estimate.upper_limit and interval[1])


def motion_tables(symbol: str, motions: Sequence[Motion], independent: Sequence[Cell]) -> list[Table]:
    """Nernst–Einstein beside collective conductivity; D along the axes; hops. A table without content is left out.

    Args:
        symbol: Mobile ion.
        motions: One a temperature.
        independent: Nernst–Einstein conductivity at each temperature.
    """
    known = any(m.correlated or m.collective.haven.interval for m in motions)
    tables = [_collective_table(symbol, motions, independent)] if known else []
    if any(m.directions for m in motions):
        tables.append(_directions_table(symbol, motions))
    return [*tables, _hops_table(symbol, motions)]


def _collective_table(symbol: str, motions: Sequence[Motion], independent: Sequence[Cell]) -> Table:
    ohmic = any(m.correlated for m in motions)
    rows: list[list[Cell]] = []
    for m, alone in zip(motions, independent, strict=True):
        row: list[Cell] = [m.label, alone, _resolved(m.correlated)] if ohmic else [m.label]
        rows.append([*row, _resolved(m.collective.haven)])
    columns = ["T (K)", "σ Nernst–Einstein (mS/cm)", "σ collective (mS/cm)"] if ohmic else ["T (K)"]
    return Table(
        name="collective", title=f"Conductivity and correlation of {symbol}", section="transport", rows=rows,
        columns=[*columns, "Haven ratio"],
        caption="σ collective: from the displacement of all ions together; it is the conductivity an experiment measures. "
        "Haven ratio: tracer over collective diffusivity, 1 for independent ions. Too short runs give a 95 % interval only.",
    )  # fmt: skip


def _resolved(estimate: Estimate | None) -> Cell:
    """The estimate, or its interval where it has no value."""
    if estimate is None or estimate.value is not None or estimate.interval is None:
        return estimate
    return "{:g} to {:g}".format(*(float(f"{end:.2g}") for end in estimate.interval))


def _directions_table(symbol: str, motions: Sequence[Motion]) -> Table:
    rows: list[list[Cell]] = []
    for m in motions:
        if m.directions is not None:
            dimension = m.directions.dimension
            rows.append([m.label, *m.directions.along, f"{dimension}-D" if dimension else "unclear"])
    return Table(
        name="directions", title=f"Directions of {symbol}", section="transport", rows=rows,
        columns=["T (K)", *(f"D along {axis} (cm²/s)" for axis in "abc"), "motion"],
        caption=f"Motion: number of principal directions with D above {100 * OPEN:g} % of the largest, where the errors tell.",
    )  # fmt: skip


def _hops_table(symbol: str, motions: Sequence[Motion]) -> Table:
    rows: list[list[Cell]] = [
        [m.label, f"{m.hops.count}", m.hops.rate, m.hops.length, m.hops.residence, m.hops.returns, f"{m.hops.largest.value:.3g}"]
        for m in motions
    ]
    return Table(
        name="hops", title=f"Hops of {symbol}", section="transport", rows=rows,
        columns=["T (K)", "hops", "rate (1/ns)", "length (Å)", "residence (ps)", "returns (%)", "farthest (Å)"],
        caption="Positions averaged over 1 ps; jumps undone within 2 ps are not seen. Rate: hops an ion. Residence: time on a "
        f"site between hops not undone. Returns: hops back to the site just left within {RETURN_TIME / PS:g} ps. "
        "Farthest: largest displacement of an ion in any run.",
    )  # fmt: skip


def motion_notes(symbol: str, motions: Sequence[Motion]) -> list[str]:
    """Correlated ions, unresolved collective conductivity, and low-dimensional motion, each once for all temperatures."""

    def where(chosen: list[Motion]) -> str:
        return "" if motions[0].label == "–" else ", ".join(m.label for m in chosen) + " K, "

    notes = []
    unresolved = [m for m in motions if m.collective.haven.interval and m.collective.haven.value is None]
    together = [m for m in motions if m.together]
    if unresolved:
        notes.append(
            f"{where(unresolved)}{symbol}: collective conductivity and Haven ratio are not resolved; the interval is given"
        )
    if together:
        ratios = ", ".join(f"{m.collective.haven.value:.2g} ± {m.collective.haven.error:.1g}" for m in together)
        notes.append(f"{where(together)}{symbol}: Haven ratio {ratios}: correlated ions; compare σ collective with experiment")
    for number, name in ((1, "one"), (2, "two")):
        flat = [m for m in motions if m.directions and m.directions.dimension == number]
        if flat:
            notes.append(f"{where(flat)}{symbol} diffuses in {name} dimension{'s' if number > 1 else ''}")
    return notes


def hop_figure(symbol: str, motions: Sequence[Motion]) -> list[Figure]:
    """Distribution of the hop lengths where there are enough hops."""
    series = []
    for m in motions:
        lengths = m.hops.lengths
        if len(lengths) < ENOUGH_HOPS:
            continue
        edges = np.arange(0.0, min(float(lengths.max()), 10.0) + 2 * BIN, BIN)
        counts = np.histogram(lengths, edges)[0]
        whole = len(lengths) * BIN
        y, error = (counts / whole).tolist(), (np.sqrt(np.maximum(counts, 1)) / whole).tolist()
        label = symbol if m.label == "–" else f"{m.label} K"
        series.append(Series(label=label, x=((edges[1:] + edges[:-1]) / 2).tolist(), y=y, error=error))
    if not series:
        return []
    caption = "Distance between the mean positions before and after a hop. Bands: one standard error of counting."
    title = f"Hop lengths of {symbol}"
    return [Figure("hop-lengths", title, "transport", "hop length (Å)", "probability density (1/Å)", series, caption=caption)]
