"""Students as metatomic models: one file that every engine with metatomic runs, without this package."""

from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035  (what TorchScript reads)

import torch

from mdistill.errors import MissingPackage
from mdistill.export.scripted import ScriptedMoment

try:
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import (
        AtomisticModel,
        ModelCapabilities,
        ModelMetadata,
        ModelOutput,
        NeighborListOptions,
        System,
    )
except ImportError as error:
    raise MissingPackage("metatomic-torch", 'pip install "mdistill[metatomic]"', "the export to metatomic") from error


class Energy(torch.nn.Module):
    """The output "energy" of a student, by system or by atom; forces and stress follow by automatic differentiation."""

    def __init__(self, net: ScriptedMoment) -> None:
        super().__init__()
        self.net = net
        self.options = NeighborListOptions(cutoff=net.cutoff, full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        return [self.options]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels],  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        found: Dict[str, TensorMap] = {}  # noqa: UP006
        if "energy" not in outputs:
            return found
        by_atom = outputs["energy"].sample_kind == "atom"
        values: List[torch.Tensor] = []  # noqa: UP006
        samples: List[torch.Tensor] = []  # noqa: UP006
        for k, system in enumerate(systems):
            pairs = system.get_neighbor_list(self.options)
            receiver = pairs.samples.column("first_atom").to(torch.int64)
            sender = pairs.samples.column("second_atom").to(torch.int64)
            energies = self.net(system.types.to(torch.int64), receiver, sender, pairs.values.reshape(-1, 3))
            chosen = torch.arange(len(system), device=energies.device)
            if selected_atoms is not None:
                chosen = selected_atoms.column("atom")[selected_atoms.column("system") == k].to(torch.int64)
            energies = energies[chosen]
            if by_atom:
                values.append(energies.unsqueeze(1))
                samples.append(torch.stack([torch.full_like(chosen, k), chosen], 1))
            else:
                values.append(energies.sum().reshape(1, 1))
                samples.append(torch.full([1, 1], k, dtype=chosen.dtype, device=chosen.device))
        device = systems[0].positions.device
        block = TensorBlock(
            values=torch.cat(values),
            samples=Labels(["system", "atom"] if by_atom else ["system"], torch.cat(samples).to(torch.int32)),
            components=torch.jit.annotate(List[Labels], []),  # noqa: UP006
            properties=Labels(["energy"], torch.zeros([1, 1], dtype=torch.int32, device=device)),
        )
        found["energy"] = TensorMap(Labels(["_"], torch.zeros([1, 1], dtype=torch.int32, device=device)), [block])
        return found


def export_metatomic(model: Any, path: Path) -> None:
    """Write a student as a metatomic model in float64 (in float32 such models lose 10⁻⁴ eV/Å).

    Args:
        model: A student, or the path of one or of a run folder.
        path: The file, usually `student.pt`.
    Raises:
        BadInput: Anything else than a moment student.
    """
    from ase.data import atomic_numbers

    from mdistill import __version__
    from mdistill.export.lammps import student_weights

    weights, elements, name = student_weights(model)
    numbers = tuple(atomic_numbers[symbol] for symbol in elements)
    energy = Energy(ScriptedMoment(weights, numbers))
    energy.train(False)
    capabilities = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind="atom")}, atomic_types=list(numbers),
        interaction_range=energy.net.cutoff, length_unit="angstrom", supported_devices=["cpu", "cuda"], dtype="float64",
    )  # fmt: skip
    metadata = ModelMetadata(name=name, description=f"student distilled by mdistill {__version__}")
    path.parent.mkdir(parents=True, exist_ok=True)
    AtomisticModel(energy, metadata, capabilities).save(str(path))
