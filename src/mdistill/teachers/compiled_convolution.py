r"""Convolutions of SevenNet in compiled code, for energies and forces on a CPU.

A radial network is a function of one distance: it is replaced by a cubic Hermite spline of its values and slopes on knots
0.01 Å apart, which differs from it by less than float32 rounding does. Everything else is the convolution as it is.
The gradient can be taken once; curvature products need the convolution in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.kernels.convolution import ConvolutionKernel, ConvolutionPath

Data = dict[str, Tensor]
LOWEST, _SPACING = 0.25, 0.01
"""Distance of the first knot, and between two knots, Å."""


class CompiledConvolution:
    """A convolution in compiled code, for features with channels last and distances above `LOWEST`.

    Args:
        layer: The package's convolution.
        radial: Distances [edge] (Å) → input of the layer's radial network, in float64.
        keys: Names of the network's data.
        cutoff: Cutoff of the network, Å.
    Raises:
        NoKernel: It cannot be built here.
    """

    def __init__(self, layer: Any, radial: Callable[[Tensor], Tensor], keys: Any, cutoff: float) -> None:
        self.layer, self.keys = layer, keys
        product = layer.convolution
        blocks = [(block.mul, block.ir.dim) for block in product.irreps_in1]
        self.kernel = ConvolutionKernel(
            blocks, _paths(product), _spline(layer.weight_nn, radial, cutoff), scale=1.0 / float(layer.denominator),
            lowest=LOWEST, spacing=_SPACING,
        )  # fmt: skip

    def __call__(self, data: Data) -> Data:
        layer, lengths = self.layer, data[self.keys.EDGE_LENGTH]
        features, harmonics = data[layer.key_x], data[layer.key_filter]
        receiver, sender = data[layer.key_edge_idx]
        first = torch.searchsorted(receiver, torch.arange(len(features) + 1))
        data[layer.key_x] = _Convolve.apply(self.kernel, first, sender.contiguous(), features, harmonics, lengths)
        return data


class _Convolve(torch.autograd.Function):
    """The compiled convolution and its gradient."""

    @staticmethod
    def forward(  # noqa: PLR0917  (the signature is torch's)
        ctx: Any, kernel: ConvolutionKernel, first: Tensor, sender: Tensor, features: Tensor, harmonics: Tensor, lengths: Tensor
    ) -> Tensor:
        features, harmonics, lengths = (part.detach().contiguous() for part in (features, harmonics, lengths))
        ctx.kernel = kernel
        ctx.save_for_backward(first, sender, features, harmonics, lengths)
        result = features.new_empty((len(features), kernel.outputs))
        edges = _addresses(first, sender, lengths, harmonics)
        kernel.convolve(len(features), torch.get_num_threads(), edges, features.data_ptr(), result.data_ptr())
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        first, sender, features, harmonics, lengths = ctx.saved_tensors
        gradient = gradient.contiguous()
        parts = [torch.empty_like(part) for part in (features, harmonics, lengths)]
        ctx.kernel.convolve_back(
            len(features), torch.get_num_threads(), _addresses(first, sender, lengths, harmonics), features.data_ptr(),
            gradient=gradient.data_ptr(), to=tuple(part.data_ptr() for part in parts),
        )  # fmt: skip
        return None, None, None, *parts


def _addresses(first: Tensor, sender: Tensor, lengths: Tensor, harmonics: Tensor) -> dict[str, int]:
    named = {"first": first, "sender": sender, "length": lengths, "harmonics": harmonics}
    return {name: tensor.data_ptr() for name, tensor in named.items()}


def _paths(product: Any) -> list[ConvolutionPath]:
    """The paths of the package's tensor product, in the order of their radial functions; outputs of equal angular momentum are
    channels of one block."""
    from e3nn.o3 import wigner_3j

    harmonics, weight, paths, places = product.irreps_in2.slices(), 0, [], _places(product.irreps_out)
    for path in product.instructions:
        first, second, out = product.irreps_in1[path.i_in1], product.irreps_in2[path.i_in2], product.irreps_out[path.i_out]
        coefficients = torch.zeros(out.ir.dim, first.ir.dim, product.irreps_in2.dim)
        own = path.path_weight * wigner_3j(first.ir.l, second.ir.l, out.ir.l).permute(2, 0, 1)
        coefficients[:, :, harmonics[path.i_in2]] = own.where(own.abs() > 1e-6, torch.zeros(()))
        start, stride = places[path.i_out]
        values = coefficients.numpy().astype(float)
        paths.append(ConvolutionPath(block=path.i_in1, weight=weight, start=start, stride=stride, coefficients=values))
        weight += first.mul
    return paths


def _places(blocks: Any) -> list[tuple[int, int]]:
    """First number and stride of each block where neighbours of equal angular momentum are channels of one."""
    places, start = [], 0
    for block in blocks.simplify():
        inside = 0
        while inside < block.mul:
            places.append((start + inside, block.mul))
            inside += blocks[len(places) - 1].mul
        start += block.dim
    return places


def _spline(network: Any, radial: Callable[[Tensor], Tensor], cutoff: float) -> Float[np.ndarray, "interval power weight"]:
    """Cubic Hermite polynomials of a radial network between knots, from its values and slopes in float64."""
    network = deepcopy(network).double()
    distances = LOWEST + _SPACING * torch.arange(round((cutoff - LOWEST) / _SPACING) + 2, dtype=torch.float64)
    both = torch.func.jvp(lambda r: network(radial(r)), (distances,), (torch.ones_like(distances),))
    values, slopes = both[0], both[1]
    left, right = _SPACING * slopes[:-1], _SPACING * slopes[1:]
    step = values[1:] - values[:-1]
    powers = [values[:-1], left, 3.0 * step - 2.0 * left - right, left + right - 2.0 * step]
    return torch.stack(powers, 1).detach().numpy()
