"""How to train: settings, checked at construction. No torch in here, so that `--help` is quick."""

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
    """How to train.

    Attributes:
        max_minutes: Time budget, min, turned once into a number of steps by timing the first few (where steps is 0).
        max_epochs: Passes over the data at most (where steps is 0): a few hundred frames are learned by heart after more.
        steps: Optimiser steps; 0 for the time budget. A fixed number makes the result the same on every run.
        batch_size: Items per step.
        learning_rate: Peak learning rate; by default what suits the network. Linear warm-up, then a cosine down to 1 %.
        warmup: Steps of linear warm-up.
        ema: Decay per step of the moving average of the weights, which is what training returns.
        clip: Largest norm of the gradient.
        weight_decay: Decoupled decay per unit of learning rate; None for what suits the network.
        seed: Of the order of items and all other random choices.
    """

    max_minutes: float = setting(8.0, least=1e-3, most=1e5, unit="min")
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
        """With the learning rate and weight decay that suit this kind of network where none are set."""
        rate, decay = kind_of(net).rates
        return replace(
            self,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            weight_decay=decay if self.weight_decay is None else self.weight_decay,
        )


@settings
class PainnSize:
    """How large a message-passing student is.

    Attributes:
        width: Channels of the scalar and of the vector features.
        layers: Message and update blocks; it sees so many cutoffs far.
        radial: Radial basis functions.
        direct: Forces from a head of their own instead of the gradient of the energy: about twice as fast, but energy is not
            conserved and there is no stress.
    """

    width: int = setting(64, least=2, most=1024)
    layers: int = setting(3, least=1, most=12)
    radial: int = setting(16, least=2, most=64)
    direct: bool = False


@settings
class TrainSettings:
    """How to train a potential.

    Attributes:
        net: Network: moment (one hop, compiled, fastest) or painn (message passing).
        painn: Size of a message-passing student (the next five are the moment's).
        size: Size of the moment net: tiny is fastest, large most accurate. The next five change one part of it.
        cutoff: Cutoff, Å. 5 Å by default for a message-passing net.
        channels: Radial channels per degree.
        radial: Radial basis functions per species pair.
        degree: Highest degree of the harmonics.
        hidden: Width of the MLPs.
        energy_weight: Weight of |ΔE| per atom over the force scale × 1 Å.
        force_weight: Weight of ‖ΔF‖ over the teacher's RMS force component.
        stress_weight: Weight of |Δσ| over the teacher's RMS stress.
        atomic_weight: Weight of |ΔE_i| of each atom over the force scale × 1 Å, where the teacher tells them.
        curvature: Curvature labels: rows of the Hessian, random probes, any, none.
        curvature_weight: Weight of ‖ΔH·v‖ over the teacher's RMS product.
        curvature_every: Steps between curvature terms (each costs about two plain steps).
        curvature_probes: Probes (rows) of each structure in such a step.
        teacher_error: The teacher's own force error against these labels, meV/Å, where they are not its own: once the student's
            is within 5 % of it, the curvature's weight is halved.
        energy_gradient_weight: Of students with direct forces: weight of ‖−∇E − F‖ over the teacher's RMS force component.
        held_out: Fraction of the frames held out, as whole time blocks.
        float64: Train in double precision (twice as slow, rarely better).
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
    energy_weight: float = setting(10.0, least=0.0, below=1e6)
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
        """What the network of these elements is made with: of a moment student `network()`, of another the cutoff where one is
        given, and the block of settings that has its name."""
        size = self.network() if self.net == MomentSettings.kind else {} if self.cutoff is None else {"cutoff": self.cutoff}
        block = getattr(self, self.net, None)
        return resolve(kind_of(self.net).settings)(elements=elements, **size, **({} if block is None else asdict(block)))


@settings
class StrideSettings:
    """How to train a long-stride map.

    Attributes:
        map: splitting: kicks and drifts, symplectic, compiled. one_step: the whole stride by one network.
        one_step_net: Network of a one-step map. equivariant: impulses between pairs, from the forces. attention: no built-in
            symmetry.
        stride_fs: Time that one application advances, fs.
        shorter_fs: Further strides that a one-step map is taught, fs.
        kicks: Of a splitting map, force evaluations per stride; by default one for about every 8 fs, and two at least.
        kick_size: Of a splitting map's kicks. light: the student's cutoff, at most 8 channels, 6 radial functions, degree 2
            and 32 hidden units, little more than half the cost of a medium student. student: as large as the student.
        reversal: Half of the windows, drawn anew at every step, are run backwards; a splitting map is reversible as it is.
        turning: Windows are turned at random, which only a map without built-in symmetry needs; by default for attention.
        strides: Strides in a row that are compared with the exact flow.
        energy_weight: Weight of the error of the total energy after the last of them.
        held_out: Fraction of the segments held out, as whole blocks.
        float64: Forces in double precision in training (twice as slow, rarely better).
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
        """Longest time (minutes) that training takes, that of a light kick included."""
        light = self.map == "splitting" and self.kick_size == "light"
        return self.fit.max_minutes * (1.0 + KICK_SHARE * light)

    @property
    def strides_fs(self) -> tuple[float, ...]:
        """All strides it is taught, ascending."""
        return (*sorted(self.shorter_fs), self.stride_fs)

    @property
    def evaluations(self) -> int:
        """Force evaluations per stride."""
        return self.kicks or max(2, round(self.stride_fs / 8.0))


@settings
class ClosedFormSettings:
    """The linear student.

    Attributes:
        second: Channels per degree whose products of two are used.
        third: Channels whose products of three are used.
        curvature_frames: Frames whose curvature products are used (each costs two more frames); 0 for none.
        step_A: Largest displacement of an atom in their differences, Å.
        iterations: Of weights and noise in turns.
    """

    second: int = setting(14, least=1, most=64)
    third: int = setting(7, least=1, most=16)
    curvature_frames: int = setting(40, least=0, most=10**6)
    step_A: float = setting(1e-3, least=1e-5, most=0.1, unit="Å")
    iterations: int = setting(4, least=1, most=100)
