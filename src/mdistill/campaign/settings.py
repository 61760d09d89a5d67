"""Settings of the trajectory set. No torch, so that `--help` is quick."""

from __future__ import annotations

from itertools import pairwise

from mdistill.settings import HOTTEST, SEEDS, refuse, setting, settings

ALIKE = ("teacher", "temperatures", "time_ps", "every_fs", "lag_ps")
"""Settings of trajectories that all crystals of a set share."""


@settings
class TrajectorySettings:
    """Trajectories of students of many crystals, for teaching; each crystal costs three to nine minutes of CPU time.

    Attributes:
        teacher: Foundation potential that students are distilled from, and whose first block gives the features.
        temperatures: Temperatures of the trajectories, K.
        time_ps: Length of each trajectory, ps.
        every_fs: Time between its frames, fs; a multiple of 2 (of the time step).
        lag_ps: Lag of the mean square displacement that is learned, ps; at most half of time_ps.
        equilibration_ps: Dynamics at zero pressure before each, whose second half sets the volume, ps.
        cutoff: Cutoff of student and supercell, Å.
        max_atoms: Largest supercell, atoms.
        frames: Teacher frames at each of three temperatures.
        explore_ps: Length of the dynamics of the small student that explores, ps.
        on_policy: Frames of each trajectory that the teacher labels: they judge the student, and the next ones learn them.
        steps: Steps of the first fit of each medium student; a further round takes half of them.
        rounds: Number of rounds.
        seed: Seed of everything random.
    """

    teacher: str = "sevennet-0"
    temperatures: tuple[float, ...] = setting((600.0, 800.0, 1000.0, 1200.0), above=0.0, most=HOTTEST, unit="K")
    time_ps: float = setting(25.0, least=2.0, most=1e5, unit="ps")
    every_fs: float = setting(10.0, above=0.0, most=20.0, unit="fs")
    lag_ps: float = setting(10.0, least=0.5, most=1e4, unit="ps")
    equilibration_ps: float = setting(2.0, least=0.1, most=1e4, unit="ps")
    cutoff: float = setting(4.4, above=1.0, most=10.0, unit="Å")
    max_atoms: int = setting(220, least=1, most=10**5)
    frames: int = setting(14, least=2, most=10**4)
    explore_ps: float = setting(6.0, least=2.0, most=1e4, unit="ps")
    on_policy: int = setting(48, least=2, most=10**4)
    steps: int = setting(2000, least=20, most=10**6)
    rounds: int = setting(2, least=1, most=10)
    seed: int = setting(0, least=0, most=SEEDS)

    def __post_init__(self) -> None:
        if not self.temperatures or any(a >= b for a, b in pairwise(self.temperatures)):
            refuse(self, "temperatures", allowed="at least one, each above the one before", fix="--make.temperatures 600 800")
        if abs(self.every_fs / 2.0 - round(self.every_fs / 2.0)) > 1e-9:
            refuse(self, "every_fs", allowed="a multiple of 2 fs", fix="--make.every-fs 10")
        if 2.0 * self.lag_ps > self.time_ps:
            refuse(self, "lag_ps", allowed=f"at most half of time_ps, {self.time_ps:g} ps", fix="longer trajectories")
