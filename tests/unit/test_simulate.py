"""Runs in folders: what they write, how they stop, how they go on."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch

from mdistill.errors import BadInput, BlowUp, Interrupted, MdistillError
from mdistill.graph import concatenate, make_system
from mdistill.interrupt import StopRequest, stop_on_signals
from mdistill.io.logs import read_log
from mdistill.io.trajectories import read_hdf5, read_series
from mdistill.runs.ledger import Ledger
from mdistill.simulation import log as record
from mdistill.simulation.restart import load_restart
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import SimulationResult, simulate
from mdistill.types import Graph, Prediction, System

sys.path.insert(0, str(Path(__file__).parent.parent / "physics"))
from potentials import LennardJones, fcc

FAST = {"temperature_K": 40.0, "time_ps": 0.12, "every_fs": 10.0, "restart_seconds": 0.0}
ENSEMBLES = {
    "nve": {"ensemble": "nve"},
    "nvt bussi": {},
    "nvt langevin": {"thermostat": "langevin"},
    "npt isotropic": {"ensemble": "npt"},
    "npt anisotropic langevin": {"ensemble": "npt", "barostat": "anisotropic", "thermostat": "langevin"},
}


def argon() -> System:
    return fcc(2, 5.4)


@dataclass(frozen=True)
class Calls:
    """Lennard-Jones that counts its calls, asks for a stop at one of them, gets slow, or breaks."""

    stop: StopRequest | None = None
    stop_at: int = -1
    break_at: int = -1
    pause: float = 0.0
    cutoff: float = 5.0
    elements: frozenset[int] = frozenset({18})
    name: str = "calls"
    count: list[int] | None = None

    def __call__(self, graph: Graph) -> Prediction:
        found = LennardJones(cutoff=self.cutoff)(graph)
        if self.count is not None:
            self.count[0] += 1
            if self.stop is not None and self.count[0] == self.stop_at:
                self.stop.signal_number = signal.SIGTERM
            if self.count[0] == self.break_at:
                return replace(found, forces=1e3 * found.forces + 60.0)
        time.sleep(self.pause)
        return found


def run(folder: Path, *, potential: object = None, stop: StopRequest | None = None, **settings: object) -> SimulationResult:
    chosen = SimulateSettings(**FAST | settings)
    return simulate(argon(), potential or Calls(), chosen, folder, stop=stop or StopRequest())


def content(result: SimulationResult) -> dict[str, object]:
    """Everything a run leaves, but for the times it took."""
    point = load_restart(result.log.parent / "restart.npz")
    trajectory = read_hdf5(result.trajectory)
    return {
        "steps": read_series(result.trajectory, "step"),
        "positions": trajectory.positions,
        "momenta": trajectory.momenta,
        "cell": trajectory.cell,
        "energies": read_series(result.trajectory, "potential_energy"),
        "log": torch.tensor(list(result.log.read_bytes())),
        "end": point.state.system.positions,
        "end momenta": point.state.momenta,
        "generator": point.generator_state,
        "step": torch.tensor(point.step),
    }


def check_same(one: dict, other: dict) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", list(ENSEMBLES))
def test_an_interrupted_run_is_the_uninterrupted_one(name: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    options = ENSEMBLES[name] | {"equilibration_ps": 0.05}
    whole = run(tmp_path / "whole", **options)
    assert not whole.resumed
    for call in (9, 31, 53):
        stop = StopRequest()
        with pytest.raises(Interrupted) as caught:
            run(tmp_path / "parts", potential=Calls(stop=stop, stop_at=call % 25 + 3, count=[0]), stop=stop, **options)
        assert caught.value.exit_status == 143
    parts = run(tmp_path / "parts", **options)
    assert parts.resumed
    check_same(content(whole), content(parts))
    steps = read_series(parts.trajectory, "step").tolist()
    assert steps == list(range(0, 61, 5))
    trust("T17", f"simulate {name}: three interruptions against none (values that differ)", 0, "0")
    trust("T19", f"simulate {name}: frames missing or twice after three resumes", 0, "0")


@pytest.mark.planted
def test_the_comparison_sees_a_forgotten_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", potential=Calls(stop=stop, stop_at=20, count=[0]), stop=stop)
    fresh = "mdistill.simulation.restart.RestartPoint.generator"
    monkeypatch.setattr(fresh, lambda point: torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError):
        check_same(content(whole), content(run(tmp_path / "parts")))


def test_results_and_files(tmp_path: Path) -> None:
    result = run(tmp_path / "a é", time_ps=0.4, ensemble="nve", equilibration_ps=0.2, temperature_K=30.0)
    assert sorted(p.name for p in (tmp_path / "a é").iterdir()) == ["ledger.json", "log.csv", "restart.npz", "trajectory.h5"]
    values = result.values
    assert {"temperature", "T_Ar", "pressure", "volume", "potential_energy", "energy_drift", "ns_per_day"} <= set(values)
    assert abs(values["energy_drift"].value) < 1e-5 and 10.0 < values["temperature"].value < 60.0
    assert values["us_per_atom_step"].value > 0.0 and result.steps == 200 and result.seconds > 0.0
    log = read_log(result.log)
    assert log["time_fs"][0] == -200.0 and log["time_fs"][-1] == 400.0
    trajectory = read_hdf5(result.trajectory)
    assert trajectory.times[0] == 0.0 and len(trajectory.times) == 41
    assert float(trajectory.momenta.sum(1).abs().max()) < 1e-9
    entry = Ledger(tmp_path / "a é").entries()["simulation"]
    assert entry["models"] == {"potential": "calls"} and entry["state"] == "done" and entry["settings"]["temperature_K"] == 30.0


def test_extxyz_resumes_too(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", format="extxyz")
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", format="extxyz", potential=Calls(stop=stop, stop_at=33, count=[0]), stop=stop)
    parts = run(tmp_path / "parts", format="extxyz")
    assert whole.trajectory.read_bytes() == parts.trajectory.read_bytes()
    assert [a.info["step"] for a in ase.io.read(parts.trajectory, ":")] == list(range(0, 61, 5))


def test_a_finished_run_is_only_read_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "a")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    count = [0]
    again = run(tmp_path / "a", potential=Calls(count=count))
    assert count == [0] and again.resumed and again.steps == 60
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    longer = run(tmp_path / "a", time_ps=0.2)
    check_same(content(run(tmp_path / "b", time_ps=0.2)), content(longer))
    with pytest.raises(BadInput, match="longer already"):
        run(tmp_path / "a", time_ps=0.1)


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "a")
    before = (tmp_path / "a" / "ledger.json").read_bytes()
    with pytest.raises(BadInput, match=r"temperature_K: 40.0 → 50.0"):
        run(tmp_path / "a", temperature_K=50.0)
    with pytest.raises(BadInput, match="models.potential: calls → other"):
        run(tmp_path / "a", potential=Calls(name="other"))
    with pytest.raises(BadInput, match="inputs.structure"):
        simulate(fcc(2, 5.5), Calls(), SimulateSettings(**FAST), tmp_path / "a")
    assert (tmp_path / "a" / "ledger.json").read_bytes() == before
    (tmp_path / "a" / "ledger.json").unlink()
    with pytest.raises(BadInput, match="no ledger.json with their settings"):
        run(tmp_path / "a")


@pytest.mark.parametrize("name", ["restart.npz", "trajectory.h5", "log.csv", "ledger.json"])
def test_damaged_files_are_named_before_a_run_goes_on(name: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    run(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match=name.replace(".", r"\.")):
        run(tmp_path, time_ps=0.2)
    trust("T39", f"half a {name} before a resume", "refused", "refused")


def interrupted(folder: Path, **options: object) -> None:
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(folder, potential=Calls(stop=stop, stop_at=33, count=[0]), stop=stop, **options)


@pytest.mark.parametrize("name", ["log.csv", "trajectory.extxyz", "trajectory.h5"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_flipped_bit_is_refused_before_a_run_goes_on(
    name: str, finished: bool, tmp_path: Path, trust: Callable[..., None]
) -> None:
    options = {"format": "hdf5" if name.endswith("h5") else "extxyz"}
    if finished:
        run(tmp_path, **options)
    else:
        interrupted(tmp_path, **options)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=name.replace(".", r"\.")):
        run(tmp_path, **options | ({"time_ps": 0.2} if finished else {}))
    trust("T39", f"a flipped bit in {name} of {'a finished' if finished else 'an interrupted'} run", "refused", "refused")


@pytest.mark.parametrize("finished", [False, True])
def test_a_lost_restart_file_deletes_nothing(finished: bool, tmp_path: Path) -> None:
    if finished:
        run(tmp_path)
    else:
        interrupted(tmp_path)
    (tmp_path / "restart.npz").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for time_ps in (FAST["time_ps"], 0.2):
        with pytest.raises(BadInput, match=r"(?s)restart\.npz: is missing.*fix:.*--out"):
            run(tmp_path, time_ps=time_ps)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_killed_in_its_first_save_a_run_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames and rows are there, and the restart file of the start."""
    whole = run(tmp_path / "whole", equilibration_ps=0.05)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(record, "save_restart", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", equilibration_ps=0.05)
    assert (tmp_path / "parts" / "log.csv").exists() and load_restart(tmp_path / "parts" / "restart.npz").step == -25
    check_same(content(whole), content(run(tmp_path / "parts", equilibration_ps=0.05)))


@pytest.mark.parametrize("name", ["log.csv", "trajectory.h5"])
def test_a_file_deleted_during_a_run_is_noticed(name: str, tmp_path: Path) -> None:
    class Deleting(Calls):
        def __call__(self, graph: Graph) -> Prediction:
            if self.count[0] == 40:
                (tmp_path / name).unlink()
            return super().__call__(graph)

    with pytest.raises(BadInput, match=rf"(?s){name.replace('.', chr(92) + '.')}: was removed while it was written.*fix:"):
        run(tmp_path, potential=Deleting(count=[0]), restart_seconds=0.0)


def test_a_broken_run_stops_with_its_frames(tmp_path: Path, trust: Callable[..., None]) -> None:
    with pytest.raises(BlowUp, match="force on atom") as caught:
        run(tmp_path, potential=Calls(count=[0], break_at=51))
    assert caught.value.step == 50 and str(tmp_path / "offending.extxyz") in str(caught.value)
    assert read_series(tmp_path / "trajectory.h5", "step").tolist() == list(range(0, 50, 5))
    offending = ase.io.read(tmp_path / "offending.extxyz")
    assert offending.info["step"] == 50 and np.linalg.norm(offending.get_forces(), axis=1).max() > 50.0
    trust("G", "simulate: frames kept before a blow-up at step 50", 10, "10")


def test_a_start_with_overlapping_atoms_is_refused_at_step_0(tmp_path: Path) -> None:
    system = argon()
    positions = system.positions.clone()
    positions[1] = positions[0] + 0.4
    with pytest.raises(BlowUp, match="step 0"):
        simulate(replace(system, positions=positions), Calls(), SimulateSettings(**FAST), tmp_path)


BAD: dict[str, tuple[object, ...]] = {
    "ensemble": ("nvp",),
    "thermostat": ("nose",),
    "barostat": ("mtk",),
    "format": ("dcd",),
    "temperature_K": (0.0, -1.0, math.nan, 1e9, "hot"),
    "time_step_fs": (0.0, -1.0, 50.0, math.nan),
    "time_ps": (0.0, -1.0, math.inf),
    "equilibration_ps": (-1.0,),
    "friction_per_ps": (0.0,),
    "relaxation_fs": (-5.0,),
    "barostat_ps": (0.0,),
    "pressure_GPa": (math.nan,),
    "compressibility_per_GPa": (0.0,),
    "every_fs": (0.0,),
    "seed": (-1, 2**32, "text"),
    "skin_A": (-0.1,),
    "restart_seconds": (-1.0,),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_settings(name: str, value: object) -> None:
    with pytest.raises(BadInput, match=rf"(?s)^SimulateSettings.{name}: .*allowed: .*fix: ") as caught:
        SimulateSettings(**{name: value})
    assert f"{name}: {value}" in str(caught.value) and caught.value.exit_status == 2


def test_structures_that_cannot_be_simulated(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not know Li"):
        simulate(fcc(2, number=3), Calls(), SimulateSettings(**FAST), tmp_path / "a")
    with pytest.raises(BadInput, match="one structure"):
        simulate(concatenate([argon(), argon()]), Calls(), SimulateSettings(**FAST), tmp_path / "a")
    cluster = make_system(argon().positions.numpy(), np.full(32, 18), np.zeros((3, 3)), [False] * 3)
    with pytest.raises(BadInput, match="periodic in all three"):
        simulate(cluster, LennardJones(cutoff=5.0), SimulateSettings(**FAST | {"ensemble": "npt"}), tmp_path / "b")
    assert not (tmp_path / "a").exists()


def child(action: Callable[[], None]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    return process


@pytest.mark.slow
def test_sigkill_at_25_moments_changes_nothing(
    tmp_path: Path, trust: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T34, with half of the time spent saving."""
    monkeypatch.setattr(record, "_SHARE", 0.5)
    whole = run(tmp_path / "whole", time_ps=0.6)
    rng, killed = np.random.default_rng(0), 0
    for _ in range(25):
        process = child(lambda: run(tmp_path / "parts", potential=Calls(pause=0.004), time_ps=0.6))
        process.join(float(rng.uniform(0.02, 0.2)))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        if (tmp_path / "parts" / "trajectory.h5").exists():
            steps = read_series(tmp_path / "parts" / "trajectory.h5", "step").tolist()
            assert steps == list(range(0, 5 * len(steps), 5))
    check_same(content(whole), content(run(tmp_path / "parts", time_ps=0.6)))
    assert killed >= 20
    trust("T34", f"MD killed {killed} times at random moments: values that differ at the end", 0, "0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_stop_politely(number: signal.Signals, tmp_path: Path, trust: Callable[..., None]) -> None:
    """T35."""

    def work() -> None:
        with stop_on_signals() as stop:
            try:
                run(tmp_path, potential=Calls(pause=0.02), stop=stop, restart_seconds=1e6)
            except Interrupted as error:
                os._exit(error.exit_status if "resume:" in str(error) else 99)

    process = child(work)
    while not (tmp_path / "restart.npz").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == (143 if number == signal.SIGTERM else 130)
    whole = content(run(tmp_path / "whole", potential=Calls()))
    assert 0 < load_restart(tmp_path / "restart.npz").step < int(whole["step"])
    check_same(whole, content(run(tmp_path)))
    trust("T35", f"{number.name} in MD", "saved, resumes to equal bits", "saved, exit 130 or 143, before the run's end")


def test_a_full_disk_names_the_file_and_the_run_resumes(tmp_path: Path, trust: Callable[..., None]) -> None:
    """T36."""
    whole = run(tmp_path / "whole")
    largest = max(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    ours, theirs = multiprocessing.Pipe()

    def work(limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            run(tmp_path / "parts")
            theirs.send("finished")
        except MdistillError as error:
            theirs.send(str(error))

    said = []
    for limit in np.linspace(0, 0.99 * largest, 20).astype(int).tolist():
        process = child(lambda limit=limit: work(limit))
        said.append(ours.recv())
        process.join()
        assert process.exitcode == 0 and str(tmp_path / "parts") in said[-1] and "resumes" in said[-1]
    check_same(content(whole), content(run(tmp_path / "parts")))
    trust("T36", "MD on a disk full at 20 offsets: values that differ after resuming", 0, "0")
