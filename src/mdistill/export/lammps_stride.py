"""Long-stride maps in LAMMPS: the file that the plugin's fix `mdistill/stride` reads, and an input file with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdistill.errors import BadInput
from mdistill.export.lammps import (
    MODEL,
    Export,
    Lammps,
    export_lammps,
    pair_lines,
    put_libraries,
    sealed_text,
)
from mdistill.export.write_frames import write_input
from mdistill.io.files import write_text
from mdistill.kernels.moment import Weights
from mdistill.matter.kinds import WITH_H_FS, WITHOUT_H_FS
from mdistill.nets.compiled import kernel_weights
from mdistill.teachers.models import Precision, load_stride

MAP, STRIDE_EXAMPLE = "stride.lammps", "in.stride"
SKIN = 2.0
"""Skin of the neighbour list, Å: ions of 700 K move 0.1 to 0.2 Å in 16 fs."""


def kick_weights(path: Path, model: Path, *, precision: Precision) -> tuple[Any, list[Weights]]:
    """A splitting map of a student, and weights of the potential of each of its kicks.

    Args:
        path: The map, or its folder.
        model: Its student, or the run folder.
        precision: Float type of the kicks.
    Raises:
        BadInput: A map of another student, or of another kind.
    """
    net: Any = load_stride(path, student=model, precision=precision)
    if net.kind != "splitting":
        problem = f"is a map of kind {net.kind}, which has no kicks; LAMMPS runs maps of kicks and drifts"
        raise BadInput(path, problem, allowed="a map of kind splitting", fix=f"mdistill train stride --from {model}")
    return net, [kernel_weights(potential, double=precision == "float64") for potential in net.potentials()]


def map_text(net: Any, weights: Sequence[Weights], student_text: str) -> str:
    """A map as text, for the student of this text.

    looked_at and largest_change are in eV/√atom, as in the map; largest_force in eV/Å, by potential and species.
    """
    from ase.data import chemical_symbols

    settings, elements = net.settings, [chemical_symbols[z] for z in net.settings.elements]
    usual = WITH_H_FS if 1 in settings.elements else WITHOUT_H_FS
    student = student_text.split("\n", 2)[1].split()[1]
    lines = [
        f"student {student}",
        f"stride_fs {settings.stride_fs!r}",
        f"kicks {settings.kicks}",
        f"time_steps {max(1, math.ceil(settings.stride_fs / usual - 1e-9))}",
        f"looked_at {float(net.looked_at)!r}",
        f"largest_change {float(net.largest_change)!r}",
        "largest_force " + " ".join(map(repr, net.largest_force.double().flatten().tolist())),
    ]
    numbers = np.concatenate([one.flat() for one in weights])
    return sealed_text("mdistill-lammps-map", weights[0], elements, net.name, lines=lines, numbers=numbers)


def export_strides(
    model: Path, stride_map: Path, out: Path, *, lammps: Lammps | None = None, structure: Path | None = None,
    precision: Precision = "float64",
) -> Export:  # fmt: skip
    """The folder of `export_lammps`, with a long-stride map, the kernel of its kicks, and an input file of strides.

    Args:
        model: The student of the map, or the run folder.
        stride_map: The map, or its folder.
        out, lammps, structure, precision: As of `export_lammps`.
    Raises:
        BadInput, NoKernel: As `export_lammps`, and where the map is of another student or kind.
    """
    net, weights = kick_weights(stride_map, model, precision=precision)
    made = export_lammps(model, out, lammps=lammps, structure=structure, precision=precision)
    put_libraries(out, made.lammps, weights[0])
    write_text(out / MAP, map_text(net, weights, (out / MODEL).read_text(encoding="utf-8")))
    return replace(made, notes=(*made.notes, *write_input(out / STRIDE_EXAMPLE, _example(made, net))))


def _example(export: Export, net: Any) -> str:
    stride_fs = net.settings.stride_fs
    return f"""\
# {net.name}, in {export.real}: one step is one stride of {stride_fs:g} fs.
# Run in this folder, with the mpiexec of LAMMPS's MPI: mpiexec -n 2 lmp -in {STRIDE_EXAMPLE}
{pair_lines(export)}neighbor {SKIN} bin
neigh_modify every 1 delay 0 check yes
velocity all create 600 4928 mom yes rot no
timestep {stride_fs / 1000:.12g}
# thermostat: bussi TEMPERATURE (K) RELAXATION (ps) SEED, or langevin TEMPERATURE FRICTION (1/ps) SEED; without either: NVE
# constant pressure beside it: barostat PRESSURE (bar) RELAXATION (ps) COMPRESSIBILITY (1/bar), such as barostat 0 1.0 3e-6
fix 1 all mdistill/stride {MAP} bussi 600 0.1 4928
# f_1[1] strides, f_1[2] of them replaced by time steps, f_1[3] heat from the thermostat (eV)
thermo_style custom step time temp pe etotal press f_1[1] f_1[2] f_1[3]
thermo 50
run 500
"""
