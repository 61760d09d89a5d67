"""70 cuts and 70 flipped bits of each kind of file: refused with a fix, or read as what it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attack.tally import Outcomes, cuts, flips
from mdistill.data.segments import read_segments, write_segments
from mdistill.data.store import LabelStore
from mdistill.errors import Interrupted
from mdistill.graph import make_system
from mdistill.interrupt import StopRequest
from mdistill.io.hdf5 import check_hdf5
from mdistill.io.trajectories import read_hdf5
from mdistill.nets.model_files import load_model, save_model
from mdistill.runs.ledger import Ledger, Work
from mdistill.runs.results import read_results, write_results
from mdistill.simulation.restart import load_restart
from mdistill.simulation.settings import SimulateSettings
from mdistill.simulation.simulate import simulate
from mdistill.types import LabelledFrame, Prediction
from report_sample import sample
from systems import tiny_net
from unit.test_segments import straight
from unit.test_simulate import Calls, argon

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::mdistill.errors.MdistillNotice")]


def labelled(seed: int) -> LabelledFrame:
    draw = np.random.default_rng(seed)
    system = make_system(draw.normal(size=(3, 3)), [3, 17, 3], np.eye(3) * 9.0, [True] * 3)
    energy, forces = torch.from_numpy(draw.normal(size=1)), torch.from_numpy(draw.normal(size=(3, 3)))
    target = Prediction(energy=energy, forces=forces, stress=None)
    return LabelledFrame(system=system, target=target, source="md", temperature_K=300.0 + seed, block=seed)


def run(folder: Path, *, interrupted: bool, form: str, time_ps: float = 0.12) -> Any:
    """A short run, or one that stops in its middle."""
    settings = SimulateSettings(temperature_K=40.0, time_ps=time_ps, time_step_fs=2.0, every_fs=4.0, format=form)  # type: ignore[arg-type]
    stop = StopRequest()
    potential = Calls(stop=stop, stop_at=25, count=[0]) if interrupted else Calls()
    return simulate(argon(), potential, settings, folder, stop=stop)


@dataclass(frozen=True)
class Kind:
    """A kind of file: made in a folder, and read to something that can be compared."""

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]
    slow: bool = False


def make_labels(folder: Path) -> None:
    for k in range(5):
        LabelStore(folder).append([labelled(k)], key=f"md@{k}")


def labels(folder: Path) -> Any:
    frames = LabelStore(folder).read()
    return [(f.target.energy.tolist(), f.target.forces.tolist(), f.temperature_K, f.block) for f in frames], LabelStore(
        folder
    ).keys


def weights(folder: Path) -> Any:
    return {name: value.tolist() for name, value in load_model(folder / "student.mdistill").net.state_dict().items()}


def begun(folder: Path, form: str) -> None:
    with pytest.raises(Interrupted):
        run(folder, interrupted=True, form=form)


def resumed(form: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        done = run(folder, interrupted=False, form=form)
        return done.state.system.positions.tolist(), done.log.read_bytes(), done.trajectory.stat().st_size

    return read


def restart(folder: Path) -> Any:
    point = load_restart(folder / "restart.npz")
    return point.step, point.state.system.positions.tolist(), point.state.momenta.tolist(), point.extras, point.files


def trajectory(folder: Path) -> Any:
    check_hdf5(folder / "trajectory.h5")
    found = read_hdf5(folder / "trajectory.h5")
    return [part.tolist() for part in (found.positions, found.cell, found.times, found.numbers, found.momenta)]


def finished_log(folder: Path) -> Any:
    return {name: value.value for name, value in run(folder, interrupted=False, form="hdf5").values.items()}


def ledger(folder: Path) -> Any:
    """Whether the work there is known as done, which skips it."""
    return Ledger(folder).is_done(WORK)


WORK = Work(key="stage", settings={"frames": 80, "temperature_K": 500.0}, inputs={"structure": "ab" * 32})


def make_ledger(folder: Path) -> None:
    (folder / "out.txt").write_text("result\n")
    Ledger(folder).begin(WORK)
    Ledger(folder).finish(WORK, ["out.txt"], seconds=1.0)


KINDS = [
    Kind("student.mdistill", lambda folder: save_model(folder / "student.mdistill", tiny_net()), weights),
    Kind("labels-00002.npz", make_labels, labels),
    Kind("labels.jsonl", make_labels, labels),
    Kind("restart.npz", lambda folder: begun(folder, "hdf5"), restart),
    Kind("trajectory.h5", lambda folder: run(folder, interrupted=False, form="hdf5"), trajectory),
    Kind("log.csv", lambda folder: begun(folder, "hdf5"), resumed("hdf5"), slow=True),
    Kind("trajectory.extxyz", lambda folder: begun(folder, "extxyz"), resumed("extxyz"), slow=True),
    Kind("segments.npz", lambda folder: write_segments(folder / "segments.npz", [straight(block=k) for k in range(4)]),
         lambda folder: [(s.positions.tolist(), s.momenta.tolist(), s.block) for s in read_segments(folder / "segments.npz")]),
    Kind("results.json", lambda folder: write_results(folder, sample()), lambda folder: repr(read_results(folder))),
    Kind("ledger.json", make_ledger, ledger),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("attack", [cuts, flips])
def test_altered_files(kind: Kind, attack: Callable[..., Any], tmp_path: Path, trust: Callable[..., None]) -> None:
    kind.make(tmp_path)
    path, tally = tmp_path / kind.name, Outcomes()
    whole, before = path.read_bytes(), {file: file.read_bytes() for file in tmp_path.iterdir()}
    right = kind.read(tmp_path)
    for example, content in attack(whole):
        for file, old in before.items():
            if not file.exists() or file.read_bytes() != old:
                file.write_bytes(old)
        path.write_bytes(content)
        tally.call(lambda: kind.read(tmp_path), example=example, same=lambda found: same(kind, found, right))
    assert not tally.bad, f"{tally}: {tally.bad}"
    number = sum(tally.counts.values())
    trust("A", f"{kind.name}: {number} {attack.__name__}", str(tally), "refused, or the same content")


def same(kind: Kind, found: Any, right: Any) -> bool:
    """Equal; a ledger that no longer knows its work as done only repeats it."""
    return bool(found == right) or (kind.name == "ledger.json" and found is False)
