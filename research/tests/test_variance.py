"""Selection by variance against the explicit posterior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mdistill.closed_form.design_matrix import design
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.graph import build_graph
from mdistill.training.settings import ClosedFormSettings, TrainSettings
from research.variance import most_uncertain
from systems import morse_frames

SMALL = ClosedFormSettings(second=5, third=3, curvature_frames=4, iterations=3)
SETTINGS = TrainSettings(cutoff=4.5, radial=6, held_out=0.25)


def test_the_most_uncertain_structures_are_those_of_the_explicit_posterior(tmp_path):
    frames = morse_frames(40)
    _, posterior, _ = fit_closed_form(frames, SETTINGS, tmp_path, closed_form=SMALL)
    pool = [f.system for f in frames[:6]]
    pool += [
        replace(s, positions=x * s.positions, cell=x * s.cell)
        for s, x in zip(pool, (0.9, 0.92, 0.94, 1.06, 1.1, 1.2), strict=True)
    ]
    pool.insert(3, pool[6])
    rows = [design(posterior.products, build_graph(s, posterior.products.net.cutoff)).forces for s in pool]
    covariance, expected = posterior.factor @ posterior.factor.T, []
    while len(expected) < 4:
        scores = [-1.0 if k in expected else float((x @ covariance @ x.T).diagonal().mean()) for k, x in enumerate(rows)]
        expected.append(int(np.argmax(scores)))
        x = rows[expected[-1]]
        noise = posterior.noise["forces"] ** 2 * torch.eye(len(x), dtype=x.dtype)
        covariance = covariance - covariance @ x.T @ torch.linalg.solve(x @ covariance @ x.T + noise, x @ covariance)
    assert most_uncertain(posterior, pool, 4) == expected
    assert not {3, 7} <= set(expected), "a structure and its copy were both chosen"
    assert most_uncertain(posterior, pool[:2], 5) in ([0, 1], [1, 0]) and most_uncertain(posterior, [], 5) == []
