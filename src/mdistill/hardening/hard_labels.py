"""Hard labels of the structures of a file."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from mdistill.data.store import LabelStore
from mdistill.errors import BadInput
from mdistill.hardening.harden import SHARE
from mdistill.hardening.k_points import notice_of
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import replacing
from mdistill.io.structures import read_systems, to_atoms
from mdistill.labelling.engine import Engine
from mdistill.labelling.label import label_structures
from mdistill.labelling.remembered import longest_s, theory_of
from mdistill.labelling.settings import LabelSettings
from mdistill.notices import notify
from mdistill.runs.identity import structure_sha256
from mdistill.runs.results import Results, Table
from mdistill.types import LabelledFrame

LABELLED = "labels.extxyz"


def label_file(
    path: Path, engine: Engine, folder: Path, *, workers: int = 0, address: str = "", stop: StopRequest = NEVER
) -> Results:
    """Label every structure of a file, or the rest of them; writes the label store and `labels.extxyz`.

    Raises:
        BadInput: No structures, or a folder that was begun with others; a file may grow.
        MdistillError: More than half of the calculations failed.
        Interrupted: Stopped on request; the same call resumes.
    """
    systems, store = read_systems(path), LabelStore(folder)
    if not systems:
        raise BadInput(path, "holds no structure", allowed="at least one", fix="mdistill select-frames writes such a file")
    known = {structure_sha256(system, decimals=9) for system in systems}
    if any(structure_sha256(frame.system, decimals=9) not in known for frame in store.read()):
        problem, allowed = f"holds labels of structures that {path} lacks", "the file that it was begun with, or a longer one"
        raise BadInput(folder, problem, allowed=allowed, fix="another --out")
    if sampling := notice_of(engine, systems):
        notify(sampling)
    label = LabelSettings(probes=0, timeout_s=longest_s(engine))
    label_structures(
        systems, engine, store, name="hard", settings=label, source="hard", workers=workers, stop=stop, group=1, share=SHARE,
        attempts=2, address=address,
    )  # fmt: skip
    store.finished()
    frames = store.read()
    write_labels(folder / LABELLED, frames, theory=theory_of(engine))
    notes = [f"{len(systems) - len(frames)} of {len(systems)} calculations failed: {folder / 'notes.jsonl'}"]
    notes = notes if len(frames) < len(systems) else []
    for note in notes:
        notify(note)
    steps, seconds = _spent(folder / "engine")
    columns = ["level of theory", "labels", "SCF steps", "wall time (s)"]
    table = Table("hard_labels", "Hard labels", "labels", columns, [[theory_of(engine), len(frames), steps, round(seconds, 1)]])
    return Results(command="label", tables=[table], notes=notes, provenance={"engine": theory_of(engine)})


def write_labels(path: Path, frames: list[LabelledFrame], *, theory: str = "") -> None:
    """Structures with energies (eV), forces (eV/Å), stress (eV/Å³) and level of theory as extended XYZ, all or nothing."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    atoms = []
    for frame in frames:
        one, target = to_atoms(frame.system), frame.target
        stress = {} if target.stress is None else {"stress": target.stress[0].numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]}
        one.calc = SinglePointCalculator(one, energy=float(target.energy), forces=target.forces.numpy(), **stress)
        one.info |= {"theory": theory} if theory else {}
        atoms.append(one)
    with replacing(path) as partial:
        write(partial, atoms, format="extxyz")


def _spent(folder: Path) -> tuple[int | None, float]:
    """SCF steps and seconds of all attempts that the engine noted; None where it noted none."""
    steps, seconds, known = 0, 0.0, False
    for path in sorted(folder.glob("*/attempts.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            for attempt in json.loads(path.read_text(encoding="utf-8"))["attempts"]:
                steps, seconds, known = steps + int(attempt["scf_steps"]), seconds + float(attempt["seconds"]), True
    return (steps if known else None), seconds
