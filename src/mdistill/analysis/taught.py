"""What a student was taught, as its model file tells it, and how far a structure is from that.

A student answers for any arrangement of its elements. Its answer is an interpolation only where the labels have pairs as close,
a similar composition and a similar density.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

from mdistill import __version__
from mdistill.analysis.accuracy import Accuracy, Deviation
from mdistill.crystals.crystal import reduced_formula
from mdistill.derivatives import tell_heating
from mdistill.graph import build_graph, edge_vectors
from mdistill.nets.network import Network
from mdistill.nets.trained_structures import TRAINED, projections_of
from mdistill.notices import notify
from mdistill.settings import to_json
from mdistill.types import LabelledFrame, Potential, System

NEARER, SHARE, VOLUME, HOTTER, SPREAD = 0.95, 0.002, 0.15, 1.05, 5.0
"""Far from the labels: pairs below this share of the closest labelled pair; shares of an element (atoms over all atoms) or
volumes per atom (relative) so far outside their range; temperatures above this multiple; a spread of the committee's forces on
an atom above this multiple of the held-out error."""
_FORMULAS = 4
TAUGHT = "taught"
"""Key of this description in the provenance of a model file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """The labels that a student was fitted to.

    Attributes:
        cutoff: Distance up to which pairs were looked for, Å.
        closest: Closest pair of each two elements ("Li-P"), Å; a pair that no label has within the cutoff is absent.
        shares: Lowest and highest share of each element in the atoms of a structure.
        volumes: Smallest and largest volume per atom of periodic structures, Å³; empty without any.
        temperatures_K: Temperatures of the MD that the labels come from, K.
        sources: Number of labels by origin.
        open: Whether some structure was not periodic in three directions.
        force_error: Root mean square of the length of the force error on held-out labels, eV/Å; 0 where it is not known.
    """

    cutoff: float
    closest: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, Sequence[float]] = field(default_factory=dict)
    volumes: Sequence[float] = ()
    temperatures_K: Sequence[float] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    open: bool = False
    force_error: float = 0.0


def taught_by(frames: Sequence[LabelledFrame], cutoff: float, errors: Accuracy | None = None) -> Taught:
    """The description of labels, for a model file."""
    closest: dict[str, float] = {}
    shares: dict[str, list[float]] = {}
    elements = sorted({int(z) for frame in frames for z in frame.system.numbers.unique()})
    for frame in frames:
        closest |= {pair: d for pair, d in closest_pairs(frame.system, cutoff).items() if d < closest.get(pair, math.inf)}
        for symbol, share in _shares(frame.system, elements).items():
            shares.setdefault(symbol, []).append(share)
    volumes = [volume for frame in frames if (volume := _volume_per_atom(frame.system)) is not None]
    every = errors.force.get("all") if errors is not None else None
    wrong = 0.0 if every is None or not math.isfinite(every.root_mean_square) else math.sqrt(3.0) * every.root_mean_square
    return Taught(
        cutoff=cutoff, closest={pair: round(d, 4) for pair, d in sorted(closest.items())},
        shares={symbol: [round(min(values), 6), round(max(values), 6)] for symbol, values in shares.items()},
        volumes=[round(min(volumes), 4), round(max(volumes), 4)] if volumes else [],
        temperatures_K=sorted({frame.temperature_K for frame in frames if frame.temperature_K > 0.0}),
        sources=dict(sorted(Counter(frame.source for frame in frames).items())), open=len(volumes) < len(frames),
        force_error=round(wrong, 6),
    )  # fmt: skip


def described(frames: Sequence[LabelledFrame], cutoff: float, errors: Accuracy) -> dict[str, Any]:
    """Formula, labels and held-out errors of a student, and the version that made it, for the provenance of its file."""
    formulas = sorted({reduced_formula(dict(Counter(frame.system.numbers.tolist()))) for frame in frames})  # type: ignore[arg-type]
    return {
        "formula": ", ".join(formulas) if len(formulas) <= _FORMULAS else f"{len(formulas)} compositions",
        TAUGHT: to_json(taught_by(frames, cutoff, errors)), "errors": errors_of(errors), "version": __version__,
        TRAINED: projections_of(frames),
    }  # fmt: skip


def errors_of(measured: Accuracy) -> dict[str, dict[str, dict[str, float]]]:
    """Errors on held-out labels for a model file: quantity → group → mean absolute and root mean square, eV, Å."""

    def numbers(one: Deviation) -> dict[str, float]:
        pair = {"mean_absolute": one.mean_absolute.value, "root_mean_square": one.root_mean_square}
        return {name: float(f"{value:.5g}") for name, value in pair.items() if value is not None and math.isfinite(value)}

    parts = {"force": measured.force, "energy": measured.energy, "stress": measured.stress}
    return {quantity: {group: numbers(one) for group, one in groups.items()} for quantity, groups in parts.items()}


def header_of(potential: Potential) -> dict[str, Any]:
    """Header of the model file that a potential was read from; empty where it was not read from one."""
    net = getattr(potential, "net", None)
    return net.header if isinstance(net, Network) else {}


def taught_of(potential: Potential) -> Taught | None:
    """What a student was taught; None for other potentials, and for students whose file does not tell."""
    return read_taught(header_of(potential).get("provenance", {}).get(TAUGHT))


def read_taught(raw: Any) -> Taught | None:
    """The description in a model file's provenance; None where there is none that can be read."""
    try:
        made = Taught(**raw)
        numbers = [made.cutoff, made.force_error, *made.volumes, *made.closest.values(), *made.temperatures_K]
        numbers += [share for pair in made.shares.values() for share in pair]
        sound = all(math.isfinite(number) and number >= 0.0 for number in numbers) and len(made.volumes) in (0, 2)
        return made if sound and made.cutoff > 0.0 and all(len(pair) == 2 for pair in made.shares.values()) else None
    except (TypeError, AttributeError):
        return None


def cannot_tell(potential: Potential) -> str:
    """A sentence where a student's file does not say what it was taught; "" otherwise."""
    if not header_of(potential) or taught_of(potential) is not None:
        return ""
    return (
        f"the file of {potential.name} does not say what it was taught (an older version wrote it): structures far from its "
        "labels are not noticed. Train it again for that"
    )


def departures(system: System, taught: Taught, *, temperature_K: float = 0.0) -> list[str]:
    """How a structure (one struct) lies outside what a student was taught, a phrase each; empty where it does not."""
    return [*_far_pairs(system, taught), *_far_composition(system, taught), *_far_density(system, taught),
            *_too_hot(taught, temperature_K)]  # fmt: skip


def tell_departures(system: System, potential: Potential, *, temperature_K: float = 0.0, nve: bool = False) -> None:
    """Issue a notice where a structure lies outside what a student was taught, or where its file does not tell; and where NVE is
    asked of forces that are no gradient of an energy."""
    if nve:
        tell_heating(potential, "nvt, or --inner-steps 4")
    taught = taught_of(potential)
    if taught is None:
        if sentence := cannot_tell(potential):
            notify(sentence)
    elif phrases := departures(system, taught, temperature_K=temperature_K):
        notify(told(potential.name, phrases))


def told(name: str, phrases: Sequence[str]) -> str:
    """The departures as one sentence."""
    return f"the structure is far from what {name} was taught: {'; '.join(phrases)}. Its answer is an extrapolation"


def disagreement(spread: torch.Tensor, numbers: torch.Tensor, taught: Taught) -> list[str]:
    """A phrase where the committee's forces differ by far more than the student's error on held-out labels.

    Args:
        spread: [atom] spread of the forces, eV/Å (`judge.spread.forces_spread`).
        numbers: [atom] atomic numbers.
        taught: The student's labels.
    """
    if not len(spread) or taught.force_error <= 0.0 or not float(spread.max()) > SPREAD * taught.force_error:
        return []
    atom = int(spread.argmax())
    where = f"atom {atom} ({chemical_symbols[int(numbers[atom])]})"
    return [
        f"the forces of the committee differ by {float(spread[atom]):.3g} eV/Å on {where} (error on held-out labels: "
        f"{taught.force_error:.3g} eV/Å)"
    ]


def closest_pairs(system: System, cutoff: float) -> dict[str, float]:
    """Closest distance (Å) of every two elements within the cutoff, by symbols in the order of atomic numbers ("Li-P")."""
    if system.n_atoms == 0:
        return {}
    graph = build_graph(system, cutoff)
    if not len(graph.receiver):
        return {}
    lengths, numbers = edge_vectors(graph).detach().norm(dim=1), system.numbers
    first, second = numbers[graph.receiver], numbers[graph.sender]
    code = (torch.minimum(first, second) * 1000 + torch.maximum(first, second)).cpu().numpy()
    values = lengths.double().cpu().numpy()
    kinds, inverse = np.unique(code, return_inverse=True)
    nearest = np.full(len(kinds), np.inf)
    np.minimum.at(nearest, inverse, values)
    names = [f"{chemical_symbols[int(kind) // 1000]}-{chemical_symbols[int(kind) % 1000]}" for kind in kinds]
    return dict(zip(names, nearest.tolist(), strict=True))


def _far_pairs(system: System, taught: Taught) -> list[str]:
    found = []
    for pair, distance in closest_pairs(system, taught.cutoff).items():
        closest, name = taught.closest.get(pair), pair.replace("-", "–")
        if closest is None:
            found.append(f"{name} at {distance:.2f} Å (no label has this pair within {taught.cutoff:g} Å)")
        elif distance < NEARER * closest:
            found.append(f"{name} at {distance:.2f} Å (closest label {closest:.2f} Å)")
    return found


def _shares(system: System, elements: Sequence[int]) -> dict[str, float]:
    counts = Counter(system.numbers.tolist())
    return {chemical_symbols[z]: counts[z] / max(system.n_atoms, 1) for z in sorted({*elements, *counts})}


def _far_composition(system: System, taught: Taught) -> list[str]:
    shares = _shares(system, [atomic_numbers[symbol] for symbol in taught.shares if symbol in atomic_numbers])
    found = []
    for symbol, share in shares.items():
        low, high = taught.shares.get(symbol, (0.0, 0.0))
        if not low - SHARE <= share <= high + SHARE:
            labels = f"{100 * low:.3g} %" if high - low < 1e-3 else f"{100 * low:.3g} to {100 * high:.3g} %"
            found.append(f"{symbol} {100 * share:.3g} % (labels {labels})")
    return [f"share of atoms: {', '.join(found)}"] if found else []


def _volume_per_atom(system: System) -> float | None:
    """Å³; None where the structure is not periodic in three directions."""
    if not bool(system.pbc.all()) or system.n_atoms == 0:
        return None
    return float(torch.linalg.det(system.cell[0].double()).abs()) / system.n_atoms


def _far_density(system: System, taught: Taught) -> list[str]:
    volume = _volume_per_atom(system)
    if volume is None:
        return [] if taught.open else ["not periodic in three directions, as all labels are"]
    if not taught.volumes:
        return ["periodic in three directions, as no label is"]
    low, high = taught.volumes
    if (1.0 - VOLUME) * low <= volume <= (1.0 + VOLUME) * high:
        return []
    return [f"{volume:.3g} Å³ per atom (labels {low:.3g} to {high:.3g} Å³)"]


def _too_hot(taught: Taught, temperature_K: float) -> list[str]:
    hottest = max(taught.temperatures_K, default=math.inf)
    return [f"{temperature_K:g} K (labels up to {hottest:g} K)"] if temperature_K > HOTTER * hottest else []
