"""The moment network in TorchScript, for engines that run models without this package; `nets/moment.py` has its equations."""

import torch
from torch import Tensor

from mdistill.kernels.moment import Weights
from mdistill.nets.layers import harmonics_table, species_table


class ScriptedMoment(torch.nn.Module):
    """Energies of atoms (eV, float64) from edges: forward(numbers, receiver, sender, vectors).

    Edge vectors r[sender] − r[receiver] in Å; edges beyond the cutoff add nothing. It can be scripted by `torch.jit.script`.
    """

    species: Tensor
    closest: Tensor
    met: Tensor
    inverse_range: Tensor
    waves: Tensor
    table: Tensor
    charges: Tensor
    strength: Tensor
    decay: Tensor
    outer: Tensor
    mixing: Tensor
    by_degree: Tensor
    point_weights: Tensor
    even: Tensor
    odd: Tensor
    reference: Tensor
    rest: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    last: Tensor

    def __init__(self, weights: Weights, elements: tuple[int, ...]) -> None:
        super().__init__()
        sizes = {name: int(weights.sizes[name]) for name in ("radial", "degree", "channels", "hidden")}
        self.count, self.radial, self.degree, self.channels = len(elements), sizes["radial"], sizes["degree"], sizes["channels"]
        self.hidden, self.orders = sizes["hidden"], (sizes["degree"] + 1) ** 2
        self.cutoff, self.freeze, self.scale = (float(value) for value in weights.head)
        degrees = torch.tensor([degree for degree in range(self.degree + 1) for _ in range(2 * degree + 1)])
        closest = torch.from_numpy(weights.closest).flatten()
        charges, strength, decay, outer = (torch.from_numpy(part) for part in weights.core)
        sphere = torch.from_numpy(weights.sphere)
        even = (degrees % 2 == 0).to(torch.float64)
        held = {
            "species": species_table(elements), "closest": closest, "met": (closest < self.cutoff).to(torch.float64),
            "inverse_range": 1.0 / (self.cutoff - closest).clamp_min(self.freeze),
            "waves": torch.pi * torch.arange(self.radial, dtype=torch.float64), "table": harmonics_table(self.degree),
            "charges": charges, "strength": strength.flatten(), "decay": decay, "outer": outer.flatten(),
            "mixing": torch.from_numpy(weights.mixing).index_select(1, degrees),
            "by_degree": (degrees == torch.arange(self.degree + 1).unsqueeze(1)).to(torch.float64),
            "point_weights": sphere[:, :1].T.contiguous(), "even": sphere[:, 1:] * even, "odd": sphere[:, 1:] * (1.0 - even),
            "reference": torch.from_numpy(weights.reference), "rest": torch.from_numpy(weights.rest),
        }  # fmt: skip
        names = ("first", "first_bias", "second", "second_bias", "last") if self.hidden else ("last",)
        held |= dict(zip(names, (torch.from_numpy(layer) for layer in weights.layers), strict=True))
        for name in ("first", "first_bias", "second", "second_bias"):
            held.setdefault(name, torch.zeros(len(elements), 1, 1, dtype=torch.float64))
        for name, value in held.items():
            self.register_buffer(name, value.clone())

    def forward(self, numbers: Tensor, receiver: Tensor, sender: Tensor, vectors: Tensor) -> Tensor:
        species = self.species[numbers]
        if bool((species < 0).any()):
            raise ValueError("the structure holds an element that the student does not know")
        pair = self.count * species[receiver] + species[sender]
        distance = (vectors.square().sum(1) + 1e-18).sqrt()
        closest = self.closest[pair]
        beyond = distance - closest
        u = (beyond * (1.0 / self.freeze) + 1.0).clamp(0.0, 1.0)
        felt = closest + self.freeze * (u.pow(3) * (1.0 - 0.5 * u) - 0.5) + beyond.clamp(min=0.0)
        envelope = (1.0 - (felt * (1.0 / self.cutoff)).square()).clamp(min=0.0).pow(3) * self.met[pair]
        phase = (felt - closest) * self.inverse_range[pair]
        radial = torch.cos(phase.unsqueeze(1) * self.waves) * envelope.unsqueeze(1)
        unit = vectors / distance.unsqueeze(1)
        squares = (unit.unsqueeze(2) * unit.unsqueeze(1)).flatten(1)
        monomials = torch.cat(
            [torch.ones_like(unit[:, :1]), unit, squares, (squares.unsqueeze(2) * unit.unsqueeze(1)).flatten(1)], 1
        )
        angular = monomials[:, : self.table.shape[0]] @ self.table
        atoms = species.shape[0]
        products = (angular.unsqueeze(2) * radial.unsqueeze(1)).flatten(1)
        place = self.count * receiver + species[sender]
        sums = torch.zeros([atoms * self.count, products.shape[1]], dtype=vectors.dtype, device=vectors.device)
        sums = sums.index_add(0, place, products).view(atoms, self.count, self.orders, self.radial)
        moments = sums.permute(2, 0, 1, 3).flatten(2)
        energies = self.core(pair, receiver, vectors, atoms) + self.reference[species]
        for s in range(self.count):
            mine = torch.nonzero(species == s).flatten()
            if mine.shape[0] > 0:
                energies = energies.index_add(0, mine, self.learned(moments[:, mine], s))
        return energies

    def learned(self, moments: Tensor, s: int) -> Tensor:
        """Learned energy of the atoms of species s from their moments [lm, atom, basis]."""
        mixed = torch.bmm(moments, self.mixing[s]).flatten(1)
        even, odd = self.even @ mixed, self.odd @ mixed
        cubes = self.point_weights @ (2.0 * even.pow(3) + 6.0 * even * odd.square())
        groups = torch.cat([mixed[:1], self.by_degree @ mixed.square(), cubes]).view(self.degree + 3, -1, self.channels)
        x = groups.transpose(0, 1).flatten(1)
        if self.hidden > 0:
            x = torch.nn.functional.silu(x @ self.first[s] + self.first_bias[s])
            x = torch.nn.functional.silu(x @ self.second[s] + self.second_bias[s])
        return self.scale * ((x @ self.last[s].view(-1, 1)).flatten() - self.rest[s])

    def core(self, pair: Tensor, receiver: Tensor, vectors: Tensor, atoms: int) -> Tensor:
        """Core repulsion by atom (`nets/repulsion.py`)."""
        near = torch.nonzero(vectors.detach().square().sum(1) < self.outer[pair].square()).flatten()
        which, r = pair[near], (vectors[near].square().sum(1) + 1e-18).sqrt()
        screened = (self.charges * torch.exp(-self.decay[which] * r.unsqueeze(1))).sum(1)
        u = ((r / self.outer[which] - 0.8) / 0.2).clamp(0.0, 1.0)
        switch = 1.0 - u.pow(3) * (10.0 - 15.0 * u + 6.0 * u.square())
        energy = 0.5 * switch * self.strength[which] / r * screened
        return torch.zeros([atoms], dtype=vectors.dtype, device=vectors.device).index_add(0, receiver[near], energy)
