"""Public sets of labelled molecules in the files that they are published in: SPICE (HDF5) and QCML (TFRecord).

SPICE 1.0 to 2.0: a group for each molecule with `atomic_numbers` [atom], `conformations` [frame, atom, 3] (bohr),
`dft_total_energy` [frame] (Ha), `dft_total_gradient` [frame, atom, 3] (Ha/bohr), `smiles` and `subset`. The total charge is the
sum of the formal charges in `smiles`; the number of unpaired electrons is not stated.

QCML 1.0.0, `qcml/dft_force_field`: records with `atomic_numbers`, `positions` (bohr), `pbe0_formation_energy` (Ha), `pbe0_forces`
(Ha/bohr), `charge`, `multiplicity`, `is_outlier`. The energy is that over free atoms: `pbe0_energy` lacks digits in float32.

References: P. Eastman et al., Sci. Data 10, 11 (2023), doi 10.1038/s41597-022-01882-6, and the page of the downloader in
github.com/openmm/spice-dataset; S. Ganscha et al., Sci. Data 12, 406 (2025), doi 10.1038/s41597-025-04720-7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mdistill.errors import BadInput
from mdistill.io.tfrecord import Feature, count_records, read_examples
from mdistill.notices import notify
from mdistill.units import BOHR, HARTREE

Row = tuple[dict[str, np.ndarray], dict[str, Any]]
SPICE_NAMES = {"atomic_numbers": "", "conformations": "bohr", "dft_total_energy": "hartree", "dft_total_gradient": "hartree/bohr"}
"""Arrays of a molecule, and the unit that their attribute `units` may state."""
QCML_NAMES = ("atomic_numbers", "positions", "pbe0_forces", "charge", "multiplicity")
_CHARGE = re.compile(r"(\++|-+)(\d*)(?::\d+)?$")
_BYTES = 8000
"""Memory of a structure with its labels, at the least."""


def is_molecule_set(path: Path) -> bool:
    """Whether a file is to be read as a set of molecules, by its name."""
    return path.suffix.lower() in (".hdf5", ".h5") or ".tfrecord" in path.name


def read_molecule_set(path: Path, most: int | None = None) -> Iterator[Row]:
    """Structures (Å) and their labels by name: energy (eV), forces (eV/Å), charge, unpaired, config_type.

    Args:
        path: The file.
        most: Largest number of structures, taken evenly over the file; None for all.
    Raises:
        BadInput: Another or a damaged file, units that differ from those above, or more structures than fit into the memory.
    """
    return _qcml(path, most) if ".tfrecord" in path.name else _spice(path, most)


def formal_charge(smiles: str) -> int:
    """Sum of the formal charges of all atoms in brackets."""
    found = [_CHARGE.search(inside) for inside in re.findall(r"\[([^\]]*)\]", smiles)]
    return sum(int(one[1][0] + (one[2] or str(len(one[1])))) for one in found if one is not None)


def _spice(path: Path, most: int | None) -> Iterator[Row]:
    import h5py

    problem = None
    try:
        with h5py.File(path, "r") as file:
            groups = [name for name, item in file.items() if isinstance(item, h5py.Group)]
            problem = next((text for name in groups if (text := _unlike_spice(file[name], name))), None)
            problem = problem if groups else "it has no groups"
            if problem is None:
                every = _every(path, sum(len(file[name]["conformations"]) for name in groups), most)
                taken = 0
                for name in groups:
                    count = len(file[name]["conformations"])
                    yield from _molecule(file[name], name, range(-taken % every, count, every))
                    taken += count
    except BadInput:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {str(error)[:120]})"
    if problem is not None:
        raise BadInput(path, problem, allowed="a file of SPICE", fix="check the file, or write the labels as extended XYZ")


def _unlike_spice(group: Any, name: str) -> str | None:
    """What a group lacks to be a molecule of SPICE."""
    for key, unit in SPICE_NAMES.items():
        if not hasattr(group.get(key), "shape"):
            return f"its group {name} has no array {key}"
        stated = group[key].attrs.get("units", unit)
        stated = stated.decode() if isinstance(stated, bytes) else stated
        if stated != unit:
            return f"{name}/{key} is in {stated}, in SPICE it is in {unit}"
    atoms, frames = len(group["atomic_numbers"]), len(group["conformations"])
    shapes = {"conformations": (frames, atoms, 3), "dft_total_energy": (frames,), "dft_total_gradient": (frames, atoms, 3)}
    wrong = next((key for key, shape in shapes.items() if group[key].shape != shape), None)
    return None if wrong is None else f"{name}/{wrong} has the shape {group[wrong].shape}, not {shapes[wrong]}"


def _molecule(group: Any, name: str, chosen: range) -> Iterator[Row]:
    if not len(chosen):
        return
    smiles, subset = (_text(group, key) for key in ("smiles", "subset"))
    numbers = group["atomic_numbers"][()]
    places, energies, gradients = (np.asarray(group[key][()], np.float64) for key in list(SPICE_NAMES)[1:])
    known = {"charge": formal_charge(smiles)} if smiles else {}
    for k in chosen:
        labels = {"energy": energies[k] * HARTREE, "forces": gradients[k] * (-HARTREE / BOHR)}
        yield _row(places[k] * BOHR, numbers, labels | known | {"config_type": subset or "SPICE", "_molecule": name})


def _text(group: Any, key: str) -> str:
    if key not in group:
        return ""
    value = np.ravel(group[key][()])[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def _qcml(path: Path, most: int | None) -> Iterator[Row]:
    outliers, energy = 0, ""
    for number, record in enumerate(read_examples(path, every=_every(path, count_records(path), most)), 1):
        if not energy:
            energy = "pbe0_formation_energy" if "pbe0_formation_energy" in record else "pbe0_energy"
            if energy == "pbe0_energy":
                notify(f"{path} has no pbe0_formation_energy: total energies are read, which as float32 lack digits")
        lacking = next((name for name in (*QCML_NAMES, energy) if not isinstance(record.get(name), np.ndarray)), None)
        atoms = 0 if lacking else len(record["atomic_numbers"])
        sizes = {"positions": 3 * atoms, "pbe0_forces": 3 * atoms, energy: 1, "charge": 1, "multiplicity": 1}
        wrong = lacking or next((name for name, size in sizes.items() if len(record[name]) != size), None)
        if wrong:
            problem = f"structure {number} has no {wrong}" if lacking else f"{wrong} of structure {number} has another length"
            raise BadInput(path, problem, allowed="qcml/dft_force_field 1.0.0", fix="name files of that feature group")
        if np.any(record.get("is_outlier", np.zeros(1))):
            outliers += 1
            continue
        yield _record(record, energy, atoms)
    if outliers:
        notify(f"{path}: {outliers} structures are marked as outliers: left out")


def _record(record: dict[str, Feature], energy: str, atoms: int) -> Row:
    values = {name: np.asarray(record[name]) for name in (*QCML_NAMES, energy)}
    labels = {
        "energy": float(values[energy][0]) * HARTREE,
        "forces": values["pbe0_forces"].reshape(atoms, 3) * (HARTREE / BOHR),
        "charge": int(values["charge"][0]),
        "unpaired": int(values["multiplicity"][0]) - 1,
    }
    return _row(values["positions"].reshape(atoms, 3) * BOHR, values["atomic_numbers"], labels | {"config_type": "QCML"})


def _row(positions: np.ndarray, numbers: np.ndarray, labels: dict[str, Any]) -> Row:
    return {"positions": positions, "numbers": numbers, "cell": np.zeros((3, 3)), "pbc": np.zeros(3, dtype=bool)}, labels


def _every(path: Path, count: int, most: int | None) -> int:
    """One structure of so many is read."""
    every = 1 if most is None else max(1, -(-count // most))
    need, left = 1e-9 * _BYTES * (count // every), 1e-9 * psutil.virtual_memory().available
    if need > left:
        problem = f"{count // every} structures need about {need:.0f} GB"
        raise BadInput(path, problem, allowed=f"{left:.0f} GB", fix=f"--most-structures {int(0.5e9 * left / _BYTES)}")
    return every
