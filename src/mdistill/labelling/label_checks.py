"""Checks of labels made elsewhere: units, signs, duplicates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mdistill.errors import BadInput
from mdistill.labelling.label_files import ENERGY_UNITS, FORCE_UNITS, STRESS_UNITS, FileFrame
from mdistill.labelling.pair_fit import Ratio, implied_ratios
from mdistill.labelling.settings import LabelFileSettings
from mdistill.notices import notify
from mdistill.types import LabelledFrame

ATOMIC_HARTREE = (
    0.5, 2.9037, 7.4781, 14.6674, 24.6539, 37.8450, 54.5892, 75.0673, 99.7339, 128.9376, 162.2546, 200.0530, 242.3460, 289.3590,
    341.2590, 398.1100, 460.1480, 527.5400,
)  # fmt: skip
"""Non-relativistic energies of the atoms H to Ar, −Ha. Chakravorty et al., Phys. Rev. A 47, 3649 (1993)."""
CLEAR, FAINT = 0.6, 0.4
"""Smallest correlation with what the forces imply from which labels are judged; the latter of ratios above ten."""
_SLIPS = {
    ("Ha", "eV/A"): 0.0, ("eV", "Ha/Bohr"): 0.0, ("Ha", "Ha/Bohr"): 0.0, ("kcal/mol", "eV/A"): 0.7, ("eV", "kcal/mol/A"): 0.7,
    ("kJ/mol", "eV/A"): 0.7, ("eV", "kJ/mol/A"): 0.7, ("Ry", "eV/A"): 0.7, ("eV", "Ry/Bohr"): 0.7, ("Ry", "Ry/Bohr"): 0.3,
}  # fmt: skip
"""Pairs of units that are mistaken for eV and eV/Å, with a penalty for the rarer ones."""
ABSURD, _TIMES = 1000.0, 50.0
"""A structure is left out where a force is above this, eV/Å, and above this multiple of the usual largest one of a structure."""
_WORK_PAIRS, _SHORT_MOVE, _SAME = 400, 0.3, 1e-4


def check_units(frames: Sequence[LabelledFrame], settings: LabelFileSettings, *, subject: str) -> None:
    """Refuse labels whose units or signs contradict each other; where a unit was given by the user it is a notice only.

    Raises:
        BadInput: Energies that do not belong to the forces, or a stress that does not, or all-electron energies in another
            unit (names the flag).
    """
    ratios = implied_ratios(frames)
    work = work_ratio(frames)
    energy = work if work is not None and abs(work.correlation) > 0.9 else ratios.get("energy")
    problem = _all_electron(frames)
    if problem is not None:
        _tell(subject, *problem, given=settings.energy_unit is not None)
    elif energy is not None and _contradicts(energy, 1.3 if energy is work else 4.0):
        what, flags = _closest_energy(energy.value)
        problem_text = f"energy differences are {energy.value:.3g} times what the forces imply: {what}"
        _tell(subject, problem_text, flags, given=settings.energy_unit is not None or settings.forces_unit is not None)
    stress = ratios.get("stress")
    if stress is not None and _contradicts(stress, 4.0):
        what, flags = _closest_stress(stress.value)
        problem_text = f"the stress is {stress.value:.3g} times what the forces imply: {what}"
        _tell(subject, problem_text, flags, given=settings.stress_unit is not None or settings.stress_sign is not None)


def work_ratio(frames: Sequence[LabelledFrame]) -> Ratio | None:
    """Energy differences of successive frames over the work −½(F₁ + F₂)·Δr; None with fewer than six pairs of close frames."""
    pairs = []
    for first, second in itertools.pairwise(frames):
        if first.block != second.block or {"energy", "forces"} & (first.missing | second.missing):
            continue
        if not torch.equal(first.system.numbers, second.system.numbers) or not torch.equal(first.system.cell, second.system.cell):
            continue
        move = second.system.positions - first.system.positions
        if _SAME < float(move.abs().max()) < _SHORT_MOVE:
            work = -0.5 * float(((first.target.forces + second.target.forces) * move).sum())
            pairs.append((float(second.target.energy[0] - first.target.energy[0]), work))
        if len(pairs) == _WORK_PAIRS:
            break
    if len(pairs) < 6:
        return None
    change, done = np.array(pairs).T
    squares = float((change**2).sum()), float((done**2).sum())
    if min(squares) == 0.0:
        return None
    correlation = float((change * done).sum()) / math.sqrt(squares[0] * squares[1])
    return Ratio(value=math.copysign(math.sqrt(squares[0] / squares[1]), correlation), correlation=correlation)


def without_absurd_forces(frames: Sequence[FileFrame]) -> tuple[list[FileFrame], list[str]]:
    """The frames without those that have a force that no other one comes near, and a note that names frame and atom."""
    from ase.data import chemical_symbols

    lengths = [np.zeros(1) if one.forces is None else np.linalg.norm(one.forces, axis=1) for one in frames]
    largest = np.array([float(one.max(initial=0.0)) for one in lengths])
    known = largest[largest > 0.0]
    limit = max(ABSURD, _TIMES * float(np.median(known))) if len(known) else math.inf
    bad = np.flatnonzero(largest > limit)
    if not len(bad):
        return list(frames), []
    first = int(bad[np.argmax(largest[bad])])
    atom, frame = int(lengths[first].argmax()), frames[first]
    number = sum(one.file == frame.file for one in frames[: first + 1])
    more = "" if len(bad) == 1 else f" ({len(bad)} such structures; this is the largest force)"
    note = (
        f"{frame.file}, frame {number}: the force on atom {atom} ({chemical_symbols[int(frame.numbers[atom])]}) is "
        f"{largest[first]:.3g} eV/Å, the median of the largest ones {np.median(known):.3g} eV/Å: left out{more}"
    )
    return [one for k, one in enumerate(frames) if largest[k] <= limit], [note]


def unique(frames: Sequence[LabelledFrame]) -> tuple[list[LabelledFrame], list[str]]:
    """The frames without repeated structures (first ones stay), and notes; a repeat with another label is told."""
    groups: dict[tuple[bytes, tuple[int | None, ...]], list[int]] = {}
    for k, frame in enumerate(frames):
        states = tuple(None if one is None else int(one) for one in (frame.system.charge, frame.system.unpaired))
        groups.setdefault((frame.system.numbers.numpy().tobytes(), states), []).append(k)
    repeats, differ = set[int](), 0.0
    for mine in groups.values():
        places = np.stack([frames[k].system.positions.numpy().ravel() for k in mine])
        marks = places @ np.random.default_rng(0).normal(size=places.shape[1])
        order, width = np.argsort(marks, kind="stable"), 4.0 * _SAME * math.sqrt(places.shape[1])
        for place, i in enumerate(order):
            for j in order[place + 1 :]:
                if marks[j] - marks[i] > width:
                    break
                first, second = sorted((mine[i], mine[j]))
                if second not in repeats and _same_structure(frames[first], frames[second]):
                    repeats.add(second)
                    differ = max(differ, _difference(frames[first], frames[second]))
    notes = []
    if repeats:
        notes.append(f"{len(repeats)} of {len(frames)} structures occur more than once: repeats are left out")
    if differ > 1e-3:
        notes.append(f"labels of repeated structures differ by up to {1e3 * differ:.3g} meV/atom; the first one is used")
    return [frame for k, frame in enumerate(frames) if k not in repeats], notes


def _same_structure(first: LabelledFrame, second: LabelledFrame) -> bool:
    a, b = first.system, second.system
    return float((a.positions - b.positions).abs().max()) < _SAME and float((a.cell - b.cell).abs().max()) < _SAME


def _difference(first: LabelledFrame, second: LabelledFrame) -> float:
    """Difference of the energies, eV/atom."""
    if "energy" in first.missing | second.missing:
        return 0.0
    return abs(float(first.target.energy[0] - second.target.energy[0])) / first.system.n_atoms


def _tell(subject: str, problem: str, flags: str, *, given: bool) -> None:
    if given:
        notify(f"{subject}: {problem}")
        return
    allowed = "energies in eV, forces in eV/Å, stress in eV/Å³ (tension positive), virial in eV (−stress × volume)"
    raise BadInput(subject, problem, allowed=allowed, fix=f"{flags} (a unit that you give is used as given)")


def _contradicts(ratio: Ratio, factor: float) -> bool:
    """Whether it differs from 1 by more than the factor, or in sign, and the correlation is clear; less is enough for more."""
    near = 1.0 / factor < abs(ratio.value) < factor
    if ratio.value > 0 and near:
        return False
    far = not 0.1 < abs(ratio.value) < 10.0
    return abs(ratio.correlation) > (FAINT if far else CLEAR)


def _closest_energy(ratio: float) -> tuple[str, str]:
    """The units of energies and forces with this ratio, in words and as flags."""
    if ratio < 0:
        return "energy gradients, not forces, or energies of the other sign", "change the sign in the file"
    costs = {pair: abs(math.log(ratio * ENERGY_UNITS[pair[0]] / FORCE_UNITS[pair[1]])) + rare for pair, rare in _SLIPS.items()}
    first, second = sorted(costs, key=costs.__getitem__)[:2]
    texts = [f"energies in {unit} and forces in {force}" for unit, force in (first, second)]
    flags = [f"--energy-unit {first[0]}"] * (first[0] != "eV") + [f"--forces-unit {first[1]}"] * (first[1] != "eV/A")
    return f"probably {texts[0]}, else {texts[1]}", " ".join(flags)


def _closest_stress(ratio: float) -> tuple[str, str]:
    flags = ["--stress-sign compression"] if ratio < 0 else []
    unit = min(STRESS_UNITS, key=lambda name: abs(math.log(abs(ratio) * STRESS_UNITS[name])))
    flags += [f"--stress-unit {unit}"] if unit != "eV/A3" else []
    sense = "compression positive" if ratio < 0 else "tension positive"
    return f"probably in {unit} with {sense}", " ".join(flags) or "--stress-unit eV/A3"


def _all_electron(frames: Sequence[LabelledFrame]) -> tuple[str, str] | None:
    """Energies that are those of all electrons in another unit than eV: text and flag."""
    ratios = []
    for frame in frames:
        numbers = frame.system.numbers.tolist()
        if "energy" not in frame.missing and max(numbers) <= len(ATOMIC_HARTREE):
            ratios.append(-float(frame.target.energy[0]) / sum(ATOMIC_HARTREE[z - 1] for z in numbers))
    units: Mapping[str, float] = {"Ha": 1.0, "kcal/mol": ENERGY_UNITS["Ha"] / ENERGY_UNITS["kcal/mol"],
                                  "kJ/mol": ENERGY_UNITS["Ha"] / ENERGY_UNITS["kJ/mol"]}  # fmt: skip
    for unit, value in units.items():
        if ratios and 0.985 < float(np.median(ratios)) / value < 1.03:
            flags = f"--energy-unit {unit} --forces-unit " + {"Ha": "Ha/Bohr (or Ha/A)"}.get(unit, f"{unit}/A")
            return f"the energies are those of all electrons in {unit}", flags
    return None
