"""Density and hops of the mobile ion projected along each lattice vector, as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float
from markupsafe import escape

from mdistill.report.scene import colour, radius
from mdistill.runs.results import Density, Scene

_LEVELS = (0.1, 0.25, 0.45, 0.65, 0.85)
"""Contours between the smallest and the largest column density of the panel."""
_WIDTH, _PAD = 300.0, 22.0
_THINNEST, _THICKEST, _MOST_LINES = 0.5, 4.0, 120
_DOT, _MARGIN = 0.55, 0.03
"""Radius of a host atom over that in the picture of the structure; share of the cell beyond its edge that is drawn."""


def density_svgs(scene: Scene, *, number: int = 0) -> list[str]:
    """A panel for each lattice vector: column density of the mobile ion, host atoms. Empty for a scene without density."""
    density = scene.density
    if density is None:
        return []

    def cloud(frame: _Frame) -> str:
        return "".join(f'<path class="cloud" d="{path}"/>' for path in _contours(density, frame))

    return [_panel(scene, axis, f"d{number}-{axis}", cloud) for axis in range(3)]


def hop_svgs(scene: Scene, *, number: int = 0) -> list[str]:
    """A panel for each lattice vector: a line between sites that exchanged ions, host atoms. Empty for a scene without hops."""
    if not scene.hops:
        return []
    return [_panel(scene, axis, f"h{number}-{axis}", lambda frame: _hop_lines(scene, frame)) for axis in range(3)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The cell seen along one lattice vector.

    Attributes:
        axis: That lattice vector; the other two lie in the plane.
        plane: [3, 2] directions right and up.
        low: [2] lower left corner, Å.
        scale: Pixels per Å.
        height: Of the panel, pixels.
        cell: [3, 3] Å.
    """

    axis: int
    plane: Float[np.ndarray, "3 2"]
    low: Float[np.ndarray, " 2"]
    scale: float
    height: float
    cell: Float[np.ndarray, "3 3"]

    def place(self, points: Float[np.ndarray, "*any 3"]) -> Float[np.ndarray, "*any 2"]:
        """Å to pixels of the panel."""
        moved = (points @ self.plane - self.low) * self.scale + _PAD
        return np.stack([moved[..., 0], self.height - moved[..., 1]], axis=-1)


def _panel(scene: Scene, axis: int, name: str, content: Callable[[_Frame], str]) -> str:
    cell, (across, up) = np.array(scene.cell), [k for k in range(3) if k != axis]
    plane = _plane(cell, axis, across, up)
    corners = np.array([np.zeros(3), cell[across], cell[across] + cell[up], cell[up]])
    low, high = (corners @ plane).min(axis=0), (corners @ plane).max(axis=0)
    scale = (_WIDTH - 2 * _PAD) / float(high[0] - low[0])
    frame = _Frame(axis=axis, plane=plane, low=low, scale=scale, height=float(high[1] - low[1]) * scale + 2 * _PAD, cell=cell)
    outline = _path([frame.place(corners)])
    middle, left = frame.place(corners[[0, 1]]).mean(axis=0), frame.place(corners[[0, 3]]).mean(axis=0)
    labels = f'<text x="{middle[0]:.0f}" y="{middle[1] + 16:.0f}" text-anchor="middle">{"abc"[across]}</text>'
    labels += f'<text x="{left[0] - 8:.0f}" y="{left[1] + 4:.0f}" text-anchor="end">{"abc"[up]}</text>'
    title = f"{chemical_symbols[scene.mobile]} along {'abc'[axis]}"
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {frame.height:.0f}" class="map" role="img" aria-label="{escape(title)}">'
        f'<defs><clipPath id="{name}"><path d="{outline}"/></clipPath></defs>'
        f'<g clip-path="url(#{name})">{content(frame)}{_host(scene, frame)}</g><path class="edge" d="{outline}"/>{labels}</svg>'
    )


def _plane(cell: Float[np.ndarray, "3 3"], axis: int, across: int, up: int) -> Float[np.ndarray, "3 2"]:
    """Directions right and up of the plane that the lattice vector pierces."""
    out = cell[axis] / np.linalg.norm(cell[axis])
    right = cell[across] - (cell[across] @ out) * out
    right /= np.linalg.norm(right)
    upwards = np.cross(out, right)
    return np.stack([right, upwards if upwards @ cell[up] > 0.0 else -upwards], axis=1)


def _contours(density: Density, frame: _Frame) -> list[str]:
    """Outlines of the areas denser than each level, to be filled one upon another."""
    from contourpy import FillType, contour_generator

    columns = np.array(density.values, dtype=float).reshape(density.shape).sum(axis=frame.axis)
    if not columns.any():
        return []
    columns = (columns - columns.min()) / max(float(np.ptp(columns)), 1e-12)
    wrapped = np.pad(columns, 1, mode="wrap")
    first, second = ((np.arange(-1, n + 1) + 0.5) / n for n in columns.shape)
    generator = contour_generator(second, first, wrapped, fill_type=FillType.OuterOffset)
    basis = np.delete(frame.cell, frame.axis, axis=0)
    paths = []
    for level in _LEVELS:
        rings = [
            points[begin:end, ::-1]
            for points, offsets in zip(*generator.filled(level, np.inf), strict=True)
            for begin, end in itertools.pairwise(offsets)
        ]
        paths.append(_path([frame.place(ring @ basis) for ring in rings]))
    return [path for path in paths if path]


def _path(rings: Sequence[Float[np.ndarray, "point 2"]]) -> str:
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ring) + "Z" for ring in rings)


def _hop_lines(scene: Scene, frame: _Frame) -> str:
    """Each pair of sites as a line, drawn again where it enters the cell from the other side."""
    parts, most, inverse = [], max(hops.count for hops in scene.hops), np.linalg.inv(frame.cell)
    for hops in sorted(scene.hops[:_MOST_LINES], key=lambda hops: hops.count):
        ends = np.array([hops.start, hops.end])
        for step in {tuple(row) for row in np.floor(ends @ inverse + 1e-9).tolist()}:
            (a, b), (c, d) = frame.place(ends - np.array(step) @ frame.cell)
            width = _THINNEST + (_THICKEST - _THINNEST) * hops.count / most
            parts.append(f'<path class="hop" stroke-width="{width:.1f}" d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}"/>')
    return "".join(parts)


def _host(scene: Scene, frame: _Frame) -> str:
    """Host atoms with their images beyond an edge, the rarest element on top; each place of an element once."""
    numbers = np.array(scene.numbers)
    host = np.flatnonzero(numbers != scene.mobile)
    scaled = np.array(scene.positions).reshape(-1, 3)[host] @ np.linalg.inv(frame.cell) % 1.0
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    images = (scaled[:, None] + shifts).reshape(-1, 3)
    kept = ((images > -_MARGIN) & (images < 1.0 + _MARGIN)).all(axis=1)
    points, kinds = frame.place(images[kept] @ frame.cell), np.repeat(numbers[host], len(shifts))[kept]
    common = {z: np.count_nonzero(numbers == z) for z in set(numbers.tolist())}
    drawn = sorted(zip(points.tolist(), kinds.tolist(), strict=True), key=lambda atom: -common[atom[1]])
    parts = [
        f'<circle class="ball" fill="{colour(z)}" r="{_DOT * radius(z, 0) * frame.scale:.1f}" cx="{x:.0f}" cy="{y:.0f}"/>'
        for (x, y), z in drawn
    ]
    return "".join(dict.fromkeys(parts))
