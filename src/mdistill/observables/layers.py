r"""Mean-square displacement of the layers of a slab about their mean positions, along each axis.

u²_α(l) = ⟨ |r_α − r̄_α − (R_α − R̄_α)|² ⟩ over atoms of layer l and frames
R: centre of mass of the slab   bar: mean over the run   α: along the first lattice vector, across it in the plane, normal

Layers are those of the start; layers at equal depth below the two faces are averaged. In a harmonic crystal u² grows as T; a
layer that melts or whose atoms hop has no mean positions, and its u² grows with the length of the run.

Whether the slab keeps its order is checked as for the host of a bulk (`host_order`):
ψ(l) = share of the atoms of layer l, averaged over frames of the second half, near a site of their element in the start
An atom that ends `_GONE_A` or more beyond the outer layers has left the slab.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mdistill.estimates import Estimate, exactly
from mdistill.graph import checked_box
from mdistill.observables.host_order import LEAST, on_sites
from mdistill.observables.production import Production
from mdistill.runs.results import Cell, Figure, Headline, Results, Series, Table
from mdistill.types import System, Trajectory

AXES = ("along a", "in plane", "normal")
_APART_A, _MOBILE_A2, _GONE_A = 0.6, 1.0, 5.0
"""Height between two layers, Å; u² beyond which atoms count as mobile, Å²; height above the slab of atoms that left it, Å."""
_FRAMES = 200


def layers_of(system: System) -> list[Int[np.ndarray, " atom"]]:
    """Atoms of each layer of a slab, from one face to the other: layers are 0.6 Å apart or more."""
    height = system.positions.double().numpy() @ _frame(system)[2]
    order = np.argsort(height)
    cuts = np.flatnonzero(np.diff(height[order]) > _APART_A) + 1
    return [np.sort(part) for part in np.split(order, cuts)]


def displacements_by_layer(run: Trajectory, start: System) -> Float[np.ndarray, "layer axis"]:
    """u² (Å²) of each layer, from a face inwards, along `AXES`."""
    masses = _masses(start)
    places = run.positions.double().numpy()
    places = places - np.einsum("a,fax->fx", masses / masses.sum(), places)[:, None]
    about = (places - places.mean(0)) @ _frame(start).T
    squared = (about**2).mean(0)
    each = np.array([squared[layer].mean(0) for layer in layers_of(start)])
    return 0.5 * (each + each[::-1])[: (len(each) + 1) // 2]


def order_by_layer(run: Trajectory, start: System) -> tuple[Float[np.ndarray, " layer"], int]:
    """ψ of each layer of the worse face, from there inwards, in the second half of a run, and the number of atoms that left.

    Args:
        run: Unwrapped, of the atoms of `start` in the same order.
        start: Structure with the sites.
    """
    last, sites, normal = len(run.times) - 1, start.positions.double().numpy(), _frame(start)[2]
    frames = np.unique(np.linspace(last // 2, last, _FRAMES).round().astype(int))
    places = run.positions[frames].double().numpy()
    places = places - np.median(places - sites, axis=1, keepdims=True)  # no drift, also where atoms flew away
    periodic = start.pbc[0].tolist()
    near = on_sites(places, sites, start.numbers.numpy(), checked_box(start, 1.0), periodic).mean(axis=0)
    beyond = np.abs(places[-1] @ normal - np.mean(_faces(sites @ normal))) - 0.5 * np.ptp(_faces(sites @ normal))
    each = np.array([near[layer].mean() for layer in layers_of(start)])
    return np.minimum(each, each[::-1])[: (len(each) + 1) // 2], int((beyond > _GONE_A).sum())


def _faces(height: Float[np.ndarray, " atom"]) -> np.ndarray:
    return np.array([height.min(), height.max()])


def layer_results(produced: Sequence[Production]) -> Results:
    """u² and order of every layer against temperature; the error is the scatter of the runs."""
    depth = (len(layers_of(produced[0].start)) + 1) // 2
    found = {p.temperature_K: np.array([displacements_by_layer(run, p.start) for run in p.trajectories]) for p in produced}
    rows: list[list[Cell]] = []
    notes, values, headlines = list[str](), dict[str, Estimate](), list[Headline]()
    for p, (kelvin, runs) in zip(produced, found.items(), strict=True):
        orders = [order_by_layer(run, sites) for run, sites in zip(p.trajectories, p.sites, strict=True)]
        order, gone = np.array([shares for shares, _ in orders]), sum(count for _, count in orders)
        for layer in range(depth):
            row = [_mean(runs[:, layer, axis]) for axis in range(3)]
            ratio = row[2].over(row[0], "") if (row[0].value or 0.0) > 0.0 else None
            rows.append([f"{kelvin:g}", _name(layer, depth), *row, ratio, _mean(order[:, layer], "")])
        for axis, name in enumerate(AXES):
            values[f"surface_u2_{name.replace(' ', '_')}_{kelvin:g}K"] = _mean(runs[:, 0, axis])
        values[f"surface_order_{kelvin:g}K"] = _mean(order[:, 0], "")
        values[f"atoms_that_left_{kelvin:g}K"] = exactly(gone)
        said = _broken(float(order[:, 0].min()), float(runs[:, 0].max()), gone, len(orders) * p.start.n_atoms)
        notes += [f"{kelvin:g} K: {one}" for one in said]
        name = f"surface_u2_normal_{kelvin:g}K"
        headlines.append(Headline(quantity="surface_u2", value=name, temperature_K=kelvin, doubts=[f"{one}." for one in said]))
    figure = Figure(
        name="layers", title="Vibration of the layers", section="matter", x_label="T (K)", y_label="u² (Å²)",
        series=[_series(found, layer, axis, depth) for layer in sorted({0, depth - 1}) for axis in range(3)],
        caption="Mean-square displacement about the mean position, along three axes. Error: scatter of the runs.",
    )  # fmt: skip
    columns = ["T (K)", "layer", *(f"u² {name} (Å²)" for name in AXES), "normal over along a", "order"]
    caption = (
        f"{len(layers_of(produced[0].start))} layers; u² is averaged over those at equal depth below both faces, relative to the "
        "centre of mass. Order: share of atoms near a site of the relaxed slab in the second half of the runs; of the worse face."
    )
    table = Table("layers", "Mean-square displacement of layers", "matter", columns, rows, caption)
    return Results(command="layers", values=values, headlines=headlines, tables=[table], figures=[figure], notes=notes)


def _broken(order: float, u2: float, gone: int, atoms: int) -> list[str]:
    """What keeps u² of the surface (Å²) from being a vibration, at one temperature: `order` of its worst run."""
    why = "so u² is no vibration. See the gates: a poor student does this too"
    if gone:
        return [f"{gone} of {atoms} atoms left the slab, {why}"]
    if order < LEAST:
        return [f"the surface lost its order ({100.0 * order:.0f} % of its atoms are near a site), {why}"]
    return [f"atoms of the surface layer leave their places (u² above {_MOBILE_A2:g} Å²), {why}"] if u2 > _MOBILE_A2 else []


def _series(found: dict[float, np.ndarray], layer: int, axis: int, depth: int) -> Series:
    points = [_mean(runs[:, layer, axis]) for runs in found.values()]
    return Series(
        label=f"{_name(layer, depth)}, {AXES[axis]}", x=list(found), y=[p.value or 0.0 for p in points],
        error=[p.error or 0.0 for p in points], subject=AXES[axis], style="dashed" if layer else "line",
    )  # fmt: skip


def _name(layer: int, depth: int) -> str:
    return "surface" if layer == 0 else "middle" if layer == depth - 1 else f"{layer + 1}"


def _mean(values: np.ndarray, unit: str = "Å²") -> Estimate:
    if len(values) == 1:
        return exactly(float(values[0]), unit)
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(value=float(values.mean()), error=error, unit=unit, samples=len(values))


def _frame(system: System) -> Float[np.ndarray, "3 3"]:
    """Unit vectors (rows) along the first periodic lattice vector, across it in the plane, and normal to the plane."""
    closed = np.flatnonzero(system.pbc[0].numpy())
    box = checked_box(system, 1.0)
    first = box[closed[0]] / np.linalg.norm(box[closed[0]])
    normal = np.cross(first, box[closed[1]])
    normal /= np.linalg.norm(normal)
    return np.stack([first, np.cross(normal, first), normal])


def _masses(system: System) -> Float[np.ndarray, " atom"]:
    from ase.data import atomic_masses

    return np.array([atomic_masses[z] for z in system.numbers.tolist()])
