"""Quantities of one-step maps from data besides their weights: sizes of impulses, limits of the uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.data.segments import Segment
from mdistill.derivatives import EnergyNet
from mdistill.interrupt import NEVER, StopRequest
from mdistill.nets.moment import MomentNet
from mdistill.nets.network import OneStepMap
from mdistill.nets.one_step import OneStepNet
from mdistill.nets.one_step_attention import OneStepAttentionNet
from mdistill.nets.settings import OneStepAttentionSettings, OneStepSettings
from mdistill.nets.uncertainty import with_one
from mdistill.training.settings import StrideSettings
from mdistill.training.stride_objective import squares
from mdistill.training.windows import Batch, Window, join_windows
from mdistill.units import ACCELERATION, BOLTZMANN, KINETIC

_AT_ONCE, _MOST, _SOME = 16, 600, 100
_MARGIN, _RARE = 1.1, 0.999


def taught_potential(
    segments: Sequence[Segment], potential: Path, settings: StrideSettings, folder: Path, *, stop: StopRequest = NEVER
) -> Path:
    """Model file of the initial potential of a map: its student."""
    return potential


def one_step_of(potential: MomentNet, settings: StrideSettings, windows: Sequence[Window]) -> OneStepNet:
    """An equivariant map before training, its impulses as large as those of the longest stride."""
    net = OneStepNet(OneStepSettings(strides_fs=settings.strides_fs, potential=potential.settings), seed=settings.fit.seed)
    net.start_from(potential)
    net.scale.copy_(typical_impulses(net, [w for w in windows if w.stride_fs == settings.stride_fs]))
    return net


def attention_of(potential: MomentNet, settings: StrideSettings, windows: Sequence[Window]) -> OneStepAttentionNet:
    """An attention map before training."""
    size = OneStepAttentionSettings(elements=potential.settings.elements, strides_fs=settings.strides_fs)
    net = OneStepAttentionNet(size, seed=settings.fit.seed)
    net.speed.copy_(typical_speed(windows))
    return net


def typical_speed(windows: Sequence[Window]) -> Tensor:
    """√(k_B T) of the windows, the root-mean-square component of √m v, √u·Å/fs."""
    kelvin = sum(w.temperature_K for w in windows) / len(windows)
    return torch.tensor((BOLTZMANN * kelvin / KINETIC) ** 0.5, dtype=torch.float64)


def typical_impulses(net: OneStepNet, windows: Sequence[Window]) -> Float[Tensor, "2 species"]:
    """Sizes (eV/Å, root mean squares) of the rest after free flight under the first force, by element.

    Of positions, √⟨|(q' − q − t p/m) m/t − A t F/2|²⟩/(A t), of momenta √⟨|p' − p − A t F|²⟩/(A t); 1 where an element is absent.
    """
    sums, counts = torch.zeros((2, len(net.settings.elements)), dtype=torch.float64), torch.zeros(len(net.settings.elements))
    for batch in _batches(windows, _SOME):
        with torch.no_grad():
            kick = ACCELERATION * batch.stride_fs * net.forces(batch.system)
        weight = batch.masses.unsqueeze(1)
        flight = (batch.positions_after[0] - batch.system.positions) * weight / batch.stride_fs - batch.momenta
        left = torch.stack([flight - 0.5 * kick, batch.momenta_after[0] - batch.momenta - kick])
        species = net.species(batch.system.numbers)
        sums.index_add_(1, species, (left / (ACCELERATION * batch.stride_fs)).square().sum(2))
        counts.index_add_(0, species, torch.ones(len(species)))
    return torch.where(counts > 0, (sums / counts.clamp_min(1)).sqrt().clamp_min(1e-6), torch.ones_like(sums))


def calibrate_uncertainty(
    net: OneStepMap, potential: EnergyNet, windows: Sequence[Window], held_out: Sequence[Window]
) -> dict[str, float]:
    """Set the buffers of `net.doubt`; returns nothing, and does not use the potential.

    FᵀF from the windows trained on; α of each element such that ⟨σ²⟩ is the mean square of errors on those held out, relative
    errors of positions and momenta after a stride added up; the largest allowed σ is that exceeded in one window of a
    thousand, plus a margin.
    """
    uncertainty, n = net.doubt, len(net.settings.elements)
    seen = [(batch.system, features) for batch, _, _, features in _leaps(net, windows)]
    more = with_one(torch.cat([features for _, features in seen]))
    uncertainty.learn(more.T @ more / len(more))
    uncertainty.calibration.fill_(1.0)
    sums, guesses = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for batch, positions, momenta, features in _leaps(net, held_out):
        species = net.species(batch.system.numbers)
        position, momentum = squares(batch, positions, momenta)
        sums.index_add_(0, species, position + momentum)
        guesses.index_add_(0, species, uncertainty(features, species).square())
    uncertainty.calibration.copy_(torch.where(guesses > 0, (sums / guesses.clamp_min(1e-300)).sqrt(), torch.ones_like(sums)))
    worst: list[Tensor] = []
    for system, features in seen:
        species = net.species(system.numbers)
        largest = torch.zeros(system.n_structs * n, dtype=torch.float64)
        worst.append(largest.scatter_reduce(0, system.owner * n + species, uncertainty(features, species), "amax").view(-1, n))
    uncertainty.largest.copy_(_MARGIN * torch.cat(worst).quantile(_RARE, dim=0))
    return {}


def _leaps(net: OneStepMap, windows: Sequence[Window]) -> Iterator[tuple[Batch, Tensor, Tensor, Tensor]]:
    """Batches of windows, and positions, momenta and features after their first stride."""
    for batch in _batches(windows, _MOST):
        with torch.no_grad():
            arrival = net.leap(batch.system, batch.momenta, batch.masses, batch.stride_fs)
        yield batch, arrival.positions, arrival.momenta, arrival.features


def _batches(windows: Sequence[Window], most: int) -> Iterator[Batch]:
    """Evenly chosen windows, at most about `most`, in batches of one stride."""
    chosen = windows[:: max(1, len(windows) // most)]
    for stride in sorted({w.stride_fs for w in chosen}):
        alike = [w for w in chosen if w.stride_fs == stride]
        for start in range(0, len(alike), _AT_ONCE):
            yield join_windows(alike[start : start + _AT_ONCE])
