r"""Students in LAMMPS without a compiler: `fix external` of `import lammps`, on one rank, or on several with mpi4py.

A rank evaluates its own atoms with their ghosts on a kernel that the package carries, and sends forces on ghosts home by atom ID:

    F_i = Σ_ranks Σ_copies −∂E_rank/∂r_copy        copies: atom i itself on its rank, its ghosts on all

because LAMMPS has done its own reverse communication when the fix is called. The sum is over an array of all atoms, which suits
tens of ranks; the plugin of `mdistill export lammps` suits more.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mdistill.errors import BadInput
from mdistill.export.lammps import NVE_LINES, STRUCTURE, known_frames, mass_lines, student_weights, symbols_of
from mdistill.export.write_frames import write_frames, write_input
from mdistill.io.files import write_bytes
from mdistill.kernels.build import c_struct
from mdistill.kernels.moment import MomentKernel, Weights, neighbours
from mdistill.teachers.models import STUDENT_SUFFIX, Precision, find_student

FIX, SCRIPT = "mdistill", "run.py"
_ALL_BITS = (1 << 31) - 1


class Answers(ctypes.Structure):
    """`RankAnswers` of kernels/rank.hpp."""

    _fields_ = [
        ("energy", ctypes.c_double),
        ("virial", ctypes.c_double * 9),
        *((name, ctypes.c_void_p) for name in ("forces", "atomic", "halves", "senders")),
    ]


class RankPotential:
    """A student on the atoms and ghosts of one rank; its neighbour list is kept while no atom moved half the skin."""

    def __init__(self, weights: Weights, skin: float) -> None:
        self.kernel, self.skin = MomentKernel(weights), skin
        library = self.kernel.library
        self._domain = library.mdistill_domain(self.kernel.pointer)
        weakref.finalize(self, library.mdistill_domain_free, self._domain)
        self._points, self._identity = np.empty((0, 3)), np.empty(0, dtype=np.int64)

    def evaluate(
        self,
        points: Float[np.ndarray, "point 3"],
        species: Int[np.ndarray, " point"],
        identity: Int[np.ndarray, " point"],
        local: int,
    ) -> tuple[float, Float[np.ndarray, "point 3"], Float[np.ndarray, "3 3"]]:
        """Energy of the first `local` points (eV), minus its gradient (eV/Å), and Σ d ⊗ ∂E/∂d (eV).

        Args:
            points: Positions of own atoms, then of ghosts, Å.
            species: Index of each one's element.
            identity: Atom ID of each; a list is searched anew where they change.
            local: Number of own atoms.
        """
        self._follow(points, species, identity, local)
        forces = np.zeros((len(points), 3))
        answers = Answers(forces=forces.ctypes.data)
        self.kernel.library.mdistill_domain_evaluate(self._domain, points, ctypes.byref(answers))
        return answers.energy, forces, np.array(answers.virial).reshape(3, 3)

    def _follow(self, points: np.ndarray, species: np.ndarray, identity: np.ndarray, local: int) -> None:
        same = np.array_equal(identity, self._identity)
        if same and np.square(points - self._points).sum(1).max(initial=0.0) < (0.5 * self.skin) ** 2:
            return
        self._points, self._identity = points.copy(), identity.copy()
        cutoff = self.kernel.cutoff + self.skin
        open_cell, pbc = np.eye(3), np.zeros(3, dtype=np.int32)
        first, sender, _ = neighbours(self.kernel, points, open_cell, pbc, cutoff)
        sender = np.ascontiguousarray(sender, dtype=np.int32)
        lists = (sender.ctypes.data + 4 * first[:-1]).astype(np.uint64)
        counts, centres = np.diff(first).astype(np.int32), np.arange(local, dtype=np.int32)
        given = c_struct(
            centres=local, local=local, all=len(points), atoms=centres, count=counts, lists=lists, mask=_ALL_BITS,
            species=np.ascontiguousarray(species, dtype=np.int32),
        )  # fmt: skip
        self.kernel.library.mdistill_domain_take(self._domain, ctypes.byref(given))


def attach(lmp: Any, model: str | Path, elements: Sequence[str], *, precision: Precision = "float64", skin: float = 1.0) -> None:
    """Give the forces of a student to a `lammps.lammps()` that has atoms, in units metal.

    Args:
        lmp: The instance; on several ranks mpi4py must be imported before lammps.
        model: The student, or a run folder.
        elements: Element of each type, in order.
        precision: Float type that it computes in.
        skin: Skin of its neighbour list, Å.
    Raises:
        BadInput: Other units, elements that the student does not know, too few elements, or atom IDs that are not 1 to N.
    """
    weights, known, name = student_weights(model, precision=precision)
    types, atoms = int(lmp.extract_setting("ntypes")), int(lmp.get_natoms())
    if unknown := [symbol for symbol in elements if symbol not in known]:
        raise BadInput("elements", f"{', '.join(unknown)}, unknown to {name}", allowed=", ".join(known), fix="another student")
    if len(elements) != types:
        raise BadInput("elements", f"{len(elements)} for {types} types", allowed="one for each type", fix="name them in order")
    units = lmp.extract_global("units")
    if units != "metal":
        raise BadInput("units", str(units), allowed="metal", fix="units metal")
    ranks = lmp.get_mpi_comm() if int(lmp.extract_setting("world_size")) > 1 else None
    _check_identity(lmp, atoms, ranks)
    cutoff = float(weights.head[0])
    lmp.commands_list([
        f"pair_style zero {cutoff}", "pair_coeff * *", f"fix {FIX} all external pf/callback 1 1",
        f"fix_modify {FIX} energy yes virial yes",
    ])  # fmt: skip
    species_of = np.array([-1, *(known.index(symbol) for symbol in elements)], dtype=np.int32)
    potential = RankPotential(weights, skin)

    def forces(_: Any, step: int, local: int, tags: np.ndarray, positions: np.ndarray, out: np.ndarray) -> None:
        try:
            everything = local + int(lmp.extract_setting("nghost"))
            arrays = lmp.numpy
            points = np.ascontiguousarray(arrays.extract_atom("x", nelem=everything, dim=3))
            kinds = arrays.extract_atom("type", nelem=everything).reshape(-1)
            identity = arrays.extract_atom("id", nelem=everything).reshape(-1).astype(np.int64)
            energy, parts, virial = potential.evaluate(points, species_of[kinds], identity, local)
            total, sums = np.zeros((atoms, 3)), np.concatenate([[energy], virial.ravel()])
            np.add.at(total, identity - 1, parts)
            if ranks is not None:
                total, sums = ranks.allreduce(total), ranks.allreduce(sums)
            out[:local] = total[identity[:local] - 1]
            lmp.fix_external_set_energy_global(FIX, float(sums[0]))
            virial = -0.5 * (sums[1:].reshape(3, 3) + sums[1:].reshape(3, 3).T)
            lmp.fix_external_set_virial_global(FIX, virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].tolist())
        except BaseException:  # an exception in a callback of ctypes would be lost, and the run go on with wrong forces
            traceback.print_exc()
            print(f"mdistill: step {step} failed; the run ends", file=sys.stderr, flush=True)
            os._exit(1) if ranks is None else ranks.Abort(1)

    lmp.set_fix_external_callback(FIX, forces, None)


def _check_identity(lmp: Any, atoms: int, ranks: Any) -> None:
    own = lmp.numpy.extract_atom("id")
    largest = int(own.max()) if own is not None and own.size else 0
    largest = largest if ranks is None else max(ranks.allgather(largest))
    if largest != atoms:
        raise BadInput("atom IDs", f"up to {largest} for {atoms} atoms", allowed="1 to N", fix="reset_atoms id")


def export_external(model: Path, out: Path, *, structure: Path | None = None, precision: Precision = "float64") -> list[str]:
    """A folder for LAMMPS without a compiler: student, a structure if given, and a script that runs them; notes are returned.

    Raises:
        BadInput: As `export.lammps.export_lammps`.
    """
    _, known, name = student_weights(model, precision=precision)
    notes, elements = list[str](), sorted(known)
    out.mkdir(parents=True, exist_ok=True)
    if structure is not None:
        frames = known_frames(structure, known, name)
        elements, notes = symbols_of(frames.numbers), write_frames(out / STRUCTURE, frames, source=structure)
    path = find_student(model) if model.is_dir() else model
    target = out / f"student{STUDENT_SUFFIX}"
    if path.resolve() != target.resolve():
        write_bytes(target, path.read_bytes())
    return [*notes, *write_input(out / SCRIPT, _script(name, elements, target.name, precision))]


def _script(name: str, elements: Sequence[str], student: str, precision: str) -> str:
    return f'''\
"""{name} in LAMMPS by fix external. Run in this folder, with the mpiexec of LAMMPS's MPI: mpiexec -n 2 python {SCRIPT}"""

from mpi4py import MPI  # before lammps; not needed on one rank

import lammps
from mdistill.export.lammps_external import attach

lmp = lammps.lammps(cmdargs=["-log", "none"])
lmp.commands_string("""
units metal
atom_style atomic
newton on
read_data {STRUCTURE}
{mass_lines(elements)}
""")
attach(lmp, "{student}", {list(elements)!r}, precision="{precision}")
lmp.commands_string("""
{NVE_LINES}""")
'''
