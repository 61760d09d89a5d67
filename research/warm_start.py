r"""A closed-form student as the start of one with hidden layers.

Of the linear student E = Σ_c u_c A_c,00 + Σ_l,c λ_lc Σ_m A_c,lm² + cubes, the network takes over, for every degree, the
channels that matter most, |λ_lc| ⟨Σ_m A_c,lm²⟩, and the first-order part as one more; the cubes are left to training. Its MLP
passes their weighted sum on unchanged, by two units in each layer:  silu(x) − silu(−x) = x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput
from mdistill.nets.model_files import load_net
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import MomentSettings
from mdistill.training.calibrate import moments_of, normalise_features, spread_over
from mdistill.training.labels import Item
from mdistill.training.potential import TrainingResult, prepare_fit, run_fit
from mdistill.training.settings import TrainSettings
from mdistill.types import LabelledFrame


def is_linear_start(linear: Any, size: Any) -> bool:
    """Whether one is without hidden layers, the other with, and both have the same invariants but for their channels."""
    if not isinstance(linear, MomentSettings) or not isinstance(size, MomentSettings):
        return False
    alike = replace(linear, channels=size.channels, hidden=size.hidden)
    return linear.hidden == 0 and size.hidden > 1 and alike == size


def begin_from_linear(net: MomentNet, linear: MomentNet, items: Sequence[Item], *, path: Path) -> None:
    """Set mixing and MLP of a calibrated network so that it starts as the leading part of a linear student.

    Raises:
        BadInput: The network has fewer than two channels, or the linear student (from `path`) is not a closed-form one.
    """
    degrees, channels = net.settings.degree + 1, net.settings.channels
    last = linear.last.weight.detach().view(len(net.settings.elements), degrees + 2, -1)
    mixing = linear.mixing.detach()
    if channels < 2 or not bool((linear.mean == 0).all() and (linear.spread == 1).all()):
        raise BadInput(
            path, "cannot start this network", allowed="a closed-form student, and two channels or more", fix="leave it out"
        )
    sample = spread_over(items)
    with torch.no_grad():
        wanted, head = _leading(mixing, last, _scatter(net, sample), channels)
        net.mixing.copy_(wanted if net.whitening is None else torch.linalg.solve(net.whitening, wanted))
        normalise_features(net, sample)
        _pass_on(net, head.flatten(1) * net.spread[:, 0] / net.scale)


def _scatter(net: MomentNet, items: Sequence[Item]) -> Float[Tensor, "species degree basis basis"]:
    """⟨Σ_m M_lm M_lmᵀ⟩ over the atoms of each species."""
    moments, species = moments_of(net, items)
    n, degrees, size = net.mixing.shape[:3]
    scatter = torch.zeros((n, degrees, size, size), dtype=torch.float64)
    for z in range(n):
        for degree in range(degrees):
            values = moments[species == z][:, net.degrees == degree]
            scatter[z, degree] = torch.einsum("amb,amc->bc", values, values) / max(len(values), 1)
    return scatter


def _leading(
    mixing: Tensor, last: Tensor, scatter: Tensor, channels: int
) -> tuple[Float[Tensor, "species degree basis channel"], Float[Tensor, "species row channel"]]:
    """Channels of unit mean square, the most important first, and their weights in the energy by order and degree."""
    n, degrees, size = mixing.shape[:3]
    wanted = torch.zeros((n, degrees, size, channels), dtype=torch.float64)
    head = torch.zeros((n, degrees + 2, channels), dtype=torch.float64)
    square = torch.einsum("zdbc,zdbe,zdec->zdc", mixing, scatter, mixing)
    importance = last[:, 1:-1] * square
    for z in range(n):
        for degree in range(degrees):
            room = channels - (degree == 0)
            chosen = importance[z, degree].abs().topk(min(room, importance.shape[2])).indices
            length = square[z, degree, chosen].clamp_min(1e-12).sqrt()
            wanted[z, degree, :, : len(chosen)] = mixing[z, degree, :, chosen] / length
            head[z, 1 + degree, : len(chosen)] = importance[z, degree, chosen]
        first = mixing[z, 0] @ last[z, 0]
        length = torch.sqrt((first @ scatter[z, 0] @ first).clamp_min(1e-12))
        wanted[z, 0, :, -1], head[z, 0, -1] = first / length, length
    return wanted, head


def _pass_on(net: MomentNet, weights: Float[Tensor, "species feature"]) -> None:
    """Make the MLP give Σ weights × normalised features; its other units begin without a say."""
    signs = weights.new_tensor([1.0, -1.0])
    net.first.weight[:, :, :2] = weights.unsqueeze(2) * signs
    net.second.weight[:, :, :2] = 0.0
    net.second.weight[:, :2, :2] = signs.outer(signs)
    for layer in (net.first, net.second):
        if layer.bias is not None:
            layer.bias[..., :2] = 0.0
    net.last.weight.zero_()
    net.last.weight[:, :2, 0] = signs


def train_from_linear(frames: Sequence[LabelledFrame], settings: TrainSettings, folder: Path, *, linear: Path) -> TrainingResult:
    """`training.potential.train_potential` of a network that begins as the leading part of a closed-form student.

    Raises:
        BadInput: The file holds no closed-form student with the same invariants.
    """
    ready, start = prepare_fit(frames, settings), load_net(linear)
    if (
        not isinstance(ready.net, MomentNet)
        or not isinstance(start, MomentNet)
        or not is_linear_start(start.settings, ready.net.settings)
    ):
        raise BadInput(
            linear, "cannot start this network", allowed="a closed-form student of the same invariants", fix="leave it out"
        )
    dtype = next(ready.net.parameters()).dtype
    begin_from_linear(ready.net.in_type(torch.float64), start, ready.items, path=linear)
    return run_fit(replace(ready, net=ready.net.in_type(dtype)), folder)
