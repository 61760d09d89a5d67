"""Tables, values and figures of the check of production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from mdistill.analysis.accuracy import Deviation
from mdistill.analysis.rdf import largest_radius, rdf, species_pairs, wasserstein
from mdistill.analysis.reweighting import Spread, jackknife, reweighted
from mdistill.estimates import Estimate, Gate, exactly
from mdistill.judge.production_frames import DrawnFrame
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.types import LabelledFrame, Prediction, Trajectory
from mdistill.units import BOLTZMANN

SECTION = "accuracy"
LEAST_EFFECTIVE = 10.0
"""Smallest effective number of frames for reweighted means."""
_FARTHEST_A, _SHELL_A = 6.0, 0.2
"""Range and width of the shells of reweighted RDFs, Å: wide, because they hold few frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A frame of production with the teacher's label and the prediction of the student that made it."""

    frame: DrawnFrame
    label: LabelledFrame
    prediction: Prediction
    group: int

    @property
    def difference(self) -> float:
        """Student minus teacher energy, eV."""
        return float(self.prediction.energy[0]) - float(self.label.target.energy[0])

    def forces(self, atoms: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Forces of the teacher and of the student on these atoms, eV/Å."""
        both = (self.label.target.forces, self.prediction.forces)
        teacher, student = (forces.detach().cpu().double().numpy()[atoms.cpu().numpy()] for forces in both)
        return teacher, student


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Measurements of a check.

    Attributes:
        compared: All frames.
        force: Force errors by "temperature, class".
        energy: Mean absolute energy errors by temperature, meV/atom.
        spreads: Spread of the energy difference, and number of atoms, by temperature.
        slopes: Slope of student against teacher forces, and the reverse one, by group.
    """

    compared: list[Compared]
    force: dict[str, Deviation] = field(default_factory=dict)
    energy: dict[str, Estimate] = field(default_factory=dict)
    spreads: dict[str, tuple[Spread, int]] = field(default_factory=dict)
    slopes: dict[str, tuple[Estimate, float | None]] = field(default_factory=dict)

    def at(self, temperature: str) -> list[Compared]:
        """The frames of one temperature."""
        return [one for one in self.compared if f"{one.label.temperature_K:g} K" == temperature]


def check_results(checked: Checked, gates: list[Gate]) -> Results:
    """Everything that the report shows of a check."""
    overlap, figures, notes = _overlap(checked)
    values = {f"production_force_mae {name}": d.mean_absolute.scaled(1e3, "meV/Å") for name, d in checked.force.items()}
    values |= {f"production_energy_mae {name}": error for name, error in checked.energy.items()}
    values |= {f"energy_spread {name}": one.width for name, (one, _) in checked.spreads.items()}
    values |= {f"force_slope {name}": slope for name, (slope, _) in checked.slopes.items()}
    return Results(
        command="check", values={name: value for name, value in values.items() if value.value is not None}, gates=gates,
        tables=[_errors(checked), overlap, _slopes(checked)], figures=figures, notes=notes, citations=["zwanzig"],
    )  # fmt: skip


def _errors(checked: Checked) -> Table:
    rows: list[list[Cell]] = []
    for name, deviation in checked.force.items():
        kelvin, kind = name.split(", ")
        mine = [one for one in checked.at(kelvin) if bool(one.frame.hopping) is (kind == "hops")]
        row: list[Cell] = [kelvin.removesuffix(" K"), kind, len(mine), 100.0 * sum(one.frame.share for one in mine)]
        row += [deviation.mean_absolute.scaled(1e3, "meV/Å"), 1e3 * deviation.component, _ions(mine)]
        rows.append([*row, checked.energy[kelvin]])
    columns = [
        "T (K)", "frames", "labelled", "share of production (%)", "force MAE (meV/Å)", "mean |Fᵢ| (meV/Å)",
        "force MAE of hopping ions (meV/Å)", "energy MAE less offset (meV/atom)",
    ]  # fmt: skip
    caption = "Frames of production labelled by the teacher. Hops: an ion is between two sites. Energy: of both classes; "
    caption += "not known where no run has two frames."
    return Table("check", "Errors on production frames", SECTION, columns, rows, caption)


def _ions(frames: Sequence[Compared]) -> Estimate | None:
    chosen = [one.forces(torch.tensor(one.frame.hopping)) for one in frames if one.frame.hopping]
    errors = [np.abs(student - teacher) for teacher, student in chosen]
    if not errors:
        return None
    found = jackknife(lambda keep: float(np.concatenate([errors[k] for k in keep]).mean()), len(errors), "meV/Å")
    return found.scaled(1e3, "meV/Å")


def _overlap(checked: Checked) -> tuple[Table, list[Figure], list[str]]:
    rows: list[list[Cell]] = []
    figures, notes = list[Figure](), list[str]()
    for name, (spread, _) in checked.spreads.items():
        mine = checked.at(name)
        shares, runs = np.array([one.frame.share for one in mine]), np.array([one.group for one in mine])
        reduced = np.array([one.difference for one in mine]) / (BOLTZMANN * mine[0].label.temperature_K)
        weights, effective = reweighted(reduced, shares, runs)
        row: list[Cell] = [name.removesuffix(" K"), len(mine), spread.width, spread.useful, _barrier(mine)]
        if effective >= LEAST_EFFECTIVE:
            shifts, figure = _rdfs(name, mine, shares, weights)
            figures += [figure] if figure is not None else []
            pair = max(shifts, key=lambda pair: shifts[pair]) if shifts else ""
            row += [effective, _shift(mine, shares, weights), f"{shifts[pair]:.3f} ({pair})" if pair else None]
        else:
            notes.append(
                f"{name}: {len(mine)} labelled production frames count as {effective:.1f} after reweighting to the teacher; "
                f"reweighted energy and RDFs need {LEAST_EFFECTIVE:g} (--check.frames)"
            )
            row += [effective, None, None]
        rows.append(row)
    columns = [
        "T (K)", "frames", "spread of energy (k_BT)", "useful share", "hops − vibrations (meV)", "effective frames",
        "energy, reweighted − plain (meV/atom)", "largest Wasserstein-1 of reweighted RDFs (Å)",
    ]  # fmt: skip
    caption = (
        "Energy: student − teacher. Useful share: exp(−σ²). Hops − vibrations: how much too high the student's barriers are, to "
        "first order. Reweighted: weights exp(β(E_student − E_teacher)) in each run."
    )
    return Table("overlap", "Overlap with the teacher's ensemble", SECTION, columns, rows, caption), figures, notes


def _barrier(mine: Sequence[Compared]) -> Estimate | None:
    """Mean energy difference of frames with a hop less that of the others, in the groups that have both (meV)."""
    runs = {one.group for one in mine if one.frame.hopping} & {one.group for one in mine if not one.frame.hopping}
    pairs = []
    for run in sorted(runs):
        both = [
            [1e3 * one.difference for one in mine if one.group == run and bool(one.frame.hopping) is hops]
            for hops in (True, False)
        ]
        pairs.append(float(np.mean(both[0]) - np.mean(both[1])))
    if len(pairs) > 1:
        return jackknife(lambda keep: float(np.mean([pairs[k] for k in keep])), len(pairs), "meV")
    return exactly(pairs[0], "meV") if pairs else None


def _shift(mine: Sequence[Compared], shares: np.ndarray, weights: np.ndarray) -> Estimate:
    energies = np.array([1e3 * float(one.prediction.energy[0]) / one.label.system.n_atoms for one in mine])

    def change(keep: np.ndarray) -> float:
        plain, other = shares[keep], weights[keep]
        return float(np.average(energies[keep], weights=other) - np.average(energies[keep], weights=plain))

    return jackknife(change, len(mine), "meV/atom")


def _rdfs(name: str, mine: Sequence[Compared], shares: np.ndarray, weights: np.ndarray) -> tuple[dict[str, float], Figure | None]:
    """Wasserstein-1 distance of each pair's reweighted RDF from the plain one of the same frames; the most shifted is drawn."""
    first = mine[0].label.system.numbers
    if not bool(mine[0].label.system.pbc.all()) or any(not torch.equal(one.label.system.numbers, first) for one in mine):
        return {}, None
    frames = Trajectory(
        numbers=first, positions=torch.stack([one.label.system.positions for one in mine]),
        cell=torch.stack([one.label.system.cell[0] for one in mine]), times=torch.arange(len(mine), dtype=torch.float64),
    )  # fmt: skip
    reach, shifts, curves = min(largest_radius(frames), _FARTHEST_A), dict[str, float](), {}
    for pair in species_pairs(frames):
        one = rdf(frames, pair=pair, r_max=reach, bins=max(5, round(reach / _SHELL_A)), blocks=len(mine))
        if one.blocks is None or float(one.y.sum()) == 0.0:
            continue
        plain, other = (torch.from_numpy(np.average(one.blocks.numpy(), axis=0, weights=w)) for w in (shares, weights))
        if float(plain.sum()) == 0.0 or float(other.sum()) == 0.0:
            continue
        shifts["–".join(pair)] = wasserstein(replace(one, y=plain), replace(one, y=other))
        curves["–".join(pair)] = one.x.tolist(), plain.tolist(), other.tolist()
    if not shifts:
        return {}, None
    worst = max(shifts, key=lambda pair: shifts[pair])
    x, plain_y, other_y = curves[worst]
    series = [
        Series(label="student", x=x, y=plain_y, style="dashed"), Series(label="reweighted to the teacher", x=x, y=other_y)
    ]  # fmt: skip
    caption = f"The most shifted pair. {len(mine)} labelled production frames, shells of {_SHELL_A:g} Å."
    figure = Figure(f"reweighted-{name.replace(' ', '')}", f"RDF {worst}, {name}", "dynamics", "r (Å)", "g(r)", series,
                    caption=caption)  # fmt: skip
    return shifts, figure


def _slopes(checked: Checked) -> Table:
    rows: list[list[Cell]] = [[name, slope, reverse] for name, (slope, reverse) in checked.slopes.items()]
    caption = (
        "Slope through 0 of the student's force components against the teacher's, on production frames; below 1 the student is "
        "too soft. Random errors of the student lower it; the reverse slope (Σ F_s² / Σ F_s F_t) is free of those that are "
        "independent of its own forces."
    )
    return Table("softening", "Stiffness of the student", SECTION, ["atoms", "slope", "reverse slope"], rows, caption)
