"""Settings of the judgement of each rung. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import field, replace

import tyro

from mdistill.analysis.settings import GateLimits
from mdistill.errors import BadInput
from mdistill.labelling.settings import SegmentSettings
from mdistill.settings import HOTTEST, LONGEST_STEP, SEEDS, child_seed, setting, settings
from mdistill.training.settings import StrideSettings


@settings
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
        speed_repeats: Repeats of the timing; each costs one teacher call.
        parity_points: Most points in a parity plot.
        seed: Seed of the dynamics.
    Raises:
        BadInput: A value that cannot be used.
    """

    limits: GateLimits = field(default_factory=GateLimits)
    replays: int = setting(16, least=4, most=10_000)
    equilibration_ps: float = setting(1.0, least=0.0, most=1e6, unit="ps")
    drift_ps: float = setting(50.0, least=0.1, most=1e6, unit="ps")
    drift_step_fs: float = setting(1.0, least=0.01, most=LONGEST_STEP, unit="fs")
    stability_ps: float = setting(20.0, least=0.01, most=1e6, unit="ps")
    stability_factor: float = setting(1.2, least=1.0, most=10.0)
    time_step_fs: float | None = setting(None, above=0.0, most=LONGEST_STEP, unit="fs")
    scan_from_A: float = setting(0.3, least=0.05, most=1.5, unit="Å")
    speed_repeats: int = setting(9, least=3, most=1000)
    parity_points: int = setting(1500, least=10, most=100_000)
    seed: tyro.conf.Suppress[int] = setting(0, least=0, most=SEEDS)


@settings
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
        largest_force: Largest force at which the student counts as relaxed, eV/Å.
        teacher_steps: Most steps of the teacher's relaxation from the student's minimum, one call each: shows how far that is
            from a minimum of the teacher's, also where the run's structure was none (0: not asked).
        seed: Of directions and displacements.
    Raises:
        BadInput: A value that cannot be used.
    """

    whole_up_to: int = setting(64, least=0, most=2000)
    probes: int = setting(24, least=2, most=10_000)
    displaced: int = setting(8, least=2, most=10_000)
    temperature_K: float = setting(300.0, least=1e-3, most=1e4, unit="K")
    farthest_A: float = setting(0.15, least=1e-3, most=10.0, unit="Å")
    width_THz: float = setting(0.3, least=1e-3, most=100.0, unit="THz")
    bands_up_to: int = setting(12, least=0, most=200)
    supercell_A: float = setting(12.0, least=1.0, most=100.0, unit="Å")
    relax_steps: int = setting(500, least=0, most=1_000_000)
    largest_force: float = setting(0.005, least=1e-6, most=1.0, unit="eV/Å")
    teacher_steps: int = setting(60, least=0, most=1_000_000)
    seed: tyro.conf.Suppress[int] = setting(0, least=0, most=SEEDS)


@settings
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
        repeats: Of timing.
        seed: Of velocities and thermostats.
    """

    temperature_K: float | None = setting(None, above=0.0, most=HOTTEST, unit="K")
    time_ps: float = setting(400.0, above=0.0, most=1e7, unit="ps")
    longest_ps: float = setting(4000.0, above=0.0, most=1e7, unit="ps")
    equilibration_ps: float = setting(5.0, least=0.0, most=1e6, unit="ps")
    time_step_fs: float | None = setting(None, above=0.0, most=LONGEST_STEP, unit="fs")
    every_fs: float = setting(96.0, above=0.0, most=1e6, unit="fs")
    friction_per_ps: float = setting(1.0, above=0.0, most=1000.0, unit="1/ps")
    relaxation_fs: float = setting(100.0, above=0.0, most=1e6, unit="fs")
    temperature_limit_K: float = setting(2.0, above=0.0, most=1e6, unit="K")
    element_limit_K: float = setting(5.0, above=0.0, most=1e6, unit="K")
    rdf_divergence: float = setting(0.02, above=0.0, most=1e6)
    repeats: int = setting(7, least=3, most=1000)
    seed: tyro.conf.Suppress[int] = setting(0, least=0, most=SEEDS)


@settings
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
    skin_A: float = setting(1.5, least=0.0, most=5.0, unit="Å")

    def __post_init__(self) -> None:
        longest = self.segments.frames * self.segments.every_fs
        if self.train.stride_fs * self.train.strides > longest * (1 + 1e-9):
            raise BadInput(
                "stride_fs",
                f"{self.train.stride_fs:g} fs, {self.train.strides} in a row",
                allowed=f"{longest:g} fs in all",
                fix="--segments.frames for longer segments",
            )

    def seeded(self, seed: int) -> StrideRungSettings:
        """With seeds derived from one."""
        fit = replace(self.train.fit, seed=child_seed(seed, "train"))
        segments, judge = (
            replace(part, seed=child_seed(seed, name)) for name, part in (("segments", self.segments), ("judge", self.judge))
        )
        return replace(self, segments=segments, train=replace(self.train, fit=fit), judge=judge)

    def resolved(self, temperatures_K: tuple[float, ...]) -> StrideRungSettings:
        """With the temperatures filled in where they were left open."""
        known = self.segments.temperatures_K or temperatures_K or (300.0, 600.0, 900.0)
        middle = sorted(known)[(len(known) - 1) // 2] if self.judge.temperature_K is None else self.judge.temperature_K
        return replace(
            self, segments=replace(self.segments, temperatures_K=known), judge=replace(self.judge, temperature_K=middle)
        )
