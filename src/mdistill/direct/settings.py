"""Settings of direct forces. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from mdistill.nets.settings import EdgeTransformerSettings
from mdistill.settings import refuse, setting, settings
from mdistill.training.settings import FitSettings, TrainSettings


@settings
class DirectSettings:
    """Training of an edge transformer.

    Attributes:
        cutoff: Cutoff of the pair tokens, Å; a molecule within it has a token for every pair. 6 Å suits solids and liquids.
        width: Width of a token.
        layers: Number of blocks.
        heads: Number of attention heads; by default one for every 16 of the width.
        radial: Number of radial basis functions.
        states: Knowledge of the total charge and the number of unpaired electrons.
        copies: Randomly rotated and mirrored copies of each structure in a batch.
        force_weight: Weight of the mean ‖ΔF‖ over atoms, over the RMS force component of the labels.
        energy_weight: Weight of |ΔE| per atom over the force scale × 1 Å; 0: the energy head is not trained.
        energy_gradient_weight: Weight of ‖−∇E − F‖ of the energy head, for slow forces (costs about two more steps in four).
        curvature_weight: Weight of ‖J v + H v‖ over the RMS of labelled curvature products H v (costs two more steps in four).
        antisymmetry_weight: Weight of the antisymmetric part of the force Jacobian (costs as much as two more steps in four).
        held_out: Fraction of the frames held out, as whole blocks.
        float64: Double precision in training.
        fit: Time, batch size, learning rate, seed.
    """

    net: ClassVar[str] = "edge_transformer"
    cutoff: float = setting(12.0, above=1.0, most=50.0, unit="Å")
    width: int = setting(64, least=4, most=1024)
    layers: int = setting(4, least=1, most=24)
    heads: int | None = setting(None, least=1, most=64)
    radial: int = setting(32, least=2, most=256)
    states: bool = False
    copies: int = setting(2, least=1, most=64)
    force_weight: float = setting(1.0, least=0.0, below=1e6)
    energy_weight: float = setting(0.1, least=0.0, below=1e6)
    energy_gradient_weight: float = setting(0.0, least=0.0, below=1e6)
    curvature_weight: float = setting(0.0, least=0.0, below=1e6)
    antisymmetry_weight: float = setting(0.0, least=0.0, below=1e6)
    held_out: float = setting(0.1, above=0.0, below=0.9)
    float64: bool = False
    fit: FitSettings = field(default_factory=lambda: FitSettings(batch_size=8, max_minutes=30.0, warmup=100, ema=0.999, clip=1.0))

    def __post_init__(self) -> None:
        self.student((1,))

    def student(self, elements: tuple[int, ...]) -> EdgeTransformerSettings:
        """Settings of the network for these elements."""
        size: dict[str, Any] = {name: getattr(self, name) for name in ("cutoff", "width", "layers", "radial", "states")}
        return EdgeTransformerSettings(elements=elements, heads=self.heads or max(1, self.width // 16), **size)

    def weights(self) -> TrainSettings:
        """The terms of the loss that potentials have too."""
        return TrainSettings(
            net=self.net, force_weight=self.force_weight, energy_weight=self.energy_weight, stress_weight=0.0,
            energy_gradient_weight=self.energy_gradient_weight, curvature_weight=self.curvature_weight,
        )  # fmt: skip


@settings
class MoleculeSettings:
    """Labelled molecules.

    Attributes:
        structures: Number of structures.
        per_molecule: Structures of each molecule.
        torsions: How many of six structures have a single bond turned, half of them minimised around it.
        dynamics: How many of six structures are frames of Langevin MD with GFN2-xTB.
        dynamics_fs: Time of MD before each of its frames, fs; every 2 fs costs a label.
    """

    structures: int = setting(10_000, least=1, most=10**9)
    per_molecule: int = setting(12, least=1, most=10**5)
    torsions: int = setting(2, least=0, most=5)
    dynamics: int = setting(1, least=0, most=5)
    dynamics_fs: float = setting(20.0, least=2.0, most=1e5, unit="fs")

    def __post_init__(self) -> None:
        if self.torsions + self.dynamics > 5:
            allowed = f"at most {5 - self.torsions} beside --torsions {self.torsions}: one of six structures is a conformer"
            refuse(self, "dynamics", allowed=allowed, fix="lower one of them")
