"""mdistill simulate: MD with any teacher or student."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mdistill.flags.arguments import finish, output_folder, parse, stamped, use_threads, write_config
from mdistill.flags.trust import TrustArguments
from mdistill.settings import USUAL_TIMEOUT
from mdistill.simulation.settings import SimulateSettings


@dataclass(frozen=True, kw_only=True)
class SimulateArguments(TrustArguments):
    """Structure and potential."""

    structure: Annotated[Path, tyro.conf.Positional]
    """Ordered structure: CIF, POSCAR, extxyz, or what else ASE reads; or a trajectory, whose last frame is the start, with
    its velocities: HDF5, extxyz, LAMMPS, AMBER NetCDF, XDATCAR."""
    potential: str
    """Potential: student.mdistill, run folder, name (`mdistill models`, teachers), module:attribute, ./file.py:attribute."""
    stride_map: Path | None = None
    """Long-stride map of this student (stride.mdistill or its folder), in place of time steps."""
    out: Path
    """Folder for trajectory, log.csv and results.json; an interrupted run in it continues."""
    random_frame: bool = False
    """Direct forces taken in a new random orientation at every step, so that their errors do not add up."""
    inner_steps: int = 0
    """Steps of direct forces inside each time step; the gradient of the energy head acts between them (0: none)."""
    repeat: tuple[int, int, int] = (1, 1, 1)
    """Repeats of the cell."""
    velocities: Literal["file", "random"] = "file"
    """Velocities at the start: of the file, if any, or drawn at the temperature."""
    device: str = "cpu"
    """Device: cpu, cuda or auto."""
    precision: Literal["float32", "float64"] = "float32"
    """Float type of the student."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    timeout_s: float = USUAL_TIMEOUT
    """Longest call of an ASE calculator, s."""
    max_hours: float | None = None
    """Time limit, h: save and stop; the same command resumes."""
    settings: Annotated[SimulateSettings, tyro.conf.arg(name="")] = field(default_factory=SimulateSettings)


HELP = """\
Molecular dynamics in NVE (velocity Verlet), NVT (Bussi velocity rescaling or BAOAB Langevin) and NpT (stochastic cell
rescaling), in time steps or, with --stride-map, in learned long strides. A guard stops a broken run, names the step and the
cause, and keeps the frames before it (exit status 3).

examples:
  mdistill simulate crystal.cif --potential runs/mine --temperature-K 700 --time-ps 100 --out runs/md700
  mdistill simulate crystal.cif --potential sevennet-0 --ensemble nve --time-ps 1 --out runs/nve
  mdistill simulate crystal.cif --potential runs/mine --ensemble npt --barostat anisotropic --out runs/npt
  mdistill simulate crystal.cif --potential runs/mine --stride-map runs/mine/stride --temperature-K 700 --out runs/long
"""
GROUPS = {
    "what": ("potential", "stride_map", "ensemble", "thermostat", "barostat", "temperature_K", "pressure_GPa", "repeat", "seed"),
    "how long": ("time_ps", "equilibration_ps", "time_step_fs"),
    "coupling": ("friction_per_ps", "relaxation_fs", "barostat_ps"),
    "output": ("every_fs", "format", "out"),
    "run": ("precision", "device", "threads", "max_hours", "trust"),
}


def main(arguments: list[str]) -> int:
    """Simulate; prints averages and speed."""
    given = parse(SimulateArguments, arguments, program="mdistill simulate", description=HELP, groups=GROUPS)
    from mdistill.direct.safe import for_dynamics
    from mdistill.export.start import read_start, suited
    from mdistill.export.watch import tell_committee_spread
    from mdistill.interrupt import stop_on_signals
    from mdistill.observables.simulation import dynamics_results, uncertainty_results
    from mdistill.runs.lock import locked
    from mdistill.runs.results import merge
    from mdistill.simulation.simulate import simulate
    from mdistill.teachers.models import find_student, load, load_stride, located

    use_threads(given.threads)
    start = read_start(given.structure, repeat=given.repeat)
    settings = suited(given.settings, start.system, repeat=given.repeat)
    system, momenta = start.system, None if given.velocities == "random" else start.momenta
    potential = load(
        given.potential, device=given.device, precision=given.precision, subject="--potential", timeout_s=given.timeout_s
    )
    potential = for_dynamics(potential, random_frame=given.random_frame, inner_steps=given.inner_steps)
    student = located(given.potential)
    stride = None if given.stride_map is None else load_stride(given.stride_map, student=student, precision=given.precision)
    if student.exists():
        tell_committee_spread(find_student(student) if student.is_dir() else student, potential, system)
    folder = output_folder(given.out)
    command = "mdistill simulate " + shlex.join(arguments)
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        done = simulate(
            system, potential, settings, folder, stride=stride, stop=stop, momenta=momenta, masses=start.masses,
            on_begin=lambda: write_config(folder, "mdistill simulate", given),
        )  # fmt: skip
    results = dynamics_results(done, potential, settings)
    if student.exists():
        results = merge(results, uncertainty_results(potential, student, done))
    finish(stamped(results, settings, repeat=command), folder, report=True)
    print(f"trajectory: {done.trajectory}")
    return 0
