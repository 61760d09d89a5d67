"""Distillation of a taught predictor of motion by gradient descent in place of the closed form: an arm of `transport_taught` that
lost. Reference: arXiv 2605.09311 (2026)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mdistill.transport.ion_rows import IonRows
from mdistill.transport.taught import FINE_TUNE, TRAINER, TaughtNet, fitted, train_alone, train_both


class Latents:
    """Objective of a fit: squared distance of the structure branch to the latents of both branches, where labels are known."""

    def __init__(self, teacher: TaughtNet) -> None:
        self.teacher = teacher

    def __call__(self, module: Any, batch: Sequence[IonRows], step: int) -> tuple[Tensor, dict[str, float]]:
        known = torch.cat([torch.repeat_interleave(item.known, len(item.structure)) for item in batch])
        with torch.no_grad():
            wanted = self.teacher.latents(batch, seen=True)
        return (module.latents(batch, seen=False) - wanted)[known].square().mean(), {}

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        """Nothing depends on the history."""

    def describe(self, measures: dict[str, float]) -> str:
        return ""


def taught_by_gradient(items: Sequence[IonRows], *, seed: int) -> TaughtNet:
    """As `taught`, with random first weights of the structure branch and descent to the latents of g."""
    both = train_both(items, TRAINER, seed=seed)
    made = TaughtNet(both.structure.in_features - 4, both.trajectory.in_features, latent=both.latent, width=both.width, seed=seed)
    fresh = made.structure.weight.detach().clone()
    made.load_state_dict(both.state_dict())
    made.requires_grad_(False)
    made.structure.requires_grad_(True)
    with torch.no_grad():
        made.structure.weight.copy_(fresh)
    made = fitted(made, Latents(both), items, replace(TRAINER, seed=seed), None)
    return train_alone(items, FINE_TUNE, seed=seed, start=made)
