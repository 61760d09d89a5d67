"""A moment network on its compiled kernel: the same potential, ten to thirty times faster on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mdistill.derivatives import Conservative
from mdistill.graph import volumes
from mdistill.kernels.build import NoKernel, enabled
from mdistill.kernels.moment import SLOW, Engine, MomentKernel, Weights, threads_for
from mdistill.nets.catalogue import POTENTIALS, resolve
from mdistill.nets.layers import FREEZE
from mdistill.nets.moment import MomentNet
from mdistill.nets.repulsion import CHARGES
from mdistill.notices import notify
from mdistill.types import Graph, Potential, Prediction, System


@dataclass(frozen=True)
class OnKernel:
    """What a moment network keeps of torch where a kernel evaluates it.

    Attributes:
        plain: The student in torch.
    """

    plain: Conservative

    @property
    def cutoff(self) -> float:
        return self.plain.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.plain.elements

    @property
    def name(self) -> str:
        return self.plain.name

    @property
    def net(self) -> MomentNet:
        return self.plain.net  # type: ignore[return-value]

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]:
        return self.plain.curvature(graph, probes)

    def answer(self, system: System, energy: float, forces: np.ndarray, virial: np.ndarray) -> Prediction:
        """An engine's numbers as a prediction (float64)."""
        stress = None
        if bool(system.pbc.all()):
            stress = torch.from_numpy(0.5 * (virial + virial.T) / float(volumes(system)[0])).unsqueeze(0)
        return Prediction(energy=torch.tensor([energy], dtype=torch.float64), forces=torch.from_numpy(forces), stress=stress)


@dataclass(frozen=True)
class CompiledMoment(OnKernel):
    """A `CurvedPotential`: one structure on the CPU goes through the kernel, everything else through torch.

    Attributes:
        kernel: Its weights in compiled code.
    """

    kernel: MomentKernel

    def __call__(self, graph: Graph) -> Prediction:
        system = graph.system
        if system.n_structs != 1 or system.positions.device.type != "cpu":
            return self.plain(graph)
        positions = system.positions.detach().double().numpy()
        first = np.searchsorted(graph.receiver.numpy(), np.arange(system.n_atoms + 1))
        offset = graph.shift.detach().double().numpy() @ system.cell[0].detach().double().numpy()
        engine = self.engine(system, threads=threads_for(system.n_atoms, torch.get_num_threads()), skin=0.0)
        atomic, forces, virial = engine.on_graph(first, graph.sender.numpy(), offset, positions)
        return replace(self.answer(system, float(atomic.sum()), forces, virial), atomic=torch.from_numpy(atomic))

    def engine(self, system: System, *, threads: int, skin: float) -> Engine:
        """Compiled evaluation and dynamics of one structure.

        Raises:
            BadInput: An element that the student does not know.
        """
        return self.kernel.engine(self.net.species(system.numbers).numpy(), threads=threads, skin=skin)


def compiled(potential: Potential, *, double: bool) -> Potential:
    """The same potential on its kernel; unchanged where it has none, where kernels are turned off, or, with a notice, where none
    can be built."""
    net = getattr(potential, "net", None)
    kind = POTENTIALS.get(getattr(net, "kind", ""))
    if kind is None or not isinstance(potential, Conservative) or not enabled():
        return potential
    on_cpu = next(net.parameters()).device.type == "cpu"  # type: ignore[union-attr]
    if not (path := kind.kernel if on_cpu else kind.gpu_kernel):
        return potential
    try:
        found: Potential = resolve(path)(potential, double=double)
        return found
    except NoKernel as error:
        notify(f"students run {SLOW if on_cpu else 'on the GPU in torch'}: {error}")
        return potential


def compiled_moment(potential: Conservative, *, double: bool) -> CompiledMoment:
    """A moment network on its kernel, built for its sizes."""
    return CompiledMoment(potential, MomentKernel(kernel_weights(potential.net, double=double)))  # type: ignore[arg-type]


def kernel_weights(net: MomentNet, *, double: bool) -> Weights:
    """A student's weights in the form of the kernel, computed in float64."""
    settings, net = net.settings, net.folded()
    n = len(settings.elements)

    def array(tensor: Tensor) -> np.ndarray:
        return tensor.detach().cpu().double().numpy()

    layers, resting = _head(net, array)
    points = array(net.on_grid)
    half = [k for k in range(len(points)) if _leads(points[k])]
    sphere = np.concatenate([array(net.grid_weights).reshape(-1, 1)[half], points[half]], axis=1)
    sizes = {name: getattr(settings, name) for name in ("radial", "degree", "channels", "hidden")}
    decay = array(net.core.decay).reshape(n * n, 4)
    return Weights(
        sizes=sizes | {"real": "double" if double else "float"}, head=np.array([settings.cutoff, FREEZE, float(net.scale)]),
        reference=array(net.reference), rest=resting.reshape(n), closest=array(net.closest),
        core=(np.array(CHARGES), array(net.core.strength), decay, array(net.core.outer)), mixing=array(net.mixing), layers=layers,
        sphere=sphere,
    )  # fmt: skip


def _head(net: MomentNet, array: Callable[[Tensor], np.ndarray]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Weights of the head with the normalisation of features folded in, and its output for an isolated atom."""
    spread, mean, last = array(net.spread).transpose(0, 2, 1), array(net.mean), array(net.last.weight)
    if not net.settings.hidden:
        return (last / spread,), np.zeros(len(last))
    slope = array(net.first.weight) / spread
    bias = array(_bias(net.first)) - mean @ slope
    second = (array(net.second.weight), array(_bias(net.second)))
    resting = bias / (1.0 + np.exp(-bias)) @ second[0] + second[1]
    resting = resting / (1.0 + np.exp(-resting)) @ last
    return (slope, bias, *second, last), resting


def _leads(harmonics: np.ndarray) -> bool:
    """Whether a quadrature point represents its antipodal pair: its first nonzero harmonic of degree 1 is positive."""
    first = harmonics[1:4]
    return bool(first[np.abs(first) > 1e-9][0] > 0)


def _bias(layer: torch.nn.Module) -> Tensor:
    return layer.bias  # type: ignore[return-value]
