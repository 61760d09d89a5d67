"""Students and starting structures of the long-stride benchmark, made where missing and kept in runs/stride/<name>.

    li6ps5cl    52 atoms; the student of `make demo` (teacher SevenNet-0)
    li3ps4      beta-Li3PS4, 128 atoms; a small student of SevenNet-0
    aluminium   108 atoms, fcc; a small student of ASE's EMT
    water       64 flexible molecules at 0.997 g/cm³; a student of 100 revPBE0-D3 frames (hard labels, no teacher to ask)

Run by itself it checks each: errors on the held-out frames, 50 ps in NVT (temperature, molecules, first peak of an RDF) and
20 ps in NVE (drift), with the compiled student.

    MDISTILL_DATA=… python -m benchmarks.stride_systems [--names water …] [--runs FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from ase.optimize import FIRE
from torch import Tensor

from benchmarks.record import ROOT
from mdistill.analysis.rdf import rdf
from mdistill.data.relax import relax
from mdistill.data.store import LabelStore
from mdistill.errors import BlowUp
from mdistill.export.ase import calculator
from mdistill.graph import make_system
from mdistill.io.files import replacing, write_json
from mdistill.io.structures import read_system, to_atoms
from mdistill.io.trajectories import read_hdf5
from mdistill.labelling.label import label_run
from mdistill.labelling.settings import LabelSettings
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.teachers import load_teacher
from mdistill.teachers.models import load
from mdistill.training.potential import MODEL, train_potential
from mdistill.training.settings import FitSettings, TrainSettings
from mdistill.types import LabelledFrame, Prediction, System

NAMES = ("li6ps5cl", "li3ps4", "aluminium", "water")
LATTICE_A = 4.05
"""Lattice constant of aluminium, Å: that of the crystal at room temperature, and near zero pressure for EMT at 500 K."""
WATER_A = 12.43
"""Edge of the box of 64 water molecules at 0.997 g/cm³, Å."""
BONDED_A = 1.2
"""An O–H distance below which the two are bonded, Å."""
EMT_LABELS = LabelSettings(temperatures_K=(300.0, 600.0, 900.0), frames=60, blocks=6, every_fs=40.0, time_step_fs=4.0, contacts=4)
LI3PS4_LABELS = LabelSettings(
    temperatures_K=(300.0, 600.0, 900.0), frames=40, every_fs=16.0, strains=(-0.02, 0.02), shears=2, rattles=(0.03, 0.1)
)
TRAIN = {
    "li3ps4": TrainSettings(size="small", held_out=0.1, fit=FitSettings(steps=4000)),
    "aluminium": TrainSettings(size="small", cutoff=5.6, held_out=0.1, fit=FitSettings(steps=2000)),
    "water": TrainSettings(size="small", cutoff=5.5, held_out=0.1, energy_weight=1.0, fit=FitSettings(steps=1200)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """One system of the benchmark.

    Attributes:
        name: One of NAMES.
        start: Where dynamics starts (to be equilibrated).
        student: Its potential, a model file.
        temperature_K: Temperature of the comparisons, K.
        temperatures_K: Temperatures that pairs are made at, K.
        time_step_fs: Time step of the reference dynamics, fs.
        strides_fs: Strides, fs.
        pair: Elements whose first RDF peak is reported.
    """

    name: str
    start: System
    student: Path
    temperature_K: float
    temperatures_K: tuple[float, ...]
    time_step_fs: float
    strides_fs: tuple[float, ...]
    pair: tuple[str, str]


def system(name: str, runs: Path) -> Material:
    """A system of the benchmark; its student is trained first where runs/stride/<name> has none.

    Args:
        name: One of NAMES.
        runs: Holds demo; stride/<name> is written.
    """
    home = runs / "stride" / name
    if name == "li6ps5cl":
        return Material(
            name=name, start=read_system(ROOT / "benchmarks" / "li6ps5cl_relaxed.extxyz"),
            student=runs / "demo" / MODEL, temperature_K=600.0, temperatures_K=(300.0, 600.0, 900.0),
            time_step_fs=2.0, strides_fs=(4.0, 8.0, 16.0, 32.0), pair=("P", "S"),
        )  # fmt: skip
    if name == "li3ps4":
        start, teacher = li3ps4(home), load_teacher("sevennet-0")
        label_run([start], teacher, LI3PS4_LABELS, home / "label")
        return Material(
            name=name, start=start, student=trained(name, LabelStore(home / "label").read(), home), temperature_K=600.0,
            temperatures_K=(300.0, 600.0, 900.0), time_step_fs=2.0, strides_fs=(4.0, 8.0, 16.0, 32.0), pair=("P", "S"),
        )  # fmt: skip
    if name == "aluminium":
        start = aluminium()
        label_run([start], load_teacher("ase.calculators.emt:EMT"), EMT_LABELS, home / "label")
        return Material(
            name=name, start=start, student=trained(name, LabelStore(home / "label").read(), home), temperature_K=500.0,
            temperatures_K=(300.0, 500.0, 800.0), time_step_fs=2.0, strides_fs=(16.0, 32.0, 64.0), pair=("Al", "Al"),
        )  # fmt: skip
    frames = water_frames()
    student = trained(name, frames, home)
    return Material(
        name=name, start=water_start(frames, student), student=student, temperature_K=300.0,
        temperatures_K=(280.0, 300.0, 350.0, 450.0), time_step_fs=0.5, strides_fs=(1.0, 4.0, 8.0, 16.0), pair=("O", "O"),
    )  # fmt: skip


def trained(name: str, frames: Sequence[LabelledFrame], home: Path) -> Path:
    """The student of these frames, and its errors on the held-out ones in accuracy.json beside it; made once."""
    path = home / "train" / MODEL
    if (home / "accuracy.json").is_file() and path.is_file():
        return path
    result = train_potential(frames, TRAIN[name], home / "train", provenance={"system": name})
    row = {"train frames": result.train_frames, "held-out frames": result.held_out_frames, "parameters": result.parameters}
    errors = {
        group: {"force MAE (meV/Å)": 1e3 * (force.mean_absolute.value or 0.0), "force RMSE (meV/Å)": 1e3 * force.root_mean_square,
                "mean |F| (meV/Å)": 1e3 * force.scale,
                "energy MAE (meV/atom)": 1e3 * (result.accuracy.energy[group].mean_absolute.value or 0.0)
                if group in result.accuracy.energy else None}
        for group, force in result.accuracy.force.items()
    }  # fmt: skip
    write_json(home / "accuracy.json", row | {"curvature error": result.curvature_error, "held out": errors})
    return path


def li3ps4(home: Path) -> System:
    """128 atoms of beta-Li3PS4, relaxed by SevenNet-0: two cells of the first frame of LiPS20; made once."""
    path = home / "relaxed.extxyz"
    if not path.is_file():
        with np.load(Path(os.environ["MDISTILL_DATA"]) / "lips20" / "beta-Li3PS4.npz", allow_pickle=False) as frames:
            cell = Atoms(frames["numbers"], positions=frames["positions"][0], cell=frames["cell"][0], pbc=True)
        atoms = cell.repeat((1, 2, 1))
        start = make_system(atoms.positions, atoms.numbers, np.asarray(atoms.cell), atoms.pbc)
        with replacing(path) as whole:
            write(whole, to_atoms(relax(start, load_teacher("sevennet-0"))[0]), format="extxyz")
    return read_system(path)


def aluminium() -> System:
    """108 atoms of fcc aluminium, undisturbed."""
    atoms = bulk("Al", "fcc", a=LATTICE_A, cubic=True).repeat(3)
    return make_system(atoms.positions, atoms.numbers, np.asarray(atoms.cell), [True] * 3)


def water_frames() -> list[LabelledFrame]:
    """100 frames of 64 molecules with revPBE0-D3 energies and forces, of many densities (Cheng et al. 2019).

    The frames are independent of each other and the first are sorted by energy, so that a block is every tenth of them.
    """
    path = Path(os.environ["MDISTILL_DATA"]) / "water" / "revpbe0d3" / "train_100.xyz"
    frames = []
    for k, atoms in enumerate(read(path, index=":", format="extxyz")):
        target = Prediction(
            energy=torch.tensor([atoms.info["TotEnergy"]], dtype=torch.float64), forces=torch.from_numpy(atoms.get_forces())
        )
        start = make_system(atoms.positions, atoms.numbers, np.asarray(atoms.cell), [True] * 3)
        frames.append(LabelledFrame(system=start, target=target, source="dft", block=k % 10))
    return frames


def water_start(frames: Sequence[LabelledFrame], student: Path) -> System:
    """The frame of whole molecules whose box is nearest WATER_A, brought to it and relaxed by the student, the box held."""
    whole = [f for f in frames if intact(f.system.positions, f.system)]
    frame = min(whole, key=lambda f: abs(float(f.system.cell[0, 0, 0]) - WATER_A))
    atoms = to_atoms(frame.system)
    atoms.set_cell([WATER_A] * 3, scale_atoms=True)
    atoms.calc = calculator(load(student))
    FIRE(atoms, logfile=None, maxstep=0.05).run(largest_force=0.2, steps=200)
    return make_system(atoms.positions, atoms.numbers, np.asarray(atoms.cell), [True] * 3)


def intact(positions: Tensor, like: System) -> bool:
    """Whether every oxygen has two hydrogens within BONDED_A and no third."""
    oxygen, hydrogen = positions[like.numbers == 8], positions[like.numbers == 1]
    apart = (oxygen.unsqueeze(1) - hydrogen.unsqueeze(0)) @ torch.linalg.inv(like.cell[0])
    distances = ((apart - apart.round()) @ like.cell[0]).norm(dim=-1).sort(dim=1).values
    return bool((distances[:, 1] < BONDED_A).all() and (distances[:, 2] > BONDED_A).all())


def check(material: Material, folder: Path) -> dict[str, Any]:
    """What 50 ps in NVT and 20 ps in NVE show of the compiled student (float32), with its errors on held-out frames."""
    student, found = load(material.student, precision="float32"), {"system": material.name, "atoms": material.start.n_atoms}
    if (errors := folder.parent / "accuracy.json").is_file():
        found |= json.loads(errors.read_text(encoding="utf-8"))
    lengths: dict[Literal["nvt", "nve"], float] = {"nvt": 50.0, "nve": 20.0}
    for ensemble, time_ps in lengths.items():
        settings = SimulateSettings(
            ensemble=ensemble, temperature_K=material.temperature_K, time_ps=time_ps, equilibration_ps=5.0,
            time_step_fs=material.time_step_fs, every_fs=40.0,
        )  # fmt: skip
        try:
            result = simulate(material.start, student, settings, folder / ensemble)
        except BlowUp as error:
            return found | {f"{ensemble} stopped": str(error)}
        for name, value in result.values.items():
            if name not in ("volume", "potential_energy") and (name != "pressure" or ensemble == "nvt"):
                found[f"{ensemble} {name} ({value.unit})"] = (value.value, value.error)
        run = read_hdf5(result.trajectory)
        if ensemble == "nvt":
            curve = rdf(run, pair=material.pair, bins=120)
            top = int(curve.y.argmax())
            found[f"first peak of {curve.label} (Å, height)"] = (float(curve.x[top]), float(curve.y[top]))
        if material.name == "water":
            broken = sum(not intact(r.to(material.start.positions), material.start) for r in run.positions)
            found[f"{ensemble} frames with a broken molecule"] = f"{broken} of {len(run.positions)}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.names:
        found = check(system(name, given.runs), given.runs / "stride" / name / "check")
        write_json(given.runs / "stride" / name / "check.json", found)
        print(json.dumps(found, indent=1, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
