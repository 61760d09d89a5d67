"""Compiled convolutions against the formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mdistill.kernels.build import NoKernel, compiler
from mdistill.kernels.convolution import ConvolutionKernel, ConvolutionPath

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
BLOCKS, SIZES, LOWEST, SPACING, SCALE = [(32, 3), (16, 1)], [(0, 5), (0, 1), (1, 3)], 1.0, 0.5, 0.25


def case(rng: np.random.Generator) -> tuple[list[ConvolutionPath], np.ndarray, dict[str, Tensor]]:
    """Paths (component counts of `SIZES`), cubic radial functions, and three atoms with edges of all pairs."""
    paths, start, weight = [], 0, 0
    for block, components in SIZES:
        channels, inner = BLOCKS[block]
        values = rng.normal(size=(components, inner, 4)) * (rng.random((components, inner, 4)) < 0.6)
        paths.append(ConvolutionPath(block=block, weight=weight, start=start, stride=channels, coefficients=values))
        weight, start = weight + channels, start + channels * components
    edges = [(i, j) for i in range(3) for j in range(3) if i != j]
    data = {
        "features": torch.tensor(rng.normal(size=(3, sum(c * a for c, a in BLOCKS))), dtype=torch.float32),
        "harmonics": torch.tensor(rng.normal(size=(6, 4)), dtype=torch.float32),
        "length": torch.tensor(rng.uniform(1.05, 2.45, 6), dtype=torch.float32),
        "gradient": torch.tensor(rng.normal(size=(3, start)), dtype=torch.float32),
        "first": torch.tensor([0, 2, 4, 6]),
        "sender": torch.tensor([j for _, j in edges]),
        "receiver": torch.tensor([i for i, _ in edges]),
    }
    return paths, rng.normal(size=(3, 4, weight)), data


def formula(paths: list[ConvolutionPath], table: np.ndarray, data: dict[str, Tensor]) -> Tensor:
    """The convolution in float64, as convolution.cpp states it."""
    place = (data["length"] - LOWEST) / SPACING
    interval = place.detach().floor().long()
    powers = (place - interval).unsqueeze(1) ** torch.arange(4)
    weights = torch.einsum("ep,epw->ew", powers, torch.tensor(table)[interval])
    starts, parts = np.cumsum([0] + [c * a for c, a in BLOCKS]), []
    for path in paths:
        channels, inner = BLOCKS[path.block]
        block = data["features"][:, starts[path.block] : starts[path.block + 1]].reshape(3, inner, channels)[data["sender"]]
        message = torch.einsum("cab,eb,eau,eu->ecu", torch.tensor(path.coefficients), data["harmonics"], block,
                               weights[:, path.weight : path.weight + channels])  # fmt: skip
        parts.append(message.new_zeros(3, *message.shape[1:]).index_add(0, data["receiver"], message).flatten(1))
    return SCALE * torch.cat(parts, 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_compiled_convolution_and_its_gradients_are_those_of_the_formula(threads: int) -> None:
    paths, table, data = case(np.random.default_rng(3))
    inputs = {name: data[name].double().requires_grad_() for name in ("features", "harmonics", "length")}
    right = formula(paths, table, data | inputs)
    gradients = torch.autograd.grad(right, list(inputs.values()), data["gradient"].double())

    kernel = ConvolutionKernel(BLOCKS, paths, table, scale=SCALE, lowest=LOWEST, spacing=SPACING)
    edges = {name: data[name].data_ptr() for name in ("first", "sender", "length", "harmonics")}
    result = torch.full((3, kernel.outputs), torch.nan)
    kernel.convolve(3, threads, edges, data["features"].data_ptr(), result.data_ptr())
    back = [torch.full_like(data[name], torch.nan) for name in inputs]
    kernel.convolve_back(
        3, threads, edges, data["features"].data_ptr(), gradient=data["gradient"].data_ptr(),
        to=(back[0].data_ptr(), back[1].data_ptr(), back[2].data_ptr()),
    )  # fmt: skip
    for found, wanted in zip([result, *back], [right, *gradients], strict=True):
        torch.testing.assert_close(found, wanted.float(), rtol=2e-5, atol=2e-5)


def test_blocks_that_do_not_fill_vectors_have_no_kernel() -> None:
    path = ConvolutionPath(block=0, weight=0, start=0, stride=3, coefficients=np.ones((1, 1, 1)))
    with pytest.raises(NoKernel, match="blocks"):
        ConvolutionKernel([(3, 1)], [path], np.ones((1, 4, 3)), scale=1.0, lowest=0.0, spacing=1.0)
