"""Frames chosen by the variance of a closed-form fit, instead of by their distance from the known ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mdistill.closed_form.design_matrix import design
from mdistill.closed_form.posterior import Posterior
from mdistill.graph import build_graph
from mdistill.interrupt import NEVER, StopRequest
from mdistill.types import System


def most_uncertain(posterior: Posterior, candidates: Sequence[System], count: int, *, stop: StopRequest = NEVER) -> list[int]:
    r"""Indices of at most `count` structures, each the one whose forces the labels so far and those chosen before it leave most
    uncertain (deterministic).

    score(k) = tr Σ_k,   Σ_k = X_k C X_kᵀ   X_k: rows of the forces of candidate k   C: covariance of the weights
    after choosing c:  C ← C − C X_cᵀ (X_c C X_cᵀ + σ²)⁻¹ X_c C      σ: residual force error

    Only uncertainty of the weights counts, the mean over the coordinates of a structure; no label is needed to look ahead.

    Args:
        posterior: What the labels so far say.
        candidates: One struct each.
        count: How many are wanted.
        stop: Asked between structures.
    Reference:
        D. J. C. MacKay, Neural Comput. 4, 590 (1992), doi 10.1162/neco.1992.4.4.590.
    """
    spread = []
    for system in candidates:
        rows = design(posterior.products, build_graph(system, posterior.products.net.cutoff)).forces
        spread.append((rows @ posterior.factor).to(torch.float32))
        stop.raise_if_pending()
    chosen: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        scores = [-1.0 if k in chosen else float(rows.square().sum(1).mean()) for k, rows in enumerate(spread)]
        best = int(np.argmax(scores))
        chosen.append(best)
        known = spread[best]
        values, vectors = torch.linalg.eigh((known @ known.T).double())
        values = values.clamp_min(1e-12 * float(values[-1]) + 1e-300)
        shrink = (1.0 - posterior.noise["forces"] / (values + posterior.noise["forces"] ** 2).sqrt()) / values
        removed = ((vectors * shrink) @ vectors.T).to(known.dtype) @ known
        spread = [rows - (rows @ known.T) @ removed for rows in spread]
        stop.raise_if_pending()
    return chosen
