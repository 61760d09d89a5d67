"""Settings of the segments that long-stride maps are taught with. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mdistill.errors import BadInput
from mdistill.simulation.ranges import within
from mdistill.simulation.settings import GuardSettings
from mdistill.training.settings import StrideSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings:
    """Segments of the exact flow.

    Attributes:
        temperatures_K: Each has its own Langevin run, K; by default those the run was labelled at, else 300, 600 and 900 K.
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

    temperatures_K: tuple[float, ...] = ()
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
        if not self.strains:
            raise BadInput("strains", "none", allowed="at least one", fix="--segments.strains 0")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """How a long-stride map is judged against small steps of the potential it was taught; and, from another start, the strength
    of its kicks found.

    Attributes:
        temperature_K: Of the dynamics, K; by default the middle one of the segments'.
        time_ps: Of each run, ps. In NVE the mean temperature of 52 atoms is known to 1 K after 1000 ps, under a thermostat (from
            its heat) to 0.6 K after 100 ps; that of four of them to 5 K after 1000 ps.
        longest_ps: A run whose mean temperatures are not known well enough for their gates, or lie within their error of a
            limit, goes on up to this time, ps; one known worse than its limit then still fails its gate.
        equilibration_ps: Before them, ps.
        time_step_fs: Of the small steps, fs; by default half of the usual step.
        every_fs: Between frames, fs.
        friction_per_ps: Of the Langevin runs, 1/ps.
        relaxation_fs: Of the Bussi runs, fs.
        temperature_limit_K: Largest error of the mean temperature.
        element_limit_K: Largest error of the mean temperature of an element.
        rdf_divergence: Largest Jensen–Shannon divergence of any pair's RDF.
        rounds: Of timing.
        seed: Of velocities and thermostats.
    """

    temperature_K: float | None = None
    time_ps: float = 400.0
    longest_ps: float = 4000.0
    equilibration_ps: float = 5.0
    time_step_fs: float | None = None
    every_fs: float = 96.0
    friction_per_ps: float = 1.0
    relaxation_fs: float = 100.0
    temperature_limit_K: float = 2.0
    element_limit_K: float = 5.0
    rdf_divergence: float = 0.02
    rounds: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature_K is not None:
            within("temperature_K", self.temperature_K, 0.0, 20000.0, unit="K")
        within("time_ps", self.time_ps, 0.0, 1e7, unit="ps")
        within("longest_ps", self.longest_ps, 0.0, 1e7, unit="ps")
        within("equilibration_ps", self.equilibration_ps, 0.0, 1e6, unit="ps", open_low=False)
        if self.time_step_fs is not None:
            within("time_step_fs", self.time_step_fs, 0.0, 10.0, unit="fs")
        within("every_fs", self.every_fs, 0.0, 1e6, unit="fs")
        within("friction_per_ps", self.friction_per_ps, 0.0, 1000.0, unit="1/ps")
        within("relaxation_fs", self.relaxation_fs, 0.0, 1e6, unit="fs")
        for name in ("temperature_limit_K", "element_limit_K", "rdf_divergence"):
            within(name, getattr(self, name), 0.0, 1e6)
        within("rounds", self.rounds, 3, 1000, open_low=False)
        within("seed", self.seed, 0, 2**31, open_low=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrideRungSettings:
    """The stride rung.

    Attributes:
        segments: Of the student's exact flow.
        train: The map.
        judge: Its dynamics beside small steps.
        skin_A: Skin of the neighbour lists, Å.
    """

    segments: SegmentSettings = field(default_factory=SegmentSettings)
    train: StrideSettings = field(default_factory=StrideSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    skin_A: float = 1.5

    def __post_init__(self) -> None:
        within("skin_A", self.skin_A, 0.0, 5.0, unit="Å", open_low=False)
        longest = self.segments.frames * self.segments.spacing_fs
        if self.train.stride_fs * self.train.strides > longest * (1 + 1e-9):
            raise BadInput(
                "stride_fs",
                f"{self.train.stride_fs:g} fs, {self.train.strides} in a row",
                allowed=f"{longest:g} fs in all",
                fix="--segments.frames for longer segments",
            )

    def resolved(self, temperatures_K: tuple[float, ...]) -> StrideRungSettings:
        """With the temperatures filled in where they were left open."""
        known = self.segments.temperatures_K or temperatures_K or (300.0, 600.0, 900.0)
        middle = sorted(known)[(len(known) - 1) // 2] if self.judge.temperature_K is None else self.judge.temperature_K
        return replace(
            self, segments=replace(self.segments, temperatures_K=known), judge=replace(self.judge, temperature_K=middle)
        )


def duration_fs(text: str, *, subject: str) -> float:
    """ "16fs", "16 fs" or "16" as femtoseconds.

    Raises:
        BadInput: No number with or without that unit.
    """
    try:
        return float(text.strip().removesuffix("fs"))
    except ValueError:
        raise BadInput(subject, repr(text), allowed="a time like 16fs", fix=f"--{subject} 16fs") from None
