"""A molecular-dynamics run in a folder: any potential, NVE, NVT or NpT, guarded, interruptible, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mdistill.analysis.taught import tell_departures
from mdistill.derivatives import is_gradient
from mdistill.errors import BadInput, BlowUp
from mdistill.estimates import Estimate
from mdistill.graph import cast, volumes
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import write_text
from mdistill.io.trajectories import TrajectoryWriter, extxyz_frame
from mdistill.matter.masses import usual_time_step
from mdistill.nets.network import StrideMap
from mdistill.notices import notify
from mdistill.progress import Advance, progress
from mdistill.runs.identity import model_id, shown_sha256, structure_digests, tensors_sha256
from mdistill.runs.ledger import Ledger, Work
from mdistill.simulation.barostat import CRYSTAL
from mdistill.simulation.ensembles import make_propagator
from mdistill.simulation.evaluator import EngineEvaluator, Evaluator, make_evaluator
from mdistill.simulation.guard import Guard, total_energy
from mdistill.simulation.initial_state import initial_state, standard_masses, without_drift
from mdistill.simulation.kinetics import held, temperature
from mdistill.simulation.log import Log, Recorder
from mdistill.simulation.propagators import LongStrides, NveStep
from mdistill.simulation.restart import RestartPoint, load_restart, save_restart
from mdistill.simulation.rollout import Calling, rollout
from mdistill.simulation.sample import dynamics
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.stride_maps import fallback_share, long_strides
from mdistill.simulation.summary import summarise
from mdistill.simulation.verlet import VelocityVerlet, evaluated
from mdistill.types import Potential, State, System
from mdistill.units import PS

_NOTE_SECONDS = 0.2
_MAY_CHANGE, _FILES = ("time_ps", "restart_seconds", "guard", "version"), ("trajectory.*", "log.csv", "restart.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """A finished run.

    Attributes:
        trajectory: Frames from time 0 (after equilibration) on; None without a frame.
        log: CSV table of energies, temperatures, pressure, volume.
        state: The last state.
        values: Averages after equilibration and speed, by name (see `summarise`); with long strides "fallbacks", the share of
            strides replaced by time steps.
        steps: Steps of the run after equilibration.
        seconds: Wall-clock seconds in the loop, all resumes together.
        resumed: Whether an earlier, interrupted run was continued.
    """

    trajectory: Path
    log: Path
    state: State
    values: dict[str, Estimate]
    steps: int
    seconds: float
    resumed: bool


def simulate(
    system: System, potential: Potential, settings: SimulateSettings, folder: Path, *, stride: StrideMap | None = None,
    advance: Advance | None = None, stop: StopRequest = NEVER, on_begin: Callable[[], object] | None = None,
    momenta: Float[Tensor, "atom 3"] | None = None, masses: Float[Tensor, " atom"] | None = None,
) -> SimulationResult:  # fmt: skip
    """Run molecular dynamics in a folder, or continue the run that the folder holds.

    Writes trajectory.h5 (or .extxyz), log.csv, restart.npz and ledger.json. A continued run equals an uninterrupted one bit
    for bit. The same call on a finished run only reads its results.

    Args:
        system: One structure, Å.
        potential: Any potential.
        settings: Ensemble and lengths.
        folder: Made if absent.
        stride: A long-stride map of this potential, in place of velocity Verlet; it sets the time step.
        stop: Checked after every step.
        on_begin: Called once the folder is known to be usable, before the first step.
        momenta: [atom, 3] u·Å/fs at the start; None: drawn at the temperature.
        masses: [atom] u; None: standard atomic masses.
    Returns:
        Paths, the last state, averages with errors, speed.
    Raises:
        BadInput: Elements the potential does not know, npt without three periodic directions or stress, or a folder with
            another run (the message lists differences) or a damaged one.
        BlowUp: The guard stopped the run; frames before are written, the broken one to offending.extxyz.
        Interrupted: A stop was requested; everything is saved.
        MdistillError: A file could not be written.
    """
    given = {name: one.double().cpu() for name, one in (("momenta", momenta), ("masses", masses)) if one is not None}
    return _Run(system, potential, settings, Path(folder), stride, given=given).finish(stop, on_begin, advance)


class _Run:
    """One run: equilibration at steps −m … 0, production at steps 0 … n."""

    def __init__(
        self, system: System, potential: Potential, settings: SimulateSettings, folder: Path, stride: StrideMap | None, *,
        given: Mapping[str, Tensor],
    ) -> None:  # fmt: skip
        _check(system, potential, stride)
        tell_departures(system, potential, temperature_K=settings.temperature_K, nve=settings.ensemble == "nve")
        system = cast(system, dtype=torch.float64, device="cpu")
        self.settings = replace(settings, compressibility_per_GPa=settings.compressibility_per_GPa or CRYSTAL)
        self.folder, self.time_step = folder, _time_step(system, settings, stride)
        self.steps = max(1, round(settings.time_ps * PS / self.time_step))
        self.first = -round(settings.equilibration_ps * PS / self.time_step)
        self.provenance = {"model": potential.name, "model_sha256": shown_sha256(potential)}
        if stride is not None:
            self.provenance |= {"stride": stride.name, "stride_sha256": shown_sha256(stride)}
        self.restart = folder / "restart.npz"
        models = {"potential": model_id(potential)} | ({} if stride is None else {"stride": model_id(stride)})
        inputs = {"structure": structure_digests(system)} | {name: tensors_sha256(one) for name, one in given.items()}
        self.work = Work(key="simulation", settings=self.settings, inputs=inputs, models=models)
        self.ledger = Ledger(folder)
        begun = self.ledger.begun(self.work, holds="a simulation", may_change=_MAY_CHANGE, files=_FILES)
        self.ledger.check_outputs(self.work.key)
        self.resumed = begun and self._has_restart()
        self.long = stride is not None
        begin = self._start(system, given)
        self.point = point = load_restart(self.restart) if self.resumed else begin
        hottest = max(settings.temperature_K, float(temperature(begin.state)[0]) if "momenta" in given else 0.0)
        self.state, self.step, self.generator = point.state, point.step, point.generator()
        self.seconds, self.taken = point.extras.get("seconds", 0.0), int(point.extras.get("taken", 0))
        suffix = "h5" if settings.format == "hdf5" else "extxyz"
        self.recorder = Recorder(
            trajectory=TrajectoryWriter(folder / f"trajectory.{suffix}", self.provenance), log=Log(folder / "log.csv"),
            restart=self.restart, generator=self.generator, every=max(1, round(settings.every_fs / self.time_step)),
            interval=settings.restart_seconds, extras=self._extras,
        )  # fmt: skip
        self.conserves = settings.ensemble == "nve" and is_gradient(potential)
        known = self.conserves and "reference" in point.extras
        reference = torch.tensor([point.extras["reference"]], dtype=torch.float64) if known else None
        volume = volumes(system) if settings.ensemble == "npt" and bool(system.pbc.all()) else None
        self.guard = Guard(settings.guard, hottest, reference_energy=reference, reference_volume=volume)
        if bool(held(self.state.masses).any()):
            self.evaluate: Evaluator | EngineEvaluator = Evaluator(potential, settings.skin_A)
        else:
            self.evaluate = make_evaluator(potential, system, skin=settings.skin_A, guard=self.guard)
        self.strides = None if stride is None else self._strides(system, stride)
        verlet = getattr(potential, "nve_step", VelocityVerlet)
        self.nve: NveStep = self.strides or verlet(evaluate=self.evaluate, time_step=self.time_step)
        self.began = 0.0

    def finish(self, stop: StopRequest, on_begin: Callable[[], object] | None, shown: Advance | None) -> SimulationResult:
        """Do the remaining steps and summarise."""
        todo = self.steps - self.step
        if self.resumed and todo < 0:
            raise BadInput("time_ps", f"{self.settings.time_ps:g} ps, but the run in {self.folder} is longer already",
                           allowed="at least the length of the run so far", fix="use a longer time or another --out")  # fmt: skip
        if on_begin is not None:
            on_begin()
        if todo > 0:
            self._claim()
            done = self.step - self.first
            with nullcontext(shown) if shown else progress("simulate", self.steps - self.first, done=done) as advance:
                self._go(stop, advance)
            outputs = [path.name for path in (self.recorder.trajectory.path, self.recorder.log.path, self.restart)]
            self.ledger.finish(self.work, outputs, seconds=self.seconds)
        values = summarise(
            self.recorder.log.path, atoms=self.state.system.n_atoms, time_step=self.time_step, steps_taken=self.taken,
            seconds=self.seconds, conserved=self.settings.ensemble == "nve",
        )  # fmt: skip
        if self.strides is not None:
            values["fallbacks"] = fallback_share(self.strides)
        return SimulationResult(
            trajectory=self.recorder.trajectory.path, log=self.recorder.log.path, state=self.state, values=values,
            steps=self.steps, seconds=self.seconds, resumed=self.resumed,
        )  # fmt: skip

    def _claim(self) -> None:
        """Prepare the folder, with trajectory and log cut back to the restart point; a new run saves its start first."""
        self.ledger.begin(self.work)
        if self.resumed:
            self.recorder.resume(self.point)
        else:
            save_restart(self.restart, replace(self.point, extras=self._extras() | {"frames": 0.0, "rows": 0.0}))

    def _has_restart(self) -> bool:
        """Whether there is a restart file.

        Raises:
            BadInput: There is none, but frames of this run.
        """
        frames = [path for pattern in ("trajectory.*", "log.csv") for path in self.folder.glob(pattern)]
        if frames and not self.restart.exists():
            problem, allowed = f"is missing, but {frames[0].name} is there", "the restart file of the run"
            fix = "restore it to resume, or choose another --out and start again"
            raise BadInput(self.restart, problem, allowed=allowed, fix=fix)
        return self.restart.exists()

    def _go(self, stop: StopRequest, advance: Advance) -> None:
        if self.state.prediction is None:
            self.state = evaluated(self.state, self.evaluate)
            self._watch(self.step, self.state)
            if self.step < 0:
                self.recorder(self.step, self.state)
        if self.step < 0:
            self._roll(-self.step, stop, advance, equilibrate=True)
            if self.step < 0:
                return self._interrupt(stop)
        if self.step == 0 and self.recorder.frames == 0:
            self._begin()
        self._roll(self.steps - self.step, stop, advance)
        if self.step < self.steps:
            return self._interrupt(stop)
        self.recorder.save(self.state)

    def _begin(self) -> None:
        """Step 0: time 0, centre of mass at rest, first frame."""
        self.state = replace(without_drift(self.state), time=0.0)
        if self.conserves:
            self.guard.reference_energy = total_energy(self.state)
        self.recorder(0, self.state)

    def _roll(self, steps: int, stop: StopRequest, advance: Advance, *, equilibrate: bool = False) -> None:
        self.began, self.told = time.monotonic(), 0.0
        plain = make_propagator(self.settings, self.nve, self.evaluate, equilibrate=equilibrate)
        moving = dynamics(plain, self.evaluate, self.guard, sums=True)

        def after(step: int, state: State) -> None:
            taken = step - self.step
            self.step, self.taken = step, self.taken + taken
            if not (equilibrate and step == 0):
                self.recorder(step, state)
            note, now = "", time.monotonic()
            if now > self.told + _NOTE_SECONDS:
                note, self.told = self._speed(state), now
            advance(taken, note)

        try:
            self.state = rollout(self.state, moving.propagator, steps=steps, generator=self.generator, observers=[Calling(after)],
                                 guard=self._watch, stop=stop, first_step=self.step, leap=self.recorder.every)  # fmt: skip
        except BlowUp as error:
            self.recorder.flush()
            kept = f"frames before it in {self.recorder.trajectory.path}"
            raise BlowUp(error.step, error.reason, f"{kept}, {error.kept}" if error.kept else kept) from error.__cause__
        finally:
            self.seconds, self.began = self.seconds + time.monotonic() - self.began, 0.0

    def _speed(self, state: State) -> str:
        per_day = 0.0864 * self.time_step * self.taken / max(self._extras()["seconds"], 1e-9)
        return f"{per_day:.3g} ns/day  {float(temperature(state)[0]):.0f} K"

    def _watch(self, step: int, state: State) -> None:
        """The guard; a rejected state is written to offending.extxyz."""
        try:
            self.guard(step, state)
        except BlowUp as error:
            offending = self.folder / "offending.extxyz"
            write_text(offending, extxyz_frame(step, state, self.provenance))
            raise BlowUp(step, error.reason, f"the offending one in {offending}") from None

    def _interrupt(self, stop: StopRequest) -> None:
        self.recorder.save(self.state)
        stop.raise_if_pending()

    def _extras(self) -> dict[str, float]:
        running = time.monotonic() - self.began if self.began else 0.0
        extras = {"seconds": self.seconds + running, "taken": float(self.taken)}
        if self.guard.reference_energy is not None:
            extras["reference"] = float(self.guard.reference_energy[0])
        if self.strides is not None:
            extras |= {name: float(getattr(self.strides.counts, name)) for name in ("strides", "fallbacks")}
        return extras

    def _strides(self, system: System, stride: StrideMap) -> LongStrides:
        """The map as a step that continues its counts."""
        small, skin = usual_time_step(system), self.settings.skin_A
        long = long_strides(stride, system, self.evaluate, time=self.time_step, skin=skin, small_step=small, guard=self.guard)
        for name in ("strides", "fallbacks"):
            setattr(long.counts, name, int(self.point.extras.get(name, 0)))
        return long

    def _start(self, system: System, given: Mapping[str, Tensor]) -> RestartPoint:
        generator, kelvin = Generator().manual_seed(self.settings.seed), self.settings.temperature_K
        state = initial_state(system, temperature_K=kelvin, generator=generator, masses=given.get("masses"))
        if "momenta" in given:
            state = without_drift(replace(state, momenta=given["momenta"]))
            unused = ", temperature_K is not used" if self.settings.ensemble == "nve" and self.first == 0 else ""
            notify(f"the run starts with the momenta of the structure: {float(temperature(state)[0]):.0f} K{unused}")
        if "masses" in given:
            _check_held(system, given["masses"], self.settings, strides=self.long)
        state = replace(state, time=self.first * self.time_step)
        return RestartPoint(step=self.first, state=state, generator_state=generator.get_state())


def _time_step(system: System, settings: SimulateSettings, stride: StrideMap | None) -> float:
    """The time that a step advances, fs."""
    if stride is None:
        return settings.time_step_fs or usual_time_step(system)
    return settings.time_step_fs or stride.settings.stride_fs


def _check_held(system: System, masses: Tensor, settings: SimulateSettings, *, strides: bool) -> None:
    """Tell of masses and held atoms of the structure.

    Raises:
        BadInput: Held atoms where they cannot be kept (npt, long strides), or no other atoms.
    """
    fixed = held(masses)
    count, free = int(fixed.sum()), int((~fixed).sum())
    if count and (settings.ensemble == "npt" or strides or not free):
        problem = f"{count} of {count + free} atoms are held fixed"
        allowed = "held atoms with --ensemble nve or nvt, in time steps, beside free ones"
        raise BadInput("structure", problem, allowed=allowed, fix="remove the constraints from the file")
    if count:
        notify(f"{count} atoms are held fixed, as in the structure: {3 * free} degrees of freedom, no compiled steps")
    other = (masses[~fixed] / standard_masses(system).to(masses)[~fixed] - 1.0).abs() > 1e-3
    if bool(other.any()):
        notify("the run has the masses of the structure, which are not the standard ones")


def _check(system: System, potential: Potential, stride: StrideMap | None) -> None:
    """Reject structures that cannot be simulated."""
    if system.n_structs != 1 or system.n_atoms == 0:
        problem = f"{system.n_structs} structures with {system.n_atoms} atoms"
        raise BadInput("structure", problem, allowed="one structure", fix="run them one by one")
    for model in (potential, stride):
        unknown = set(system.numbers.tolist()) - model.elements if model is not None and model.elements else set()
        if unknown and model is not None:
            from ase.data import chemical_symbols

            names, known = ([chemical_symbols[z] for z in sorted(part)] for part in (unknown, model.elements))
            problem = f"{model.name} does not know {', '.join(names)}"
            raise BadInput("structure", problem, allowed=", ".join(known), fix="use a model for these elements")
