"""Settings of labelling. No torch in here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mdistill.errors import BadInput
from mdistill.simulation.ranges import within
from mdistill.simulation.settings import GuardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """What the teacher is asked.

    Attributes:
        temperatures_K: The ladder, visited in this order, each from where the one before ended, K.
        frames: Frames kept per temperature and structure.
        blocks: Contiguous time blocks per temperature, the units of held-out sets.
        spacing_fs: Time between two frames, fs.
        equilibration_fs: Time before the first frame at each temperature, fs.
        time_step_fs: Time step, fs.
        friction_per_ps: Langevin friction, 1/ps; high, since decorrelated frames matter more than dynamics.
        displaced: Copies of every kept frame with all atoms displaced at random: a teacher call each, where the frame itself cost
            the many steps between two frames.
        displacement_A: Standard deviation of these displacements per axis, Å.
        strains: Isotropic strains of the cell.
        shears: Random strained cells.
        rattles: Standard deviations of random displacements, Å, one structure each (the undisturbed one is always labelled).
        contacts: Structures with one pair pressed to 0.6–0.9 of its distance, kinds of pairs in turn.
        probes: Curvature directions per probed frame.
        probe_kind: random directions (most told per number), or rows of the Hessian.
        probe_every: Every how many frames one is probed.
        force_cap: Frames with a larger force are left out, eV/Å.
        max_frames: Total, displaced copies included; frames per temperature are reduced to fit.
        timeout_s: A teacher call that takes longer counts as failed, s.
        seed: Seed of all randomness.
    """

    temperatures_K: tuple[float, ...] = (300.0, 600.0, 900.0, 1200.0)
    frames: int = 80
    blocks: int = 5
    spacing_fs: float = 20.0
    equilibration_fs: float = 200.0
    time_step_fs: float = 2.0
    friction_per_ps: float = 10.0
    displaced: int = 1
    displacement_A: float = 0.05
    strains: tuple[float, ...] = (-0.03, -0.015, 0.015, 0.03)
    shears: int = 4
    rattles: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15)
    contacts: int = 20
    probes: int = 1
    probe_kind: Literal["random", "rows"] = "random"
    probe_every: int = 4
    force_cap: float = 50.0
    max_frames: int = 100_000
    timeout_s: float = 1800.0
    seed: int = 0

    def __post_init__(self) -> None:
        for value in self.temperatures_K:
            _require("temperatures", value, 0.0 < value <= 20_000.0, "above 0 and at most 20000 K")
        _require("time_step_fs", self.time_step_fs, 0.0 < self.time_step_fs <= 20.0, "above 0 and at most 20 fs")
        _require("spacing_fs", self.spacing_fs, self.spacing_fs >= self.time_step_fs, "at least one time step")
        _require("equilibration_fs", self.equilibration_fs, self.equilibration_fs >= 0.0, "0 or more")
        _require("friction_per_ps", self.friction_per_ps, 0.0 < self.friction_per_ps <= 1000.0, "above 0 and at most 1000 1/ps")
        _require("blocks", self.blocks, 1 <= self.blocks <= max(self.frames, 1), "1 to the number of frames")
        _require("frames", self.frames, self.frames >= 1, "1 or more")
        _require("displacement_A", self.displacement_A, 0.0 < self.displacement_A < 1.0, "above 0 and below 1 Å")
        for name in ("displaced", "shears", "contacts", "probes", "seed"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _require("probe_kind", self.probe_kind, self.probe_kind in ("random", "rows"), "random or rows")
        _require("probe_every", self.probe_every, self.probe_every >= 1, "1 or more")
        _require("strains", self.strains, all(abs(x) < 0.3 for x in self.strains), "between -0.3 and 0.3")
        _require("rattles", self.rattles, all(0.0 < x < 1.0 for x in self.rattles), "above 0 and below 1 Å")
        for name in ("force_cap", "timeout_s", "max_frames"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "above 0")


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


def _require(name: str, value: object, fine: bool, allowed: str) -> None:
    if not fine:
        raise BadInput(name, str(value), allowed=allowed, fix="change this setting")
