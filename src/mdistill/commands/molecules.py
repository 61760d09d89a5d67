"""mdistill molecules: labelled structures of small organic molecules, to train direct forces on."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.direct.settings import MoleculeSettings
from mdistill.flags.arguments import finish, output_folder, parse, stamped, write_config
from mdistill.settings import child_seed


@dataclass(frozen=True, kw_only=True)
class MoleculesArguments:
    """How many, and of what."""

    smiles: Path | None = None
    """Text file with one SMILES a line (default: the list of the package, 4,381 molecules, ions and radicals)."""
    out: Path
    """Folder for the shards and results.json."""
    seed: int = 0
    """Seed of the choice of molecules and of their structures."""
    workers: int | None = None
    """Number of one-thread processes (default: all cores)."""
    max_hours: float | None = None
    """Time limit, h: the shards so far are kept; the same command resumes."""
    settings: Annotated[MoleculeSettings, tyro.conf.arg(name="")] = field(default_factory=MoleculeSettings)


HELP = """\
Make structures of small organic molecules from SMILES (conformers, thermal displacements, turned bonds by RDKit; short MD with
GFN2-xTB) and label them with energies and forces by GFN2-xTB (tblite). Ions and radicals keep their charge and unpaired
electrons. Labels are stored in shards as they come; the same command resumes.

examples:
  mdistill molecules --structures 10000 --out runs/molecules
  mdistill molecules --smiles mine.smi --per-molecule 200 --out runs/mine
"""
GROUPS = {
    "what": ("smiles", "structures", "per_molecule", "torsions", "dynamics", "dynamics_fs"),
    "run": ("out", "seed", "workers", "max_hours"),
}


def main(arguments: list[str]) -> int:
    """Label; prints what was made and how fast."""
    program = "mdistill molecules"
    given = parse(MoleculesArguments, arguments, program=program, description=HELP, groups=GROUPS)
    from mdistill.direct.generate import generate, read_smiles
    from mdistill.direct.shards import MANIFEST
    from mdistill.estimates import exactly
    from mdistill.interrupt import stop_on_signals
    from mdistill.processes import usable_cores
    from mdistill.runs.lock import locked
    from mdistill.runs.results import Cell, Results, Table

    listed = None if given.smiles is None else read_smiles(given.smiles)
    folder, command = output_folder(given.out), f"{program} {shlex.join(arguments)}"
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        write_config(folder, program, given)
        totals = generate(
            given.settings, folder, seed=child_seed(given.seed, "molecules"), workers=given.workers or usable_cores(),
            listed=listed, stop=stop,
        )  # fmt: skip
    rows: list[list[Cell]] = [[name.replace("_per_s", " per CPU second"), value] for name, value in totals.items()]
    table = Table("molecules", "Labelled molecules", "training", ["what", "number"], rows)
    results = Results(
        command="molecules", values={name.replace(" ", "_"): exactly(v) for name, v in totals.items()}, tables=[table]
    )
    finish(stamped(results, given.settings, repeat=command), folder)
    print(f"molecules: {folder / MANIFEST}")
    return 0
