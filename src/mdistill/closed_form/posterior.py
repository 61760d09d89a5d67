"""Posterior of a closed-form fit: error bars for every prediction, stored beside the student.

`posterior.safetensors` (format 1): weights, factor (float32), directions, closest distances; its header holds JSON of
{format, settings, second, third, noise, ridge, effective, usual, model, sha256}.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.closed_form.design_matrix import Products, design, pairs_and_triples
from mdistill.errors import BadInput
from mdistill.graph import build_graph
from mdistill.io.files import write_bytes
from mdistill.nets.model_files import read_header, sealed, tensor_hash
from mdistill.nets.moment import MomentNet
from mdistill.nets.settings import MomentSettings
from mdistill.types import System

POSTERIOR = "posterior.safetensors"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Posterior:
    """Posterior of the weights.

    Attributes:
        products: The invariants.
        weights: [weight] mean.
        factor: [weight, weight] F with covariance F Fᵀ.
        noise: Spread of the residuals of each kind.
        ridge: λ.
        effective: Number of weights that the data determine.
        usual: Standard error of a force component from the weights on the training data (root mean square, eV/Å).
    """

    products: Products
    weights: Float[Tensor, " weight"]
    factor: Float[Tensor, "weight weight"]
    noise: dict[str, float]
    ridge: float
    effective: float
    usual: float

    def force_errors(self, system: System) -> Float[Tensor, "atom 3"]:
        """Standard error of every force component (eV/Å): from the weights and from the residuals together."""
        return (self.weight_errors(system).square() + self.noise["forces"] ** 2).sqrt()

    def weight_errors(self, system: System) -> Float[Tensor, "atom 3"]:
        """Standard error (eV/Å) from the weights alone: large where a structure differs from the training data."""
        rows = design(self.products, build_graph(system, self.products.net.cutoff)).forces
        return (rows @ self.factor).square().sum(1).sqrt().view(-1, 3)


def save_posterior(path: Path, posterior: Posterior, *, model: str) -> None:
    """Write it, all or nothing. `model`: sha256 of its student."""
    products = posterior.products
    tensors = {
        "weights": posterior.weights.numpy(),
        "factor": posterior.factor.float().numpy(),
        "directions": products.directions.numpy(),
        "closest": products.net.closest.numpy(),
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    described = {
        "format": FORMAT, "settings": asdict(products.net.settings), "second": int(products.pairs.max()) + 1,
        "third": int(products.triples.max()) + 1, "noise": posterior.noise, "ridge": posterior.ridge,
        "effective": posterior.effective, "usual": posterior.usual, "model": model, "sha256": tensor_hash(tensors),
    }  # fmt: skip
    write_bytes(path, safetensors.numpy.save(tensors, metadata=sealed("posterior", json.dumps(described, allow_nan=False))))


def load_posterior(path: Path, *, model: str) -> Posterior:
    """Read the posterior of the student whose weights have the sha256 `model`.

    Raises:
        BadInput: Not such a file, damaged, of another format, or of another student.
    """
    allowed, fix = "the posterior.safetensors beside its student", "fit again: mdistill train potential --fit closed-form"
    described = read_header(path, "posterior")
    try:
        tensors = safetensors.numpy.load(path.read_bytes())
        if described["format"] != FORMAT or described["sha256"] != tensor_hash(tensors):
            raise ValueError("another format, or altered bytes")
        settings = MomentSettings(**described["settings"] | {"elements": tuple(described["settings"]["elements"])})
        arrays = {name: torch.from_numpy(array.astype(np.float64)) for name, array in tensors.items()}
        pairs, triples = pairs_and_triples(int(described["second"]), int(described["third"]))
        net = MomentNet(settings)
        with torch.no_grad():
            net.set_closest(arrays["closest"])
        products = Products(net, arrays["directions"], pairs, triples)
        noise = {str(kind): float(value) for kind, value in described["noise"].items()}
        numbers = (float(described[name]) for name in ("ridge", "effective", "usual"))
        posterior = Posterior(products, arrays["weights"], arrays["factor"], noise, *numbers)
        fits = posterior.weights.shape == (products.count,) and posterior.factor.shape == (products.count,) * 2
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BadInput(path, f"cannot be used ({error})", allowed=allowed, fix=fix) from error
    if not fits or described["model"] != model:
        raise BadInput(path, "belongs to another student", allowed=allowed, fix=fix)
    return posterior
