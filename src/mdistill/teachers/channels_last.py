"""Linear layers and gates of SevenNet for features with channels last: block after block of equal angular momentum, in each
[component, channel]. A linear layer is one matrix product a block. Layers that act on scalars or add features stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mdistill.kernels.build import NoKernel

Data = dict[str, Tensor]


def channels_last(layer: Any) -> Any:
    """The layer for features with channels last.

    Raises:
        NoKernel: Its features have an order that is not supported.
    """
    from sevenn.nn.equivariant_gate import EquivariantGate
    from sevenn.nn.linear import IrrepsLinear
    from sevenn.nn.self_connection import SelfConnectionIntro, SelfConnectionLinearIntro

    if isinstance(layer, IrrepsLinear | SelfConnectionLinearIntro):
        return LinearLayer(layer)
    if isinstance(layer, SelfConnectionIntro):
        raise NoKernel("self-connections by tensor products are not supported")
    return GateLayer(layer) if isinstance(layer, EquivariantGate) else layer


class LinearLayer:
    """A linear layer of the package with channels last."""

    def __init__(self, layer: Any) -> None:
        from sevenn._keys import SELF_CONNECTION_TEMP

        self.layer, linear = layer, layer.linear
        self.to = getattr(layer, "key_output", SELF_CONNECTION_TEMP)
        self.given = getattr(layer, "key_input", None) or layer.key_x
        self.modes = getattr(layer, "num_modalities", 0)
        kinds = [block.ir for block in linear.irreps_in][: -1 if self.modes > 1 else None]
        if linear.bias_numel or len(set(kinds)) < len(kinds):
            raise NoKernel(f"a linear layer of {linear.irreps_in} is not supported")
        self.blocks = [(block.ir.dim, part) for block, part in zip(linear.irreps_in, linear.irreps_in.slices(), strict=True)]
        self.sizes = [block.dim for block in linear.irreps_out]
        self.products = [
            (ins.i_in, ins.i_out, (ins.path_weight * weight).detach().reshape(ins.path_shape).contiguous())
            for _, ins, weight in linear.weight_views(yield_instruction=True)
        ]

    def __call__(self, data: Data) -> Data:
        if self.modes > 1:
            data = self.layer._patch_modal_to_data(data)
        features = data[self.given]
        atoms, parts = len(features), dict[int, Tensor]()
        for source, to, weight in self.products:
            components, place = self.blocks[source]
            product = (features[:, place].reshape(atoms * components, -1) @ weight).reshape(atoms, -1)
            parts[to] = parts[to] + product if to in parts else product
        filled = [parts[k] if k in parts else features.new_zeros((atoms, size)) for k, size in enumerate(self.sizes)]
        data[self.to] = torch.cat(filled, 1) if len(filled) > 1 else filled[0]
        return data


class GateLayer:
    """A gate of the package with channels last: scalars through their activation, other blocks times a scalar per channel."""

    def __init__(self, layer: Any) -> None:
        self.gate, self.key = layer.gate, layer.key_x
        whole = (self.gate.irreps_scalars + self.gate.irreps_gates + self.gate.irreps_gated).simplify()
        if self.gate.irreps_in.simplify() != whole:
            raise NoKernel(f"a gate of {self.gate.irreps_in} is not supported")
        self.sizes = [self.gate.irreps_scalars.dim, self.gate.irreps_gates.dim, *(b.dim for b in self.gate.irreps_gated)]
        self.channels = [block.mul for block in self.gate.irreps_gated]

    def __call__(self, data: Data) -> Data:
        scalars, gates, *gated = data[self.key].split(self.sizes, 1)
        parts = [self.gate.act_scalars(scalars)]
        if gated:
            factors = self.gate.act_gates(gates).split(self.channels, 1)
            for block, factor in zip(gated, factors, strict=True):
                parts.append((block.reshape(len(block), -1, factor.shape[1]) * factor.unsqueeze(1)).flatten(1))
        data[self.key] = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return data
