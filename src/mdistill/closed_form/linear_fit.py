r"""The student as one linear regression: energies, forces, stress and curvature products are linear in its weights.

w = argmin Σ_t |X_t w − y_t|²/σ_t² + λ |D w|²,   D² = diag(Σ_t X_tᵀX_t/σ_t²)

t: energy per atom, forces, stress, curvature products H·v (central differences of the rows of the forces, exact in w)
X_t, y_t: rows of `design_matrix.design`; labels less reference energies and core   σ_t: spread of the residuals of each kind,
λ: ridge; both maximise the evidence, alternately (σ of all but forces at most its first guess). X_tᵀX_t are summed frame by
frame, so memory does not grow with the data. The posterior of the weights, covariance
(Σ_t X_tᵀX_t/σ_t² + λ D²)⁻¹, gives each prediction an error bar.

Reference: D. J. C. MacKay, Neural Comput. 4, 415 (1992), doi 10.1162/neco.1992.4.3.415.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdistill.analysis.accuracy import accuracy
from mdistill.analysis.taught import described
from mdistill.closed_form.design_matrix import Products, design, make_products, to_student
from mdistill.closed_form.posterior import POSTERIOR, Posterior, save_posterior
from mdistill.closed_form.ridge import NormalEquations
from mdistill.data.split import split_blocks
from mdistill.derivatives import Conservative, potential_of
from mdistill.graph import build_graph, cast
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.model_files import save_model
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import MomentSettings
from mdistill.progress import progress
from mdistill.training.calibrate import beginnings, moments_of, reference_energies, spread_over
from mdistill.training.labels import Item, check_labels, items_of, with_probes
from mdistill.training.potential import MODEL, TrainingResult, curvature_error, evaluate, parity
from mdistill.training.settings import ClosedFormSettings, TrainSettings
from mdistill.types import LabelledFrame
from mdistill.units import VOIGT

KINDS = {"energy": 2e-3, "forces": 5e-2, "stress": 1e-3, "curvature": 0.5}
"""Fitted quantities, with a first guess of their residuals: eV/atom, eV/Å, eV/Å³, eV/Å²."""
_FREE = 1e-3
"""Factor on the D of weights that the ridge leaves free."""


def fit_closed_form(
    frames: Sequence[LabelledFrame], settings: TrainSettings, folder: Path, *, closed_form: ClosedFormSettings | None = None,
    stop: StopRequest = NEVER, provenance: dict[str, Any] | None = None, held_blocks: Collection[int] = (),
) -> tuple[TrainingResult, Posterior, dict[str, float]]:  # fmt: skip
    """Fit the linear student; writes `student.mdistill` and `posterior.safetensors`. The same input gives the same weights.

    Args:
        frames, settings: Labelled structures; cutoff, radial functions, degree and held-out share.
        folder, stop: Folder; stop is checked between frames (an interrupted fit starts again: it takes about a minute).
        closed_form: Size of the basis, curvature, iterations.
        provenance: Stored in the model file.
        held_blocks: Blocks to hold out; by default `split_blocks` chooses them.
    Returns:
        Errors on the held-out blocks, the posterior, and the calibration of its force errors there: shares of residuals
        within one and two standard errors.
    Raises:
        BadInput: Frames that are not finite, or nothing to hold out.
        Interrupted: Stopped on request.
    """
    check_labels(frames)
    closed_form = closed_form or ClosedFormSettings()
    train, held_out = split_blocks(frames, held_out=settings.held_out, chosen=held_blocks)
    train = with_probes(train, settings.curvature)
    elements = tuple(sorted({int(z) for frame in frames for z in frame.system.numbers.unique()}))
    size = MomentSettings(elements=elements, **settings.network() | {"channels": 1, "hidden": 0})
    products = products_of(size, items_of(train, size.cutoff, torch.float64), closed_form)
    fitted = solve(_normal_equations(products, train, closed_form, stop), closed_form.iterations)
    posterior = Posterior(products, *(getattr(fitted, one.name) for one in fields(fitted)))
    student = to_student(products, posterior.weights, seed=settings.fit.seed)
    path, potential = Path(folder) / MODEL, potential_of(student.requires_grad_(False))
    predictions = evaluate(potential, held_out)
    measured = accuracy(held_out, predictions)
    made_from = {"train_frames": len(train), "held_out_frames": len(held_out), "fit": "closed-form"}
    made_from |= {"settings": asdict(settings), "closed_form": asdict(closed_form)}
    digest = save_model(path, student, described(train, size.cutoff, measured) | (provenance or {}) | made_from)
    save_posterior(Path(folder) / POSTERIOR, posterior, model=digest)
    result = TrainingResult(
        path=path, sha256=digest, accuracy=measured,
        curvature_error=curvature_error(potential.net, held_out), parity=parity(held_out, predictions), history=[],
        parameters=products.count, train_frames=len(train), held_out_frames=len(held_out),
    )  # fmt: skip
    both = [(p, f) for p, f in zip(predictions, held_out, strict=True) if "forces" not in f.missing]
    errors = torch.cat([(p.forces - f.target.forces).flatten() for p, f in both] or [torch.ones(0)])
    known = torch.cat([posterior.force_errors(cast(f.system, dtype=torch.float64)).flatten() for _, f in both] or [errors])
    within = {f"within {k} sigma": float((errors.abs() < k * known).double().mean()) for k in (1, 2)}
    return result, posterior, within


def products_of(size: MomentSettings, items: Sequence[Item], closed_form: ClosedFormSettings) -> Products:
    """The invariants of a network of this size, with closest distances, references and directions of these items."""
    net = MomentNet(size)
    with torch.no_grad():
        net.last.weight.zero_()
        net.set_closest(beginnings(net, items))
        net.reference.copy_(reference_energies(net, items))
        return make_products(net, *moments_of(net, spread_over(items)), second=closed_form.second, third=closed_form.third)


def _normal_equations(
    products: Products, frames: Sequence[LabelledFrame], closed_form: ClosedFormSettings, stop: StopRequest
) -> dict[str, NormalEquations]:
    """Sums over all labelled rows of all frames."""
    size = products.count
    normals = {kind: NormalEquations.empty(size) for kind in KINDS}
    probed = [k for k, frame in enumerate(frames) if frame.probes is not None]
    curved = {probed[int(k)] for k in np.linspace(0, len(probed) - 1, min(closed_form.curvature_frames, len(probed)))}
    with progress("closed form", len(frames), unit="frame") as advance, torch.no_grad():
        for number, frame in enumerate(frames):
            for kind, rows, labels in _rows_of(products, frame, curved=number in curved, step=closed_form.step_A):
                normals[kind].add(rows, labels)
            advance(1, "")
            stop.raise_if_pending()
    for normal in normals.values():
        normal.flush()
    return {kind: normal for kind, normal in normals.items() if normal.rows}


def _rows_of(products: Products, frame: LabelledFrame, *, curved: bool, step: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Rows and labels (less reference energies and core) of one frame, by kind."""
    base = Conservative(products.net)
    system = cast(frame.system, dtype=torch.float64)
    graph, target = build_graph(system, products.net.cutoff), frame.target
    rows, bare = design(products, graph), base(graph)
    if "energy" not in frame.missing:
        yield "energy", rows.energy.unsqueeze(0) / system.n_atoms, (target.energy.double() - bare.energy) / system.n_atoms
    if "forces" not in frame.missing:
        yield "forces", rows.forces, (target.forces.double() - bare.forces).flatten()
    if rows.stress is not None and target.stress is not None and bare.stress is not None:
        lacking = (target.stress.double() - bare.stress)[0]
        yield "stress", rows.stress, torch.stack([lacking[a, b] for a, b in VOIGT])
    if curved and frame.probes is not None and frame.products is not None:
        for probe, product in zip(frame.probes.double(), frame.products.double(), strict=True):
            h = step / float(probe.abs().max())
            sides = [replace(system, positions=system.positions + sign * h * probe) for sign in (1.0, -1.0)]
            graphs = [build_graph(side, products.net.cutoff) for side in sides]
            up, down = (design(products, side).forces for side in graphs)
            bare_up, bare_down = (base(side).forces for side in graphs)
            yield "curvature", (down - up) / (2 * h), (product - (bare_down - bare_up) / (2 * h)).flatten()


@dataclass(frozen=True, slots=True)
class Solution:
    """Weights, a factor of their covariance, noise by kind, ridge, number of determined weights, usual force error (eV/Å)."""

    weights: Tensor
    factor: Tensor
    noise: dict[str, float]
    ridge: float
    effective: float
    usual: float


def solve(
    normal: Mapping[str, NormalEquations], iterations: int, *, free: int = 0, least: Mapping[str, float] = MappingProxyType({}),
    usual_square: Tensor | None = None,
) -> Solution:  # fmt: skip
    """Alternating fits of weights and noise; see the head of this file.

    Args:
        normal: Sums of each kind.
        iterations: Number of fits.
        free: Number of first weights that the ridge leaves free.
        least: Smallest noise of a kind, where few rows could be fitted exactly.
        usual_square: Mean square of each column in rows of forces elsewhere: D is at least that of as many such rows, so that a
            column that the rows at hand hardly know stays small there.
    """
    noise = {kind: max(KINDS[kind], least.get(kind, 0.0)) for kind in normal}
    ridge, effective, usual = 1e-6, 0.0, 0.0
    for _ in range(iterations):
        gram = torch.stack([n.gram / noise[k] ** 2 for k, n in normal.items()]).sum(0)
        moment = torch.stack([n.moment / noise[k] ** 2 for k, n in normal.items()]).sum(0)
        scale = gram.diagonal().clamp_min(1e-12 * float(gram.diagonal().max()))
        if usual_square is not None and "forces" in normal:
            scale = torch.maximum(scale, usual_square * (normal["forces"].rows / noise["forces"] ** 2))
        scale = scale.sqrt()
        scale[:free] *= _FREE
        eigenvalues, vectors = torch.linalg.eigh(gram / scale.outer(scale))
        eigenvalues, projected = eigenvalues.clamp_min(0.0), vectors.T @ (moment / scale)
        for _ in range(50):
            shares = eigenvalues / (eigenvalues + ridge)
            inner = projected / (eigenvalues + ridge)
            effective = float(shares.sum())
            ridge = min(max(effective / float(inner.square().sum()), 1e-12), 1e3)
        weights = vectors @ (projected / (eigenvalues + ridge)) / scale
        factor = (vectors / (eigenvalues + ridge).sqrt()) / scale.unsqueeze(1)
        for kind, one in normal.items():
            left = one.square - 2.0 * float(weights @ one.moment) + float(weights @ one.gram @ weights)
            spent = float((factor * (one.gram @ factor)).sum()) / noise[kind] ** 2
            usual = noise[kind] * (spent / one.rows) ** 0.5 if kind == "forces" else usual
            noise[kind] = max(max(left / max(one.rows - spent, 1.0), 1e-16) ** 0.5, least.get(kind, 0.0))
            if kind != "forces":  # few rows beside many weights: their noise must not grow until they no longer count
                noise[kind] = min(noise[kind], KINDS[kind])
    return Solution(weights, factor, noise, ridge, effective, usual)
