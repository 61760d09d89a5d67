"""Settings of the workflows. No torch in here, so that `--help` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from ase.data import chemical_symbols

from mdistill.analysis.settings import DiffusionSettings, GateLimits
from mdistill.errors import BadInput
from mdistill.nets.settings import SIZES


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
class RefineSettings:
    """On-policy rounds.

    Attributes:
        rounds: How many; at least one.
        time_ps: Length of the student's MD at each temperature, ps.
        every_fs: Time between candidate frames, fs.
        frames: Frames sent to the teacher per temperature, structure and round.
        screen: How these are chosen: novelty, farthest from all known in a descriptor of distances; variance, those whose
            forces a closed-form fit to the labels knows least (takes a fit per round, about half a minute).
        refit_share: Time of a refit as a share of the first fit's.
        refit_rate: Its learning rate as a share of the first fit's (it starts from a fitted student).
        seed: Of the student's MD.
    """

    rounds: int = 1
    time_ps: float = 5.0
    every_fs: float = 50.0
    frames: int = 12
    screen: Literal["novelty", "variance"] = "novelty"
    refit_share: float = 0.5
    refit_rate: float = 0.3
    seed: int = 100

    def __post_init__(self) -> None:
        _require("refine.rounds", self.rounds, self.rounds >= 1, "at least 1")
        _require("refine.time_ps", self.time_ps, 0 < self.time_ps <= 1e6, "above 0")
        _require("refine.every_fs", self.every_fs, 0 < self.every_fs <= 1000 * self.time_ps, "above 0, at most the MD's length")
        _require("refine.frames", self.frames, self.frames >= 1, "at least 1")
        _require("refine.screen", self.screen, self.screen in ("novelty", "variance"), "novelty or variance")
        _require("refine.refit_share", self.refit_share, 0 < self.refit_share <= 10, "above 0, at most 10")
        _require("refine.refit_rate", self.refit_rate, 0 < self.refit_rate <= 1, "above 0, at most 1")
        _require("refine.seed", self.seed, self.seed >= 0, "0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductionSettings:
    """Production MD.

    Attributes:
        time_ps: Length at each temperature, ps.
        equilibration_ps: Time before that, ps.
        time_step_fs: Time step, fs; by default 2, or 1 with hydrogen.
        save_every_fs: Time between frames, fs.
        thermostat: bussi leaves diffusion alone; langevin thermalises every atom and slows it.
        charge: Charge of the mobile ion, e; 0 for its usual one.
        seed: Of velocities and thermostat.
    """

    time_ps: float = 500.0
    equilibration_ps: float = 5.0
    time_step_fs: float | None = None
    save_every_fs: float = 50.0
    thermostat: Literal["bussi", "langevin"] = "bussi"
    charge: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("time_ps", "save_every_fs"):
            _require(f"production.{name}", getattr(self, name), 0 < getattr(self, name) <= 1e8, "above 0")
        _require("production.equilibration_ps", self.equilibration_ps, 0 <= self.equilibration_ps <= 1e6, "0 or more")


def _require(name: str, value: object, fine: bool, allowed: str) -> None:
    if not fine:
        raise BadInput(name, str(value), allowed=allowed, fix="change this setting")


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
class BenchSettings:
    """What to compare.

    Attributes:
        sizes: Sizes of student to train.
        minutes: Training time of each at most, minutes.
        rounds: Rounds of the timing; each costs one teacher call.
        seed: Of weights and order of training.
    """

    sizes: tuple[str, ...] = tuple(SIZES)
    minutes: float = 4.0
    rounds: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        for size in self.sizes:
            if size not in SIZES:
                raise BadInput("sizes", f"{size!r}", allowed=", ".join(SIZES), fix="choose among them")
        if not self.sizes or not 0.0 < self.minutes < 1e5 or not 3 <= self.rounds <= 1000 or self.seed < 0:
            raise BadInput(
                "bench", f"{self}", allowed="one size or more, minutes above 0, 3 to 1000 rounds, seed from 0", fix="change it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyseSettings:
    """What to read and how to judge it.

    Attributes:
        species: Mobile ion, e.g. Li.
        temperature_K: Temperature of the run; without it no conductivity is computed.
        frame_time_fs: Time between stored frames; needed where the file does not tell (XDATCAR, .traj, LAMMPS dump).
        discard_ps: Equilibration to leave out at the start.
        charge: Charge of the mobile ion, e; 0 for its usual one.
        elements: Elements of LAMMPS types 1, 2, … or VASP 4 counts, where the file names none.
        stride: Use every stride-th frame.
        fit_from_ps: Shortest lag of the MSD fit; chosen automatically if left out.
        hop_distance: How far (Å) an ion must leave its site to have hopped.
        seed: Seed of the Bayesian sampling.
    """

    species: str
    temperature_K: float | None = None
    frame_time_fs: float | None = None
    discard_ps: float = 0.0
    charge: float = 0.0
    elements: tuple[str, ...] = ()
    stride: int = 1
    fit_from_ps: float | None = None
    hop_distance: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        checks = [
            ("species", self.species, self.species in chemical_symbols[1:], "an element symbol such as Li"),
            ("temperature_K", self.temperature_K, self.temperature_K is None or 0 < self.temperature_K < 1e5, "above 0 K"),
            ("frame_time_fs", self.frame_time_fs, self.frame_time_fs is None or 0 < self.frame_time_fs < 1e9, "above 0 fs"),
            ("discard_ps", self.discard_ps, 0 <= self.discard_ps < math.inf, "0 or more ps"),
            ("charge", self.charge, math.isfinite(self.charge), "a charge in e, 0 for the usual one"),
            ("stride", self.stride, self.stride >= 1, "1 or more"),
        ]
        for name, value, good, allowed in checks:
            if not good:
                raise BadInput(name, f"{value!r}", allowed=allowed, fix="choose a value in that range")
        self.diffusion()

    def diffusion(self) -> DiffusionSettings:
        """The settings of the diffusion estimate."""
        return DiffusionSettings(fit_from_ps=self.fit_from_ps, hop_distance=self.hop_distance, seed=self.seed)
