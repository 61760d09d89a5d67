"""Validation of a student against its teacher: errors on held-out labels, structure, conservation, stability, core, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols, covalent_radii

from mdistill.analysis.accuracy import accuracy
from mdistill.analysis.gates import (
    Drift,
    PairScan,
    drift_gate,
    energy_drift,
    energy_gate,
    force_gates,
    rdf_gate,
    rdf_overlaps,
    repulsion_gate,
    speed_gate,
    stability_gate,
    stress_gate,
)
from mdistill.analysis.settings import GateLimits
from mdistill.errors import BlowUp
from mdistill.estimates import Estimate, Gate
from mdistill.graph import build_graph, concatenate, edge_vectors, make_system
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.logs import read_log
from mdistill.judge.potential_tables import Measured, figures, rungs, tables
from mdistill.judge.replay import replay
from mdistill.judge.settings import ValidateSettings
from mdistill.judge.timing import Speed, compare_speed
from mdistill.labelling.settings import LabelSettings
from mdistill.matter.masses import repartitioned, usual_time_step
from mdistill.nets.speed_record import runs_in, speed_notes
from mdistill.runs.hardware import hardware, instructions
from mdistill.runs.identity import model_id, structure_digests
from mdistill.runs.ledger import Ledger, Work
from mdistill.runs.results import Headline, Results, estimate_from
from mdistill.settings import child_seed, to_json
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import SimulationResult, simulate
from mdistill.training.potential import evaluate
from mdistill.types import LabelledFrame, Potential, System, Trajectory
from mdistill.units import GPA, PS


def validate(  # noqa: PLR0917
    student: Potential,
    teacher: Potential,
    held_out: Sequence[LabelledFrame],
    start: System,
    settings: ValidateSettings,
    folder: Path,
    *,
    taught: LabelSettings,
    teacher_frames: Sequence[LabelledFrame] | None = None,
    labels: Sequence[LabelledFrame] | None = None,
    mobile: str = "",
    seed: int = 0,
    stop: StopRequest = NEVER,
) -> Results:
    """Measure everything that the gates need. It resumes in its folder; a failed gate is a result, not an error.

    Args:
        student, teacher: The fast potential and the one it replaces (only timed here; its answers are the labels).
        held_out: Labelled frames that the student was not trained on.
        start: Structure from which the student's dynamics start, and on which both are timed.
        settings, folder: Lengths and limits; folder of the student's runs (nve-…, hot-…), with the speed in its ledger.
        taught: Settings of the teacher's dynamics, which the student repeats for its RDFs.
        teacher_frames: Frames of the teacher's dynamics of this structure, for its RDFs; the held-out ones by default.
        mobile: Element symbol of the mobile ion, whose RDFs come first.
        seed: Seed of the student's dynamics.
        labels: All labels; pair scans end at their closest distances. By default the held-out and the teacher's frames.
        stop: Checked between steps and measurements.
    Returns:
        Gates, two rungs of the ladder, errors by group, figures.
    Raises:
        BadInput: No held-out frames, or the folder holds the validation of another student.
        Interrupted: A stop was requested; everything so far is saved.
    """
    predictions = evaluate(student, held_out)
    known = held_out if teacher_frames is None else teacher_frames
    frames = [f for f in known if f.source == "md" and torch.equal(f.system.numbers.cpu(), start.numbers.cpu())]
    temperatures = sorted({f.temperature_K for f in frames if f.temperature_K > 0.0}) or [300.0]
    measured = Measured(
        accuracy=accuracy(held_out, predictions),
        scans=scan_pairs(student, closest_distances(labels or [*held_out, *frames]), start=settings.scan_from_A),
        speed=_speed(teacher, student, start, settings.speed_repeats, folder, seed=seed),
        repeated=_repeated(taught, settings.replays),
        mobile=mobile,
    )
    dynamics = _Dynamics(student, start, settings, folder, seed, stop, taught.heavy_h)
    by_temperature = {k: [f for f in frames if f.temperature_K == k] for k in temperatures}
    dynamics.compare_structure(measured, {k: part for k, part in by_temperature.items() if len(part) > 1}, taught)
    for kelvin in sorted({temperatures[0], temperatures[-1]}):
        dynamics.measure_drift(measured, kelvin)
    gates = _gates(measured, dynamics.stability(settings.stability_factor * temperatures[-1]), settings.limits, student)
    failed = ", ".join(gate.name for gate in gates if not gate.passed)
    verdict = f"gates failed: {failed}" if failed else f"all {len(gates)} gates passed"
    return Results(
        command="validate", settings=to_json(settings), hardware=hardware(),
        provenance={"teacher": teacher.name, "student": student.name, "held_out_frames": len(held_out)}, values=_values(measured),
        headlines=[Headline(quantity="speed_up", value="speed_up")], gates=gates, rungs=rungs(measured, teacher, student),
        tables=tables(measured), figures=figures(measured, held_out, predictions, settings.parity_points),
        notes=[verdict, *speed_notes(student, start, measured.speed.student, instructions())],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Dynamics:
    """The student's dynamics, each in a folder of its own, where it resumes."""

    student: Potential
    start: System
    settings: ValidateSettings
    folder: Path
    seed: int
    stop: StopRequest
    heavy_h: float = 0.0

    @property
    def step_fs(self) -> float | None:
        """The time step set, or that of heavy hydrogen; None: the usual one."""
        heavy = usual_time_step(self.start, heavy_h=self.heavy_h) if self.heavy_h else None
        return self.settings.time_step_fs or heavy

    def run(self, name: str, kelvin: float, time_ps: float, **changed: Any) -> SimulationResult | BlowUp:
        """The finished run, or the blow-up where the guard stopped it."""
        chosen = SimulateSettings(
            temperature_K=kelvin,
            time_ps=time_ps,
            equilibration_ps=self.settings.equilibration_ps,
            seed=child_seed(self.seed, name, f"{kelvin:g} K"),
            **({"time_step_fs": self.step_fs} | changed),
        )
        masses = repartitioned(self.start, self.heavy_h)
        self.stop.raise_if_pending()
        try:
            return simulate(self.start, self.student, chosen, self.folder / f"{name}-{kelvin:g}K", stop=self.stop, masses=masses)
        except BlowUp as error:
            return error

    def compare_structure(self, measured: Measured, frames: dict[float, list[LabelledFrame]], taught: LabelSettings) -> None:
        """RDFs of every pair and temperature in the teacher's frames and in the student's repetitions of its dynamics."""
        if not frames or not self.settings.replays or not bool(self.start.pbc.all()):
            return
        counts, repeats, seed = {kelvin: len(part) for kelvin, part in frames.items()}, self.settings.replays, self.seed
        cells = {kelvin: part[0].system.cell[0] for kelvin, part in frames.items()}
        try:
            runs = replay(self.student, self.start, taught, counts, repeats=repeats, seed=seed, cells=cells, stop=self.stop)
        except BlowUp as error:
            measured.broken[f"step {error.step}"] = error.reason
            return
        for kelvin, run in runs.items():
            for pair, (theirs, ours, difference) in rdf_overlaps(_trajectory(frames[kelvin]), run, segments=repeats).items():
                measured.overlaps[f"{pair}, {kelvin:g} K"] = difference
                measured.curves[f"{pair}, {kelvin:g} K"] = theirs, ours

    def measure_drift(self, measured: Measured, kelvin: float) -> None:
        """Drift and fluctuation of the total energy in an NVE run."""
        step = min(self.settings.drift_step_fs, self.step_fs or usual_time_step(self.start))
        run = self.run("nve", kelvin, self.settings.drift_ps, ensemble="nve", every_fs=10.0, time_step_fs=step)
        if isinstance(run, BlowUp):
            measured.drifts[f"{kelvin:g} K"] = f"stopped at step {run.step}: {run.reason}"
            return
        log = read_log(run.log)
        after = log["time_fs"] > 0.0
        times, energies = log["time_fs"][after], log["total_eV"][after]
        measured.drifts[f"{kelvin:g} K"] = energy_drift(times, energies, self.start.n_atoms)
        measured.energies[f"{kelvin:g} K"] = (times / PS, (energies - energies[0]) / self.start.n_atoms)

    def stability(self, kelvin: float) -> Gate:
        """Dynamics above the highest temperature of the run."""
        asked = self.settings.stability_ps
        run = self.run("hot", kelvin, asked)
        if not isinstance(run, BlowUp):
            return stability_gate(asked, asked, temperature_K=kelvin)
        done = run.step * (self.step_fs or usual_time_step(self.start)) / PS
        return stability_gate(max(0.0, done), asked, temperature_K=kelvin, reason=f"{run.reason} (step {run.step})")


def _repeated(taught: LabelSettings, repeats: int) -> str:
    long_ps = (taught.equilibration_fs + taught.frames * taught.every_fs) / PS
    return f"{long_ps:g} ps at each temperature, {repeats} times"


def _trajectory(frames: Sequence[LabelledFrame]) -> Trajectory:
    """Labelled frames in time order; times are frame numbers."""
    return Trajectory(
        numbers=frames[0].system.numbers.cpu(),
        positions=torch.stack([f.system.positions.cpu().double() for f in frames]),
        cell=torch.stack([f.system.cell[0].cpu().double() for f in frames]),
        times=torch.arange(len(frames), dtype=torch.float64),
    )


def _speed(teacher: Potential, student: Potential, start: System, repeats: int, folder: Path, *, seed: int) -> Speed:
    """The speed, measured once per folder, so that a resumed validation reports the same."""
    models = {"teacher": model_id(teacher), "student": model_id(student)}
    work = Work(key="speed", settings={"repeats": repeats}, inputs={"structure": structure_digests(start)}, models=models)
    known = Ledger(folder).kept(work)
    if known is not None:
        return Speed(**{name: estimate_from(value) for name, value in known.items()})
    speed = compare_speed(teacher, student, start, repeats=repeats, seed=seed)
    Ledger(folder).keep(work, speed)
    return speed


def _gates(measured: Measured, stability: Gate, limits: GateLimits, student: Potential) -> list[Gate]:
    errors = measured.accuracy
    gates = [*force_gates(errors.force, limits), energy_gate(errors.energy, limits)]
    gates += [stress_gate(errors.stress, limits)] if errors.stress else []
    gates += [rdf_gate(measured.overlaps, limits, broken=measured.broken)] if measured.overlaps or measured.broken else []
    gates += [drift_gate(measured.drifts, limits), stability]
    speed = speed_gate(measured.speed.ratio, limits)
    speed = replace(speed, detail=f"{speed.detail}; {runs_in(student, instructions())}")
    return [*gates, repulsion_gate(measured.scans, limits), speed]


def _values(measured: Measured) -> dict[str, Estimate]:
    errors, speed = measured.accuracy, measured.speed
    values: dict[str, Estimate] = {}
    kinds = (
        ("force_mae", errors.force, 1e3, "meV/Å"), ("energy_mae", errors.energy, 1e3, "meV/atom"),
        ("stress_mae", errors.stress, 1.0 / GPA, "GPa"),
    )  # fmt: skip
    for name, deviations, factor, unit in kinds:
        groups = {group: d.mean_absolute.scaled(factor, unit) for group, d in deviations.items()}
        values |= {name if group == "all" else f"{name} {group}": error for group, error in groups.items()}
    for name, drift in measured.drifts.items():
        if isinstance(drift, Drift):
            values[f"nve_drift {name}"] = drift.slope.scaled(1e3, "meV/atom/ps")
            values[f"nve_fluctuation {name}"] = drift.fluctuation.scaled(1e3, "meV/atom")
    return values | {
        "teacher_us_per_atom_step": speed.teacher,
        "student_us_per_atom_step": speed.student,
        "speed_up": speed.ratio,
    }


def pair_name(first: int, second: int) -> str:
    """ "Li–S", lower atomic number first."""
    return "–".join(sorted((chemical_symbols[first], chemical_symbols[second])))


def closest_distances(frames: Sequence[LabelledFrame], *, cutoff: float = 6.0) -> dict[tuple[int, int], float]:
    """Closest distance (Å) of every pair of elements in the frames; the sum of covalent radii where none is near."""
    elements = sorted({z for frame in frames for z in frame.system.numbers.tolist()})
    closest: dict[tuple[int, int], float] = {}
    for frame in frames:
        graph = build_graph(frame.system, cutoff)
        lengths = edge_vectors(graph).norm(dim=1)
        first, second = frame.system.numbers[graph.receiver], frame.system.numbers[graph.sender]
        for pair in combinations_with_replacement(elements, 2):
            mine = lengths[(first == pair[0]) & (second == pair[1])]
            if mine.numel():
                closest[pair] = min(closest.get(pair, cutoff), float(mine.min()))
    pairs = combinations_with_replacement(elements, 2)
    return {pair: closest.get(pair, float(covalent_radii[pair[0]] + covalent_radii[pair[1]])) for pair in pairs}


def scan_pairs(
    potential: Potential, ends: Mapping[tuple[int, int], float], *, start: float = 0.3, spacing: float = 0.01
) -> dict[str, PairScan]:
    """Energy and force of two atoms alone, from `start` to the end given for each pair (Å).

    Args:
        potential: Any potential.
        ends: Last distance per pair of atomic numbers; the closest distance in the labels, where data take over.
        start: First distance.
        spacing: Between points.
    Returns:
        Scans by pair name.
    """
    scans = {}
    for (first, second), end in sorted(ends.items()):
        distance = np.linspace(start, max(end, start + 4 * spacing), max(5, round((end - start) / spacing) + 1))
        dimers = [
            make_system(np.array([[0, 0, 0], [0, 0, r]]), np.array([first, second]), np.zeros((3, 3)), [False] * 3)
            for r in distance
        ]
        prediction = potential(build_graph(concatenate(dimers), potential.cutoff))
        forces = prediction.forces.detach().cpu().double().numpy().reshape(-1, 2, 3)
        energy = prediction.energy.detach().cpu().double().numpy()
        scans[pair_name(first, second)] = PairScan(distance=distance, energy=energy, force=forces[:, 1, 2])
    return scans
