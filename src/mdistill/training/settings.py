"""Settings of training. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import asdict, field, replace
from typing import Any, Literal

import tyro

from mdistill.nets.catalogue import ONE_STEP_NETS, MapName, PotentialName, kind_of, resolve
from mdistill.nets.settings import LONGEST_STRIDE, MAX_DEGREE, SIZES, MomentSettings
from mdistill.settings import SEEDS, refuse, setting, settings

KICK_SHARE = 0.3
"""Time that training a light kick takes, over that of training its map."""


@settings
class FitSettings:
    """A fit by gradient descent.

    Attributes:
        max_minutes: CPU time of the training thread (min), where steps is 0. A busy machine takes longer by the clock.
        least_steps: Fewest steps, also where they exceed the time budget, but not max_epochs. A fit with fewer is reported.
        max_epochs: Largest number of passes over the data.
        steps: Optimiser steps; 0 for the time budget. A fixed number makes the result the same on every run.
        batch_size: Number of structures per step.
        learning_rate: Peak learning rate; by default what suits the network. Linear warm-up, then a cosine down to 1 %.
        warmup: Number of steps of linear warm-up.
        ema: Decay per step of the moving average of the weights, the result of training.
        clip: Largest norm of the gradient.
        weight_decay: Decoupled decay per unit of learning rate; by default that of the network.
        seed: Seed of the order of structures and all other random choices.
    """

    max_minutes: float = setting(8.0, least=1e-3, most=1e5, unit="min")
    least_steps: int = setting(1000, least=1, most=10**8)
    max_epochs: int = setting(120, least=1, most=10**6)
    steps: int = setting(0, least=0, most=10**8)
    batch_size: int = setting(8, least=1, most=10**4)
    learning_rate: float | None = setting(None, least=1e-8, most=1.0)
    warmup: int = setting(50, least=1, most=10**6)
    ema: float = setting(0.99, least=0.0, most=0.999999)
    clip: float = setting(10.0, least=1e-6, most=1e6)
    weight_decay: float | None = setting(None, least=0.0, most=1.0)
    seed: tyro.conf.Suppress[int] = setting(0, least=0, most=SEEDS)

    def suited(self, net: str) -> FitSettings:
        """The settings with the learning rate and weight decay of this kind of network where none are set."""
        rate, decay = kind_of(net).rates
        return replace(
            self,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            weight_decay=decay if self.weight_decay is None else self.weight_decay,
        )


@settings
class PainnSize:
    """Size of a message-passing student.

    Attributes:
        width: Number of channels of the scalar and vector features.
        layers: Number of message blocks; the range is this many cutoffs.
        radial: Number of radial basis functions.
        direct: Forces from a head of their own: twice as fast, but energy is not conserved and there is no stress.
    """

    width: int = setting(64, least=2, most=1024)
    layers: int = setting(3, least=1, most=12)
    radial: int = setting(16, least=2, most=64)
    direct: bool = False


@settings
class TrainSettings:
    """Training of a potential.

    Attributes:
        net: Network: moment (one hop, compiled, fastest) or painn (message passing).
        painn: Size of a message-passing student.
        size: Size of the moment net: tiny is fastest, large most accurate. The next five change one part of it.
        cutoff: Cutoff, Å. 5 Å by default for a message-passing net.
        channels: Number of radial channels per degree.
        radial: Number of radial basis functions per species pair.
        degree: Highest degree of the spherical harmonics.
        hidden: Width of the MLPs.
        energy_weight: Weight of |ΔE| per atom over the force scale × 1 Å.
        force_weight: Weight of ‖ΔF‖ over the teacher's RMS force component.
        stress_weight: Weight of |Δσ| over the teacher's RMS stress.
        atomic_weight: Weight of |ΔE_i| of each atom over the force scale × 1 Å, if the teacher has atomic energies.
        curvature: Curvature labels: rows of the Hessian, random probes, any, none.
        curvature_weight: Weight of ‖ΔH·v‖ over the teacher's RMS product.
        curvature_every: Steps between curvature terms (each costs about two plain steps).
        curvature_probes: Number of probes (rows) of each structure in such a step.
        teacher_error: Force error of the teacher against labels of another origin, meV/Å. The curvature weight is halved once
            the student's error is within 5 % of it.
        energy_gradient_weight: Weight for students with direct forces of ‖−∇E − F‖ over the teacher's RMS force component.
        held_out: Fraction of the frames held out, as whole time blocks.
        float64: Double precision in training (twice as slow, rarely better).
        fit: Time, batch size, learning rate, seed.
    """

    net: PotentialName = "moment"
    painn: PainnSize = field(default_factory=PainnSize)
    size: Literal["tiny", "small", "medium", "large"] = "medium"
    cutoff: float | None = setting(None, above=1.0, most=15.0, unit="Å")
    channels: int | None = setting(None, least=1, most=64)
    radial: int | None = setting(None, least=2, most=64)
    degree: int | None = setting(None, least=1, most=MAX_DEGREE)
    hidden: int | None = setting(None, least=0, most=1024)
    energy_weight: float = setting(2.0, least=0.0, below=1e6)
    force_weight: float = setting(1.0, least=0.0, below=1e6)
    stress_weight: float = setting(0.1, least=0.0, below=1e6)
    atomic_weight: float = setting(0.0, least=0.0, below=1e6)
    curvature: Literal["any", "rows", "probes", "none"] = "any"
    curvature_weight: float = setting(1.0, least=0.0, below=1e6)
    curvature_every: int = setting(4, least=1, most=10**6)
    curvature_probes: int = setting(1, least=1, most=1000)
    teacher_error: float | None = setting(None, above=0.0, most=1e6, unit="meV/Å")
    energy_gradient_weight: float = setting(0.05, least=0.0, below=1e6)
    held_out: float = setting(0.15, above=0.0, below=0.9)
    float64: bool = False
    fit: FitSettings = field(default_factory=FitSettings)

    def network(self) -> dict[str, Any]:
        """The part that fixes a moment network: cutoff, channels, radial, degree, hidden."""
        return {name: usual if getattr(self, name) is None else getattr(self, name) for name, usual in SIZES[self.size].items()}

    def student(self, elements: tuple[int, ...]) -> Any:
        """Settings of the network for these elements: `network()` of a moment student; for others the cutoff, if set, and the
        block of settings with its name."""
        size = self.network() if self.net == MomentSettings.kind else {} if self.cutoff is None else {"cutoff": self.cutoff}
        block = getattr(self, self.net, None)
        return resolve(kind_of(self.net).settings)(elements=elements, **size, **({} if block is None else asdict(block)))


@settings
class StrideSettings:
    """Training of a long-stride map.

    Attributes:
        map: Kind of map: splitting (kicks and drifts, symplectic, compiled) or one_step (one network for the whole stride).
        one_step_net: Network of a one-step map: equivariant (impulses between pairs) or attention (no built-in symmetry).
        stride_fs: Stride, fs.
        shorter_fs: Further training strides of a one-step map, fs.
        kicks: Number of force evaluations per stride of a splitting map; by default one per 8 fs, at least two.
        kick_size: Size of the kicks of a splitting map: light (about half the cost of a medium student) or student.
        reversal: Time reversal of half of the windows, chosen at every step; splitting maps are reversible anyway.
        turning: Random rotation of the windows; by default only for attention, which has no built-in symmetry.
        strides: Number of consecutive strides compared with NVE dynamics.
        energy_weight: Weight of the error of the total energy after these strides.
        held_out: Fraction of the segments held out, as whole blocks.
        float64: Double-precision forces in training (twice as slow, rarely better).
        fit: Time, batch size, learning rate, seed.
    """

    map: MapName = "splitting"
    one_step_net: Literal["equivariant", "attention"] = "equivariant"
    stride_fs: float = setting(16.0, above=0.0, most=LONGEST_STRIDE, unit="fs", fix="16 fs suits most solids")
    shorter_fs: tuple[float, ...] = setting((), above=0.0, most=LONGEST_STRIDE, unit="fs")
    kicks: int | None = setting(None, least=1, most=64, fix="one for about every 8 fs, two at least")
    kick_size: Literal["light", "student"] = "light"
    reversal: bool = False
    turning: bool | None = None
    strides: int = setting(1, least=1, most=100)
    energy_weight: float = setting(0.0, least=0.0, below=1e6)
    held_out: float = setting(0.1, above=0.0, below=0.9)
    float64: bool = False
    fit: FitSettings = field(default_factory=lambda: FitSettings(batch_size=4, max_minutes=10.0))

    def __post_init__(self) -> None:
        if self.shorter_fs and (self.map == "splitting" or max(self.shorter_fs) >= self.stride_fs):
            refuse(self, "shorter_fs", allowed="strides of a one-step map shorter than stride_fs", fix="leave it out")

    @property
    def kind(self) -> str:
        """The map's name in `nets.catalogue`."""
        return ONE_STEP_NETS[self.one_step_net] if self.map == "one_step" else self.map

    @property
    def most_minutes(self) -> float:
        """Longest training time (minutes), with that of a light kick."""
        light = self.map == "splitting" and self.kick_size == "light"
        return self.fit.max_minutes * (1.0 + KICK_SHARE * light)

    @property
    def strides_fs(self) -> tuple[float, ...]:
        """All training strides, ascending."""
        return (*sorted(self.shorter_fs), self.stride_fs)

    @property
    def evaluations(self) -> int:
        """Force evaluations per stride."""
        return self.kicks or max(2, round(self.stride_fs / 8.0))


@settings
class ClosedFormSettings:
    """The closed-form fit of a linear student.

    Attributes:
        second: Number of channels per degree in products of two.
        third: Number of channels in products of three.
        curvature_frames: Number of frames with curvature products (each costs two more frames); 0: none.
        step_A: Largest displacement of an atom in finite differences, Å.
        iterations: Number of alternating fits of weights and noise.
    """

    second: int = setting(14, least=1, most=64)
    third: int = setting(7, least=1, most=16)
    curvature_frames: int = setting(40, least=0, most=10**6)
    step_A: float = setting(1e-3, least=1e-5, most=0.1, unit="Å")
    iterations: int = setting(4, least=1, most=100)


@settings
class HardFitSettings:
    """Training on hard labels after soft ones.

    Attributes:
        rate: Learning rate, as a share of the first fit's.
        time: Time or steps, as a share of the first fit's.
        share: Share of hard labels among all in training; by default n / (n + 10) of n labels.
        test: Share of the hard labels that is left for the test.
    """

    rate: float = setting(0.5, above=0.0, most=1.0)
    time: float = setting(0.5, above=0.0, most=10.0)
    share: float | None = setting(None, above=0.0, below=1.0)
    test: float = setting(0.15, least=0.0, below=0.9)
