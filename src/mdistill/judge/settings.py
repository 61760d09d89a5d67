"""Settings of the judgement of each rung. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import field, replace

from mdistill.analysis.settings import GateLimits
from mdistill.labelling.settings import SegmentSettings
from mdistill.settings import HOTTEST, LONGEST_STEP, SEEDS, refuse, setting, settings
from mdistill.training.settings import StrideSettings


@settings
class ValidateSettings:
    """Validation of a student.

    Attributes:
        limits: Limits of the gates.
        replays: Number of student replicas of the teacher's MD, 4 or more. Their scatter sets the noise of the RDFs. 0: no RDFs.
        equilibration_ps: Equilibration before each run, ps.
        drift_ps: Length of the NVE runs at the lowest and highest temperature, ps.
        drift_step_fs: Longest time step of the NVE run, fs (0.5 with hydrogen). At 1 fs Verlet's energy fluctuates little enough
            to show the drift of the forces within some ten ps.
        stability_ps: Length of the MD at stability_factor × the highest temperature, ps.
        stability_factor: Temperature of the stability run over the highest temperature.
        time_step_fs: Time step, fs; by default 2, or 0.5 with hydrogen.
        scan_from_A: First distance of the pair scans, Å.
        speed_repeats: Number of timings; each costs one teacher call.
        parity_points: Largest number of points in a parity plot.
    Raises:
        BadInput: A value that cannot be used.
    """

    limits: GateLimits = field(default_factory=GateLimits)
    replays: int = setting(16, least=0, most=10_000)
    equilibration_ps: float = setting(1.0, least=0.0, most=1e6, unit="ps")
    drift_ps: float = setting(50.0, least=0.1, most=1e6, unit="ps")
    drift_step_fs: float = setting(1.0, least=0.01, most=LONGEST_STEP, unit="fs")
    stability_ps: float = setting(20.0, least=0.01, most=1e6, unit="ps")
    stability_factor: float = setting(1.2, least=1.0, most=10.0)
    time_step_fs: float | None = setting(None, above=0.0, most=LONGEST_STEP, unit="fs")
    scan_from_A: float = setting(0.3, least=0.05, most=1.5, unit="Å")
    speed_repeats: int = setting(9, least=3, most=1000)
    parity_points: int = setting(1500, least=10, most=100_000)

    def __post_init__(self) -> None:
        if 0 < self.replays < 4:
            refuse(self, "replays", allowed="4 or more, or 0 for no RDFs", fix="leave it out for the default, 16")


@settings
class CheckSettings:
    """Teacher labels of production frames.

    Attributes:
        frames: Number of production frames per temperature sent to the teacher, over all runs; 0: no check.
        hop_distance: Shortest hop of the mobile ion, Å. Half of the frames are drawn while an ion hops.
    Raises:
        BadInput: A value that cannot be used.
    """

    frames: int = setting(30, least=0, most=100_000)
    hop_distance: float = setting(1.5, above=0.0, most=20.0, unit="Å")


@settings
class VibrationSettings:
    """Comparison of the curvature of student and teacher.

    Attributes:
        whole_up_to: Largest number of atoms for the teacher's whole Hessian, which costs about 6 force calls an atom. Larger
            structures use `probes` and have no density of states.
        probes: Number of random directions in place of the whole Hessian.
        displaced: Number of structures displaced along normal modes, one teacher call each.
        temperature_K: Temperature of the displacements, K.
        farthest_A: Largest root mean square displacement of an atom, Å; softer modes are not displaced. On Li6PS5Cl at 300 K
            atoms collided at 0.25 Å, not at 0.15 Å.
        width_THz: Broadening of the density of states, THz.
        bands_up_to: Largest number of atoms in the primitive cell for phonon bands; 0: no bands.
        supercell_A: Size of the supercell for phonon bands, Å; twice the teacher's cutoff is exact.
        relax_steps: Largest number of steps of the student's relaxation.
        largest_force: Largest force at which the student counts as relaxed, eV/Å.
        teacher_steps: Largest number of steps of the teacher's relaxation from the student's minimum, one call each; 0: none.
        seed: Seed of directions and displacements.
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
    seed: int = setting(0, least=0, most=SEEDS)


@settings
class JudgeSettings:
    """Comparison of a long-stride map with time steps of its student. The kick scale is set from another start.

    Attributes:
        temperature_K: Temperature of the runs, K; by default the middle one of the segments.
        time_ps: Length of each run, ps. The mean temperature of 52 atoms is known to 1 K after 1000 ps in NVE, and to 0.6 K after
            100 ps under a thermostat (from its heat); that of four atoms to 5 K after 1000 ps.
        longest_ps: Longest run, ps. A run continues while a mean temperature is too uncertain for its gate or within its error
            of the limit; a mean more uncertain than its limit fails the gate.
        equilibration_ps: Equilibration before each run, ps.
        time_step_fs: Time step of the reference runs, fs; by default half of the usual step.
        every_fs: Time between frames, fs.
        friction_per_ps: Friction of the Langevin runs, 1/ps.
        relaxation_fs: Relaxation time of the Bussi runs, fs.
        temperature_limit_K: Largest error of the mean temperature, K.
        element_limit_K: Largest error of the mean temperature of an element, K.
        rdf_divergence: Largest Jensen–Shannon divergence of any pair's RDF.
        repeats: Number of timings.
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


@settings
class StrideRungSettings:
    """The stride rung.

    Attributes:
        segments: NVE trajectories of the student.
        train: The map.
        judge: Comparison with time steps.
        skin_A: Skin of the neighbour lists, Å.
    """

    segments: SegmentSettings = field(default_factory=SegmentSettings)
    train: StrideSettings = field(default_factory=StrideSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    skin_A: float = setting(1.5, least=0.0, most=5.0, unit="Å")

    def __post_init__(self) -> None:
        longest = self.segments.frames * self.segments.every_fs
        if self.train.stride_fs * self.train.strides > longest * (1 + 1e-9):
            allowed = f"at most {longest / self.train.strides:g} fs, for {self.train.strides} in a row in a segment"
            refuse(self.train, "stride_fs", allowed=allowed, fix="more frames for longer segments")

    def resolved(self, temperatures_K: tuple[float, ...]) -> StrideRungSettings:
        """The settings with temperatures filled in where they are not set."""
        known = self.segments.temperatures_K or temperatures_K or (300.0, 600.0, 900.0)
        middle = sorted(known)[(len(known) - 1) // 2] if self.judge.temperature_K is None else self.judge.temperature_K
        return replace(
            self, segments=replace(self.segments, temperatures_K=known), judge=replace(self.judge, temperature_K=middle)
        )
