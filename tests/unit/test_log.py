"""The log and the recorder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from mdistill.errors import BadInput
from mdistill.graph import make_system
from mdistill.io.logs import read_log, truncate_log
from mdistill.io.trajectories import TrajectoryWriter, read_series
from mdistill.simulation.initial_state import initial_state
from mdistill.simulation.kinetics import kinetic_energy, pressure, temperature
from mdistill.simulation.log import Log, Recorder
from mdistill.simulation.restart import load_restart
from mdistill.types import Prediction, State
from mdistill.units import GPA


def state(time: float = 0.0, *, periodic: bool = True) -> State:
    system = make_system(np.arange(12.0).reshape(4, 3), np.array([3, 3, 17, 17]), 4.0 * np.eye(3), [periodic] * 3)
    start = initial_state(system, temperature_K=300.0, generator=Generator().manual_seed(0))
    stress = 0.01 * torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).unsqueeze(0) if periodic else None
    prediction = Prediction(
        energy=torch.tensor([-1.0 / 3.0], dtype=torch.float64), forces=torch.zeros_like(start.momenta), stress=stress
    )
    return replace(start, time=time, prediction=prediction)


def test_log_round_trip(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.csv")
    for step in (-2, 0, 2):
        log.add(step, state(2.0 * step))
    log.flush()
    log.add(4, state(8.0))
    log.flush()
    columns = read_log(log.path)
    assert columns["step"].tolist() == [-2, 0, 2, 4] and columns["time_fs"].tolist() == [-4, 0, 4, 8]
    assert columns["potential_eV"][0] == -1.0 / 3.0 and columns["volume_A3"][0] == pytest.approx(64.0)
    np.testing.assert_array_equal(columns["total_eV"], columns["potential_eV"] + columns["kinetic_eV"])
    assert {"T_Li_K", "T_Cl_K", "pressure_GPa"} <= set(columns)
    assert truncate_log(log.path, 2) == 3 and read_log(log.path)["step"].tolist() == [-2, 0, 2]
    assert truncate_log(tmp_path / "none.csv", 2) == 0


def test_columns_are_the_temperatures_energies_and_pressures_of_kinetics(tmp_path: Path) -> None:
    log, point = Log(tmp_path / "log.csv"), state()
    point = replace(
        point, momenta=torch.randn(point.momenta.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    )
    log.add(0, point)
    log.add(1, replace(point, momenta=2.0 * point.momenta))
    log.flush()
    columns = read_log(log.path)
    for row, one in enumerate((point, replace(point, momenta=2.0 * point.momenta))):
        expected = {
            "temperature_K": temperature(one),
            "T_Li_K": temperature(one, element=3),
            "T_Cl_K": temperature(one, element=17),
        }
        squeeze = pressure(one)
        assert squeeze is not None
        expected |= {"kinetic_eV": kinetic_energy(one), "pressure_GPa": squeeze / GPA}
        for name, value in expected.items():
            assert columns[name][row] == pytest.approx(float(value[0]), rel=1e-12), name


def test_open_structures_have_no_pressure_or_volume(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.csv")
    log.add(0, state(periodic=False))
    log.flush()
    columns = read_log(log.path)
    assert np.isnan(columns["pressure_GPa"][0]) and np.isnan(columns["volume_A3"][0])


@pytest.mark.parametrize("content", ["", "step,time_fs\n1,x\n", "step,time_fs\n1\n"])
def test_damaged_logs_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(content)
    with pytest.raises(BadInput, match="log"):
        read_log(tmp_path / "log.csv")


def recorder(folder: Path, *, interval: float = 1e9) -> Recorder:
    return Recorder(
        trajectory=TrajectoryWriter(folder / "trajectory.h5"),
        log=Log(folder / "log.csv"),
        restart=folder / "restart.npz",
        generator=Generator(),
        every=2,
        interval=interval,
        extras=lambda: {"seconds": 1.5},
    )


def test_files_agree_with_the_restart_and_are_cut_back_to_it(tmp_path: Path) -> None:
    record = recorder(tmp_path)
    for step in range(-3, 6):
        record(step, state(2.0 * step))
    record.save(state(10.0))
    for step in range(6, 9):
        record(step, state(2.0 * step))
    record.flush()
    assert read_series(tmp_path / "trajectory.h5", "step").tolist() == [0, 2, 4, 6, 8]
    point = load_restart(tmp_path / "restart.npz")
    assert (point.step, point.extras) == (5, {"seconds": 1.5, "frames": 3.0, "rows": 4.0})
    recorder(tmp_path).resume(point)
    assert read_series(tmp_path / "trajectory.h5", "step").tolist() == [0, 2, 4]
    assert read_log(tmp_path / "log.csv")["step"].tolist() == [-2, 0, 2, 4]


@pytest.mark.parametrize("name", ["trajectory.h5", "log.csv"])
def test_a_removed_file_is_noticed(name: str, tmp_path: Path) -> None:
    record = recorder(tmp_path, interval=0.0)
    for step in range(5):
        record(step, state(2.0 * step))
    (tmp_path / name).unlink()
    with pytest.raises(BadInput, match=name.replace(".", r"\.")):
        recorder(tmp_path).resume(load_restart(tmp_path / "restart.npz"))


def test_a_log_of_other_columns_is_not_gone_on_with(tmp_path: Path) -> None:
    generator = Generator().manual_seed(0)
    recorder = Recorder(
        trajectory=TrajectoryWriter(tmp_path / "trajectory.h5", {}),
        log=Log(tmp_path / "log.csv"),
        restart=tmp_path / "restart.npz",
        generator=generator,
        every=1,
        interval=1e9,
        extras=dict,
    )
    recorder(0, state())
    recorder.save(state())
    point, text = load_restart(tmp_path / "restart.npz"), (tmp_path / "log.csv").read_text()
    recorder.resume(point)
    (tmp_path / "log.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in text.splitlines()) + "\n")
    with pytest.raises(BadInput, match="columns"):
        recorder.resume(point)
