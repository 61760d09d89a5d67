r"""Mean-square displacement of the layers of a slab about their mean positions, along each axis.

u²_α(l) = ⟨ |r_α − r̄_α − (R_α − R̄_α)|² ⟩ over atoms of layer l and frames
R: centre of mass of the slab   bar: mean over the run   α: along the first lattice vector, across it in the plane, normal

Layers are those of the start; layers at equal depth below the two faces are averaged. In a harmonic crystal u² grows as T; a
layer that melts or whose atoms hop has no mean positions, and its u² grows with the length of the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mdistill.estimates import Estimate, exactly
from mdistill.graph import checked_box
from mdistill.observables.production import Production
from mdistill.runs.results import Cell, Figure, Headline, Results, Series, Table
from mdistill.types import System, Trajectory

AXES = ("along a", "in plane", "normal")
_APART_A, _MOBILE_A2 = 0.6, 1.0
"""Height between two layers, Å; u² beyond which atoms count as mobile, Å²."""


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
    layers = layers_of(start)
    each = np.array([squared[layer].mean(0) for layer in layers])
    half = (len(layers) + 1) // 2
    return 0.5 * (each + each[::-1])[:half]


def layer_results(produced: Sequence[Production]) -> Results:
    """u² of every layer against temperature; the error is the scatter of the runs."""
    layers = layers_of(produced[0].start)
    found = {p.temperature_K: np.array([displacements_by_layer(run, p.start) for run in p.trajectories]) for p in produced}
    depth = (len(layers) + 1) // 2
    rows: list[list[Cell]] = []
    notes, values, headlines = list[str](), dict[str, Estimate](), list[Headline]()
    for kelvin, runs in found.items():
        for layer in range(depth):
            row = [_mean(runs[:, layer, axis]) for axis in range(3)]
            rows.append(
                [f"{kelvin:g}", _name(layer, depth), *row, row[2].over(row[0], "") if (row[0].value or 0.0) > 0.0 else None]
            )
        for axis, name in enumerate(AXES):
            values[f"surface_u2_{name.replace(' ', '_')}_{kelvin:g}K"] = _mean(runs[:, 0, axis])
        headlines.append(Headline(quantity="surface_u2", value=f"surface_u2_normal_{kelvin:g}K", temperature_K=kelvin))
        if float(runs[:, 0].max()) > _MOBILE_A2:
            notes.append(
                f"{kelvin:g} K: atoms of the surface layer leave their places (u² above {_MOBILE_A2:g} Å²): no vibration"
            )
    figure = Figure(
        name="layers", title="Vibration of the layers", section="matter", x_label="T (K)", y_label="u² (Å²)",
        series=[_series(found, layer, axis, depth) for layer in sorted({0, depth - 1}) for axis in range(3)],
        caption="Mean-square displacement about the mean position, along three axes. Error: scatter of the runs.",
    )  # fmt: skip
    columns = ["T (K)", "layer", *(f"u² {name} (Å²)" for name in AXES), "normal over along a"]
    caption = f"{len(layers)} layers; those at equal depth below both faces are averaged. Relative to the centre of mass."
    table = Table("layers", "Mean-square displacement of layers", "matter", columns, rows, caption)
    return Results(command="layers", values=values, headlines=headlines, tables=[table], figures=[figure], notes=notes)


def _series(found: dict[float, np.ndarray], layer: int, axis: int, depth: int) -> Series:
    points = [_mean(runs[:, layer, axis]) for runs in found.values()]
    return Series(
        label=f"{_name(layer, depth)}, {AXES[axis]}", x=list(found), y=[p.value or 0.0 for p in points],
        error=[p.error or 0.0 for p in points], subject=AXES[axis], style="dashed" if layer else "line",
    )  # fmt: skip


def _name(layer: int, depth: int) -> str:
    return "surface" if layer == 0 else "middle" if layer == depth - 1 else f"{layer + 1}"


def _mean(values: np.ndarray) -> Estimate:
    if len(values) == 1:
        return exactly(float(values[0]), "Å²")
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return Estimate(value=float(values.mean()), error=error, unit="Å²", samples=len(values))


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
