"""Settings of the judgement of each rung. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

from mdistill.analysis.settings import GateLimits
from mdistill.errors import BadInput
from mdistill.labelling.settings import SegmentSettings
from mdistill.simulation.ranges import within
from mdistill.training.settings import StrideSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateSettings:
    """How thoroughly to validate.

    Attributes:
        limits: What the student must keep to.
        replays: How often the student repeats the teacher's dynamics, for the RDFs; how far one lies from the others tells the
            noise of the teacher's own.
        equilibration_ps: Before each dynamics, ps.
        drift_ps: NVE run at the lowest and the highest temperature, ps.
        drift_step_fs: Time step of the NVE run, fs. At 1 fs the fluctuation of Verlet's energy is small enough to see the
            drift of the forces themselves in some ten ps.
        stability_ps: Dynamics at stability_factor × the highest temperature, ps.
        stability_factor: How much hotter than the highest temperature the student must hold out.
        time_step_fs: Time step, fs; by default 2, or 1 with hydrogen.
        scan_from_A: First distance of the pair scans, Å.
        speed_rounds: Rounds of the timing; each costs one teacher call.
        parity_points: Most points in a parity plot.
        seed: Seed of the dynamics.
    Raises:
        BadInput: A value that cannot be used.
    """

    limits: GateLimits = field(default_factory=GateLimits)
    replays: int = 16
    equilibration_ps: float = 1.0
    drift_ps: float = 50.0
    drift_step_fs: float = 1.0
    stability_ps: float = 20.0
    stability_factor: float = 1.2
    time_step_fs: float | None = None
    scan_from_A: float = 0.3
    speed_rounds: int = 9
    parity_points: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "replays": (4, 10_000), "equilibration_ps": (0.0, 1e6), "drift_ps": (0.1, 1e6),
            "drift_step_fs": (0.01, 10.0), "stability_ps": (0.01, 1e6),
            "stability_factor": (1.0, 10.0), "scan_from_A": (0.05, 1.5), "speed_rounds": (3, 1000),
            "parity_points": (10, 100_000),
        }  # fmt: skip
        for name, (low, high) in allowed.items():
            if not low <= getattr(self, name) <= high:
                raise BadInput(name, f"{getattr(self, name)}", allowed=f"{low:g} to {high:g}", fix="leave it out for the default")


@dataclass(frozen=True, slots=True, kw_only=True)
class VibrationSettings:
    """How thoroughly to compare the curvature of student and teacher.

    Attributes:
        whole_up_to: Atoms up to which the teacher's whole Hessian is computed: 3 curvature products an atom, about the price of
            6 force calls. Larger structures get `probes` instead, and no density of states.
        probes: Random directions, where not the whole Hessian.
        displaced: Structures displaced along normal modes, one teacher call each.
        temperature_K: Temperature of their amplitudes, K.
        farthest_A: Modes that would move an atom by more than this (root mean square, Å) are not displaced: they are too
            soft for harmonic amplitudes to be true. On Li6PS5Cl at 300 K 0.25 Å let single atoms collide, 0.15 Å did not.
        width_THz: Broadening of the density of states, THz.
        bands_up_to: Atoms in the primitive cell up to which phonon bands are drawn (0: never).
        supercell_A: Size of the supercell for the bands, Å; twice the teacher's reach leaves nothing out.
        relax_steps: Most steps of the student's relaxation.
        fmax: Largest force at which the student counts as relaxed, eV/Å.
        teacher_steps: Most steps of the teacher's relaxation from the student's minimum, one call each: shows how far that is
            from a minimum of the teacher's, also where the run's structure was none (0: not asked).
        seed: Of directions and displacements.
    Raises:
        BadInput: A value that cannot be used.
    """

    whole_up_to: int = 64
    probes: int = 24
    displaced: int = 8
    temperature_K: float = 300.0
    farthest_A: float = 0.15
    width_THz: float = 0.3
    bands_up_to: int = 12
    supercell_A: float = 12.0
    relax_steps: int = 500
    fmax: float = 0.005
    teacher_steps: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "whole_up_to": (0, 2000), "probes": (2, 10_000), "displaced": (2, 10_000), "temperature_K": (1e-3, 1e4),
            "farthest_A": (1e-3, 10.0), "width_THz": (1e-3, 100.0), "bands_up_to": (0, 200), "supercell_A": (1.0, 100.0),
            "relax_steps": (0, 1_000_000), "fmax": (1e-6, 1.0), "teacher_steps": (0, 1_000_000),
            "seed": (0, 2**63 - 1),
        }  # fmt: skip
        for name in (one.name for one in fields(self)):
            low, high = allowed[name]
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise BadInput(name, f"{value}", allowed=f"{low:g} to {high:g}", fix="leave it out for the default")


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
