r"""Random numbers in streams: the numbers of struct k do not depend on the rest of the batch.

Each call draws one key from the `Generator`; number i of struct k is then a function of (key, k, i) alone:
    x_i = mix(mix(key + mix(k)) + i·γ),   γ = 2⁶⁴/golden ratio, mix: the finalizer of SplitMix64.
So noise is equal on every device, does not change when structs are appended to the batch, and a restart needs only
the state of the generator.

Reference: Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014, doi 10.1145/2660193.2660195.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from mdistill.types import System

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def keys(generator: Generator, count: int) -> np.ndarray:
    """[count] keys, those of as many calls of `uniforms` or `normals`."""
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator).numpy().view(np.uint64)


def uniforms(generator: Generator, stream: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1), number `index` of stream `stream` each (arrays, broadcast together)."""
    return uniforms_of(keys(generator, 1), stream, index)


def uniforms_of(key: np.ndarray, stream: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Uniform numbers in (0, 1) of given keys, number `index` of stream `stream` each (arrays, broadcast together)."""
    start = _mix(key + _mix(stream.astype(np.uint64) * _GAMMA))
    bits = _mix(start + index.astype(np.uint64) * _GAMMA)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normals(generator: Generator, stream: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Independent standard normal numbers (Box–Muller), number `index` of stream `stream` each."""
    stream, index = np.broadcast_arrays(stream, index)
    first, second = uniforms(generator, stream, np.stack([2 * index, 2 * index + 1]))
    return np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)


def atom_normals(generator: Generator, system: System) -> Tensor:
    """[atom, 3] standard normal numbers, one stream per struct, in the float type and on the device of the positions."""
    owner = system.owner.cpu().numpy()
    local = np.arange(system.n_atoms) - np.searchsorted(owner, owner)
    drawn = normals(generator, owner[:, None], 3 * local[:, None] + np.arange(3))
    return torch.from_numpy(drawn).to(system.positions)


def struct_normals(generator: Generator, system: System, count: int) -> Tensor:
    """[struct, count] standard normal numbers, one stream per struct."""
    drawn = normals(generator, np.arange(system.n_structs)[:, None], np.arange(count)[None, :])
    return torch.from_numpy(drawn).to(system.positions)


def struct_uniforms(generator: Generator, system: System) -> Tensor:
    """[struct] uniform numbers in (0, 1), one stream per struct."""
    return torch.from_numpy(uniforms(generator, np.arange(system.n_structs), np.zeros(1))).to(system.positions)


def scattered(number: int) -> int:
    """A pseudo-random number below 2⁶⁴, a function of the argument alone."""
    return int(_mix(np.array([number % 2**64], dtype=np.uint64) * _GAMMA)[0])


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
