"""Any potential in i-PI: a folder that i-PI runs in, and the driver, which i-PI or `i-pi-py_driver` loads from this file."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from mdistill.export.frames import read_frames
from mdistill.export.start import as_start
from mdistill.export.watch import Watched, check_known
from mdistill.export.write_frames import standard_orientation, write_frames, write_input
from mdistill.io.structures import read_system
from mdistill.teachers.models import STUDENT_SUFFIX, find_student, load

__DRIVER_NAME__, __DRIVER_CLASS__ = "mdistill", "MdistillDriver"
INPUT, SOCKET_INPUT, START = "input.xml", "input-socket.xml", "start.extxyz"
ADDRESS = "mdistill"
Answer = tuple[float, Float[np.ndarray, "atom 3"], Float[np.ndarray, "3 3"], str]


class MdistillDriver:
    """A driver of i-PI: cell and positions to energy, forces and virial, in atomic units as i-PI converts them.

    Args:
        model: Student, teacher or another potential, by name or path.
        structure: File with the atoms in i-PI's order; its elements, periodic directions, charge and
            unpaired electrons are used.
        precision: What a student computes in.
    """

    def __init__(self, model: str, structure: str, precision: str = "float64", skin: float = 0.5, **_: Any) -> None:
        self._start = read_system(Path(structure))
        self._evaluate = Watched(load(model, precision=precision, subject="model"), float(skin))  # type: ignore[arg-type]

    def __call__(self, cell: Any, pos: Any) -> Answer | list[Answer]:
        """One structure, or lists of several; lattice vectors are the columns of a cell."""
        if isinstance(cell, list):
            return [self._answer(one, positions) for one, positions in zip(cell, pos, strict=True)]
        return self._answer(cell, pos)

    compute = __call__

    def _answer(self, cell: np.ndarray, positions: np.ndarray) -> Answer:
        from ipi.utils.units import unit_to_internal, unit_to_user

        rows = unit_to_user("length", "angstrom", 1.0) * np.asarray(cell).T
        where = unit_to_user("length", "angstrom", 1.0) * np.asarray(positions).reshape(-1, 3)
        vectors = torch.from_numpy(rows * self._start.pbc[0].numpy()[:, None])[None]
        prediction = self._evaluate(replace(self._start, positions=torch.from_numpy(where), cell=vectors))
        ev, ev_per_angstrom = unit_to_internal("energy", "electronvolt", 1.0), unit_to_internal("force", "ev/ang", 1.0)
        virial = np.zeros((3, 3))
        if prediction.stress is not None:
            virial = -prediction.stress[0].detach().cpu().double().numpy() * abs(np.linalg.det(rows))
        forces = prediction.forces.detach().cpu().double().numpy()
        return ev * float(prediction.energy.sum()), ev_per_angstrom * forces, ev * virial, ""


def export_ipi(model: str | Path, structure: Path, out: Path, *, precision: str = "float64") -> list[str]:
    """A folder that i-PI runs in: start, student, and input files for the driver inside i-PI and behind a UNIX socket.

    Args:
        model: Student, run folder, or the name of a teacher.
        structure: Structure or trajectory, whose last frame is taken.
        out: The folder; files of these names in it are replaced, but input files that differ are renamed.
        precision: What a student computes in.
    Returns:
        Notes.
    Raises:
        BadInput: A model or structure that cannot be used.
    """
    path = find_student(Path(model)) if Path(model).is_dir() else Path(model)
    potential = load(path if path.is_file() else model, subject="model")
    frames = read_frames(structure).part(slice(-1, None))
    check_known(frames.numbers.tolist(), potential, structure)
    out.mkdir(parents=True, exist_ok=True)
    name = str(model)
    if path.is_file():
        name = f"student{STUDENT_SUFFIX}"
        if path.resolve() != (out / name).resolve():
            shutil.copy2(path, out / name)
    turned = standard_orientation(frames, structure)
    stated = as_start(structure).system
    states = {name: value for name in ("charge", "unpaired") if (value := getattr(stated, name)) is not None}
    notes = write_frames(out / START, turned, provenance={name: str(int(value[0])) for name, value in states.items()})
    notes += [] if turned is frames else ["the cell is turned: its first lattice vector lies along x, the second in the xy plane"]
    inside = [("pes", "custom"), ("pes_path", str(Path(__file__).resolve()))]
    inside += [("parameters", f"{{model: {name}, structure: {START}, precision: {precision}}}")]
    notes += write_input(out / INPUT, _input("ffdirect name='student'", inside))
    fields = [("address", ADDRESS), ("exit_on_disconnect", "True"), ("consolidate_messages", "False")]
    socket = _input("ffsocket name='student' mode='unix' pbc='false'", fields)
    return [*notes, *write_input(out / SOCKET_INPUT, socket)]


def socket_command(model: str, precision: str = "float64", *, address: str = ADDRESS) -> str:
    """The command of a client behind the socket (export/ipi_client.py), in the folder."""
    return f"python -m mdistill.export.ipi_client {address} {model} {START} {precision}"


def _input(kind: str, fields: Sequence[tuple[str, str]]) -> str:
    inside = "\n".join(f"    <{name}>{value}</{name}>" for name, value in fields)
    return f"""\
<simulation verbosity='low'>
  <output prefix='run'>
    <properties stride='10' filename='out'>
      [step, time{{picosecond}}, conserved{{electronvolt}}, temperature{{kelvin}}, potential{{electronvolt}},
      pressure_cv{{megapascal}}]
    </properties>
    <trajectory stride='50' filename='pos' cell_units='angstrom'>positions{{angstrom}}</trajectory>
    <checkpoint filename='restart' stride='500'/>
    <checkpoint filename='earlier' stride='700'/>
  </output>
  <total_steps>1000</total_steps>
  <prng><seed>1</seed></prng>
  <{kind}>
{inside}
  </{kind.split(maxsplit=1)[0]}>
  <system>
    <initialize nbeads='1'>
      <file mode='ase' units='angstrom'>{START}</file>
      <velocities mode='thermal' units='kelvin'>600</velocities>
    </initialize>
    <forces><force forcefield='student'/></forces>
    <ensemble><temperature units='kelvin'>600</temperature></ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'>1</timestep>
        <thermostat mode='langevin'><tau units='femtosecond'>1000</tau></thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""
