r"""Harmonic vibrations of one structure from its Hessian: frequencies, modes, density of states, thermal displacements.

    D = M^{-1/2} H M^{-1/2},   D e_k = λ_k e_k,   f_k = √λ_k / 2π (an imaginary f, λ < 0, is given as −√|λ| / 2π)

H: ∂²E/∂r∂r   M: masses   e_k: mode (mass-weighted, orthonormal)   λ: eV/(Å² u)

The free motions, three translations (and the rotations of a molecule), are projected out, which imposes the acoustic sum
rule: they are not vibrations, and where H is a little noisy they would show up as small, often imaginary, frequencies.
Frequencies are those at Γ of the cell given: of a supercell they include the waves that fit into it.

Reference:
    M. Born and K. Huang, Dynamical Theory of Crystal Lattices, Oxford University Press 1954; projection of the free motions
    as in W. H. Miller, N. C. Handy and J. E. Adams, J. Chem. Phys. 72, 99 (1980), doi 10.1063/1.438959.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.data import atomic_masses
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from mdistill.analysis.statistics import Curve
from mdistill.errors import BadInput
from mdistill.estimates import Estimate, exactly
from mdistill.types import System
from mdistill.units import ACCELERATION, BOLTZMANN, THZ

_FLAT = 1e-6
"""A rotation whose length is below this share of the longest does not move the atoms (a linear molecule about its axis)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Vibrations in ascending order, free motions left out.

    Attributes:
        frequencies: [mode] THz, imaginary ones negative.
        vectors: [mode, atom, 3] e_k, orthonormal in mass-weighted coordinates.
    """

    frequencies: Float[Tensor, " mode"]
    vectors: Float[Tensor, "mode atom 3"]

    @property
    def imaginary(self) -> int:
        """Number of imaginary frequencies."""
        return int((self.frequencies < 0.0).sum())


def normal_modes(system: System, hessian: Float[Tensor, "row atom 3"]) -> Modes:
    """Frequencies and modes of the symmetrised Hessian.

    Args:
        system: One struct.
        hessian: [3N, N, 3] all rows of its Hessian (`derivatives.hessian`), eV/Å².
    Raises:
        BadInput: Rows are missing or not finite, or there is one atom only.
    """
    n = system.n_atoms
    if tuple(hessian.shape) != (3 * n, n, 3) or not bool(torch.isfinite(hessian).all()):
        state = f"{tuple(hessian.shape)}, finite: {bool(torch.isfinite(hessian).all())}"
        raise BadInput("hessian", state, allowed=f"({3 * n}, {n}, 3), finite", fix="compute all rows of this structure")
    if n < 2:
        raise BadInput("structure", "one atom, which has no vibrations at Γ", allowed="two atoms or more", fix="repeat the cell")
    root = _masses(system).sqrt().repeat_interleave(3)
    matrix = hessian.detach().cpu().double().reshape(3 * n, 3 * n)
    dynamical = 0.5 * (matrix + matrix.T) / (root.unsqueeze(0) * root.unsqueeze(1))
    basis = _vibrations(system)
    values, inside = torch.linalg.eigh(basis.T @ dynamical @ basis)
    frequencies = values.sign() * (values.abs() * ACCELERATION).sqrt() / (2.0 * math.pi * THZ)
    return Modes(frequencies=frequencies, vectors=(basis @ inside).T.reshape(-1, n, 3))


def density_of_states(
    modes: Modes, *, width: float = 0.3, frequencies: Float[Tensor, " point"] | None = None, label: str = ""
) -> Curve:
    r"""Vibrational density of states, 1/THz; its integral is the number of vibrations (3N − 3 in a crystal).

    g(f) = Σ_k exp(−(f − f_k)²/2w²) / (w √2π)

    Args:
        modes: The vibrations; imaginary ones lie at negative f.
        width: w, standard deviation of the broadening, THz.
        frequencies: Grid, THz; by default from 4 w below the lowest mode to 4 w above the highest.
        label: Of the curve.
    Raises:
        BadInput: The width is not positive.
    """
    if not width > 0.0:
        raise BadInput("width", f"{width:g} THz", allowed="above 0 THz", fix="use 0.3")
    centres = modes.frequencies
    x = frequencies_between(float(centres.min()), float(centres.max()), width) if frequencies is None else frequencies
    y = torch.exp(-0.5 * ((x.unsqueeze(1) - centres) / width).square()).sum(1) / (width * math.sqrt(2.0 * math.pi))
    return Curve(x=x, y=y, error=torch.zeros_like(y), x_unit="THz", y_unit="1/THz", label=label)


def frequencies_between(low: float, high: float, width: float) -> Float[Tensor, " point"]:
    """Evenly spaced frequencies (THz) that reach 4 widths beyond the ends, four or more to a width."""
    count = max(200, math.ceil(4.0 * (high - low + 8.0 * width) / width))
    return torch.linspace(low - 4.0 * width, high + 4.0 * width, count, dtype=torch.float64)


def displaced(
    system: System, modes: Modes, temperature_K: float, generator: Generator, *, count: int = 1, farthest: float = 0.15,
) -> list[System]:  # fmt: skip
    r"""Structures displaced along many modes at once with the amplitudes of classical harmonic vibrations.

    u_i = Σ_k Q_k e_ki / √m_i,   Q_k normally distributed with variance k_B T / λ_k,   λ_k = (2π f_k)²

    Args:
        system: The struct whose modes these are.
        modes: Its vibrations; only those that are `harmonic` are displaced.
        temperature_K: T.
        generator: Draws the Q_k.
        count: Number of structures.
        farthest: See `harmonic`, Å.
    Raises:
        BadInput: T below 0, or modes of another structure.
    Reference:
        D. West and S. K. Estreicher, Phys. Rev. Lett. 96, 115504 (2006), doi 10.1103/PhysRevLett.96.115504.
    """
    used = harmonic(system, modes, temperature_K, farthest=farthest)
    along = _thermal(system, modes, temperature_K)[used]
    moved = []
    for _ in range(count):
        amplitudes = torch.randn(len(along), generator=generator, dtype=torch.float64)
        shift = torch.einsum("k,kax->ax", amplitudes, along)
        moved.append(replace(system, positions=system.positions + shift.to(system.positions)))
    return moved


def harmonic(system: System, modes: Modes, temperature_K: float, *, farthest: float = 0.15) -> Bool[Tensor, " mode"]:
    """Which modes can be given their harmonic amplitude: real ones that move no atom by more than `farthest`.

    A soft mode that lives on a few light atoms would by its harmonic amplitude push them through their neighbours.

    Args:
        system, modes, temperature_K: As for `displaced`.
        farthest: Root-mean-square displacement of the atom that a mode moves most, Å.
    Raises:
        BadInput: T below 0, or modes of another structure.
    """
    if not (math.isfinite(temperature_K) and temperature_K >= 0.0):
        raise BadInput("temperature_K", f"{temperature_K}", allowed="0 K or more", fix="use 300")
    if modes.vectors.shape[1] != system.n_atoms:
        problem = f"of {modes.vectors.shape[1]} atoms for a structure of {system.n_atoms}"
        raise BadInput("modes", problem, allowed="the structure's own", fix="compute normal_modes of this structure")
    reach = _thermal(system, modes, temperature_K).norm(dim=2).amax(1)
    return (modes.frequencies > 0.0) & (reach <= farthest)


def _thermal(system: System, modes: Modes, temperature_K: float) -> Float[Tensor, "mode atom 3"]:
    """Root-mean-square displacement by each mode, Å; without meaning for imaginary ones."""
    rate = 2.0 * math.pi * THZ * modes.frequencies.abs().clamp_min(1e-12)
    spread = math.sqrt(BOLTZMANN * temperature_K * ACCELERATION) / rate
    return spread.reshape(-1, 1, 1) * modes.vectors / _masses(system).sqrt().reshape(1, -1, 1)


def hessian_error(student: Float[Tensor, "probe atom 3"], target: Float[Tensor, "probe atom 3"], *, whole: bool) -> Estimate:
    r"""‖ΔH‖/‖H‖ (Frobenius norms) from the whole Hessian, or from its products with random directions.

    ‖A‖² = Σ rows |A_r|² = E |A v|² for random v with independent entries ±1 (Hutchinson), so that few v suffice;
    the error is that of the ratio of two sums over v, by the jackknife.

    Args:
        found, target: Rows or products of both Hessians, eV/Å².
        whole: These are all the rows: the number is exact and has no error.
    Raises:
        BadInput: Shapes differ, or the target vanishes.
    Reference:
        M. F. Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990), doi 10.1080/03610919008812866.
    """
    if student.shape != target.shape or not bool(target.any()):
        shapes = f"{tuple(student.shape)} and {tuple(target.shape)}, target zero: {not bool(target.any())}"
        raise BadInput("curvature", shapes, allowed="equal shapes, a target that is not zero", fix="check the structures")
    wrong = (student - target).double().square().sum((1, 2)).cpu().numpy()
    size = target.double().square().sum((1, 2)).cpu().numpy()
    value, count = math.sqrt(wrong.sum() / size.sum()), len(wrong)
    if whole or count < 2:
        return exactly(value, samples=count)
    without = np.sqrt((wrong.sum() - wrong) / (size.sum() - size))
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    return Estimate(value=value, error=error, unit="", samples=count)


def _masses(system: System) -> Float[Tensor, " atom"]:
    return torch.from_numpy(np.asarray(atomic_masses)[system.numbers.cpu().numpy()]).double()


def _vibrations(system: System) -> Float[Tensor, "coordinate mode"]:
    """Orthonormal mass-weighted directions without the free motions: translations, and rotations where nothing is periodic."""
    n, root = system.n_atoms, _masses(system).sqrt().reshape(-1, 1)
    free = [(root * axis).reshape(-1) for axis in torch.eye(3, dtype=torch.float64)]
    if not bool(system.pbc.any()):
        arms = system.positions.detach().cpu().double()
        arms = arms - (root.square() * arms).sum(0) / root.square().sum()
        turns = torch.stack([(root * torch.linalg.cross(axis.expand(n, 3), arms)).reshape(-1) for axis in torch.eye(3).double()])
        _, size, principal = torch.linalg.svd(turns, full_matrices=False)
        free += list(principal[size > _FLAT * max(float(size.max()), float(root.norm()))])
    complete, _ = torch.linalg.qr(torch.stack(free, 1), mode="complete")
    return complete[:, len(free) :]
