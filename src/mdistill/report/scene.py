"""Pictures of a structure: ball and stick as SVG, the same as numbers for the viewer, density and hops along each axis."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.data.colors import jmol_colors
from jaxtyping import Float, Int
from markupsafe import escape

from mdistill.runs.results import Scene

_BOND = 1.18
"""Longest bond over the sum of covalent radii."""
_BALL, _SMALL_BALL = 0.48, 0.4
"""Radius drawn over the covalent radius; that of the mobile ion."""
_SIZE, _FOG = 520, 5
_ROUNDING = 1e-4
"""Atoms less than this share of the cell below 0 stay there."""
_CLOUD_SHARE, _CLOUD_VOXELS = 0.6, 2500
"""Share of the density that the viewer shows, from its densest voxels on, and the most of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A scene ready to draw.

    Attributes:
        elements: Atomic numbers in the scene, the mobile one last.
        kind: [atom] index into `elements`.
        positions: [atom, 3] Å from the middle of the cell, molecules whole.
        bonds: [bond, 2] atoms.
        edges: [edge, 2, 3] Å, edges of the cell; none where it is open.
        middle: [3] Å, the middle of the cell (of the atoms where it is open).
    """

    elements: list[int]
    kind: Int[np.ndarray, " atom"]
    positions: Float[np.ndarray, "atom 3"]
    bonds: Int[np.ndarray, "bond 2"]
    edges: Float[np.ndarray, "edge 2 3"]
    middle: Float[np.ndarray, " 3"]


def build_model(scene: Scene) -> Model:
    """Bonds by covalent radii (none of the mobile ion), molecules made whole across the faces of the cell."""
    numbers, positions, cell = np.array(scene.numbers, dtype=int), np.array(scene.positions).reshape(-1, 3), np.array(scene.cell)
    closed = cell.shape == (3, 3) and abs(float(np.linalg.det(cell))) > 1e-3
    bonds = _bonds(numbers, positions, cell if closed else None, scene.mobile)
    if closed:
        positions = _whole((positions @ np.linalg.inv(cell) + _ROUNDING) % 1.0 - _ROUNDING, bonds) @ cell
        kept = np.array(
            [b for b in bonds if np.linalg.norm(positions[b[0]] - positions[b[1]]) < _bond_length(numbers[b])], dtype=int
        )
        bonds = kept.reshape(-1, 2)
    middle = cell.sum(axis=0) / 2 if closed else positions.mean(axis=0)
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    ends = [(p, q) for p, q in itertools.combinations(corners, 2) if np.abs(p - q).sum() == 1] if closed else []
    elements = sorted(set(numbers.tolist()), key=lambda z: (z == scene.mobile, z))
    return Model(
        elements=elements, kind=np.array([elements.index(z) for z in numbers], dtype=int), bonds=bonds,
        positions=positions - middle,
        edges=np.array(ends, dtype=float).reshape(-1, 2, 3) @ (cell if closed else np.eye(3)) - middle, middle=middle,
    )  # fmt: skip


def _bond_length(pair: Int[np.ndarray, " 2"]) -> float:
    return _BOND * float(covalent_radii[pair].sum())


def _bonds(
    numbers: Int[np.ndarray, " atom"], positions: Float[np.ndarray, "atom 3"], cell: Float[np.ndarray, "3 3"] | None, mobile: int
) -> Int[np.ndarray, "bond 2"]:
    atoms = np.flatnonzero(numbers != mobile)
    radii, found = covalent_radii[numbers], [np.zeros((0, 2), dtype=int)]
    for place, atom in enumerate(atoms[:-1]):
        others = atoms[place + 1 :]
        gaps = positions[others] - positions[atom]
        if cell is not None:
            scaled = gaps @ np.linalg.inv(cell)
            gaps = (scaled - np.rint(scaled)) @ cell
        near = others[np.linalg.norm(gaps, axis=1) < _BOND * (radii[others] + radii[atom])]
        found.append(np.stack([np.full(len(near), atom), near], axis=1))
    return np.concatenate(found)


def _whole(scaled: Float[np.ndarray, "atom 3"], bonds: Int[np.ndarray, "bond 2"]) -> Float[np.ndarray, "atom 3"]:
    """Bonded atoms beside each other, each molecule with its middle in the cell. A network without end stays as it is, in it."""
    placed, neighbours = scaled.copy(), dict[int, list[int]]()
    for a, b in bonds.tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    seen: set[int] = set()
    for start in sorted(neighbours, key=lambda atom: -len(neighbours[atom])):
        if start in seen:
            continue
        seen.add(start)
        molecule = [start]
        for atom in molecule:
            for other in neighbours[atom]:
                if other not in seen:
                    seen.add(other)
                    gap = placed[other] - placed[atom]
                    placed[other] -= np.rint(gap)
                    molecule.append(other)
        inside = bonds[np.isin(bonds[:, 0], molecule)]
        if np.rint(placed[inside[:, 0]] - placed[inside[:, 1]]).any():
            placed[molecule] = scaled[molecule]
        else:
            placed[molecule] -= np.floor(placed[molecule].mean(axis=0))
    return placed


def radius(number: int, mobile: int) -> float:
    """Drawn radius of an atom, Å."""
    return float(covalent_radii[number]) * (_SMALL_BALL if number == mobile else _BALL)


def colour(number: int) -> str:
    """Colour of an element (Jmol's)."""
    return "#" + "".join(f"{round(255 * float(x)):02x}" for x in jmol_colors[number])


def legend(scene: Scene) -> list[tuple[str, str, int]]:
    """Symbol, colour and number of atoms of each element."""
    counts = {z: scene.numbers.count(z) for z in set(scene.numbers)}
    return [(chemical_symbols[z], colour(z), counts[z]) for z in sorted(counts, key=lambda z: (z == scene.mobile, z))]


def view() -> Float[np.ndarray, "3 3"]:
    """Rotation of the first view: c up, seen from a little above and beside a. Rows: right, up, towards the reader."""
    turn, tilt = np.radians(-28.0), np.radians(16.0)
    c, s, u, v = np.cos(turn), np.sin(turn), np.cos(tilt), np.sin(tilt)
    return np.array([[c, -s, 0.0], [v * s, v * c, u], [-u * s, -u * c, v]])


def scene_svg(scene: Scene, *, number: int = 0) -> str:
    """The structure as an SVG element for the page."""
    model, turn = build_model(scene), view()
    places, edges = model.positions @ turn.T, model.edges @ turn.T
    drawn = np.concatenate([places, edges.reshape(-1, 3)]) if len(edges) else places
    low, high = drawn[:, :2].min(axis=0) - 0.8, drawn[:, :2].max(axis=0) + 0.8
    scale = _SIZE / float((high - low).max())
    width, height = (high - low) * scale

    def flat(point: Float[np.ndarray, " 3"]) -> tuple[str, str]:
        x, y = (point[:2] - low) * scale
        return f"{x:.1f}", f"{height - y:.1f}"

    near, far = float(drawn[:, 2].max()), float(drawn[:, 2].min())
    layers: list[list[tuple[float, str]]] = [[] for _ in range(_FOG)]

    def put(depth: float, text: str) -> None:
        layers[min(_FOG - 1, int(_FOG * (depth - far) / (near - far + 1e-9)))].append((depth, text))

    for start, end in edges:
        (a, b), (c, d) = flat(start), flat(end)
        put(float(min(start[2], end[2])), f'<path class="edge" d="M{a} {b}L{c} {d}"/>')
    for first, second in model.bonds.tolist():
        middle = (places[first] + places[second]) / 2
        for atom in (first, second):
            (a, b), (c, d) = flat(places[atom]), flat(middle)
            depth = float(places[[first, second], 2].min()) - 1e-3
            put(depth, f'<path class="bond" stroke="{colour(scene.numbers[atom])}" d="M{a} {b}L{c} {d}"/>')
    for place, kind in zip(places, model.kind.tolist(), strict=True):
        x, y = flat(place)
        put(float(place[2]), f'<use href="#s{number}-{kind}" x="{x}" y="{y}"/>')
    fog = f'<rect width="{width:.0f}" height="{height:.0f}" fill="var(--page)" opacity=".15"/>'
    body = fog.join("".join(text for _, text in sorted(layer, key=lambda item: item[0])) for layer in layers)
    label = f'role="img" aria-label="{escape(scene.title)}"'
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" class="atoms" {label}>{_shapes(scene, model, number, scale)}{body}</svg>'


def _shapes(scene: Scene, model: Model, number: int, scale: float) -> str:
    """One ball an element, to be used by each atom."""
    parts = []
    for index, z in enumerate(model.elements):
        fill = colour(z)
        parts.append(
            f'<radialGradient id="g{number}-{index}" cx=".36" cy=".32" r=".75"><stop stop-color="#fff" stop-opacity=".9"/>'
            f'<stop offset=".35" stop-color="{fill}"/><stop offset="1" stop-color="{fill}"/></radialGradient>'
            f'<circle id="s{number}-{index}" class="ball" r="{radius(z, scene.mobile) * scale:.1f}" '
            f'fill="url(#g{number}-{index})"/>'
        )
    return f"<defs>{''.join(parts)}</defs>"


def scene_data(scene: Scene) -> str:
    """The scene as JSON for `viewer.js`: Å from the middle of the cell."""
    model = build_model(scene)
    data: dict[str, Any] = {
        "elements": [[chemical_symbols[z], colour(z), round(radius(z, scene.mobile), 3)] for z in model.elements],
        "atoms": [[*row, kind] for row, kind in zip(_short(model.positions), model.kind.tolist(), strict=True)],
        "bonds": model.bonds.tolist(), "edges": _short(model.edges.reshape(-1, 6)), "view": _short(view()),
        "axes": _short(np.array(scene.cell)), "cloud": _cloud(scene, model),
        "mobile": model.elements.index(scene.mobile) if scene.mobile in model.elements else -1,
        "hops": [[*_short(np.array([h.start, h.end]).reshape(2, 3) - model.middle), h.count] for h in scene.hops],
    }  # fmt: skip
    return json.dumps(data, separators=(",", ":"))


def _short(rows: Float[np.ndarray, "row column"]) -> list[list[float]]:
    return [[round(float(x), 2) for x in row] for row in rows]


def _cloud(scene: Scene, model: Model) -> dict[str, Any]:
    """Densest voxels (Å from the middle) with density over the largest (%), and the edge of a voxel (Å)."""
    if scene.density is None or not any(scene.density.values):
        return {"voxels": [], "size": 0.0}
    values = np.array(scene.density.values)
    order = np.argsort(-values, kind="stable")
    share = np.cumsum(values[order]) / values.sum()
    chosen = order[: min(int(np.searchsorted(share, _CLOUD_SHARE)) + 1, _CLOUD_VOXELS)]
    scaled = (np.stack(np.unravel_index(chosen, scene.density.shape), axis=-1) + 0.5) / np.array(scene.density.shape)
    places, cell = scaled @ np.array(scene.cell) - model.middle, np.array(scene.cell)
    size = float((abs(np.linalg.det(cell)) / values.size) ** (1 / 3))
    voxels = [[*row, round(100 * int(v) / 255)] for row, v in zip(_short(places), values[chosen], strict=True)]
    return {"voxels": voxels, "size": round(size, 3)}
