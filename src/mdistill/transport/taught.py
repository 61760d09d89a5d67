r"""A predictor of motion from the structure, taught by trajectories that it does not see in use.

    h_i = W_p p_i(T) + W_x [x_i, T]        g: log10 y = decoder(⟨LayerNorm(h_i)⟩ over ions)
    loss = |g(x, p) − log10 y| + λ_b |g(x, 0) − log10 y|
    W = (XᵀX + λ I)⁻¹ Xᵀ H                  f₁: g with W in place of W_x, and without p; then fine-tuned

x: features of ion i   p: features of its trajectory   T: 1, t, t², t³   h: latent   X, H: rows [x_i, T] and latents h_i of all
ions and temperatures. Without λ_b the structure branch of g carries nothing that the trajectory tells as well. W makes the
structure alone give the latents of both. Across data sets f₂ begins with W_x of g and the decoder of f₁, each part with a rate
of its own.

Reference: arXiv 2605.09311 (2026). There the decoder has 32 million numbers and gives log10(y)/10; here it has a few hundred,
gives log10(y), and begins at the mean label.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from mdistill.closed_form.ridge import NormalEquations, solve_ridge
from mdistill.errors import BadInput
from mdistill.training.fit import fit
from mdistill.training.ranks import here
from mdistill.training.settings import FitSettings
from mdistill.transport.ion_rows import IonRows
from mdistill.transport.settings import MotionSettings

Teaching = Literal["ridge", "none"]
TRAINER, FINE_TUNE = MotionSettings().fit(), MotionSettings().fine_tune()
ACROSS = {"structure": 1.0, "norm": 1e-2, "decoder.0": 1e-2, "decoder.2": 1e-4}
"""Rates of the parts of f₂, as shares of that of its encoder."""


class TaughtNet(torch.nn.Module):
    """g, and without its trajectory branch f₁ and f₂.

    Args:
        structure, trajectory: Number of features of an ion, and of its trajectory.
        latent, width: Width of the latent and of the decoder.
        seed: Seed of the weights.
    """

    def __init__(self, structure: int, trajectory: int, *, latent: int = 8, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.latent, self.width = latent, width
        self.structure = torch.nn.Linear(structure + 4, latent, bias=False)
        self.trajectory = torch.nn.Linear(trajectory, latent, bias=False)
        self.norm = torch.nn.LayerNorm(latent)
        self.decoder = torch.nn.Sequential(torch.nn.Linear(latent, width), torch.nn.SiLU(), torch.nn.Linear(width, 1))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
                elif not name.startswith("norm"):
                    parameter.zero_()
            self.get_parameter("decoder.2.weight").mul_(0.1)

    def begin_at(self, items: Sequence[IonRows]) -> TaughtNet:
        """The network with the mean label of these crystals as its constant."""
        labels = torch.cat([item.target[item.known] for item in items])
        with torch.no_grad():
            self.get_parameter("decoder.2.bias").fill_(float(labels.mean()))
        return self

    def latents(self, items: Sequence[IonRows], *, seen: bool) -> Float[Tensor, "row latent"]:
        """Latents of all ions at all temperatures, crystal after crystal; `seen`: with their trajectories."""
        inner = self.structure(inputs_of(items))
        paths = [item.trajectory.flatten(0, 1) for item in items if item.trajectory is not None] if seen else []
        return inner + self.trajectory(torch.cat(paths)) if paths else inner

    def forward(self, items: Sequence[IonRows], *, seen: bool = False) -> Float[Tensor, " label"]:
        """log10 of the target at all temperatures, crystal after crystal."""
        normed = self.norm(self.latents(items, seen=seen))
        counts = torch.tensor([len(item.structure) for item in items for _ in item.polynomial])
        label = torch.repeat_interleave(torch.arange(len(counts)), counts)
        weight = torch.cat([item.weight for item in items for _ in item.polynomial])
        mean = normed.new_zeros((len(counts), normed.shape[1])).index_add(0, label, normed * weight[:, None])
        result: Tensor = self.decoder(mean)[:, 0]
        return result


def inputs_of(items: Sequence[IonRows]) -> Float[Tensor, "row input"]:
    """[x_i, T] of all ions at all temperatures, crystal after crystal."""
    rows = []
    for item in items:
        many, ions = len(item.polynomial), len(item.structure)
        polynomial = item.polynomial[:, None].expand(many, ions, 4)
        rows.append(torch.cat([item.structure.expand(many, ions, -1), polynomial], 2).flatten(0, 1))
    return torch.cat(rows)


def _known_rows(item: IonRows) -> Tensor:
    """Rows of an item at temperatures with a label."""
    return torch.repeat_interleave(item.known, len(item.structure))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objective:
    """Mean absolute error (decades); `alone`: weight of that of the structure branch, `seen`: of that with the trajectory."""

    seen: float
    alone: float

    def __call__(self, module: torch.nn.Module, batch: Sequence[IonRows], step: int) -> tuple[Tensor, dict[str, float]]:
        count, own = torch.cat([item.known for item in batch]).sum().clamp_min(1), here().share(batch)
        errors = {name: batch[0].target.new_zeros(()) for name in ("seen", "alone")}
        for name in errors:
            if own and getattr(self, name):
                target, known = (torch.cat([getattr(item, part) for item in own]) for part in ("target", "known"))
                errors[name] = ((module(own, seen=name == "seen") - target).abs() * known).sum() / count
        loss = self.seen * errors["seen"] + self.alone * errors["alone"]
        return loss, {name: float(here().total(value.detach().clone())) for name, value in errors.items()}

    def observe(self, history: Sequence[dict[str, Any]]) -> None:
        """Nothing depends on the history."""

    def describe(self, measures: dict[str, float]) -> str:
        return f"{measures.get('alone', 0.0):.2f} decades"


class Rated(torch.nn.Module):
    """A network whose parts learn at rates of their own: θ = θ₀ + r δ, where δ is trained and starts at 0.

    Args:
        net: The network at θ₀.
        rates: r by the begin of a parameter's name; a parameter without one is not trained.
    """

    def __init__(self, net: TaughtNet, rates: Mapping[str, float]) -> None:
        super().__init__()
        self.begin = {name: value.detach().clone() for name, value in net.named_parameters()}
        self.rates = {name: next((r for part, r in rates.items() if name.startswith(part)), 0.0) for name in self.begin}
        self.moved = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros_like(value)) for value in self.begin.values()])
        self._plain = [net]

    def weights(self) -> dict[str, Tensor]:
        return {name: value + self.rates[name] * d for (name, value), d in zip(self.begin.items(), self.moved, strict=True)}

    def forward(self, items: Sequence[IonRows], *, seen: bool = False) -> Tensor:
        result: Tensor = functional_call(self._plain[0], self.weights(), (items,), {"seen": seen})
        return result

    def plain(self) -> TaughtNet:
        """The network with its trained weights."""
        net = _copy(self._plain[0])
        net.load_state_dict({name: value.detach() for name, value in self.weights().items()})
        return net


def _copy(net: TaughtNet) -> TaughtNet:
    twin = TaughtNet(net.structure.in_features - 4, net.trajectory.in_features, latent=net.latent, width=net.width)
    twin.load_state_dict(net.state_dict())
    return twin


def train_both(
    items: Sequence[IonRows], settings: FitSettings = TRAINER, *, alone: float = 1.0, latent: int = 8, seed: int = 0,
    folder: Path | None = None,
) -> TaughtNet:  # fmt: skip
    """g: trained on trajectories and structures together.

    Args:
        items: Crystals with their trajectories.
        settings: Steps and rates.
        alone: λ_b.
        latent: Width of the latent.
        seed: Seed of weights and order.
        folder: Folder of the checkpoint (default: a temporary one).
    Raises:
        BadInput: No crystal, or one without its trajectory.
    """
    if not items or any(item.trajectory is None for item in items):
        problem = f"{sum(item.trajectory is not None for item in items)} of {len(items)} crystals have trajectories"
        raise BadInput("trajectory set", problem, allowed="at least one, and all of them", fix="--motion.teaching none")
    bins = int(items[0].trajectory.shape[2])  # type: ignore[union-attr]
    net = TaughtNet(int(items[0].structure.shape[1]), bins, latent=latent, seed=seed).begin_at(items)
    return fitted(net, _Objective(seen=1.0, alone=alone), items, replace(settings, seed=seed), folder)


def train_alone(
    items: Sequence[IonRows], settings: FitSettings = TRAINER, *, latent: int = 8, seed: int = 0, start: TaughtNet | None = None,
    rates: Mapping[str, float] | None = None,
) -> TaughtNet:  # fmt: skip
    """The structure branch alone, trained on the labels: the ablation, fine-tuning from `start`, or f₂ with `rates` of parts."""
    bins = 1 if items[0].trajectory is None else int(items[0].trajectory.shape[2])
    fresh = TaughtNet(int(items[0].structure.shape[1]), bins, latent=latent, seed=seed).begin_at(items)
    net = fresh if start is None else _copy(start)
    net.trajectory.requires_grad_(False)
    objective = _Objective(seen=0.0, alone=1.0)
    if rates is None:
        return fitted(net, objective, items, replace(settings, seed=seed), None)
    return fitted(Rated(net, rates), objective, items, replace(settings, seed=seed), None).plain()


def distil(net: TaughtNet, items: Sequence[IonRows], *, share: float = 1e-5) -> TaughtNet:
    """f₁ before fine-tuning: the structure branch whose latents are nearest to those of both branches, in closed form.

    Args:
        net: g.
        items: Crystals with their trajectories.
        share: λ over the mean diagonal of XᵀX.
    """
    normal = NormalEquations.empty(net.structure.in_features, net.structure.out_features)
    with torch.no_grad():
        for item in items:
            known = _known_rows(item)
            normal.add(inputs_of([item])[known], net.latents([item], seen=True)[known])
        made = _copy(net)
        made.structure.weight.copy_(solve_ridge(normal, share=share).T)
    return made


def taught(
    items: Sequence[IonRows], *, teaching: Teaching = "ridge", alone: float = 1.0, share: float = 1e-3, seed: int = 0,
    settings: FitSettings = TRAINER, fine_tune: FitSettings | None = FINE_TUNE,
) -> TaughtNet:  # fmt: skip
    """A structure-only predictor: g, distilled, fine-tuned; or with `teaching` "none" trained on the labels alone."""
    if teaching == "none":
        return train_alone(items, settings, seed=seed)
    both = train_both(items, settings, alone=alone, seed=seed)
    made = distil(both, items, share=share)
    return made if fine_tune is None else train_alone(items, fine_tune, seed=seed, start=made)


def fitted(net: Any, objective: Any, items: Sequence[IonRows], settings: FitSettings, folder: Path | None) -> Any:
    """A network after a fit to the crystals that have a label; without a folder its checkpoints are removed."""
    usable = [item for item in items if bool(item.known.any())]
    if folder is not None:
        return fit(net, objective, usable, [], settings, folder=folder, title="taught").module
    with tempfile.TemporaryDirectory(prefix="mdistill-") as place:
        return fit(net, objective, usable, [], settings, folder=Path(place), title="taught").module
