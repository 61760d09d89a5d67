"""NEP4: trained by TorchNEP, evaluated by calorine's CPU code (GPUMD's arithmetic), dynamics through ASE.

Both packages must be importable; they are not in an extra, as calorine compiles and TorchNEP asks for a torch of your choice:
`pip install --no-deps --target FOLDER torchnep calorine`, then PYTHONPATH. calorine is compiled with the CFLAGS given then.

Reference:
    Z. Fan et al., Phys. Rev. B 104, 104309 (2021), doi 10.1103/PhysRevB.104.104309; Y.-C. Wu et al., arXiv 2606.19557.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from benchmarks.peers.pair_style import THERMOSTAT_PS, keep, kept, spent_by, write_frames
from mdistill.io.structures import to_atoms
from mdistill.types import LabelledFrame, Prediction

NAME = "NEP4"
TRAIN = "import torch, torchnep; torch.set_num_threads(1); torchnep.train_nep('nep.in', 'train.xyz', device='cpu', run_seed=0, "
TRAIN += "use_compile=False, print_interval=10, prediction_interval=0)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nep:
    """A trained NEP4 (`path`: nep.txt). `fitted`: what its fit cost and how large it is."""

    name: str
    path: Path
    fitted: dict[str, Any]

    def predict(self, frames: Sequence[LabelledFrame]) -> list[Prediction]:
        """Energy (eV) and forces (eV/Å) of each frame."""
        answers = []
        for frame in frames:
            atoms = to_atoms(frame.system)
            atoms.calc = self.calculator()
            energy = torch.tensor([atoms.get_potential_energy()], dtype=torch.float64)
            answers.append(Prediction(energy=energy, forces=torch.tensor(atoms.get_forces())))
        return answers

    def calculator(self) -> Any:
        return import_module("calorine.calculators").CPUNEP(str(self.path))

    def dynamics(self, atoms: Atoms, *, kelvin: float, step_fs: float, seed: int) -> InAse:
        """NVT dynamics by stochastic velocity rescaling, from Maxwell–Boltzmann velocities at twice the temperature."""
        moving, rng = atoms.copy(), np.random.default_rng(seed)
        moving.calc = self.calculator()
        MaxwellBoltzmannDistribution(moving, temperature_K=2 * kelvin, rng=rng)
        heat = Bussi(moving, step_fs * units.fs, temperature_K=kelvin, taut=1e3 * THERMOSTAT_PS * units.fs, rng=rng)
        return InAse(moving, heat)


@dataclass(frozen=True, slots=True)
class InAse:
    """One structure in ASE's dynamics."""

    atoms: Atoms
    dynamics: Any

    def run(self, steps: int) -> None:
        self.dynamics.run(steps)

    def temperature(self) -> float:
        """Kinetic temperature, K."""
        return float(self.atoms.get_temperature())

    def structure(self) -> Atoms:
        """The atoms where they are."""
        return self.atoms.copy()


def fit_nep(
    frames: Sequence[LabelledFrame], folder: Path, *, elements: tuple[str, ...], cutoffs: tuple[float, float], epochs: int
) -> Nep:
    """Train once on all frames given, TorchNEP's defaults but for size, batch, energies, and rates that follow `epochs`."""
    folder = folder.resolve()
    fitted = kept(folder)
    if fitted is None:
        write_frames(folder / "train.xyz", frames, virial=True)
        settings = {
            "type": f"{len(elements)} {' '.join(elements)}", "version": 4, "cutoff": f"{cutoffs[0]} {cutoffs[1]}", "n_max": "6 6",
            "basis_size": "8 8", "l_max": "4 2 0", "neuron": 40, "batch": 8, "lambda_e": 1.0, "epoch": epochs,
            "lr_scheduler": "step", "scheduler_patience": max(1, epochs // 16),
        }  # fmt: skip
        (folder / "nep.in").write_text("".join(f"{key} {value}\n" for key, value in settings.items()), encoding="utf-8")
        minutes = spent_by([sys.executable, "-c", TRAIN], folder)
        fitted = keep(folder, {"cpu minutes": minutes, "parameters": weights_in(folder / "nep_best.txt"), **settings})
    return Nep(name=NAME, path=folder / "nep_best.txt", fitted=fitted)


def weights_in(path: Path) -> int:
    """Numbers of a nep.txt, one a line."""
    return sum(len(line.split()) == 1 for line in path.read_text(encoding="utf-8").splitlines())
