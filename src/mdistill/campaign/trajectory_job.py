"""One crystal of the trajectory set: distil two students, run both at each temperature, keep features, spectra and D.

Order and repeat the crystal; relax it (teacher); label dynamics of the teacher at three temperatures. A small student explores:
the teacher labels frames of its short dynamics. Two medium students learn all labels, each from other first weights. Each runs
from low to high temperature (NpT for the volume, NVT for the trajectory), and the teacher labels frames of these very
trajectories. Both learn them and run again; frames of the last round judge its students at each temperature. The difference
between the two tells the error of the motion. Labels are stored as they come: a job that was stopped repeats only its fits and
dynamics.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Bool, Float, Int

from mdistill import __version__
from mdistill.analysis.accuracy import accuracy
from mdistill.analysis.diffusion import diffusivity
from mdistill.analysis.gates import force_gates
from mdistill.analysis.msd import displacements, geometric_lags, msd_of
from mdistill.analysis.settings import GateLimits
from mdistill.campaign.settings import TrajectorySettings
from mdistill.crystals.crystal import Crystal, reduced_formula
from mdistill.crystals.task_checks import check_conductor
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
from mdistill.simulation.sample import at_temperature, dynamics, sampled
from mdistill.simulation.settings import GuardSettings, SimulateSettings
from mdistill.simulation.verlet import VelocityVerlet
from mdistill.teachers.models import load
from mdistill.training.potential import evaluate, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.transport.ion_features import ion_features, ion_network, kinds_of
from mdistill.transport.settings import MOBILE
from mdistill.transport.spectra import BINS, displacement_spectra
from mdistill.transport.trajectory_set import FORCE_GATE, CrystalRecord, teaches
from mdistill.types import LabelledFrame, Potential, State, System, Trajectory
from mdistill.units import BOLTZMANN, PS

MELTED_A2 = 2.0
"""Mean square displacement at that lag of the least mobile host element above which the host counts as melted, Å²."""
OFF_K, OFF_KT = 0.03, 0.15
"""Share by which the mean temperature may be off, and change of the potential energy per atom from the first to the last quarter
of a run in k_B T, above which it counts as drifted."""
_OWN_BLOCKS = 10_000
_LIMITS = GateLimits()
_LAGS = 24
MEMBERS = 2
"""Students of a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Student:
    """A student, its trajectories, and what the teacher says of their frames.

    Attributes:
        path: The model.
        labels: Number of labels that it learned.
        moved: Arrays of the record that belong to motion.
        flags: Flags by temperature.
        gates: Gates of the force error by temperature, of the frames of that trajectory.
        checked: These frames.
    """

    path: Path
    labels: int
    moved: dict[str, Any]
    flags: dict[str, list[str]]
    gates: dict[str, list[Gate]]
    checked: list[LabelledFrame]

    @property
    def good(self) -> Bool[np.ndarray, " temperature"]:
        """Temperatures at which its motion can teach."""
        return teaches(self.flags.values())

    def summary(self) -> dict[str, Any]:
        """What the set keeps of each student: log10 MSD and largest force error over its limit, by temperature."""
        moved = dict(zip(self.flags, self.moved["log_msd"].tolist(), strict=True))
        ratios = {k: max((g.measured.value or 0.0) / (g.limit or 1.0) for g in these) for k, these in self.gates.items()}
        known = {k: value for k, value in moved.items() if np.isfinite(value)}
        return {"labels": self.labels, "log_msd": known, "force_error": ratios}


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
    students = _students(relaxed, teacher, settings, folder, mobile=mobile, seed=seed, stop=stop)
    last = students[-MEMBERS:]
    best = max(last, key=lambda one: int(one.good.sum()))
    if all("broken" in these for these in best.flags.values()):
        raise MdistillError(f"the student's dynamics broke at every temperature: {next(iter(best.flags.values()))[1]}")
    rows = ion_features([start], teacher, mobile=atomic_numbers[mobile])[0]
    features, kind = kinds_of(rows)
    about: dict[str, Any] = {
        "formula": reduced_formula(crystal.composition), "source": path.name, "mobile": mobile,
        "structure_sha256": crystal.sha256,
        "ordered": crystal.ordered, "atoms": start.n_atoms, "volume_change": result.strain, "distortion": result.distortion,
        "labels": best.labels, "gate_passed": bool(best.good.any()), "flags": best.flags,
        "students": [one.summary() for one in students],
        "teacher": teacher.name, "teacher_id": model_id(teacher), "settings": to_json(settings), "version": __version__,
        "cpu_seconds": time.process_time() - cpu,
    }  # fmt: skip
    return CrystalRecord(
        key=key_of(crystal, mobile), about=about, numbers=start.numbers.numpy(), positions=start.positions.numpy(),
        cell=start.cell[0].numpy(), features=features, kind=kind,
        physics=ion_network(crystal, mobile=atomic_numbers[mobile]), temperatures_K=np.array(settings.temperatures),
        **best.moved | _mean_of(last, best),
    )  # fmt: skip


def _mean_of(members: Sequence[_Student], best: _Student) -> dict[str, Float[np.ndarray, " temperature"]]:
    """log10 MSD, the mean over the members that can teach, and its standard error from their scatter; NaN where only one can."""
    values = np.array([np.where(one.good, one.moved["log_msd"], np.nan) for one in members])
    known = np.isfinite(values).sum(0)
    mean = np.where(known > 0, np.nansum(values, 0) / np.maximum(known, 1), best.moved["log_msd"])
    squares = np.nansum((values - mean) ** 2, 0) / np.maximum(known - 1, 1) / np.maximum(known, 1)
    return {"log_msd": mean, "log_msd_error": np.where(known > 1, np.sqrt(squares), np.nan)}


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


def key_of(crystal: Crystal, mobile: str) -> str:
    """The key of a crystal and a mobile ion in a set."""
    return f"{crystal.sha256[:16]}-{mobile}"


def _students(
    relaxed: System, teacher: Potential, settings: TrajectorySettings, folder: Path, *, mobile: str, seed: int, stop: StopRequest
) -> list[_Student]:
    """The students of all rounds."""
    hottest, made = max(settings.temperatures), list[_Student]()
    label = LabelSettings(
        temperatures_K=tuple(round(share * hottest, 1) for share in (0.5, 0.8, 1.15)), frames=settings.frames, blocks=2,
        every_fs=12.0, equilibration_fs=60.0, displaced=2, strains=(-0.03, 0.03), shears=2, rattles=(0.05, 0.1), contacts=16,
        probes=0,
    )  # fmt: skip

    def labelled(seen: dict[float, list[System]], name: str) -> list[LabelledFrame]:
        store = LabelStore(folder / name)
        for kelvin, chosen in seen.items():
            label_structures(chosen, teacher, store, name=f"{kelvin:g}", settings=label, temperature_K=kelvin,
                             seed=child_seed(seed, name), stop=stop)  # fmt: skip
        return store.read()

    label_run([relaxed], teacher, label, folder / "labels", seed=child_seed(seed, "label"), stop=stop)
    frames = LabelStore(folder / "labels").read()
    path = _fitted("small", frames, settings.steps // 4, settings, folder / "explore", stop=stop)
    brief = replace(settings, time_ps=settings.explore_ps, lag_ps=min(settings.lag_ps, 0.5 * settings.explore_ps))
    _, _, seen = _trajectories(relaxed, load(path, precision="float32"), brief, mobile, seed=seed, stop=stop)
    frames += _in_blocks(labelled(seen, "explore-labels"), 1)
    for number in range(settings.rounds):
        now, share = list[_Student](), 1.0 if not made else 0.5
        for member in range(1, MEMBERS + 1):
            name, begin = f"student-{number}-{member}", made[member - 1 - MEMBERS].path if made else None
            steps = round(share * settings.steps)
            path = _fitted("medium", frames, steps, settings, folder / name, member=member, start_from=begin, stop=stop)
            potential = load(path, precision="float32")
            moved, flags, seen = _trajectories(relaxed, potential, settings, mobile, seed=child_seed(seed, name), stop=stop)
            checked = _in_blocks(labelled(seen, f"{name}-labels"), 2 + number * MEMBERS + member)
            gates = _judged(checked, potential)
            held = {k for k, these in gates.items() if all(gate.passed for gate in these)}
            flags = {k: [*these, *(() if k in held else (FORCE_GATE,))] for k, these in flags.items()}
            now.append(_Student(path=path, labels=len(frames), moved=moved, flags=flags, gates=gates, checked=checked))
        made += now
        frames = [*frames, *(frame for one in now for frame in one.checked)]
    return made


def _in_blocks(frames: Sequence[LabelledFrame], number: int) -> list[LabelledFrame]:
    return [replace(frame, block=frame.block + number * _OWN_BLOCKS) for frame in frames]


def _judged(checked: Sequence[LabelledFrame], potential: Potential) -> dict[str, list[Gate]]:
    """Gates of the force error at each temperature (named as in flags): of its frames, and of each element in them."""
    found = dict[str, list[Gate]]()
    for kelvin in sorted({frame.temperature_K for frame in checked}):
        these = [frame for frame in checked if frame.temperature_K == kelvin]
        errors = accuracy(these, evaluate(potential, these)).force
        found[f"{kelvin:g}"] = force_gates({name: one for name, one in errors.items() if name != "all"}, _LIMITS)
    return found


def _fitted(
    size: str, frames: Sequence[LabelledFrame], steps: int, settings: TrajectorySettings, home: Path, *, member: int = 1,
    start_from: Path | None = None, stop: StopRequest,
) -> Path:  # fmt: skip
    """A student of a size. It starts anew where the folder holds a fit."""
    for stale in (file for file in home.glob("*") if file.is_file()):
        stale.unlink()
    fit = FitSettings(steps=steps, batch_size=4, seed=child_seed(settings.seed, f"member {member}")).suited("moment")
    train = TrainSettings(size=size, cutoff=settings.cutoff, curvature="none", fit=fit)  # type: ignore[arg-type]
    return train_potential(frames, train, home, member=member, start_from=start_from, stop=stop).path


def _run(
    start: State | System, potential: Potential, md: SimulateSettings, *, time_ps: float, equilibration_ps: float,
    every_ps: float, into: list[State], stop: StopRequest,
) -> State:  # fmt: skip
    """Dynamics in memory: the last state; frames after equilibration go into the list, also where it breaks. A state begins with
    new momenta."""
    system = start if isinstance(start, System) else start.system
    step, generator = usual_time_step(system), torch.Generator().manual_seed(md.seed)
    guard = Guard(GuardSettings(), md.temperature_K)
    evaluate = make_evaluator(potential, system, guard=guard)
    moving = dynamics(make_propagator(md, VelocityVerlet(evaluate=evaluate, time_step=step), evaluate), evaluate, guard)
    last = begin = at_temperature(system, evaluate, temperature_K=md.temperature_K, generator=generator)
    every = max(1, round(every_ps * PS / step))
    for _, frame, last in sampled(
        begin, moving, generator=generator, equilibration=round(equilibration_ps * PS / step),
        frames=round(time_ps * PS / (every * step)), every=every, stop=stop,
    ):  # fmt: skip
        if frame:
            into.append(last)
    stop.raise_if_pending()
    return last


def _trajectories(
    relaxed: System, student: Potential, settings: TrajectorySettings, mobile: str, *, seed: int, stop: StopRequest
) -> tuple[dict[str, Any], dict[str, list[str]], dict[float, list[System]]]:
    """Arrays of the record that belong to motion, flags by temperature, and a few structures of each trajectory."""
    ions = int((relaxed.numbers == atomic_numbers[mobile]).sum())
    made, lags = unmeasured(settings, ions)
    flags, seen = dict[str, list[str]](), dict[float, list[System]]()
    system: System = relaxed
    for k, kelvin in enumerate(settings.temperatures):
        states: list[State] = []
        try:
            system = _at(system, student, kelvin, settings, seed=child_seed(seed, f"{kelvin:g}"), into=states, stop=stop)
        except BlowUp as blown:
            flags[f"{kelvin:g}"] = ["broken", blown.reason]
        else:
            values = measured(_trajectory(states), mobile, lags, settings)
            flags[f"{kelvin:g}"] = [*values.pop("flags"), *_drifted(states, kelvin)]
            for name, value in values.items():
                made[name][k] = value
        spread = np.unique(np.linspace(0, len(states) - 1, settings.on_policy).round().astype(int)) if states else ()
        seen[kelvin] = [states[i].system for i in spread]
    return made, flags, seen


def unmeasured(settings: TrajectorySettings, ions: int) -> tuple[dict[str, Any], Int[np.ndarray, " lag"]]:
    """Arrays of the record that belong to motion, NaN so far, and lags of the mean square displacement in frames."""
    many, frames = len(settings.temperatures), round(settings.time_ps * PS / settings.every_fs)
    lags = geometric_lags(frames, count=_LAGS, longest=0.9)
    made = {name: np.full(many, np.nan) for name in ("log_msd", "diffusivity", "error", "limit", "slope")}
    made |= {"spectra": np.full((many, ions, BINS), np.nan), "msd": np.full((many, len(lags)), np.nan)}
    return made | {"lags_ps": lags * settings.every_fs / PS}, lags


def _at(
    system: System, student: Potential, kelvin: float, settings: TrajectorySettings, *, seed: int, into: list[State],
    stop: StopRequest,
) -> System:  # fmt: skip
    """NpT for the volume, then the NVT trajectory in that cell, into the list; the last structure."""
    half, volumes = 0.5 * settings.equilibration_ps, list[State]()
    npt = SimulateSettings(
        ensemble="npt", thermostat="langevin", friction_per_ps=5.0, barostat_ps=0.5, temperature_K=kelvin, seed=seed
    )
    last = _run(system, student, npt, time_ps=half, equilibration_ps=half, every_ps=0.02, into=volumes, stop=stop)
    cell = torch.stack([one.system.cell[0] for one in volumes]).mean(0)
    md = SimulateSettings(temperature_K=kelvin, seed=child_seed(seed, "nvt"))
    return _run(
        in_cell(last.system, cell), student, md, time_ps=settings.time_ps, equilibration_ps=half,
        every_ps=settings.every_fs / PS, into=into, stop=stop,
    ).system  # fmt: skip


def _trajectory(states: Sequence[State]) -> Trajectory:
    systems = [one.system for one in states]
    return Trajectory(
        numbers=systems[0].numbers, positions=torch.stack([one.positions for one in systems]),
        cell=torch.stack([one.cell[0] for one in systems]),
        times=torch.tensor([one.time for one in states], dtype=torch.float64),
    )  # fmt: skip


def measured(trajectory: Trajectory, mobile: str, lags: np.ndarray, settings: TrajectorySettings) -> dict[str, Any]:
    """Spectra, mean square displacement and D of the mobile ion, and flags."""
    spacing, moved = settings.every_fs / PS, displacements(trajectory, species=mobile)
    lag = round(settings.lag_ps / spacing)
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
