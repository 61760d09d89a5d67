"""Settings of labelling. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from mdistill.settings import HOTTEST, LONGEST_STEP, USUAL_TIMEOUT, refuse, setting, settings
from mdistill.simulation.settings import GuardSettings


@settings
class LabelSettings:
    """Labels to compute with the teacher.

    Attributes:
        temperatures_K: Temperatures of the teacher's MD, K, run in this order, each from the end of the one before.
        frames: Number of MD frames per temperature and structure.
        blocks: Number of time blocks per temperature, the units of held-out sets.
        every_fs: Time between two frames, fs.
        equilibration_fs: Equilibration before the first frame at each temperature, fs.
        time_step_fs: Time step, fs; by default 2, or 0.5 with hydrogen, or 1 with heavy hydrogen.
        heavy_h: Mass of hydrogen, u, taken from the atom that it is bonded to; 0: the standard masses.
        friction_per_ps: Langevin friction, 1/ps; high, because frames should be uncorrelated.
        displaced: Number of randomly displaced copies of each MD frame, one teacher call each.
        displacement_A: Standard deviation of these displacements along each axis, Å.
        strains: Isotropic strains of the cell.
        shears: Number of randomly sheared cells.
        rattles: Standard deviations of random displacements, Å, one structure each.
        contacts: Number of structures with one pair compressed to 0.6–0.9 of its distance.
        defects: Number of crystal structures with a vacancy, or with two atoms of like charge swapped (default: none); of a slab
            or wire with an atom lifted off the surface (default: 20).
        probes: Number of curvature directions per probed frame.
        probe_kind: Directions of curvature labels: random, or rows of the Hessian.
        probe_every: Interval between frames with curvature labels, in frames.
        largest_force: Largest force of a labelled frame, eV/Å; frames with a larger one are left out.
        max_frames: Largest number of labels, displaced copies included; frames per temperature are reduced to fit.
        timeout_s: Longest teacher call, s; a longer one counts as failed.
    """

    temperatures_K: tuple[float, ...] = setting((300.0, 600.0, 900.0, 1200.0), above=0.0, most=HOTTEST, unit="K")
    frames: int = setting(80, least=1)
    blocks: int = setting(5, least=1)
    every_fs: float = setting(20.0, above=0.0, unit="fs")
    equilibration_fs: float = setting(200.0, least=0.0, unit="fs")
    time_step_fs: float | None = setting(None, above=0.0, most=20.0, unit="fs")
    heavy_h: float = setting(0.0, least=0.0, most=10.0, unit="u")
    friction_per_ps: float = setting(10.0, above=0.0, most=1000.0, unit="1/ps")
    displaced: int = setting(1, least=0)
    displacement_A: float = setting(0.05, above=0.0, below=1.0, unit="Å")
    strains: tuple[float, ...] = setting((-0.03, -0.015, 0.015, 0.03), above=-0.3, below=0.3)
    shears: int = setting(4, least=0)
    rattles: tuple[float, ...] = setting((0.02, 0.05, 0.1, 0.15), above=0.0, below=1.0, unit="Å")
    contacts: int = setting(20, least=0)
    defects: int | None = setting(None, least=1, most=10_000)
    probes: int = setting(1, least=0)
    probe_kind: Literal["random", "rows"] = "random"
    probe_every: int = setting(4, least=1)
    largest_force: float = setting(50.0, above=0.0, unit="eV/Å")
    max_frames: int = setting(100_000, least=1)
    timeout_s: float = setting(USUAL_TIMEOUT, above=0.0, unit="s")

    def __post_init__(self) -> None:
        if self.blocks > self.frames:
            refuse(self, "blocks", allowed=f"1 to the number of frames, {self.frames}", fix="fewer blocks, or more frames")
        if self.every_fs < (step := self.time_step_fs or 0.0):
            refuse(self, "every_fs", allowed=f"at least one time step, {step:g} fs", fix="frames further apart")


@settings
class SegmentSettings:
    """NVE trajectories that a long-stride map is trained on.

    Attributes:
        temperatures_K: Temperatures of the Langevin runs, K; by default those of the labels, else 300, 600 and 900 K.
        strains: Isotropic strains of the cell, one run each; use several for NpT.
        segments: Number of segments per structure, temperature and strain.
        frames: Number of frames of a segment after the first.
        every_fs: Time between two frames, fs; strides are multiples of it.
        time_step_fs: Time step, fs; by default a quarter of the usual step.
        between_fs: Langevin dynamics between two segments, fs; by default the velocity correlation time.
        equilibration_ps: Equilibration before the first segment, ps.
        friction_per_ps: Langevin friction, 1/ps.
        blocks: Number of time blocks of each run, the units of held-out sets.
        guard: Limits that stop a broken run.
    """

    temperatures_K: tuple[float, ...] = setting((), above=0.0, most=HOTTEST, unit="K")
    strains: tuple[float, ...] = setting((0.0,), above=-0.3, most=0.3)
    segments: int = setting(150, least=1, most=1_000_000)
    frames: int = setting(8, least=1, most=100_000)
    every_fs: float = setting(4.0, above=0.0, most=1000.0, unit="fs")
    time_step_fs: float | None = setting(None, above=0.0, most=LONGEST_STEP, unit="fs")
    between_fs: float | None = setting(None, above=0.0, most=1e6, unit="fs")
    equilibration_ps: float = setting(2.0, least=0.0, most=1e6, unit="ps")
    friction_per_ps: float = setting(10.0, above=0.0, most=1000.0, unit="1/ps")
    blocks: int = setting(10, least=1)
    guard: GuardSettings = field(default_factory=GuardSettings)

    def __post_init__(self) -> None:
        if not self.strains:
            refuse(self, "strains", allowed="at least one", fix="0 for the cell as it is")
        if self.blocks > self.segments:
            refuse(self, "blocks", allowed=f"1 to the number of segments, {self.segments}", fix="fewer blocks, or more segments")


EnergyUnit = Literal["eV", "meV", "Ha", "Ry", "kcal/mol", "kJ/mol"]
ForcesUnit = Literal["eV/A", "meV/A", "Ha/Bohr", "Ha/A", "Ry/Bohr", "kcal/mol/A", "kJ/mol/A"]
StressUnit = Literal["eV/A3", "GPa", "kB", "Ha/Bohr3"]
StressSign = Literal["tension", "compression"]


@settings
class LabelFileSettings:
    """Labels in files of other programs.

    Attributes:
        energy_key, forces_key, stress_key: Names in the files; by default the usual ones (energy, REF_energy, …).
        group_key: Name of the group of a frame; by default config_type, else the composition.
        energy_unit, forces_unit, stress_unit: Units in the files; by default eV, eV/Å and eV/Å³, and labels that contradict
            them are refused. A unit that is given is used, and a contradiction becomes a note.
        stress_sign: The positive sense of the stress in the files: tension (ASE) or compression (VASP, LAMMPS).
        hold_out: Held-out frames: the last blocks of every group, or whole groups.
        hold_out_groups: Names of the groups to hold out.
        held_out: Fraction of the frames held out.
        most_structures: Largest number of structures read of a file of SPICE or QCML, taken evenly over it; by default all.
    """

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    group_key: str | None = None
    energy_unit: EnergyUnit | None = None
    forces_unit: ForcesUnit | None = None
    stress_unit: StressUnit | None = None
    stress_sign: StressSign | None = None
    hold_out: Literal["blocks", "groups"] = "blocks"
    hold_out_groups: tuple[str, ...] = ()
    held_out: float = setting(0.15, above=0.0, below=0.9)
    most_structures: int | None = setting(None, least=2, most=10**9)
