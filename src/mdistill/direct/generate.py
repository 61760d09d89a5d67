"""Labelled molecules to learn from: structures of a list of SMILES, energies and forces by GFN2-xTB, in worker processes.

Every molecule is one task in a one-thread worker; a few of them make a shard. A shard that exists is not made again, so the same
command resumes. What has no conformer or no converged charge density is counted and left out, and so is a structure with a force
above `LARGEST_FORCE`. Frames of MD (`direct/dynamics.py`) are labelled by its own steps, and a run begins with the label of its
start where this is a structure of the set.

Reference: C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi 10.1021/acs.jctc.8b01176.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mdistill.direct.conformers import DYNAMICS, ORIGINS, Structure, conformers
from mdistill.direct.dynamics import Answer, langevin_frames
from mdistill.direct.molecules import Molecule, molecules, parsed
from mdistill.direct.settings import MoleculeSettings
from mdistill.direct.shards import COLUMNS, MANIFEST, contents, is_shards, shard, write_shard
from mdistill.errors import BadInput, MdistillError, MissingPackage
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import read_json, write_json
from mdistill.processes import begin_worker, worker_context
from mdistill.progress import progress
from mdistill.settings import to_json
from mdistill.units import BOHR, HARTREE

LARGEST_FORCE = 30.0
"""eV/Å."""
_PER_SHARD = 8
Labelled = tuple[Molecule, np.ndarray, list[tuple[Structure, Answer]], Counter[str], float]
Task = tuple[int, Molecule, MoleculeSettings, int]
"""Number and molecule, settings, seed."""


def generate(
    settings: MoleculeSettings, folder: Path, *, seed: int, workers: int, listed: Sequence[Molecule] | None = None,
    stop: StopRequest = NEVER,
) -> dict[str, float]:  # fmt: skip
    """Fill a folder with shards of labelled structures, or go on with it.

    Args:
        settings: How many.
        folder: Made if absent.
        seed: Seed of the order of molecules and of all structures.
        workers: One-thread processes.
        listed: Molecules; None for the list of the package.
        stop: Checked between molecules; whole shards are kept.
    Returns:
        Counts of the folder: structures, molecules; of this call: failures by cause, structures per CPU second of the workers.
    Raises:
        BadInput: A folder with other settings.
        MissingPackage: RDKit or tblite is absent.
        MdistillError: A worker was killed.
        Interrupted: A stop was requested.
    """
    _check_packages()
    chosen = list(molecules() if listed is None else listed)
    order = np.random.default_rng([seed, 0]).permutation(len(chosen))[: -(-settings.structures // settings.per_molecule)]
    known = {"settings": to_json(settings), "seed": seed, "molecules": [chosen[k].smiles for k in order]}
    folder.mkdir(parents=True, exist_ok=True)
    if is_shards(folder):
        _check_same(folder, known)
    else:
        write_json(folder / MANIFEST, known)
    tasks: list[Task] = [(int(k), chosen[k], settings, int(seed)) for k in order]
    groups = [tasks[k : k + _PER_SHARD] for k in range(0, len(tasks), _PER_SHARD)]
    todo = [(number, group) for number, group in enumerate(groups) if not shard(folder, number).exists()]
    counts: Counter[str] = Counter()
    seconds, done = 0.0, len(groups) - len(todo)
    with (
        progress("label molecules", len(groups), unit="shard", done=done) as advance,
        ProcessPoolExecutor(workers, mp_context=worker_context(), initializer=begin_worker) as pool,
    ):
        for number, group in todo:
            try:
                answers = list(pool.map(label_molecule, group))
            except BrokenProcessPool as error:
                problem = f"a worker process was killed, often for lack of memory; the shards so far are in {folder}"
                raise MdistillError(f"{problem}\n  fix: the same command again, with fewer --workers") from error
            stop.raise_if_pending()
            found = write_labelled(shard(folder, number), answers)
            counts += found
            seconds += sum(answer[4] for answer in answers)
            advance(1, f"{counts['structures'] / max(seconds, 1e-9):.0f} structures per CPU second")
    speed = {"structures_per_s": counts["structures"] / seconds} if seconds > 0.0 else {}
    totals = {name: float(value) for name, value in (counts | contents(folder)).items()} | speed
    write_json(folder / MANIFEST, known | {"totals": totals})
    return totals


def read_smiles(path: Path) -> list[Molecule]:
    """Molecules of a text file: a SMILES first on every line; empty lines and lines with # in front are skipped.

    Raises:
        BadInput: No such file, no SMILES in it, or one that RDKit cannot read or has more than 14 heavy atoms.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            path, f"cannot be read ({type(error).__name__})", allowed="a text file of SMILES", fix="check the path"
        ) from error
    texts = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    found = {text: parsed(text) for text in texts}
    wrong = next((text for text, molecule in found.items() if molecule is None), None)
    if wrong is not None or not texts:
        problem = "holds no SMILES" if wrong is None else f"{wrong!r} is no SMILES of at most 14 heavy atoms"
        raise BadInput(path, problem, allowed="one SMILES a line", fix="correct or remove it")
    return [molecule for molecule in found.values() if molecule is not None]


def label_molecule(task: Task) -> Labelled:
    """Structures of a molecule with energies (eV) and forces (eV/Å), failures by cause, and CPU seconds."""
    index, molecule, settings, seed = task
    begin, failures = time.process_time(), Counter[str]()
    own = int(np.random.default_rng([seed, 1, index]).integers(2**31))
    numbers, structures = conformers(molecule, settings.per_molecule, own, torsions=settings.torsions, dynamics=settings.dynamics)
    label = partial(xtb, numbers, charge=molecule.charge, unpaired=molecule.unpaired)
    rows: list[tuple[Structure, Answer]] = []
    answers: dict[int, Answer | None] = {}
    runs: dict[int, Iterator[tuple[np.ndarray, Answer]]] = {}
    for made in structures:
        structure, start = made, id(made.positions)
        if made.origin != DYNAMICS:
            answers[start] = answer = label(made.positions)
        else:
            if start not in runs:
                runs[start] = langevin_frames(
                    label, numbers, made.positions, first=answers.get(start), temperature_K=made.temperature_K,
                    every_fs=settings.dynamics_fs, seed=own + len(runs),
                )  # fmt: skip
            place, answer = next(runs[start], (made.positions, None))
            structure = replace(made, positions=place)
        if answer is None:
            failures["not converged"] += 1
        elif not np.abs(answer[1]).max() < LARGEST_FORCE:
            failures["force too large"] += 1
        else:
            rows.append((structure, answer))
    failures["no conformer"] += not structures
    return molecule, numbers, rows, failures, time.process_time() - begin


def xtb(
    numbers: Int[np.ndarray, " atom"], positions: Float[np.ndarray, "atom 3"], *, charge: int, unpaired: int
) -> Answer | None:
    """Energy (eV) and forces (eV/Å) by GFN2-xTB of positions (Å); None where it does not converge."""
    from tblite.interface import Calculator

    try:
        calculator = Calculator("GFN2-xTB", numbers, positions / BOHR, charge=charge, uhf=unpaired)
        calculator.set("verbosity", 0)
        result = calculator.singlepoint()
        energy, gradient = float(result.get("energy")), np.asarray(result.get("gradient"))
    except RuntimeError:
        return None
    return (energy * HARTREE, -gradient * (HARTREE / BOHR)) if np.isfinite(gradient).all() else None


def write_labelled(path: Path, answers: Sequence[Labelled]) -> Counter[str]:
    """Write a shard of the answers and count what they hold."""
    counts: Counter[str] = Counter()
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    arrays: dict[str, list[np.ndarray]] = {"numbers": [], "positions": [], "forces": []}
    number = _PER_SHARD * int(path.stem.rpartition("-")[2])
    for k, (molecule, numbers, rows, failures, _) in enumerate(answers):
        counts += failures
        counts["molecules"] += bool(rows)
        counts["structures"] += len(rows)
        for structure, (energy, forces) in rows:
            values = (len(numbers), energy, molecule.charge, molecule.unpaired, number + k, ORIGINS.index(structure.origin),
                      structure.temperature_K)  # fmt: skip
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
            for name, part in zip(arrays, (numbers, structure.positions, forces), strict=True):
                arrays[name].append(part)
    whole = {name: np.concatenate(parts) if parts else np.zeros((0, 3)) for name, parts in arrays.items()}
    write_shard(path, whole | {name: np.array(values) for name, values in columns.items()})
    return counts


def _check_same(folder: Path, known: dict[str, Any]) -> None:
    """Reject a folder begun with other settings; one from before bonds were turned, or before MD, counts as begun without."""
    held = read_json(folder / MANIFEST)
    older = {"torsions": 0, "dynamics": 0, "dynamics_fs": known["settings"]["dynamics_fs"]}
    there, here = older | held["settings"] | {"seed": held["seed"]}, known["settings"] | {"seed": known["seed"]}
    changed = [name for name in here if there.get(name) != here[name]]
    if changed:
        shown = ", ".join(f"{name} {there.get(name)}, not {here[name]}" for name in changed)
        flags = " ".join(f"--{name.replace('_', '-')} {there.get(name)}" for name in changed)
        fix = f"add {flags}, or choose another --out"
        raise BadInput(folder, f"holds molecules of other settings: {shown}", allowed="the same flags", fix=fix)
    if held["molecules"] != known["molecules"]:
        raise BadInput(folder, "holds molecules of another list", allowed="the same --smiles", fix="choose another --out")


def _check_packages() -> None:
    from importlib.util import find_spec

    for package, extra in (("rdkit", "molecules"), ("tblite", "xtb")):
        if find_spec(package) is None:
            raise MissingPackage(package, f"pip install 'mdistill[{extra}]'", "labelling molecules")
