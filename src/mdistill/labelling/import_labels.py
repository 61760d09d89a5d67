"""Labels made elsewhere as labelled frames: read, checked, divided into blocks, with a part held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from ase.formula import Formula

from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.io.structures import stating
from mdistill.labelling.label_checks import check_units, unique, without_absurd_forces
from mdistill.labelling.label_files import FileFrame, Keys, read_frames
from mdistill.labelling.settings import LabelFileSettings
from mdistill.notices import notify
from mdistill.runs.results import Cell, Results, Table
from mdistill.types import LabelledFrame, Prediction

MOST_BLOCKS = 20
"""Number of blocks of successive frames that a group of one file is divided into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedLabels:
    """Labelled frames from files.

    Attributes:
        frames: All frames; `source` is the name of the group, `block` a run of successive frames of one file and group.
        held_blocks: Blocks to hold out of training.
        keys: Names in the files, by label.
    """

    frames: list[LabelledFrame]
    held_blocks: frozenset[int]
    keys: dict[str, dict[str, int]]


def import_labels(
    paths: str | Path | Sequence[str | Path], settings: LabelFileSettings | None = None, *, test: Sequence[str | Path] = (),
    hold_out: bool = True,
) -> ImportedLabels:  # fmt: skip
    """Read labelled structures of other programs.

    Energies, forces and stress are converted to eV, eV/Å and eV/Å³ (tension positive). Each may be missing in some or all
    frames. Single atoms are left out: reference energies are fitted. What was noticed is issued as notices.

    Args:
        paths: One file or several: extended XYZ, .npz, vasprun.xml, OUTCAR, ASE database or trajectory, SPICE, QCML.
        settings: Names, units, held-out frames.
        test: Files whose frames are all held out; then no frame of `paths` is.
        hold_out: Whether to hold frames out.
    Raises:
        BadInput: A file that cannot be read, no labels, labels that contradict their units, or nothing to hold out.
    """
    settings, keys = settings or LabelFileSettings(), Keys()
    names = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    tests = [Path(path) for path in test]
    read = [frame for path in [*tests, *names] for frame in read_frames(path, settings, keys)]
    read, absurd = without_absurd_forces(read)
    lone = sum(len(frame.numbers) == 1 for frame in read)
    read = [frame for frame in read if len(frame.numbers) > 1]
    subject = ", ".join(map(str, names))
    _check_keys(read, keys, settings, subject)
    frames = _labelled(read)
    kept = [k for k, frame in enumerate(frames) if frame.missing != {"energy", "forces"} or frame.target.stress is not None]
    files = {frames[k].block: read[k].file for k in kept}
    if lone:
        notify(f"{lone} single atoms are left out: reference energies are fitted to the other structures")
    if len(kept) < len(frames):
        notify(f"{len(frames) - len(kept)} structures without any label are left out")
    check_units([frames[k] for k in kept], settings, subject=subject)
    distinct, notes = unique([frames[k] for k in kept])
    for text in (*absurd, *notes, *_key_notes(keys)):
        notify(text)
    held = frozenset[int]()
    if tests:
        held = frozenset(block for block, file in files.items() if file in set(map(str, tests)))
        if all(frame.block in held for frame in distinct):
            problem = "the test file holds only training structures: without them none is left to train on"
            allowed = "files with structures that are not trained on"
            raise BadInput("--test-file", problem, allowed=allowed, fix="name another file, or leave --test-file out")
    elif hold_out:
        held = held_blocks(distinct, settings)
    return ImportedLabels(frames=distinct, held_blocks=held, keys=keys.used)


def held_blocks(frames: Sequence[LabelledFrame], settings: LabelFileSettings) -> frozenset[int]:
    """Blocks to hold out: the last ones of every group, at least one where there are two; or whole groups.

    Raises:
        BadInput: A group that does not exist, a single group or block, or groups whose elements are in no other group.
    """
    groups: dict[str, list[LabelledFrame]] = {}
    for frame in frames:
        groups.setdefault(frame.source, []).append(frame)
    if settings.hold_out_groups or settings.hold_out == "groups":
        chosen = _held_groups(groups, settings)
        return frozenset(frame.block for name in chosen for frame in groups[name])
    held = set[int]()
    for mine in groups.values():
        sizes: dict[int, int] = {}
        for frame in mine:
            sizes[frame.block] = sizes.get(frame.block, 0) + 1
        missing, left = math.ceil(settings.held_out * len(mine)), sorted(sizes)
        while missing > 0 and len(left) > 1:
            missing -= sizes[left[-1]]
            held.add(left.pop())
    if not held:
        problem, fix = f"{_count(len(frames))}, one of each group", "--hold-out groups, or --test-file FILE"
        raise BadInput("labels", problem, allowed="at least two structures of one group", fix=fix)
    return frozenset(held)


def _held_groups(groups: Mapping[str, Sequence[LabelledFrame]], settings: LabelFileSettings) -> set[str]:
    unknown = [name for name in settings.hold_out_groups if name not in groups]
    if unknown:
        raise BadInput("--hold-out-groups", unknown[0], allowed=", ".join(sorted(groups)), fix="choose one of them")
    elements = {name: {int(z) for f in mine for z in f.system.numbers.tolist()} for name, mine in groups.items()}
    total, chosen = sum(map(len, groups.values())), set[str]()
    order = sorted(groups, key=lambda name: (len(groups[name]), name))
    for name in settings.hold_out_groups or order:
        rest = [other for other in groups if other not in chosen | {name}]
        covered = elements[name] <= set().union(*(elements[other] for other in rest))
        if settings.hold_out_groups and not covered:
            problem = f"no other group holds all elements of {name}"
            raise BadInput("--hold-out-groups", problem, allowed="elements that are trained on", fix="choose another group")
        if covered and (settings.hold_out_groups or sum(len(groups[n]) for n in chosen) < settings.held_out * total):
            chosen.add(name)
    if not chosen:
        problem = f"{len(groups)} group(s), none of whose elements are all in the others"
        raise BadInput("--hold-out", problem, allowed="groups, or blocks", fix="--hold-out blocks, or --test-file FILE")
    return chosen


def labels_table(imported: ImportedLabels) -> Results:
    """What the files hold, by group."""
    rows: list[list[Cell]] = []
    for name in dict.fromkeys(frame.source for frame in imported.frames):
        mine = [frame for frame in imported.frames if frame.source == name]
        counts = [sum(kind not in frame.missing for frame in mine) for kind in ("energy", "forces")]
        held = sum(frame.block in imported.held_blocks for frame in mine)
        rows.append([name, len(mine), *counts, sum(frame.target.stress is not None for frame in mine), held])
    columns = ["group", "structures", "with energy", "with forces", "with stress", "held out"]
    found = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in imported.keys.items())
    table = Table("labels", "Labels", "training", columns, rows, f"Names in the files: {found}.")
    return Results(command="train", tables=[table])


def _count(number: int) -> str:
    return f"{number} structure{'s' * (number != 1)}"


def _labelled(read: Sequence[FileFrame]) -> list[LabelledFrame]:
    names = [frame.group or str(Formula.from_list(_symbols(frame.numbers)).format("hill")) for frame in read]
    together: dict[tuple[str, str], list[int]] = {}
    for k, frame in enumerate(read):
        together.setdefault((frame.file, names[k]), []).append(k)
    blocks, first = np.zeros(len(read), dtype=int), 0
    for mine in together.values():
        size = math.ceil(len(mine) / MOST_BLOCKS)
        blocks[mine] = first + np.arange(len(mine)) // size
        for before, k in pairwise(mine):
            if read[k].molecule and read[k].molecule == read[before].molecule:
                blocks[k] = blocks[before]
        first = int(blocks[mine[-1]]) + 1
    return [_frame(frame, names[k], int(blocks[k])) for k, frame in enumerate(read)]


def _symbols(numbers: np.ndarray) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in numbers]


def _frame(frame: FileFrame, name: str, block: int) -> LabelledFrame:
    count = len(frame.numbers)
    forces = np.full((count, 3), np.nan) if frame.forces is None else frame.forces
    target = Prediction(
        energy=torch.tensor([np.nan if frame.energy is None else frame.energy], dtype=torch.float64),
        forces=torch.tensor(forces, dtype=torch.float64),
        stress=None if frame.stress is None else torch.tensor(frame.stress, dtype=torch.float64)[None],
    )
    lacking = {"energy": frame.energy, "forces": frame.forces}
    cell = frame.cell * frame.pbc[:, None]
    return LabelledFrame(
        system=stating(make_system(frame.positions, frame.numbers, cell, frame.pbc.tolist()), frame.states), target=target,
        source=name, block=block,
        missing=frozenset(kind for kind, value in lacking.items() if value is None),
    )  # fmt: skip


def _check_keys(read: Sequence[FileFrame], keys: Keys, settings: LabelFileSettings, subject: str) -> None:
    """At least one label, and every name that was given."""
    held = ", ".join(sorted(keys.seen)) or "nothing"
    for kind in ("energy", "forces", "stress"):
        key = getattr(settings, f"{kind}_key")
        if key is not None and not keys.used[kind]:
            fix = f"--{kind}-key NAME, or leave it out"
            raise BadInput(f"--{kind}-key", f"no structure has {key!r}", allowed=f"a name in the files: {held}", fix=fix)
    if not read or not (keys.used["energy"] or keys.used["forces"]):
        problem = f"{_count(len(read))} with neither energies nor forces; the files hold {held}"
        fix = "--energy-key NAME --forces-key NAME, or label structures first: mdistill label"
        raise BadInput(subject, problem, allowed="energies or forces", fix=fix)


def _key_notes(keys: Keys) -> list[str]:
    notes = []
    for kind, names in keys.used.items():
        if len(names) > 1:
            notes.append(f"{kind} has several names in the files: {', '.join(f'{n} ({c})' for n, c in names.items())}")
    if keys.free_energy_gap > 1e-6:
        notes.append(f"energies are free_energy, to which forces belong; energy differs by up to {keys.free_energy_gap:.3g} eV"
                     " (--energy-key energy uses it)")  # fmt: skip
    if keys.not_finite:
        notes.append(f"{keys.not_finite} labels are not finite and count as missing")
    return notes
