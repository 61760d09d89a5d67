"""One crystal of the trajectory set: distil a cheap student, run it at each temperature, keep features, spectra and D.

Order and repeat the crystal; relax it (teacher); label dynamics of the teacher at three temperatures; fit in closed form; label
frames of that student's own dynamics; fit again, and by gradient where the closed form fails the force gate; then NpT for the
volume and NVT for the trajectory at each temperature, from low to high. Labels are stored as they come, so that a job that was
stopped repeats only its fits and dynamics.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from mdistill import __version__
from mdistill.analysis.diffusion import diffusivity
from mdistill.analysis.gates import force_gates
from mdistill.analysis.msd import displacements, geometric_lags, msd_of
from mdistill.analysis.settings import GateLimits
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.crystals.crystal import Crystal, reduced_formula
from mdistill.data.disorder import order
from mdistill.data.explore import in_cell
from mdistill.data.prepare import plan
from mdistill.data.relax import relax
from mdistill.data.settings import PrepareSettings
from mdistill.data.store import LabelStore
from mdistill.errors import BadInput, BlowUp, MdistillError
from mdistill.estimates import Gate
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.structures import read_structure, to_system
from mdistill.labelling.label import label_run, label_structures
from mdistill.labelling.settings import LabelSettings
from mdistill.matter.masses import usual_time_step
from mdistill.runs.identity import model_id
from mdistill.settings import child_seed, to_json
from mdistill.simulation.ensembles import make_propagator
from mdistill.simulation.evaluator import make_evaluator
from mdistill.simulation.guard import Guard
from mdistill.simulation.kinetics import temperature
from mdistill.simulation.sample import at_temperature, dynamics, sample
from mdistill.simulation.settings import GuardSettings, SimulateSettings
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers.models import load
from mdistill.training.potential import train_potential
from mdistill.training.settings import ClosedFormSettings, FitSettings, TrainSettings
from mdistill.transport.ion_features import ion_features, ion_network, kinds_of
from mdistill.transport.predict import check_conductor
from mdistill.transport.settings import MOBILE, TrajectorySettings
from mdistill.transport.spectra import BINS, displacement_spectra
from mdistill.transport.trajectory_set import CrystalRecord
from mdistill.types import LabelledFrame, Potential, State, System, Trajectory
from mdistill.units import BOLTZMANN, PS

LAG_PS = 10.0
"""Lag of the mean square displacement that is learned, ps (half the run where that is shorter)."""
MELTED_A2 = 2.0
"""Mean square displacement at that lag of the least mobile host element above which the host counts as melted, Å²."""
OFF_K, OFF_KT = 0.03, 0.15
"""Share by which the mean temperature may be off, and change of the potential energy per atom from the first to the last quarter
of a run in k_B T, above which it counts as drifted."""
_LIMITS = GateLimits()
_CLOSED = ClosedFormSettings(second=8, third=4, curvature_frames=0, iterations=3)
_LAGS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class _Student:
    potential: Potential
    mode: str
    gates: list[Gate]
    labels: int

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


def crystal_record(
    path: Path, teacher: Potential, settings: TrajectorySettings, folder: Path, *, species: str = "", stop: StopRequest = NEVER
) -> CrystalRecord:
    """Everything that the set keeps of one crystal.

    Args:
        path: The structure file.
        teacher: A SevenNet model.
        settings: Lengths and temperatures.
        folder: Folder for the labels; may be removed afterwards.
        species: Mobile ion; by default the first of MOBILE in the crystal.
        stop: Checked between steps.
    Raises:
        BadInput: A file that cannot be read, no mobile ion, an unknown element, too many atoms.
        MdistillError: The teacher failed, or no student could be fitted.
        Interrupted: A stop was requested; labels are kept.
    """
    cpu, crystal = time.process_time(), read_structure(path)
    mobile = mobile_of(crystal, species)
    check_conductor(crystal, atomic_numbers[mobile])
    prepare = PrepareSettings(cutoff=settings.cutoff, max_atoms=settings.max_atoms, relax_steps=40)
    supercell = plan(crystal, prepare, elements=teacher.elements, subject=teacher.name).supercell
    seed = child_seed(settings.seed, crystal.sha256)
    start = to_system(order(crystal, supercell=supercell, count=1, settings=prepare.disorder, seed=seed)[0].crystal)
    relaxed, result = relax(start, teacher, max_steps=prepare.relax_steps, stop=stop)
    if result.distortion > 0.08:
        relaxed = start
    student = distilled(relaxed, teacher, settings, folder, seed=seed, stop=stop)
    rows = ion_features([start], teacher, mobile=atomic_numbers[mobile])[0]
    features, kind = kinds_of(rows)
    begin = time.process_time()
    moved, flags = _trajectories(relaxed, student.potential, settings, mobile, seed=seed, stop=stop)
    md_seconds = time.process_time() - begin
    if student.mode == "closed-form" and any("broken" in these for these in flags.values()):
        other = distilled(relaxed, teacher, settings, folder, seed=seed, modes=("gradient",), stop=stop)
        again, flags_again = _trajectories(relaxed, other.potential, settings, mobile, seed=seed, stop=stop)
        if other.passed or len(_broken(flags_again)) < len(_broken(flags)):
            student, moved, flags = other, again, flags_again
    if len(_broken(flags)) == len(settings.temperatures):
        raise MdistillError(f"the student's dynamics broke at every temperature: {next(iter(flags.values()))[1]}")
    about: dict[str, Any] = {
        "formula": reduced_formula(crystal.composition), "source": path.name, "mobile": mobile,
        "structure_sha256": crystal.sha256,
        "ordered": crystal.ordered, "atoms": start.n_atoms, "volume_change": result.strain, "distortion": result.distortion,
        "mode": student.mode, "labels": student.labels, "gate_passed": student.passed,
        "gates": {g.name: [g.measured.value, g.limit, g.passed, g.detail] for g in student.gates}, "flags": flags,
        "teacher": teacher.name, "teacher_id": model_id(teacher), "settings": to_json(settings), "version": __version__,
        "cpu_seconds": time.process_time() - cpu, "md_seconds": md_seconds,
    }  # fmt: skip
    return CrystalRecord(
        key=crystal.sha256[:16], about=about, numbers=start.numbers.numpy(), positions=start.positions.numpy(),
        cell=start.cell[0].numpy(), features=features, kind=kind,
        physics=ion_network(crystal, mobile=atomic_numbers[mobile]), temperatures_K=np.array(settings.temperatures), **moved,
    )  # fmt: skip


def _broken(flags: Mapping[str, Sequence[str]]) -> list[str]:
    return [kelvin for kelvin, these in flags.items() if "broken" in these]


def mobile_of(crystal: Crystal, species: str = "") -> str:
    """The mobile ion: as named, or the first of MOBILE in the crystal.

    Raises:
        BadInput: None of them.
    """
    present = {chemical_symbols[z] for z in crystal.composition}
    found = [symbol for symbol in ((species,) if species else MOBILE) if symbol in present]
    if not found:
        allowed = species or ", ".join(MOBILE)
        raise BadInput(crystal.source, f"no mobile ion in {crystal.formula}", allowed=allowed, fix="leave the file out")
    return found[0]


def distilled(
    relaxed: System, teacher: Potential, settings: TrajectorySettings, folder: Path, *, seed: int,
    modes: Sequence[str] = ("closed-form", "gradient"), stop: StopRequest = NEVER,
) -> _Student:  # fmt: skip
    """The cheapest student whose force gate passes on held-out blocks, at the temperatures of the trajectories and for each
    element; the best one where none does."""
    hottest = max(settings.temperatures)
    label = LabelSettings(
        temperatures_K=tuple(round(share * hottest, 1) for share in (0.5, 0.8, 1.15)), frames=settings.frames, blocks=2,
        every_fs=12.0, equilibration_fs=60.0, displaced=2, strains=(-0.03, 0.03), shears=2, rattles=(0.05, 0.1), contacts=16,
        probes=0,
    )  # fmt: skip
    home = folder / "labels"
    label_run([relaxed], teacher, label, home, seed=child_seed(seed, "label"), stop=stop)
    frames = LabelStore(home).read()
    first = _fitted("closed-form", frames, settings, folder, stop=stop)
    own = _own_frames(relaxed, first.potential, settings, seed=seed, stop=stop)
    store = LabelStore(folder / "own")
    for kelvin, chosen in own.items():
        label_structures(chosen, teacher, store, name=f"{kelvin:g}", settings=label, temperature_K=kelvin,
                         seed=child_seed(seed, "own"), stop=stop)  # fmt: skip
    added = [replace(frame, block=10_000 + 2 * frame.block + k % 2) for k, frame in enumerate(store.read())] if own else []
    students = list[_Student]()
    for mode in modes:
        students.append(_fitted(mode, [*frames, *added], settings, folder, stop=stop))
        if students[-1].passed:
            break
    return min(students, key=lambda one: (not one.passed, one.gates[0].measured.value or np.inf))


def _fitted(
    mode: str, frames: Sequence[LabelledFrame], settings: TrajectorySettings, folder: Path, *, stop: StopRequest
) -> _Student:
    home = folder / mode
    for stale in home.glob("*") if home.exists() else ():
        stale.unlink()
    if mode == "closed-form":
        train = TrainSettings(size="tiny", cutoff=settings.cutoff)
        result = fit_closed_form(frames, train, home, closed_form=_CLOSED, stop=stop)[0]
    else:
        fit = FitSettings(steps=settings.steps, batch_size=4).suited("moment")
        train = TrainSettings(size="tiny", cutoff=settings.cutoff, curvature="none", fit=fit)
        result = train_potential(frames, train, home, stop=stop)
    asked = {name: one for name, one in result.accuracy.force.items() if name != "all" and not _hotter(name, settings)}
    gates = force_gates(asked, _LIMITS)
    return _Student(potential=load(result.path, precision="float32"), mode=mode, gates=gates, labels=len(frames))


def _hotter(name: str, settings: TrajectorySettings) -> bool:
    """Whether a group of force errors is of a temperature that no trajectory has."""
    return name.endswith(" K") and float(name.removesuffix(" K")) > max(settings.temperatures)


def _own_frames(
    start: System, student: Potential, settings: TrajectorySettings, *, seed: int, stop: StopRequest
) -> dict[float, list[System]]:
    """Frames of the student's NpT dynamics at each temperature, up to where it breaks."""
    found: dict[float, list[System]] = {}
    state: State | System = start
    for kelvin in settings.temperatures:
        seeded = child_seed(seed, f"own {kelvin:g}")
        try:
            state, states = _run(state, student, _npt(kelvin, seeded), time_ps=1.0, equilibration_ps=0.2,
                                 every_ps=1.0 / settings.on_policy, stop=stop)  # fmt: skip
        except BlowUp:
            break
        found[kelvin] = [one.system for one in states]
    return found


def _npt(kelvin: float, seed: int) -> SimulateSettings:
    return SimulateSettings(
        ensemble="npt", thermostat="langevin", friction_per_ps=5.0, barostat_ps=0.5, temperature_K=kelvin, seed=seed
    )


def _run(
    start: State | System, potential: Potential, md: SimulateSettings, *, time_ps: float, equilibration_ps: float,
    every_ps: float, stop: StopRequest,
) -> tuple[State, list[State]]:  # fmt: skip
    """Dynamics in memory: the last state, and the frames after equilibration. A state begins with new momenta."""
    system = start if isinstance(start, System) else start.system
    step, generator = usual_time_step(system), torch.Generator().manual_seed(md.seed)
    guard = Guard(GuardSettings(), md.temperature_K)
    evaluate = make_evaluator(potential, system, guard=guard)
    moving = dynamics(make_propagator(md, VelocityVerlet(evaluate=evaluate, time_step=step), evaluate), evaluate, guard)
    begin = at_temperature(system, evaluate, temperature_K=md.temperature_K, generator=generator)
    every = max(1, round(every_ps * PS / step))
    last, collected = sample(
        begin, moving, generator=generator, equilibration=round(equilibration_ps * PS / step),
        frames=round(time_ps * PS / (every * step)), every=every, stop=stop,
    )  # fmt: skip
    stop.raise_if_pending()
    return last, collected.states


def _trajectories(
    relaxed: System, student: Potential, settings: TrajectorySettings, mobile: str, *, seed: int, stop: StopRequest
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Arrays of the record that belong to motion, and flags by temperature."""
    many, ions = len(settings.temperatures), int((relaxed.numbers == atomic_numbers[mobile]).sum())
    frames = round(settings.time_ps * PS / settings.every_fs)
    lags = geometric_lags(frames, count=_LAGS, longest=0.9)
    nothing = np.full(many, np.nan)
    made: dict[str, Any] = {name: nothing.copy() for name in ("log_msd", "diffusivity", "error", "limit", "slope")}
    made |= {"spectra": np.full((many, ions, BINS), np.nan), "msd": np.full((many, len(lags)), np.nan)}
    made["lags_ps"] = lags * settings.every_fs / PS
    flags: dict[str, list[str]] = {}
    system: System = relaxed
    for k, kelvin in enumerate(settings.temperatures):
        try:
            system, states = _at(system, student, kelvin, settings, seed=child_seed(seed, f"{kelvin:g}"), stop=stop)
        except BlowUp as blown:
            flags[f"{kelvin:g}"] = ["broken", blown.reason]
            continue
        trajectory = _trajectory(states)
        measured = _measured(trajectory, mobile, lags, settings)
        flags[f"{kelvin:g}"] = [*measured.pop("flags"), *_drifted(states, kelvin)]
        for name, value in measured.items():
            made[name][k] = value
    return made, flags


def _at(
    system: System, student: Potential, kelvin: float, settings: TrajectorySettings, *, seed: int, stop: StopRequest
) -> tuple[System, list[State]]:
    """NpT for the volume, then the NVT trajectory in that cell."""
    half = 0.5 * settings.equilibration_ps
    last, states = _run(system, student, _npt(kelvin, seed), time_ps=half, equilibration_ps=half, every_ps=0.02, stop=stop)
    cell = torch.stack([one.system.cell[0] for one in states]).mean(0)
    md = SimulateSettings(temperature_K=kelvin, seed=child_seed(seed, "nvt"))
    last, states = _run(
        in_cell(last.system, cell), student, md, time_ps=settings.time_ps, equilibration_ps=half,
        every_ps=settings.every_fs / PS, stop=stop,
    )  # fmt: skip
    return last.system, states


def _trajectory(states: Sequence[State]) -> Trajectory:
    systems = [one.system for one in states]
    return Trajectory(
        numbers=systems[0].numbers, positions=torch.stack([one.positions for one in systems]),
        cell=torch.stack([one.cell[0] for one in systems]),
        times=torch.tensor([one.time for one in states], dtype=torch.float64),
    )  # fmt: skip


def _measured(trajectory: Trajectory, mobile: str, lags: np.ndarray, settings: TrajectorySettings) -> dict[str, Any]:
    """Spectra, mean square displacement and D of the mobile ion, and flags."""
    spacing, moved = settings.every_fs / PS, displacements(trajectory, species=mobile)
    lag = round(min(LAG_PS, 0.5 * settings.time_ps) / spacing)
    at = np.array([lag])
    found = diffusivity(trajectory, species=mobile)
    tracer = found.tracer
    hosts = {chemical_symbols[z] for z in trajectory.numbers.tolist()} - {mobile}
    host = [msd_of(displacements(trajectory, species=one, mobile=mobile), settings.every_fs, lags=at).y[0] for one in hosts]
    flags = ["melted"] if min(host) > MELTED_A2 else []
    flags += [] if found.detected else ["not diffusing"]
    return {
        "spectra": displacement_spectra(moved, spacing), "msd": np.asarray(msd_of(moved, settings.every_fs, lags=lags).y),
        "log_msd": float(np.log10(float(msd_of(moved, settings.every_fs, lags=at).y[0]))), "flags": flags,
        "diffusivity": _number(tracer.value), "error": _number(tracer.error), "limit": _number(tracer.upper_limit),
        "slope": _number(found.slope.value),
    }  # fmt: skip


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _drifted(states: Sequence[State], kelvin: float) -> list[str]:
    """Whether the run has another temperature than asked for, or its energy moved to another level."""
    mean = float(np.mean([float(temperature(one)[0]) for one in states[::10]]))
    energy = np.array([float(one.prediction.energy[0]) / one.system.n_atoms for one in states[::5] if one.prediction is not None])
    quarter = max(1, len(energy) // 4)
    change = abs(energy[-quarter:].mean() - energy[:quarter].mean()) if len(energy) else 0.0
    return ["drifted"] if abs(mean / kelvin - 1.0) > OFF_K or change > OFF_KT * BOLTZMANN * kelvin else []
