"""Settings of the segments that long-stride maps are taught with. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from mdistill.errors import BadInput
from mdistill.simulation.ranges import within
from mdistill.simulation.settings import GuardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings:
    """Segments of the exact flow.

    Attributes:
        temperatures_K: Each has its own Langevin run, K.
        strains: Isotropic strains of the cell, each with its own run; several for maps that are to run at constant pressure.
        segments: Per structure, temperature and strain.
        frames: Frames of a segment after its first.
        spacing_fs: Time between two frames, fs; strides are multiples of it.
        time_step_fs: Of the exact flow, fs; by default a quarter of the usual step.
        apart_fs: Langevin dynamics between two segments, fs; by default the time in which velocities lose their correlation.
        equilibration_ps: Before the first segment, ps.
        friction_per_ps: Langevin friction, 1/ps.
        blocks: Contiguous parts of each run, the units of held-out sets.
        seed: Of all randomness.
        guard: When to stop a broken run.
    """

    temperatures_K: tuple[float, ...] = (300.0, 600.0, 900.0)
    strains: tuple[float, ...] = (0.0,)
    segments: int = 150
    frames: int = 8
    spacing_fs: float = 4.0
    time_step_fs: float | None = None
    apart_fs: float | None = None
    equilibration_ps: float = 2.0
    friction_per_ps: float = 10.0
    blocks: int = 10
    seed: int = 0
    guard: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        for kelvin in self.temperatures_K:
            within("temperatures_K", kelvin, 0.0, 20000.0, unit="K")
        for strain in self.strains:
            within("strains", strain, -0.3, 0.3)
        if not self.temperatures_K or not self.strains:
            raise BadInput("segments", "no temperature or no strain", allowed="at least one of each", fix="keep the defaults")
        within("segments", self.segments, 1, 1_000_000, open_low=False)
        within("frames", self.frames, 1, 100_000, open_low=False)
        within("spacing_fs", self.spacing_fs, 0.0, 1000.0, unit="fs")
        for name in ("time_step_fs", "apart_fs"):
            value = getattr(self, name)
            if value is not None:
                within(name, value, 0.0, 10.0 if name == "time_step_fs" else 1e6, unit="fs")
        within("equilibration_ps", self.equilibration_ps, 0.0, 1e6, unit="ps", open_low=False)
        within("friction_per_ps", self.friction_per_ps, 0.0, 1000.0, unit="1/ps")
        within("blocks", self.blocks, 1, self.segments, open_low=False)
        within("seed", self.seed, 0, 2**31, open_low=False)
